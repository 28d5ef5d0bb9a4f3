"""The viewer in a real browser."""

import io
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from voxfield.geometry.bounds import Bounds
from voxfield.render.metrics import psnr
from voxfield.viewer.subjects import Shot, develop, look
from voxfield.viewer.viewer import Viewer

pytest.importorskip("viser", reason="needs viser")
PATIENCE = 100.0
"""Seconds for what takes a few where nothing else runs: pages are drawn without a GPU here."""
pytestmark = pytest.mark.browser


@pytest.fixture
def sphere(sphere: Any) -> Any:
    """Seen from nearer, so that it fills the page."""
    sphere.bounds = Bounds.from_cube(0.45)
    return sphere


@pytest.fixture
def viewer(sphere) -> Iterator[Viewer]:
    with Viewer(sphere, name="sphere", port=0) as shown:
        shown.start()
        yield shown


def until(done: Callable[[], Any]) -> Any:
    """What ``done`` returns when it first returns something."""
    end = time.monotonic() + PATIENCE
    while not (found := done()):
        assert time.monotonic() < end, "the browser did not get there"
        time.sleep(0.05)
    return found


def at_rest(viewer: Viewer, browsers: int = 1) -> None:
    until(lambda: viewer.browsers == browsers and not any(one.painter.busy for one in viewer.sessions()))


def uncovered(pixels: torch.Tensor) -> torch.Tensor:
    return pixels[pixels.shape[0] * 3 // 5 :, : pixels.shape[1] * 3 // 5].float() / 255


def canvas(browser: Any) -> torch.Tensor:
    """The part of the page that no panel covers: (H, W, 3) in [0, 1]. The canvas fills all of it."""
    shown = Image.open(io.BytesIO(browser.get_screenshot_as_png())).convert("RGB")
    pixels = torch.from_numpy(np.asarray(shown).copy())
    return uncovered(pixels)


def expected(viewer: Viewer, **changes: Any) -> torch.Tensor:
    """The same part of what the subject's renderer makes of the browser's camera."""
    from dataclasses import replace

    session = viewer.sessions()[0]
    shot: Shot = replace(session.shot(), **changes)
    width, height = session.client.camera.image_width, session.client.camera.image_height
    camera = shot.camera(height)
    made = develop(look(viewer.subject, camera.image_rays(0), shot, torch.ones(3)), shot, camera).rgb
    assert made.shape == (height, width, 3)
    return uncovered(made)


def agrees(viewer: Viewer, browser: Any, **changes: Any) -> None:
    """Wait until there is something to see, and the canvas shows what the renderer makes."""

    def there() -> bool:
        # Made anew each time: a page that was just opened may still be on the way to its first camera.
        wanted = expected(viewer, **changes)
        return float(wanted.std()) > 0.05 and float(psnr(canvas(browser), wanted)) > 30

    until(there)


def choose(browser: Any, label: str) -> None:
    """Click what the page shows under this label."""
    browser.execute_script(
        "arguments[0].click()",
        until(lambda: browser.find_elements("xpath", f"//*[normalize-space(text())='{label}']"))[-1],
    )


def test_the_canvas_shows_the_field_and_controls_act_on_it(viewer: Viewer, browser: Any) -> None:
    browser.get(viewer.url)
    at_rest(viewer)
    agrees(viewer, browser)
    browser.find_element("css selector", "input[value='colour']").click()
    choose(browser, "opacity")
    until(lambda: viewer.sessions()[0].shot().mode == "opacity")
    agrees(viewer, browser, mode="opacity")

    # A second browser has controls of its own.
    first = browser.current_window_handle
    browser.switch_to.new_window("tab")
    browser.get(viewer.url)
    at_rest(viewer, browsers=2)
    assert [one.shot().mode for one in viewer.sessions()] == ["opacity", "colour"]
    browser.close()
    browser.switch_to.window(first)
    until(lambda: viewer.browsers == 1)


@pytest.mark.slow
def test_a_page_comes_back_when_the_viewer_does(sphere, browser: Any) -> None:
    with Viewer(sphere, name="sphere", port=0) as viewer:
        viewer.start()
        browser.get(viewer.url)
        at_rest(viewer)
    with Viewer(sphere, name="sphere", port=viewer.port) as again:
        again.start()
        at_rest(again)
        agrees(again, browser)


def test_pages_of_other_sites_are_shut_out(viewer: Viewer, browser: Any) -> None:
    browser.get("data:text/html,<title>elsewhere</title>")
    browser.execute_script(
        f"window.said = ''; let s = new WebSocket('ws://127.0.0.1:{viewer.port}/', 'viser-v1');"
        "s.onopen = () => window.said = 'open'; s.onerror = () => window.said = 'refused';"
    )
    assert until(lambda: browser.execute_script("return window.said")) == "refused"
    assert viewer.browsers == 0
