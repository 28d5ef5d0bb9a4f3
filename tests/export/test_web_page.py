"""Pages that show a field: what the file holds, what is refused, and what a browser shows of it."""

import base64
import hashlib
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from voxfield.colour import linear_from_srgb, srgb_from_linear
from voxfield.errors import InputError
from voxfield.export.packed_voxels import pack_voxels
from voxfield.export.web_page import CLOSEST, PageConfig, PageView, page_colour, write_page
from voxfield.geometry.camera import Cameras
from voxfield.geometry.paths import look_at
from voxfield.kernels.sh_grid import MarchRule
from voxfield.render.metrics import psnr

WIDTH, HEIGHT, FOCAL = 200, 140, 220.0
PATIENCE = 600
"""Seconds that a script may take in a browser without a GPU; the test's own limit is shorter where nothing waits."""
HOSTILE = "</title></script><script>window.taken = 1</script>\"'<!-- @SCRIPT@ \\1 &amp;"


def camera(x: float, y: float, z: float, width: int = WIDTH, height: int = HEIGHT) -> Cameras:
    """One that looks at the ball's middle from there."""
    return Cameras(
        camera_to_world=look_at(torch.tensor([[x, y, z]]), torch.zeros(1, 3)),
        focal=torch.full((1, 2), FOCAL),
        principal=torch.tensor([[width / 2, height / 2]]),
        width=torch.tensor([width]),
        height=torch.tensor([height]),
    )


FIRST, OTHER = camera(1.6, -1.9, 0.9), camera(-1.2, 0.3, -1.4)


class Elements(HTMLParser):
    """What stands in the elements of a page, by tag and id, and the attributes of all."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None], str]] = []
        self.inside = False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs), ""))
        self.inside = True

    def handle_endtag(self, tag: str) -> None:
        self.inside = False

    def handle_data(self, data: str) -> None:
        if self.inside:
            tag, attributes, text = self.found[-1]
            self.found[-1] = tag, attributes, text + data

    def text(self, tag: str, **attributes: str) -> str:
        chosen = [text for name, given, text in self.found if name == tag and attributes.items() <= given.items()]
        assert len(chosen) == 1, (tag, attributes)
        return chosen[0]


def write(path: Path, grid: Any, cameras: Cameras = FIRST, **options: Any) -> Any:
    return write_page(path, grid, view=PageView.from_cameras(cameras, 0), **{"title": "ball", **options})


def test_the_page_holds_the_voxels_and_what_to_show_first(make_ball, tmp_path) -> None:
    grid = make_ball()
    file = tmp_path / "a.html"
    done = write(file, grid, background="#102030", near=9.0, step=0.25, left_out="the sky")
    packed = pack_voxels(grid)
    assert (done.file, done.bytes, done.voxels) == (file, file.stat().st_size, packed.voxels)
    assert (done.resolution, done.sh_degree, done.left_out) == (grid.resolution, 2, "the sky")
    page = Elements(file.read_text(encoding="utf-8"))
    for name, content in packed.parts.items():
        assert base64.b64decode(page.text("script", id=f"part-{name}"), validate=True) == content
    scene = json.loads(page.text("script", id="scene"))
    assert (scene["low"], scene["high"]) == (list(grid.scene_bounds.minimum), list(grid.scene_bounds.maximum))
    assert (scene["size"], scene["voxels"], scene["bricks"]) == (list(grid.resolution), packed.voxels, packed.bricks)
    np.testing.assert_allclose(scene["steps"], packed.steps.flatten())
    assert scene["zeros"] == packed.zeros.flatten().tolist()
    assert (scene["background"], scene["step"], scene["near"]) == ("#102030", 0.25, CLOSEST * 2)
    np.testing.assert_allclose(scene["camera"], FIRST.camera_to_world.flatten(), atol=1e-6)
    assert np.tan(np.radians(scene["fov"]) / 2) == pytest.approx(HEIGHT / 2 / FOCAL)
    assert scene["aspect"] == pytest.approx(WIDTH / HEIGHT)
    assert "Not shown: the sky." in file.read_text(encoding="utf-8")


def test_the_page_reaches_for_nothing_outside_and_runs_only_its_own_script(make_ball, tmp_path) -> None:
    write(tmp_path / "a.html", make_ball())
    text = (tmp_path / "a.html").read_text(encoding="utf-8")
    page = Elements(text)
    assert not {"src", "href", "action"} & {name for _, attributes, _ in page.found for name in attributes}
    assert not re.findall(r"(?:https?|wss?|file):", text)
    policy = next(given["content"] for tag, given, _ in page.found if given.get("http-equiv"))
    rules = dict(rule.strip().split(" ", 1) for rule in str(policy).split(";"))
    assert rules.pop("default-src") == rules.pop("base-uri") == rules.pop("form-action") == "'none'"
    scripts = [content for tag, given, content in page.found if tag == "script" and "type" not in given]
    assert len(scripts) == 1
    for rule, content in (("script-src", scripts[0]), ("style-src", page.text("style"))):
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert rules.pop(rule) == f"'sha256-{digest}'"
    assert not rules


def test_hostile_names_are_text(make_ball, tmp_path) -> None:
    grid = make_ball(0)
    write(tmp_path / "a.html", grid, title=HOSTILE, left_out=HOSTILE)
    text = (tmp_path / "a.html").read_text(encoding="utf-8")
    page = Elements(text)
    write(tmp_path / "b.html", grid, title="ball", left_out="sky")
    plain = Elements((tmp_path / "b.html").read_text(encoding="utf-8"))
    assert [tag for tag, _, _ in page.found] == [tag for tag, _, _ in plain.found]
    assert page.text("title") == page.text("summary") == HOSTILE


def test_bands_are_left_out_where_the_file_would_be_too_large(make_ball, tmp_path) -> None:
    grid = make_ball(3)
    full = write(tmp_path / "a.html", grid, sh_degree=3)
    assert full.sh_degree == 3
    again = write(tmp_path / "b.html", grid, sh_degree=3, max_bytes=full.bytes)
    assert again.bytes == full.bytes
    less = write(tmp_path / "c.html", grid, sh_degree=3, max_bytes=full.bytes - 1)
    assert less.sh_degree == 2
    assert less.bytes < full.bytes
    least = write(tmp_path / "d.html", grid, sh_degree=0)
    with pytest.raises(InputError, match=r"max_bytes: .* voxels take .* MB as a page .* lower --resolution"):
        write(tmp_path / "e.html", grid, max_bytes=least.bytes - 1)
    assert not (tmp_path / "e.html").exists()


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"near": -1.0}, "near"),
        ({"step": 0.0}, "step"),
        ({"sh_degree": 4}, "sh_degree"),
        ({"max_bytes": "many"}, "max_bytes"),
        ({"background": "mauve"}, "Colour"),
    ],
)
def test_settings_out_of_range(make_ball, tmp_path, options, what) -> None:
    with pytest.raises(InputError, match=what):
        write(tmp_path / "a.html", make_ball(0), **options)
    with pytest.raises(InputError, match=r"expected a file that ends in \.html"):
        write(tmp_path / "a.htm.png", make_ball(0))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "options",
    [
        {"resolution": 7},
        {"resolution": 2000},
        {"sh_degree": -1},
        {"min_opacity": 1.5},
        {"max_bytes": "25"},
        {"background": "mauve"},
    ],
)
def test_configurations_out_of_range(options) -> None:
    with pytest.raises(InputError):
        PageConfig(**options)


def test_colours() -> None:
    assert page_colour("white") == "#ffffff"
    assert page_colour("1,0.5,0") == "#ff8000"
    assert page_colour(" Transparent") == "transparent"


def test_lenses_that_are_not_perspective_open_with_something_like_their_middle() -> None:
    fisheye = Cameras(
        camera_to_world=FIRST.camera_to_world,
        focal=torch.tensor([[30.0, 30.0]]),
        principal=torch.tensor([[50.0, 40.0]]),
        width=torch.tensor([100]),
        height=torch.tensor([80]),
        model="fisheye",
    )
    view = PageView.from_cameras(fisheye, -1)
    assert (view.fov, view.aspect) == (60.0, 1.25)
    with pytest.raises(InputError, match="camera"):
        PageView.from_cameras(fisheye, 1)


# ------------------------------------------------------------------------------------------------------ in a browser


def opened(browser: Any, file: Path, fragment: str = "ui=off", width: int = WIDTH, height: int = HEIGHT) -> None:
    """Show a page in a window of that size, until it is there in full quality."""
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.set_script_timeout(PATIENCE)
    browser.get("about:blank")
    browser.get(f"{file.as_uri()}#{fragment}")
    at_rest(browser)


def at_rest(browser: Any) -> None:
    code = "const told = arguments[0]; voxfield.rendered().then(() => told('there'), (error) => told(error.message))"
    assert browser.execute_async_script(code) == "there"


def set_camera(browser: Any, cameras: Cameras) -> None:
    fov = PageView.from_cameras(cameras, 0).fov
    browser.execute_script("voxfield.setCamera(...arguments)", cameras.camera_to_world.flatten().tolist(), fov)
    at_rest(browser)


def eye(browser: Any) -> np.ndarray:
    return np.array(browser.execute_script("return voxfield.camera().cameraToWorld")).reshape(3, 4)[:, 3]


def shown(browser: Any) -> torch.Tensor:
    """(H, W, 3): the screenshot."""
    picture = Image.open(io.BytesIO(browser.get_screenshot_as_png())).convert("RGB")
    return torch.from_numpy(np.asarray(picture).copy()).float() / 255


def expected(grid: Any, cameras: Cameras, background: float | None = 1.0, step: float = 0.5) -> torch.Tensor:
    """(H, W, 3) that the grid's own renderer makes; without a background with opacity (H, W, 4), premultiplied."""
    with torch.no_grad():
        seen = grid.render(cameras.image_rays(0), rule=MarchRule(step=step))
    shape = (int(cameras.height), int(cameras.width), -1)
    if background is None:
        return torch.cat([seen.rgb, seen.opacity[:, None]], dim=1).reshape(shape)
    return (seen.rgb + (1 - seen.opacity)[:, None] * background).clamp(0, 1).reshape(shape)


@pytest.mark.browser
def test_a_browser_shows_what_the_renderer_makes(make_ball, tmp_path, browser: Any) -> None:
    grid = make_ball()
    write(tmp_path / "a.html", grid, title=HOSTILE)
    opened(browser, tmp_path / "a.html")
    truth = expected(grid, FIRST)
    assert float(truth.std()) > 0.1
    assert float(psnr(shown(browser), truth)) > 40
    set_camera(browser, OTHER)
    assert float(psnr(shown(browser), expected(grid, OTHER))) > 40
    np.testing.assert_allclose(eye(browser), OTHER.origins[0], atol=1e-5)

    # The address asks for another camera and background.
    rows = ",".join(f"{value:.7f}" for value in FIRST.camera_to_world.flatten().tolist())
    browser.execute_script(f"location.hash = 'ui=off&background=black&fov=35.3&camera={rows}'")
    at_rest(browser)
    assert float(psnr(shown(browser), expected(grid, FIRST, background=0.0))) > 30
    for wrong in ("camera=1,2,3", "camera=a", "camera=" + "0," * 11 + "0", "fov=-3&camera=" + rows, "background=red<"):
        browser.execute_script(f"location.hash = 'ui=off&{wrong}'")
        at_rest(browser)
        np.testing.assert_allclose(eye(browser), FIRST.origins[0], atol=1e-5)

    # Whatever the page's name says, and whatever is put into it, runs nothing and reaches nothing.
    assert browser.title == " ".join(HOSTILE.split())
    browser.execute_script(
        "const s = document.createElement('script'); s.textContent = 'window.taken = 1';document.body.append(s)"
    )
    assert browser.execute_script("return window.taken") is None
    reach = "const told = arguments[0]; fetch('data:,x').then(() => told('reached'), () => told('refused'))"
    assert browser.execute_async_script(reach) == "refused"


@pytest.mark.browser
def test_mouse_keys_and_fingers_move_the_camera(make_ball, tmp_path, browser: Any) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    grid = make_ball(0, (9, 8, 7))
    write(tmp_path / "a.html", grid)
    opened(browser, tmp_path / "a.html", "")
    canvas = browser.find_element("id", "view")
    start = eye(browser)
    # It is turned about the point before it that is nearest to the middle of the box.
    forward, middle = FIRST.forward[0].numpy(), np.array(grid.scene_bounds.centre)
    target = start + forward * ((middle - start) @ forward)
    away = float(np.linalg.norm(start - target))

    def distance() -> float:
        return float(np.linalg.norm(eye(browser) - target))

    def again() -> None:
        ActionChains(browser).send_keys(Keys.HOME).perform()
        np.testing.assert_allclose(eye(browser), start, atol=1e-5)

    ActionChains(browser).drag_and_drop_by_offset(canvas, 30, 10).perform()
    turned = eye(browser)
    assert distance() == pytest.approx(away, rel=1e-4)
    # The scene follows the pointer: to its right and down, so the eye goes left and up.
    right = FIRST.camera_to_world[0, :, 0].numpy()
    assert (turned - start) @ right < -0.1
    assert turned[2] > start[2] + 0.05
    again()
    for keys, turns in ((Keys.ARROW_RIGHT, True), ("+", False), ("-", False), (Keys.ARROW_UP, True)):
        ActionChains(browser).send_keys(keys).perform()
        assert np.linalg.norm(eye(browser) - start) > 0.05
        assert (distance() == pytest.approx(away, rel=1e-4)) == turns
        again()
    ActionChains(browser).key_down(Keys.SHIFT).send_keys(Keys.ARROW_RIGHT).key_up(Keys.SHIFT).perform()
    np.testing.assert_allclose(eye(browser) - start, 0.05 * away * right, atol=0.01)
    again()

    from selenium.webdriver.common.actions.wheel_input import ScrollOrigin

    ActionChains(browser).scroll_from_origin(ScrollOrigin.from_element(canvas), 0, -200).perform()
    assert distance() == pytest.approx(away * np.exp(-0.3), rel=1e-3)
    again()

    def touch(kind: str, *points: tuple[int, int]) -> None:
        browser.execute_cdp_cmd(
            "Input.dispatchTouchEvent",
            {"type": kind, "touchPoints": [{"x": x, "y": y, "id": i} for i, (x, y) in enumerate(points)]},
        )

    touch("touchStart", (60, 70))
    touch("touchStart", (60, 70), (100, 70))
    touch("touchMove", (40, 70), (120, 70))
    touch("touchEnd")
    assert distance() < 0.7 * away
    browser.find_element("css selector", "#panel summary").click()
    browser.find_element("id", "again").click()
    np.testing.assert_allclose(eye(browser), start, atol=1e-5)
    # Nobody gets over the pole.
    for _ in range(60):
        ActionChains(browser).send_keys(Keys.ARROW_UP).perform()
    assert eye(browser)[2] - target[2] == pytest.approx(away, rel=1e-2)


@pytest.mark.browser
@pytest.mark.parametrize("degree", [1, 3])
def test_linear_light_without_a_background(make_ball, tmp_path, browser: Any, degree) -> None:
    grid = make_ball(degree)
    write(tmp_path / "a.html", grid, linear=True, background="transparent", sh_degree=degree, step=0.4)
    # A wider window than the picture shows as much from top to bottom.
    opened(browser, tmp_path / "a.html", width=WIDTH + 60)
    copied = browser.execute_script("return document.getElementById('view').toDataURL()")
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(copied.split(",")[1]))).convert("RGBA"))
    picture = torch.from_numpy(pixels.copy()).float() / 255
    wide = camera(1.6, -1.9, 0.9, width=WIDTH + 60)
    truth = expected(grid, wide, None, step=0.4)
    alpha = truth[..., 3:]
    over = srgb_from_linear(truth[..., :3] / alpha.clamp(min=1e-6)) * alpha
    assert float(psnr(picture[..., 3:], alpha)) > 40
    assert float(psnr(picture[..., :3] * picture[..., 3:], over)) > 40

    browser.execute_script("location.hash = 'ui=off&background=%23804020'")
    at_rest(browser)
    behind = linear_from_srgb(torch.tensor([128, 64, 32]) / 255)
    blended = srgb_from_linear(truth[..., :3] + (1 - alpha) * behind)
    assert float(psnr(shown(browser), blended)) > 40


@pytest.mark.browser
def test_browsers_without_webgl_2_are_told(make_ball, tmp_path, browser: Any) -> None:
    write(tmp_path / "a.html", make_ball(0))
    script = {"source": "HTMLCanvasElement.prototype.getContext = () => null"}
    added = browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", script)
    browser.get((tmp_path / "a.html").as_uri())
    code = "const told = arguments[0]; voxfield.ready.then(() => told('ready'), (error) => told(error.message))"
    said = browser.execute_async_script(code)
    browser.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", added)
    assert "needs WebGL 2" in said
    assert browser.find_element("id", "message").text == said
