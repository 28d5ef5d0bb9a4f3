"""Camera paths made in the browser."""

import json
import math
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import pytest
import torch
from tests.viewer.moving import move

from voxfield.data.camera_path import read_camera_path
from voxfield.geometry.paths import look_at
from voxfield.viewer.path_editor import PathEditor
from voxfield.viewer.subjects import Shot

pytest.importorskip("viser", reason="needs viser")


class Control:
    def __init__(self, value: Any = None) -> None:
        self.value, self.content = value, ""

    def on_click(self, call: Any) -> None:
        self.click = call

    on_update = on_upload = on_click

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_fault: object) -> None:
        pass


class Browser:
    """viser's client, as far as the editor knows it."""

    def __init__(self) -> None:
        self.controls: dict[str, Control] = {}
        self.nodes: dict[str, dict] = {}
        self.downloads: dict[str, bytes] = {}
        self.camera = SimpleNamespace(
            position=(0.0, -3.0, 1.0), look_at=(0.0, 0.0, 0.0), up_direction=(0.0, 0.0, 1.0), fov=1.3
        )
        self._websock_connection = SimpleNamespace(queue_message=lambda message: move(self.camera, message))
        self.gui = self.scene = self

    def __getattr__(self, kind: str) -> Any:
        if kind in {"add_camera_frustum", "add_line_segments"}:
            return self._draw
        return lambda label, value=None, **options: self.controls.setdefault(
            label, Control(options.get("initial_value", value))
        )

    def _draw(self, name: str, **values: Any) -> Any:
        self.nodes[name] = values
        return SimpleNamespace(remove=lambda: self.nodes.pop(name), on_click=lambda call: values.update(click=call))

    def atomic(self) -> Control:
        return Control()

    def send_file_download(self, name: str, content: bytes, **_options: Any) -> None:
        self.downloads[name] = content


class Stand:
    """An editor, its browser, and what was said."""

    def __init__(self, folder: Path | None) -> None:
        self.browser, self.said, self.angle = Browser(), [], 0.0
        self.editor = PathEditor(
            self.browser, shot=self.shot, say=lambda *words: self.said.append(words[1]), folder=folder, size=2.0
        )

    def shot(self) -> Shot:
        self.angle += 0.4
        eye = torch.tensor([[3 * math.cos(self.angle), 3 * math.sin(self.angle), 1.0]])
        return Shot(camera_to_world=look_at(eye, torch.zeros(1, 3))[0], fov=0.8, aspect=1.6)

    def press(self, label: str) -> None:
        self.browser.controls[label].click(None)


@pytest.fixture
def stand(tmp_path: Path) -> Stand:
    return Stand(tmp_path / "run" / "camera_paths")


def test_keyframes_are_added_drawn_and_removed(stand: Stand) -> None:
    for _ in range(3):
        stand.press("Add keyframe")
    assert len(stand.editor.path.keyframes) == 3
    assert len(stand.editor.path.frames) == 6 * 24
    assert sorted(stand.browser.nodes) == ["/camera path/0", "/camera path/1", "/camera path/2", "/camera path/way"]
    assert stand.browser.controls["No keyframes yet."].content == "3 keyframes."
    stand.press("Remove last keyframe")
    assert len(stand.editor.path.keyframes) == 2
    stand.press("Remove all")
    stand.press("Remove last keyframe")
    assert stand.browser.nodes == {}
    assert not stand.editor.drawn


def test_a_saved_path_is_the_one_that_was_made(stand: Stand, tmp_path: Path) -> None:
    stand.press("Add keyframe")
    stand.press("Add keyframe")
    stand.browser.controls["Camera"].value = "vr180"
    stand.browser.controls["Seconds"].value = 0.5
    stand.press("Save")
    path = read_camera_path(tmp_path / "run" / "camera_paths" / "path.json")
    assert path == stand.editor.path
    assert (path.camera, len(path.frames)) == ("vr180", 12)
    assert path.keyframes[0].fov == pytest.approx(math.degrees(0.8))
    assert json.loads(stand.browser.downloads["path.json"]) == path.to_json()
    assert "voxfield render" in stand.said[-1]

    other = Stand(None)
    other.editor.load("path.json", stand.browser.downloads["path.json"])
    assert other.editor.path == path


@pytest.mark.parametrize("name", ["../../evil", "/etc/x", "a/b", "", "x" * 300, "\x00", "a b.json"])
def test_names_do_not_lead_out_of_the_folder(stand: Stand, tmp_path: Path, name: str) -> None:
    stand.press("Add keyframe")
    stand.browser.controls["Name"].value = name
    stand.press("Save")
    (written,) = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert written.parent == tmp_path / "run" / "camera_paths"


def test_a_run_that_is_gone_or_closed_to_writing_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    stand = Stand(tmp_path / "file" / "camera_paths")
    stand.press("Add keyframe")
    stand.press("Save")
    assert "Take the download" in stand.said[-1]
    assert stand.browser.downloads


def test_without_keyframes_there_is_nothing_to_play_or_save(stand: Stand) -> None:
    stand.press("Play or stop")
    stand.press("Save")
    assert all("add keyframes" in said for said in stand.said)
    assert len(stand.said) == 2
    assert stand.browser.downloads == {}


def test_playing_moves_the_camera_to_the_end_and_can_be_stopped(stand: Stand) -> None:
    stand.press("Add keyframe")
    stand.press("Add keyframe")
    stand.browser.controls["Seconds"].value = 0.2
    last = stand.editor.path.keyframes[-1].pose[:, 3].tolist()
    stand.press("Play or stop")
    end = time.monotonic() + 60
    while stand.editor.playing or list(stand.browser.camera.position) != pytest.approx(last):
        assert time.monotonic() < end
        time.sleep(0.01)
    stand.browser.controls["Seconds"].value = 3600.0
    stand.press("Play or stop")
    stand.press("Play or stop")
    assert not stand.editor.playing


def test_a_path_is_played_no_more_once_the_page_is_gone(stand: Stand) -> None:
    stand.press("Add keyframe")
    stand.press("Add keyframe")
    stand.browser.controls["Seconds"].value = 3600.0
    stand.press("Play or stop")
    assert stand.editor.playing
    stand.editor.close()
    assert not stand.editor.playing
    left = stand.browser.camera.position
    time.sleep(0.2)
    assert stand.browser.camera.position == left


@pytest.mark.parametrize("roll", [0.0, 0.3, math.pi])
def test_a_clicked_keyframe_is_gone_to(stand: Stand, roll: float) -> None:
    cos, sin = math.cos(roll), math.sin(roll)
    right, up, back, eye = stand.shot().camera_to_world.unbind(1)
    right, up = cos * right + sin * up, cos * up - sin * right
    stand.editor._shot = lambda: Shot(camera_to_world=torch.stack([right, up, back, eye], 1), fov=0.8, aspect=1.6)
    stand.press("Add keyframe")
    stand.browser.nodes["/camera path/0"]["click"](None)
    # The page has the keyframe's axes, and turns about what is as far away as before.
    camera = stand.browser.camera
    place, there, upwards = (torch.tensor(one) for one in (camera.position, camera.look_at, camera.up_direction))
    across = torch.linalg.cross(there - place, upwards)
    assert camera.fov == pytest.approx(0.8)
    assert torch.allclose(place, eye, atol=1e-5)
    assert torch.allclose((there - place) / math.sqrt(10), -back, atol=1e-5)
    assert torch.allclose(across / across.norm(), right, atol=1e-5)
    if roll == 0:
        assert camera.up_direction == pytest.approx((0.0, 0.0, 1.0), abs=1e-6)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'{"camera_path": []}', b"[" * 100_000])
def test_malformed_files_are_said_and_leave_the_path_alone(stand: Stand, content: bytes) -> None:
    stand.press("Add keyframe")
    stand.editor.load("bad.json", content)
    assert "bad.json" in stand.said[-1]
    assert len(stand.editor.path.keyframes) == 1


def test_a_file_of_frames_alone_is_edited_by_some_of_them(stand: Stand) -> None:
    for _ in range(3):
        stand.press("Add keyframe")
    content = stand.editor.path.to_json()
    del content["keyframes"]
    stand.editor.load("frames.json", json.dumps(content).encode())
    assert len(stand.editor.path.keyframes) == 24
    first = content["camera_path"][0]["camera_to_world"]
    assert list(stand.editor.path.keyframes[0].matrix) == first
    stand.browser.nodes["/camera path/5"]["click"](None)
    assert stand.browser.camera.position is not None
