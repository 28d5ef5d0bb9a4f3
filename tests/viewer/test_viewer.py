"""The viewer's server, without a browser."""

import sys
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
import torch

from voxfield.errors import InputError, MissingExtraError, UnavailableError
from voxfield.viewer.photographs import THUMBNAIL_PIXELS, Photographs
from voxfield.viewer.viewer import Viewer

viser = pytest.importorskip("viser", reason="needs viser")
VERSION = f"viser-v{viser.__version__}"


@pytest.fixture
def viewer(sphere) -> Iterator[Viewer]:
    with Viewer(sphere, name="sphere", port=0) as shown:
        yield shown


def connect(viewer: Viewer, path: str = "", **options):
    from websockets.sync.client import connect as open_socket

    return open_socket(f"ws://127.0.0.1:{viewer.port}/{path}", subprotocols=[VERSION], proxy=None, **options)


def status(address: str, **headers: str) -> int:
    try:
        with urllib.request.urlopen(urllib.request.Request(address, headers=headers)) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


def test_the_page_is_served_to_this_machine_only(viewer: Viewer) -> None:
    assert viewer.url == f"http://127.0.0.1:{viewer.port}/"
    assert status(viewer.url) == 200
    assert status(viewer.url, Host="evil.example") == 403
    assert status(viewer.url, Origin="http://evil.example") == 403
    assert status(viewer.url + "../../etc/passwd") == 404
    assert status(viewer.url + "%2e%2e/%2e%2e/__init__.py") == 404


def test_websockets_of_foreign_pages_are_refused(viewer: Viewer) -> None:
    from websockets.exceptions import InvalidStatus

    with connect(viewer, origin=f"http://127.0.0.1:{viewer.port}") as own:
        assert own.recv(timeout=30)
    for foreign in ("http://evil.example", "null"):
        with pytest.raises(InvalidStatus, match="403"), connect(viewer, origin=foreign):
            pass


def test_who_is_on_another_machine_needs_the_secret(sphere) -> None:
    from websockets.exceptions import InvalidStatus

    with Viewer(sphere, name="sphere", host="0.0.0.0", port=0) as viewer:
        secret = viewer.url.split("/")[3]
        root = f"http://127.0.0.1:{viewer.port}/"
        assert status(root) == 403
        assert status(f"{root}{secret}/") == 200
        with pytest.raises(InvalidStatus, match="403"), connect(viewer):
            pass
        with connect(viewer, secret) as own:
            assert own.recv(timeout=30)


def test_a_guest_who_talks_nonsense_or_leaves_is_no_harm(viewer: Viewer, capfd) -> None:
    viewer.start()
    with connect(viewer) as rude:
        rude.send(b"\xff\x00 not a message")
    with connect(viewer) as silent:
        silent.close()
    assert status(viewer.url) == 200
    assert viewer.browsers == 0
    capfd.readouterr()


def test_the_page_cannot_be_made_public(viewer: Viewer) -> None:
    assert viewer.server.request_share_url() is None


def test_nothing_is_printed_by_the_server(sphere, capsys) -> None:
    with Viewer(sphere, name="sphere", port=0):
        pass
    assert capsys.readouterr().out == ""


def test_a_port_in_use_is_said_or_passed_over(viewer: Viewer, sphere) -> None:
    with pytest.raises(UnavailableError, match=f"Port {viewer.port} is in use"):
        Viewer(sphere, name="sphere", port=viewer.port)
    with Viewer(sphere, name="sphere", port=viewer.port, next_port=True) as other:
        assert other.port > viewer.port
    with pytest.raises(InputError, match="host: expected"):
        Viewer(sphere, name="sphere", host="no such host", port=0)


def test_a_release_of_viser_that_cannot_be_guarded_is_not_served(sphere, monkeypatch) -> None:
    from voxfield.viewer import serving

    class Unguarded:
        def __init__(self, **_options) -> None:
            self.stopped = False

        def stop(self) -> None:
            stopped.append(self)

    stopped: list[Unguarded] = []
    monkeypatch.setattr(viser, "ViserServer", Unguarded)
    with serving_socket() as listening, pytest.raises(UnavailableError, match="cannot be guarded"):
        serving.open_server(listening, serving.RequestGuard(token=None), label="x")
    assert len(stopped) == 1


def serving_socket():
    from voxfield.viewer.access import listen

    return listen(None, 0)


def test_without_viser_it_is_said_how_to_get_it(sphere, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "viser", None)
    with pytest.raises(MissingExtraError, match=r"voxfield\[viewer\]"):
        Viewer(sphere, name="sphere", port=0)


def test_a_subject_that_fails_ends_neither_the_viewer_nor_its_owner(viewer: Viewer, sphere, shot, capsys) -> None:
    from voxfield.viewer.painter import Painter

    class Guest:
        def __init__(self) -> None:
            self.pictures: list = []
            self.gone = False
            self.painter = Painter(sphere, lambda *made: self.pictures.append(made), background=torch.ones(3))
            self.still = Painter(sphere, lambda *_: None, background=torch.ones(3))

    guest = Guest()
    viewer._sessions[0] = guest
    sphere.fault = OSError("the disk went away")
    guest.painter.want(shot, 20)
    assert viewer.work(1.0) is False
    assert "OSError: the disk went away" in capsys.readouterr().err
    sphere.fault = None
    guest.painter.want(shot, 20)
    assert viewer.work(10.0) is False
    assert len(guest.pictures) == 1
    viewer._sessions.clear()


def test_photographs_are_drawn_where_they_were_taken(tiny_capture) -> None:
    from voxfield.data.capture_reading import read_capture

    class Frustum:
        visible = True

        def on_click(self, _call) -> None:
            pass

    class Scene:
        def __init__(self) -> None:
            self.drawn: dict = {}

        def add_camera_frustum(self, name, **values):
            self.drawn[name] = values
            return Frustum()

    class Client:
        scene = Scene()

    photographs = Photographs(read_capture(tiny_capture, split="train"))
    handles = photographs.add_to(Client)
    assert len(handles) == 10
    first = Client.scene.drawn["/photographs/0"]
    assert max(first["image"].shape) <= THUMBNAIL_PIXELS
    assert first["position"] == pytest.approx(photographs.cameras.origins[0].tolist())

    # The one in which a browser stands would hide all else.
    for place, hidden in ((first["position"], [0]), ((0.0, 0.0, 0.0), [])):
        photographs.make_way(handles, place)
        assert [index for index, handle in enumerate(handles) if not handle.visible] == hidden


def test_photographs_that_are_gone_are_drawn_without_their_picture(tiny_capture, tmp_path) -> None:
    import shutil

    from voxfield.data.capture_reading import read_capture

    copy = tmp_path / "spheres"
    shutil.copytree(tiny_capture, copy)
    photographs = Photographs(read_capture(copy, split="train"))
    shutil.rmtree(copy)
    assert photographs._thumbnail(0) is None


def test_what_is_drawn_is_what_viser_takes(viewer: Viewer, tiny_capture, shot, tmp_path) -> None:
    """The server has the same controls and scene as a browser's handle."""
    from voxfield.data.capture_reading import read_capture
    from voxfield.viewer.path_editor import PathEditor
    from voxfield.viewer.training_view import TrainingView

    handles = Photographs(read_capture(tiny_capture, split="train")).add_to(viewer.server)
    assert len(handles) == 10
    said: list[str] = []
    editor = PathEditor(
        viewer.server, shot=lambda: shot, say=lambda _, text: said.append(text), folder=tmp_path, size=2.0
    )
    editor.add()
    editor.add()
    assert editor.drawn
    editor.save()
    assert (tmp_path / "path.json").is_file()
    editor.load("again.json", (tmp_path / "path.json").read_bytes())
    editor.clear()
    assert not editor.drawn
    assert len(said) == 1
    TrainingView(viewer)
