"""One browser's controls and pictures, without a browser."""

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, Self

import pytest
import torch

from voxfield.geometry.paths import look_at
from voxfield.geometry.rotations import quaternions_from_rotations
from voxfield.viewer.painter import Painter
from voxfield.viewer.session import Session
from voxfield.viewer.subjects import Subject
from voxfield.viewer.viewer import Viewer


class Control:
    """A control of the page, as viser's handles are."""

    def __init__(self, value: Any) -> None:
        self._value, self._calls = value, list[Callable[[Any], object]]()

    @property
    def value(self) -> Any:
        return self._value

    @value.setter
    def value(self, value: Any) -> None:
        self._value = value
        for call in self._calls:
            call(None)

    def on_update(self, call: Callable[[Any], object]) -> None:
        self._calls.append(call)

    on_click = on_upload = on_update

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_fault: object) -> None:
        pass


class Page:
    """viser's controls, kept by their label."""

    def __init__(self) -> None:
        self.controls: dict[str, Control] = {}

    def add_slider(
        self, label: str, _least: float, _most: float, _step: float, value: float, **_options: Any
    ) -> Control:
        return self.controls.setdefault(label, Control(value))

    def add_dropdown(self, label: str, _items: Any, *, initial_value: Any, **_options: Any) -> Control:
        return self.controls.setdefault(label, Control(initial_value))

    def __getattr__(self, _kind: str) -> Any:
        def add(label: str = "", value: Any = None, *_rest: Any, **_options: Any) -> Control:
            return self.controls.setdefault(label, Control(value))

        return add


class Client:
    """A browser that looks at the origin; ``show`` is called with every picture that is sent to it."""

    def __init__(self, client_id: int = 0) -> None:
        self.client_id, self.gui = client_id, Page()
        self.pictures: list[Any] = []
        self.show: Callable[[], None] = lambda: None
        pose = look_at(torch.tensor([[0.0, -4.0, 0.0]]), torch.zeros(1, 3))[0].double()
        turned = pose[:, :3] * torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64)
        self.camera = SimpleNamespace(
            wxyz=quaternions_from_rotations(turned[None])[0].tolist(),
            position=pose[:, 3].tolist(),
            look_at=(0.0, 0.0, 0.0),
            fov=0.9,
            aspect=1.0,
            image_height=48,
            on_update=lambda _call: None,
        )
        self.scene = SimpleNamespace(set_background_image=self._set)
        self.rests = list[int]()
        self.standpoint: Any = SimpleNamespace(
            rest=lambda: self.rests.append(len(self.pictures)), leave=lambda: self.rests.append(-1)
        )

    def _set(self, image: Any, **_options: Any) -> None:
        self.show()
        self.pictures.append(image)

    def flush(self) -> None:
        pass


def session_of(client: Client, subject: Subject) -> Session:
    return Session(
        client,
        subject,
        name="sphere",
        standpoint=client.standpoint,
        background=torch.ones(3),
        photographs=None,
        paths=None,
        wake=lambda: None,
    )


def paint(painter: Painter) -> None:
    while painter.work(1.0):
        pass


def test_only_fields_on_linear_light_can_be_exposed(sphere) -> None:
    client = Client()
    session = session_of(client, sphere)
    assert not {"Exposure", "Tone map"} & set(client.gui.controls)
    shot = session.shot()
    assert shot is not None
    assert (shot.exposure, shot.tone_map) == (0.0, "none")


def test_a_change_of_exposure_is_painted(sphere) -> None:
    sphere.linear = True
    client = Client()
    session = session_of(client, sphere)
    controls = client.gui.controls
    paint(session.painter)
    assert client.rests == [len(client.pictures)], "once, with the whole picture"
    before = client.pictures[-1]
    controls["Exposure"].value = -3.0
    assert session.painter.busy
    paint(session.painter)
    darker = client.pictures[-1]
    assert before.shape == darker.shape == (48, 48, 3)
    assert darker.mean() < 0.6 * before.mean()
    controls["Tone map"].value = "filmic"
    shot = session.shot()
    assert shot is not None
    assert (shot.exposure, shot.tone_map) == (-3.0, "filmic")
    paint(session.painter)
    assert (client.pictures[-1] != darker).any()


def test_a_box_that_holds_nothing_is_said_once(sphere) -> None:
    client, said = Client(), list[str]()
    client.add_notification = lambda _title, body, **_options: said.append(body)
    session = session_of(client, sphere)
    controls = client.gui.controls
    controls["Crop"].value = True
    assert (session.shot().crop, said) == (sphere.bounds, [])
    controls["From"].value = (0.5, 2.0, 0.0)
    for _ in range(3):
        assert session.shot().crop is None
    assert len(said) == 1
    assert "From must be below" in said[0]
    controls["From"].value = (0.5, 0.5, 0.0)
    assert session.shot().crop.minimum == (0.5, 0.5, 0.0)
    controls["From"].value = (2.0, 0.5, 0.0)
    assert len(said) == 2


@pytest.fixture
def viewer(sphere):
    pytest.importorskip("viser", reason="needs viser")
    with Viewer(sphere, name="sphere", port=0) as shown:
        yield shown


def test_a_browser_that_goes_while_a_picture_is_sent_is_no_harm(viewer, sphere, capsys) -> None:
    gone, stays = Client(1), Client(2)
    viewer._sessions.update({1: session_of(gone, sphere), 2: session_of(stays, sphere)})

    def leave() -> None:
        # viser's thread tells that the browser is gone while ours is in the middle of sending.
        away = threading.Thread(target=viewer._leave, args=(gone,))
        away.start()
        away.join()
        raise ConnectionError("the browser is gone")

    gone.show = leave
    while viewer.work(0.05):
        pass
    assert (gone.pictures, gone.rests, viewer.browsers) == ([], [-1], 1)
    assert stays.pictures[-1].shape == (48, 48, 3)
    # Who left is not worth a word; and what it still asks for is not painted.
    assert capsys.readouterr().err == ""
    seen = sphere.rays_seen
    viewer.paint_again()
    while viewer.work(0.05):
        pass
    assert sphere.rays_seen - seen == 48 * 48
    viewer._sessions.clear()


def test_a_screenshot_of_a_browser_that_goes_is_dropped(viewer, sphere, capsys) -> None:
    client = Client(1)
    viewer._sessions[1] = session = session_of(client, sphere)

    def send(*_values: Any, **_options: Any) -> None:
        viewer._leave(client)
        raise RuntimeError("no such client")

    client.send_file_download = send
    client.add_notification = lambda *_said, **_options: None
    client.gui.controls["Take screenshot"].value = True
    while viewer.work(0.05):
        pass
    assert viewer.browsers == 0
    assert not session.still.busy
    assert capsys.readouterr().err == ""
