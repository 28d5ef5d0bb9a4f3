"""The documentation's pictures of the viewer, of the embedded scene: taken where somebody asks for them."""

import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import voxfield

pytest.importorskip("viser", reason="needs viser")
pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(3600)]
MOST_BYTES = 150_000


@pytest.fixture(scope="module")
def folder(named: Callable[[str, str], str]) -> Path:
    return Path(named("VOXFIELD_PICTURES", "takes the documentation's pictures: set {} to a folder for them"))


@pytest.fixture(scope="module")
def run(folder: Path, repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Of the embedded scene: the run that lies in the folder, or else one of a minute."""
    if (folder / "run").is_dir():
        return voxfield.open(folder / "run")
    scene = repository / "examples" / "scenes" / "workbench"
    return voxfield.train(
        "grid-ngp", scene, output=tmp_path_factory.mktemp("runs") / "workbench", minutes=1, quiet=True
    )


@pytest.fixture
def wide(tab: Any) -> Iterator[Any]:
    """A window in which the panel hides less of the scene."""
    tab.browser.set_window_size(1200, 700)
    yield tab
    tab.browser.set_window_size(900, 600)


def take(tab: Any, file: Path) -> None:
    """Keep the page as it is now."""
    Image.fromarray((tab.page() * 255).round().byte().numpy()).save(file, quality=88, optimize=True)
    assert file.stat().st_size < MOST_BYTES


def look_from(tab: Any, degrees: float, height: float, distance: float) -> None:
    """Put the page's camera there, on a circle about the scene."""
    camera, turn = tab.session.client.camera, math.radians(degrees)
    place = (distance * math.cos(turn), distance * math.sin(turn), height)
    camera.position, camera.look_at = place, (0.0, 0.0, 0.0)
    tab.until(lambda: all(abs(a - b) < 1e-3 for a, b in zip(camera.position, place, strict=True)))
    tab.come_to_rest(tab.viewer)


def test_a_run(run: Any, folder: Path, wide: Any) -> None:
    with voxfield.view(run.path, port=0, quiet=True) as viewer:
        wide.open(viewer)
        look_from(wide, 20, 1.2, 3.4)
        wide.agrees()
        take(wide, folder / "viewer.jpg")


def test_a_camera_path(run: Any, folder: Path, wide: Any) -> None:
    with voxfield.view(run.path, port=0, quiet=True) as viewer:
        wide.open(viewer)
        wide.unfold("Camera path")
        for number in range(5):
            look_from(wide, 40 * number - 60, 0.3 + 0.4 * number, 3.4)
            wide.press("Add keyframe")
            wide.says(f"{number + 1} keyframes.")
        look_from(wide, -45, 3.6, 7.5)
        wide.until(lambda: float(wide.canvas().std()) > 0.05)
        take(wide, folder / "viewer-path.jpg")


def test_a_volume(run: Any, folder: Path, wide: Any, tmp_path: Path) -> None:
    run.export_vdb(tmp_path / "workbench.vdb", resolution=192, quiet=True)
    with voxfield.view(tmp_path / "workbench.vdb", port=0, quiet=True) as viewer:
        wide.open(viewer)
        look_from(wide, 110, 1.6, 3.4)
        wide.agrees()
        take(wide, folder / "viewer-volume.jpg")


def test_a_training(run: Any, folder: Path, wide: Any, tmp_path: Path, watched: Any) -> None:
    """The run goes on training, in a copy of it."""
    copy = shutil.copytree(run.path, tmp_path / "workbench")
    with watched("grid-ngp", run.captures.source["path"], output=copy, resume=True, steps=10**6) as (view, viewer, _):
        wide.open(viewer)
        look_from(wide, 20, 1.2, 3.4)
        wide.until(lambda: len(view._points) > 5 and view._plotted > 0)
        wide.press("Pause")
        wide.says("paused")
        wide.come_to_rest(viewer)
        wide.agrees()
        take(wide, folder / "viewer-training.jpg")
