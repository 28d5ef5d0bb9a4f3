"""A subject that needs no model, and a viewer's page in a real browser."""

import io
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import voxfield
from voxfield.geometry.bounds import Bounds
from voxfield.geometry.camera import Cameras
from voxfield.geometry.paths import look_at
from voxfield.geometry.rays import Rays
from voxfield.render.metrics import psnr
from voxfield.viewer.session import Session
from voxfield.viewer.subjects import MODES, Mode, Shot, Subject, develop, look
from voxfield.viewer.training_view import TrainingView
from voxfield.viewer.viewer import Viewer

_RESTS = """
const [element, done] = arguments;
const where = () => Object.values(element.getBoundingClientRect().toJSON()).join();
const before = where();
requestAnimationFrame(() => requestAnimationFrame(() => done(element.isConnected && where() === before)));
"""
PATIENCE = 300.0
"""Seconds until what is waited for is taken not to happen: pages are drawn without a GPU, by cores that others use."""


class Sphere(Subject):
    """An opaque sphere of radius 1, coloured by where it is met, over white."""

    bounds = Bounds.from_cube(1.0)
    modes: tuple[Mode, ...] = MODES

    def __init__(self) -> None:
        self.rays_seen = 0
        self.fault: Exception | None = None

    def look(self, rays: Rays, mode: Mode) -> dict[str, torch.Tensor]:
        if self.fault is not None:
            raise self.fault
        self.rays_seen += len(rays)
        middle = -(rays.origins * rays.directions).sum(1)
        nearest = rays.origins + middle[:, None] * rays.directions
        inside = 1 - nearest.square().sum(1)
        distance = middle - inside.clamp(min=0).sqrt()
        hit = (inside > 0) & (distance > 0)
        points = rays.origins + distance[:, None] * rays.directions
        rgb = torch.where(hit[:, None], 0.5 + 0.4 * points, torch.ones(3))
        values = {"rgb": rgb, "opacity": hit.float(), "depth": torch.where(hit, distance, 0.0)}
        return values | {"level": 0.5 + 0.5 * points[:, 2].clamp(-1, 1)} if mode == "level" else values


class Tab:
    """The viewer's page in a browser, as a person uses it."""

    def __init__(self, browser: Any) -> None:
        self.browser = browser
        self.viewer: Viewer | None = None

    def until(self, done: Callable[[], Any]) -> Any:
        """What ``done`` returns when it first returns something; what it clicks may be on the move still."""
        from selenium.common.exceptions import WebDriverException

        end, found, fault = time.monotonic() + PATIENCE, None, None
        while not found:
            assert time.monotonic() < end, f"the browser did not get there: {fault or self._stands()}"
            try:
                found = done()
            except WebDriverException as error:
                fault = error
            if not found:
                time.sleep(0.02)
        return found

    def open(self, viewer: Viewer, browsers: int = 1) -> None:
        """Open the page, and wait for its picture."""
        self.go_to(viewer.url)
        # A page that takes itself for one behind others does not ask again for a viewer that went away.
        self.browser.execute_cdp_cmd("Emulation.setFocusEmulationEnabled", {"enabled": True})
        self.come_to_rest(viewer, browsers)

    def go_to(self, url: str) -> None:
        """Load a viewer's page, with a canvas of its size: where it is drawn slowly it would be made smaller."""
        self.browser.get(f"{url}?fixedDpr=1")

    def come_to_rest(self, viewer: Viewer, browsers: int = 1) -> None:
        """Wait until the viewer has so many browsers and has painted all that they want to see."""
        self.viewer = viewer
        self.until(
            lambda: viewer.browsers == browsers and not any(session.painter.busy for session in viewer.sessions())
        )

    def come_back(self, viewer: Viewer) -> None:
        """Wait until a page whose viewer went away has found this one, and has stopped looking.

        It asks every second until it knows that it was let in, so that a slow page closes the connection that it has.
        """

        def stays() -> bool:
            known = viewer.sessions()
            self.browser.execute_async_script("setTimeout(arguments[0], 1500)")
            return len(known) == 1 and viewer.sessions() == known

        self.until(stays)
        self.come_to_rest(viewer)

    @property
    def session(self) -> Session:
        """What the viewer has for the page that was opened first."""
        assert self.viewer is not None
        return self.viewer.sessions()[0]

    def unfold(self, folder: str) -> None:
        """Open a folder of controls."""
        self._click(f"//div[normalize-space(text())='{folder}']")

    def press(self, button: str) -> None:
        """Press a button."""
        self._click(f"//button[normalize-space(.)='{button}']")

    def tick(self, label: str) -> None:
        """Set or unset a mark."""
        self._click(self._input(label))

    def pick(self, label: str, option: str) -> None:
        """Choose one of a list."""
        self._click(self._input(label))
        self._click(f"//*[@role='option'][normalize-space(.)='{option}']")

    def type(self, label: str, *values: object) -> None:
        """Write into the fields of a control."""
        from selenium.webdriver import Keys

        def written(index: int, value: str) -> bool:
            field = self.browser.find_elements("xpath", self._input(label))[index]
            field.send_keys(Keys.CONTROL, "a")
            field.send_keys(value.removeprefix("-"))
            # The page drops a sign that no number follows yet.
            field.send_keys(Keys.HOME, "-" if value.startswith("-") else "", Keys.TAB)
            self._let_it_be_sent()
            return str(field.get_attribute("value")) == value

        for index, value in enumerate(values):
            self.until(lambda index=index, value=value: written(index, str(value)))

    def says(self, text: str) -> Any:
        """Wait until this stands somewhere on the page; returns the element."""
        # Styles have text too, such as "paused".
        path = f"//body//*[not(self::style)][not(self::script)][contains(text(), '{text}')]"
        return self.until(lambda: self.browser.find_elements("xpath", path))[0]

    def downloads_to(self, folder: object) -> None:
        """Have what the page hands over saved there."""
        where = {"behavior": "allow", "downloadPath": str(folder)}
        self.browser.execute_cdp_cmd("Browser.setDownloadBehavior", where)

    def drag(self, right: int, down: int) -> None:
        """Turn the view by dragging the canvas."""
        from selenium.webdriver import ActionChains

        canvas = self.browser.find_element("tag name", "canvas")
        steps = ActionChains(self.browser, duration=50).move_to_element_with_offset(canvas, -150, 100).click_and_hold()
        for _ in range(4):
            steps = steps.move_by_offset(right // 4, down // 4)
        steps.release().perform()

    def page(self) -> torch.Tensor:
        """All of the page, panels too, but what it says: (H, W, 3) in [0, 1]."""
        self.browser.execute_script(
            "document.querySelectorAll('.mantine-Notifications-root').forEach(e => { e.style.opacity = 0 })"
        )
        shown = Image.open(io.BytesIO(self.browser.get_screenshot_as_png())).convert("RGB")
        return torch.from_numpy(np.asarray(shown).copy()).float() / 255

    @staticmethod
    def part(pixels: torch.Tensor) -> torch.Tensor:
        """What no panel and no message covers of a picture of the page."""
        return pixels[pixels.shape[0] * 3 // 5 :, : pixels.shape[1] // 2]

    def canvas(self) -> torch.Tensor:
        """The part of the page that nothing covers: (H, W, 3) in [0, 1]. The canvas fills all of it."""
        return self.part(self.page())

    def wanted(self, **changes: Any) -> torch.Tensor:
        """What the subject's renderer makes of the page's camera: (H, W, 3) uint8."""
        session = self.session
        shot = session.shot()
        assert shot is not None
        shot = replace(shot, **changes)
        width, height = session.client.camera.image_width, session.client.camera.image_height
        camera = shot.camera(height)
        made = develop(look(session.subject, camera.image_rays(0), shot, torch.ones(3)), shot, camera).rgb
        assert made.shape == (height, width, 3)
        return made

    def frame(self, camera: Cameras) -> torch.Tensor:
        """That part of what the subject's renderer makes of a camera (1,) as large as the page."""
        session = self.session
        shot = session.shot()
        assert shot is not None
        return self.part(
            develop(look(session.subject, camera.image_rays(0), shot, torch.ones(3)), shot, camera).rgb.float() / 255
        )

    def agrees(self, **changes: Any) -> torch.Tensor:
        """Wait until there is something to see, and the canvas shows what the renderer makes; returns the canvas."""

        def there() -> list[torch.Tensor]:
            # Made anew each time: a page that was just opened may still be on the way to its first camera and size.
            wanted, seen = self.part(self.wanted(**changes).float() / 255), self.canvas()
            same = wanted.shape == seen.shape and float(wanted.std()) > 0.05 and float(psnr(seen, wanted)) > 30
            return [seen] if same else []

        return self.until(there)[0]

    def _stands(self) -> str:
        """Where the viewer has the page's cameras."""
        cameras = [] if self.viewer is None else [session.client.camera for session in self.viewer.sessions()]
        return f"{[(camera.position.tolist(), camera.look_at.tolist()) for camera in cameras]}"

    def _input(self, label: str) -> str:
        return f"//label[normalize-space(.)='{label}']/ancestor::div[2]//input[not(@type='hidden')]"

    def _click(self, path: str) -> None:
        def clicked() -> bool:
            found = self.browser.find_elements("xpath", path)
            # What still moves, as in a panel that is being made, is missed.
            if not found or not self.browser.execute_async_script(_RESTS, found[-1]):
                return False
            found[-1].click()
            return True

        self.until(clicked)
        self._let_it_be_sent()

    def _let_it_be_sent(self) -> None:
        """Of what changes within 50 ms the page sends only the last, whichever control it is of."""
        self.browser.execute_async_script("setTimeout(arguments[0], 100)")


@pytest.fixture
def tab(browser: Any) -> Tab:
    return Tab(browser)


@pytest.fixture(scope="module")
def ball() -> Sphere:
    """The sphere seen from nearer, so that it fills the page, and as linear light, for all controls."""
    ball = Sphere()
    ball.bounds, ball.linear = Bounds.from_cube(0.45), True
    return ball


@pytest.fixture
def sphere() -> Sphere:
    return Sphere()


@pytest.fixture
def shot() -> Shot:
    """The sphere from four units away, of a canvas twice as wide as high."""
    pose = look_at(torch.tensor([[0.0, -4.0, 0.0]]), torch.zeros(1, 3))[0]
    return Shot(camera_to_world=pose, fov=0.9, aspect=2.0)


@pytest.fixture
def around() -> Cameras:
    """One camera that looks at the sphere from the side."""
    pose = look_at(torch.tensor([[2.5, -2.5, 1.0]]), torch.zeros(1, 3))
    return Cameras(
        camera_to_world=pose,
        focal=torch.tensor([[60.0, 60.0]]),
        principal=torch.tensor([[40.0, 30.0]]),
        width=torch.tensor([80]),
        height=torch.tensor([60]),
    )


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Trains with a viewer: ``with watched(...) as (view, viewer, ended)``; ``ended`` waits for the run."""
    from voxfield.api import photographs

    opened, shown, done = threading.Event(), list[tuple[TrainingView, Viewer]](), dict[str, Any]()

    class Kept(TrainingView):
        def __init__(self, viewer: Viewer) -> None:
            super().__init__(viewer)
            shown.append((self, viewer))
            opened.set()

    @contextmanager
    def trained(*arguments: Any, **options: Any) -> Iterator[tuple[TrainingView, Viewer, Callable[[], Any]]]:
        def train() -> None:
            try:
                done["run"] = voxfield.train(*arguments, **options, view=True, port=0)
            finally:
                opened.set()

        def ended() -> Any:
            training.join()
            return done["run"]

        training = threading.Thread(target=train)
        training.start()
        try:
            opened.wait()
            ((view, viewer),) = shown
            yield view, viewer, ended
        finally:
            for view, _ in shown:
                view._stop()
            training.join()

    monkeypatch.setattr(photographs, "TrainingView", Kept)
    return trained
