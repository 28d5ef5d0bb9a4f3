"""The viewer in a real browser."""

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import voxfield
from voxfield.data.camera_path import read_camera_path
from voxfield.data.image_store import ImageStore
from voxfield.data.posed_images import PosedImages
from voxfield.data.synthetic import posed_images
from voxfield.geometry.bounds import Bounds
from voxfield.geometry.camera import Cameras
from voxfield.geometry.paths import look_at
from voxfield.geometry.rotations import rotations_from_quaternions
from voxfield.render.metrics import psnr
from voxfield.storage.vdb import VdbGrid, write_vdb
from voxfield.viewer.photographs import Photographs
from voxfield.viewer.standpoint import Beginning
from voxfield.viewer.viewer import Viewer
from voxfield.voxels.sparse import SparseVolume

pytest.importorskip("viser", reason="needs viser")
pytestmark = [pytest.mark.browser, pytest.mark.timeout(1200)]
MAGENTA = torch.tensor([1.0, 0.0, 1.0])


@pytest.fixture(scope="module")
def captures() -> PosedImages:
    """Three magenta photographs: where pages begin, between there and the ball, and far away."""
    origins = torch.tensor([[0.9, -1.2, 0.7], [0.35, -1.15, 0.25], [0.0, -9.0, 0.0]])
    made = posed_images(count=3, resolution=32)
    cameras = Cameras(
        camera_to_world=look_at(origins, torch.zeros(3, 3)),
        focal=torch.full((3, 2), 24.0),
        principal=made.cameras.principal,
        width=made.cameras.width,
        height=made.cameras.height,
    )
    pictures = [(255 * MAGENTA).to(torch.uint8).expand(32, 32, 3).contiguous()] * 3
    return replace(made, cameras=cameras, images=ImageStore.from_tensors(pictures), has_alpha=False)


@pytest.fixture(scope="module")
def viewer(ball: Any, captures: PosedImages, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Viewer]:
    """One for all tests: every page that is opened has controls of its own."""
    paths = tmp_path_factory.mktemp("run") / "camera_paths"
    with Viewer(ball, name="ball", photographs=Photographs(captures), paths=paths, port=0) as shown:
        shown.start()
        yield shown


def test_the_canvas_shows_the_field_in_every_mode(viewer: Viewer, tab: Any) -> None:
    tab.open(viewer)
    seen = [tab.agrees()]
    for mode in ("depth", "opacity", "normals", "level"):
        tab.pick("Show", mode)
        seen.append(tab.agrees(mode=mode))
    for index, picture in enumerate(seen):
        assert all(float(psnr(picture, other)) < 25 for other in seen[:index])


def test_linear_light_is_exposed_and_mapped(viewer: Viewer, tab: Any) -> None:
    tab.open(viewer)
    plain = tab.agrees()
    tab.type("Exposure", 2)
    brighter = tab.agrees(exposure=2.0)
    tab.pick("Tone map", "filmic")
    rolled_off = tab.agrees(exposure=2.0, tone_map="filmic")
    assert float(brighter.mean()) > float(rolled_off.mean()) > float(plain.mean())


def test_a_crop_box_cuts_the_field_off(viewer: Viewer, tab: Any) -> None:
    tab.open(viewer)
    whole = tab.agrees()
    tab.unfold("Crop box")
    tab.type("From", -0.3, -1.5, -1.5)
    tab.type("To", 1.5, 1.5, 0.2)
    tab.tick("Crop")
    part = tab.agrees(crop=Bounds(minimum=(-0.3, -1.5, -1.5), maximum=(1.5, 1.5, 0.2)))
    assert float(psnr(whole, part)) < 20
    tab.type("To", -0.4, 1.5, 0.2)
    tab.says("Every value of From must be below that of To")
    tab.agrees(crop=None)
    tab.tick("Crop")
    tab.agrees()


def test_a_screenshot_is_the_picture_pixel_by_pixel(viewer: Viewer, tab: Any, tmp_path: Path) -> None:
    tab.open(viewer)
    tab.downloads_to(tmp_path)
    tab.unfold("Screenshot")
    tab.press("Take screenshot")
    file = tmp_path / "ball.png"
    tab.until(file.is_file)
    with Image.open(file) as image:
        taken = torch.from_numpy(np.asarray(image.convert("RGB")).copy())
    # Rays are looked at in pieces of other sizes.
    assert int((taken.int() - tab.wanted().int()).abs().max()) <= 1
    file.unlink()
    tab.pick("Size", "1080 rows")
    tab.press("Take screenshot")
    tab.until(file.is_file)
    with Image.open(file) as image:
        assert image.height == 1080


def test_photographs_stand_where_they_were_taken_and_are_gone_to(
    viewer: Viewer, tab: Any, captures: PosedImages
) -> None:
    from selenium.webdriver import ActionChains

    def magenta() -> torch.Tensor:
        return ((tab.page() - MAGENTA).abs().amax(-1) < 0.1).nonzero().float()

    tab.open(viewer)
    tab.agrees()
    assert len(magenta()) == 0
    tab.tick("Photographs")
    tab.until(lambda: len(magenta()) > 100)
    canvas = tab.browser.find_element("tag name", "canvas")
    place = captures.cameras.origins[1].numpy()

    def there() -> bool:
        return np.allclose(tab.session.client.camera.position, place, atol=1e-3)

    def gone_to() -> bool:
        # Where the picture is now: it may have been half there when it was first seen.
        pixels = magenta()
        if len(pixels):
            down, right = pixels[(pixels - pixels.median(0).values).norm(dim=1).argmin()].tolist()
            to_right, to_down = int(right - canvas.size["width"] / 2), int(down - canvas.size["height"] / 2)
            ActionChains(tab.browser).move_to_element_with_offset(canvas, to_right, to_down).click().perform()
        end = time.monotonic() + 5
        while not there() and time.monotonic() < end:
            time.sleep(0.1)
        return there()

    tab.until(gone_to)
    # The one whose place was taken does not stand before everything.
    tab.until(lambda: len(magenta()) == 0)
    tab.agrees()


def test_a_camera_path_made_in_the_page_reads_back_and_renders(viewer: Viewer, tab: Any, tmp_path: Path) -> None:
    tab.open(viewer)
    seen, shots = [tab.agrees()], [tab.session.shot()]
    canvas = tab.session.client.camera
    width, height = int(canvas.image_width), int(canvas.image_height)
    tab.downloads_to(tmp_path)
    tab.unfold("Camera path")
    tab.press("Add keyframe")
    tab.says("1 keyframes.")
    before = shots[0].camera_to_world
    tab.drag(-120, -60)
    tab.until(lambda: not torch.allclose(tab.session.shot().camera_to_world, before, atol=0.05))
    tab.come_to_rest(viewer)
    tab.press("Add keyframe")
    tab.says("2 keyframes.")
    shots.append(tab.session.shot())
    tab.type("Seconds", 0.5)
    tab.type("Width", width)
    tab.type("Height", height)
    tab.type("Name", "flight")
    tab.press("Save")
    file = viewer._paths / "flight.json"
    tab.until(file.is_file)
    tab.says("Camera path saved")

    path = read_camera_path(file)
    assert (len(path.keyframes), len(path.frames), path.width, path.height) == (2, 12, width, height)
    for key, shot in zip(path.keyframes, shots, strict=True):
        assert torch.allclose(key.pose.float(), shot.camera_to_world, atol=1e-5)
    # What the file's first frame shows is what the page showed where the first key was set.
    first = tab.frame(path.cameras()[0:1])
    assert float(psnr(first, seen[0])) > 30
    last = tab.frame(path.cameras()[11:12])
    assert float(psnr(last, seen[0])) < 25

    # The page takes its own file back.
    tab.press("Remove all")
    tab.says("No keyframes yet.")
    tab.browser.find_element("css selector", "input[type=file]").send_keys(str(file))
    tab.says("2 keyframes.")
    assert tab.session.path_editor.path == path
    assert json.loads(file.read_text()) == path.to_json()

    # Played, it leads the page to its end.
    tab.press("Begin anew")
    tab.until(lambda: torch.allclose(tab.session.shot().camera_to_world, before, atol=1e-3))
    tab.press("Play or stop")
    tab.until(lambda: torch.allclose(tab.session.shot().camera_to_world, shots[1].camera_to_world, atol=1e-3))


def test_browsers_have_controls_of_their_own(viewer: Viewer, tab: Any) -> None:
    tab.open(viewer)
    tab.pick("Show", "opacity")
    tab.agrees(mode="opacity")
    first = tab.browser.current_window_handle
    tab.browser.switch_to.new_window("tab")
    tab.open(viewer, browsers=2)
    assert [one.shot().mode for one in viewer.sessions()] == ["opacity", "colour"]
    # It goes while a picture is painted for it.
    tab.pick("Show", "normals")
    tab.browser.close()
    tab.browser.switch_to.window(first)
    tab.come_to_rest(viewer)
    tab.agrees(mode="opacity")


def test_pages_of_other_sites_are_shut_out(viewer: Viewer, tab: Any) -> None:
    tab.browser.get("data:text/html,<title>elsewhere</title>")
    known = viewer.sessions()
    tab.browser.execute_script(
        f"window.said = ''; let s = new WebSocket('ws://127.0.0.1:{viewer.port}/', 'viser-v1');"
        "s.onopen = () => window.said = 'open'; s.onerror = () => window.said = 'refused';"
    )
    assert tab.until(lambda: tab.browser.execute_script("return window.said")) == "refused"
    # A page that was left may still be on its way out; no other came in.
    assert all(one in known for one in viewer.sessions())


def test_a_page_comes_back_to_where_it_was_when_the_viewer_does(ball: Any, tab: Any) -> None:
    with Viewer(ball, name="ball", port=0) as viewer:
        viewer.start()
        tab.open(viewer)
        beginning = torch.tensor(Beginning.of(ball.bounds, None).position)

        def begun() -> list[torch.Tensor]:
            # A page that has not heard yet where it begins says where it stood before.
            pose = tab.session.shot().camera_to_world
            return [pose] if torch.allclose(pose[:3, 3], beginning.to(pose), atol=1e-4) else []

        (began,) = tab.until(begun)
        tab.drag(-120, -60)
        tab.until(lambda: not torch.allclose(tab.session.shot().camera_to_world, began, atol=0.05))
        tab.come_to_rest(viewer)

        def kept() -> bool:
            there = tab.session._standpoint.kept
            return there is not None and np.allclose(there[0], tab.session.client.camera.position, atol=1e-4)

        tab.until(kept)
        tab.agrees()
        left = tab.session.shot().camera_to_world
    with Viewer(ball, name="ball", port=viewer.port) as again:
        again.start()
        tab.come_back(again)
        tab.agrees()
        assert torch.allclose(tab.session.shot().camera_to_world, left, atol=1e-3)
        tab.press("Begin anew")
        tab.until(lambda: torch.allclose(tab.session.shot().camera_to_world, began, atol=1e-3))
        tab.come_to_rest(again)
        tab.agrees()


def test_a_volume_shows_its_fog(tab: Any, tmp_path: Path) -> None:
    fog = SparseVolume.from_dense(np.linspace(1, 30, 12**3, dtype=np.float32).reshape(12, 12, 12))
    write_vdb(tmp_path / "fog.vdb", [VdbGrid(name="density", volume=fog, index_to_world=np.diag([0.1, 0.1, 0.1, 1]))])
    with voxfield.view(tmp_path / "fog.vdb", port=0, quiet=True) as viewer:
        tab.open(viewer)
        tab.agrees()


def test_points_are_seen_where_they_are_in_their_colours(tab: Any, tmp_path: Path) -> None:
    """The page draws them itself: four heaps on the axes, none of them behind the panel."""
    heaps = {(-1, 0, 0): (255, 0, 0), (1, 0, 0): (0, 0, 255), (0, 0, -1): (0, 160, 0), (0, 0, 1): (200, 0, 200)}
    reach, radius = 1.0, 0.06
    with (tmp_path / "heaps.ply").open("w") as file:
        names = [*(f"float {axis}" for axis in "xyz"), *(f"uchar {name}" for name in ("red", "green", "blue"))]
        file.write(f"ply\nformat ascii 1.0\nelement vertex {3000 * len(heaps)}\n")
        file.writelines(f"property {name}\n" for name in names)
        file.write("end_header\n")
        for seed, (place, colour) in enumerate(heaps.items()):
            away = np.random.default_rng(seed).normal(size=(3000, 3))
            away *= radius / np.linalg.norm(away, axis=1, keepdims=True)
            np.savetxt(file, np.hstack([place + away, np.tile(colour, (3000, 1))]), fmt="%f %f %f %d %d %d")
    with voxfield.view(tmp_path / "heaps.ply", port=0, quiet=True) as shown:
        tab.go_to(shown.url)
        (client,) = tab.until(lambda: list(shown.server.get_clients().values()))

        def seen() -> tuple[dict[tuple[int, int, int], list[float]], int]:
            """The colour at each heap's middle, and how many pixels have a colour elsewhere."""
            page, camera = tab.page(), client.camera
            focal = 0.5 * camera.image_height / np.tan(0.5 * camera.fov)
            turn = rotations_from_quaternions(torch.tensor(np.array(camera.wxyz))[None])[0].numpy()
            down, right = np.mgrid[: page.shape[0], : page.shape[1]]
            # Of the page only what lies beside the panel.
            elsewhere = right < page.shape[1] // 2 + 20
            found = {}
            for place in heaps:
                at = turn.T @ (np.array(place) * reach / (reach + radius) - camera.position)
                x = focal * at[0] / at[2] + 0.5 * camera.image_width
                y = focal * at[1] / at[2] + 0.5 * camera.image_height
                away = np.hypot(right - x, down - y)
                found[place] = page[torch.from_numpy(away < 3)].median(0).values.tolist()
                elsewhere &= away > 1.3 * focal * radius / at[2] + 2
            spread = page.amax(-1) - page.amin(-1)
            return found, int((spread[torch.from_numpy(elsewhere)] > 0.1).sum())

        def shows(*hidden: tuple[int, int, int]) -> bool:
            found, others = seen()
            wanted = {place: (255, 255, 255) if place in hidden else colour for place, colour in heaps.items()}
            return others == 0 and all(
                np.allclose(found[place], np.array(wanted[place]) / 255, atol=0.12) for place in heaps
            )

        tab.until(shows)
        tab.type("Cut off above", 0.8)
        tab.until(lambda: shows((0, 0, 1)))


def test_a_training_is_watched_paused_resumed_and_stopped(
    tiny_capture: Path, tiny: tuple[str, ...], tab: Any, tmp_path: Path, watched: Any
) -> None:
    def step() -> int:
        status = tab.says("Step ").text
        return int(status.split()[1].replace(",", ""))

    with watched("grid-ngp", tiny_capture, output=tmp_path / "run", steps=10**7, overrides=tiny) as (_, viewer, ended):
        tab.go_to(viewer.url)
        began = step()
        tab.until(lambda: step() > began)
        tab.press("Pause")
        tab.says("paused")
        held = step()
        tab.come_to_rest(viewer)
        # As nothing trains now, the page shows the field as fine as it will be, and it stays the same.
        tab.agrees()
        assert step() == held
        tab.press("Resume")
        tab.until(lambda: step() > held)
        tab.press("Pause")
        tab.says("paused")
        tab.come_to_rest(viewer)
        seen, camera = tab.agrees(), tab.session.client.camera
        width, height = int(camera.image_width), int(camera.image_height)
        tab.unfold("Camera path")
        tab.press("Add keyframe")
        tab.type("Seconds", 0.1)
        tab.type("Frames a second", 10)
        tab.type("Width", width)
        tab.type("Height", height)
        tab.press("Save")
        path = tmp_path / "run" / "camera_paths" / "path.json"
        tab.until(path.is_file)
        tab.press("Stop and save")
        run = ended()
    assert run.outcome == "interrupted"
    # The path made in the page films the run that was stopped there.
    (film,) = run.render_path(path, output=tmp_path / "film", format="images", quiet=True)
    with Image.open(film) as image:
        rendered = torch.from_numpy(np.asarray(image.convert("RGB")).copy()).float() / 255
    assert rendered.shape == (height, width, 3)
    assert float(psnr(tab.part(rendered), seen)) > 25
