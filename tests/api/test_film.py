"""Films: panoramas, camera paths, and going on after an interruption."""

import inspect
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import voxfield
from voxfield.api.film import FilmOptions
from voxfield.api.reel import Reel
from voxfield.data.camera_path import CameraPath, View
from voxfield.errors import FormatError, InputError, MissingFileError


@pytest.fixture(scope="module")
def run(tiny_capture: Path, tiny: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("runs") / "spheres"
    return voxfield.train("grid-ngp", tiny_capture, output=path, steps=20, overrides=tiny, quiet=True)


@pytest.fixture
def looks(run: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pictures the model made."""
    made: list[int] = []
    original: Callable[..., Any] = run.model.render_image

    def render_image(cameras: Any, i: int, **options: Any) -> Any:
        made.append(i)
        return original(cameras, i, **options)

    monkeypatch.setattr(run.model, "render_image", render_image)
    return made


def test_films_of_runs_and_scenes_take_every_option() -> None:
    options = set(FilmOptions.__dataclass_fields__)
    assert options <= set(inspect.signature(voxfield.Run.render_path).parameters)
    assert options - {"beside"} <= set(inspect.signature(voxfield.Scene.render_path).parameters)


def test_what_a_call_was_given_becomes_plain_values(run: Any, tmp_path: Path) -> None:
    class Call:
        def render_path(self, kind, *, frames=3, beside=None, output=None, executor="local", **rest):
            return FilmOptions.of_call(locals() | rest)

    rest = {
        name: None for name in FilmOptions.__dataclass_fields__ if name not in {"kind", "frames", "beside", "output"}
    }
    asked = Call().render_path(tmp_path / "path.json", beside=run, output=tmp_path, **rest)
    assert asked == FilmOptions(
        **rest, kind=str(tmp_path / "path.json"), frames=3, beside=str(run.path), output=str(tmp_path)
    )
    with pytest.raises(TypeError, match="exposure"):
        Call().render_path("orbit", **{name: value for name, value in rest.items() if name != "exposure"})


@pytest.mark.parametrize(
    ("camera", "size", "eyes"),
    [("equirectangular", (32, 16), 1), ("vr180", (32, 16), 2), ("ods", (32, 32), 2), ("fisheye", (16, 16), 1)],
)
def test_panoramas_of_an_orbit(run: Any, tmp_path: Path, looks, camera: str, size, eyes: int) -> None:
    made = run.render_path("orbit", camera=camera, frames=2, height=size[1], output=tmp_path, quiet=True)
    assert [path.name for path in made] == ["frame_00000.png", "frame_00001.png", f"orbit-{camera}.mp4"]
    with Image.open(made[0]) as picture:
        assert picture.size == size
    assert len(looks) == 2 * eyes
    assert (b"sv3d" in made[-1].read_bytes()) == (camera != "fisheye")


def test_the_eyes_of_a_stereo_frame_see_differently(run: Any, tmp_path: Path) -> None:
    (frame,) = run.render_path(
        "orbit", camera="vr180", frames=1, height=32, eye_distance=0.3, output=tmp_path, format="images", quiet=True
    )
    with Image.open(frame) as picture:
        pixels = np.asarray(picture).astype(float)
    assert np.abs(pixels[:, :32] - pixels[:, 32:]).max() > 10


def path_file(run: Any, folder: Path, **values: Any) -> Path:
    cameras = run.captures.image_cameras
    keys = tuple(View.from_pose(pose, fov=50.0, aspect=1.0) for pose in cameras.camera_to_world[:3])
    path = CameraPath(frames=(), keyframes=keys, width=24, height=16, fps=4.0, seconds=1.0, **values)
    return path.through_keyframes().write(folder / "flight.json")


def test_a_camera_path_is_rendered_as_its_file_says(run: Any, tmp_path: Path) -> None:
    file = path_file(run, tmp_path)
    made = run.render_path(file, output=tmp_path / "out", format="images", quiet=True)
    assert len(made) == 4
    with Image.open(made[0]) as picture:
        assert picture.size == (24, 16)
    longer = run.render_path(str(file), output=tmp_path / "longer", format="images", seconds=2, height=8, quiet=True)
    assert len(longer) == 8
    with Image.open(longer[0]) as picture:
        assert picture.size == (12, 8)
    # The first frame is what the first keyframe's camera sees.
    camera = CameraPath(frames=(View.from_pose(run.captures.image_cameras.camera_to_world[0], fov=50.0, aspect=1.5),))
    seen = run.render(camera.cameras(24, 16))["rgb"]
    with Image.open(made[0]) as picture:
        shown = torch.from_numpy(np.asarray(picture).copy()) / 255
    assert float((shown - seen).abs().max()) < 0.01


def test_a_camera_path_may_be_of_a_panorama(run: Any, tmp_path: Path) -> None:
    file = path_file(run, tmp_path, camera="ods")
    made = run.render_path(file, output=tmp_path / "out", frames=1, quiet=True)
    with Image.open(made[0]) as picture:
        assert picture.size == (24, 16)
    flat = run.render_path(file, camera="fisheye", height=8, frames=1, output=tmp_path / "flat", quiet=True)
    with Image.open(flat[0]) as picture:
        assert picture.size == (8, 8)


def test_an_interrupted_film_goes_on_where_it_stopped(run: Any, tmp_path: Path, looks, monkeypatch) -> None:
    options: dict[str, Any] = {"frames": 4, "height": 16, "output": tmp_path / "film", "format": "video", "quiet": True}
    whole = run.model.render_image

    def interrupted(cameras: Any, i: int, **more: Any) -> Any:
        if i == 2:
            raise KeyboardInterrupt
        return whole(cameras, i, **more)

    with monkeypatch.context() as patch:
        patch.setattr(run.model, "render_image", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run.render_path("orbit", **options)
    assert looks == [0, 1]
    (video,) = run.render_path("orbit", **options)
    assert looks == [0, 1, 2, 3]
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [video.name]


def test_frames_of_another_film_are_rendered_again(run: Any, tmp_path: Path, looks) -> None:
    options: dict[str, Any] = {"frames": 2, "height": 16, "output": tmp_path, "format": "images", "quiet": True}
    first = run.render_path("orbit", **options)
    assert run.render_path("orbit", **options) == first
    assert looks == [0, 1]
    for change in ({"height": 12}, {"exposure": 1.0}, {"frames": 1}):
        looks.clear()
        run.render_path("orbit", **{**options, **change})
        assert len(looks) == {**options, **change}["frames"]
    looks.clear()
    first[0].write_bytes(b"cut short")
    run.render_path("orbit", **{**options, "frames": 1})
    assert looks == [0]


def test_depth_that_is_missing_is_made(run: Any, tmp_path: Path, looks) -> None:
    options: dict[str, Any] = {"frames": 2, "height": 16, "output": tmp_path, "format": "images", "quiet": True}
    run.render_path("orbit", **options)
    made = run.render_path("orbit", save_depth=True, **options)
    assert len(made) == 6
    assert all(path.is_file() for path in made)
    assert len(looks) == 4


@pytest.mark.parametrize(
    ("path", "options", "fault", "message"),
    [
        ("orbitt", {}, InputError, "Did you mean orbit"),
        ("absent.json", {}, MissingFileError, "no such camera path"),
        ("broken.json", {}, FormatError, "not valid JSON"),
        ("orbit", {"camera": "vr360"}, InputError, "camera: unknown value"),
        ("orbit", {"camera": "vr180", "width": 15, "height": 16}, InputError, "width: expected an even number"),
        ("orbit", {"camera": "ods", "eye_distance": -1.0}, InputError, "eye_distance"),
        ("orbit", {"height": 0}, InputError, "height"),
        ("orbit", {"height": 10**9}, InputError, "at most 100000"),
        ("orbit", {"fps": 0.0, "frames": 1, "format": "video"}, InputError, "fps"),
        ("orbit", {"fps": 1e9, "frames": 1, "format": "video"}, InputError, "fps"),
        ("orbit", {"frames": 0}, InputError, "frames"),
        ("orbit", {"seconds": -1.0}, InputError, "seconds: expected a value above 0"),
        ("orbit", {"seconds": float("inf")}, InputError, "seconds: expected a value above 0 and at most 86400"),
    ],
)
def test_films_that_cannot_be(run: Any, tmp_path: Path, path, options, fault, message) -> None:
    (tmp_path / "broken.json").write_text("{")
    named = tmp_path / path if path.endswith(".json") else path
    values = {"height": 8, "output": tmp_path / "out", "quiet": True, **options}
    with pytest.raises(fault, match=message):
        run.render_path(named, **values)


def test_a_record_that_is_no_record_says_nothing_of_frames(tmp_path: Path) -> None:
    for text in ("", "[]", '{"film": 3}', '{"film": "x", "frames": "many"}', "[" * 100_000):
        (tmp_path / "film.json").write_text(text)
        assert not Reel(tmp_path, {"a": 1}).has(0)
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        Reel(blocked / "frames", {})


def test_a_reel_ends_with_its_film(tmp_path: Path) -> None:
    reel = Reel(tmp_path / "film", {}, keep=False)
    reel.note(0)
    reel.finish()
    assert not any(tmp_path.iterdir())
    shutil.rmtree(tmp_path)
