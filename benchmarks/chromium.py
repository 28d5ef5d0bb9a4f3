"""Chromium without a window or a GPU, as the pages that Voxfield writes and serves are looked at in."""

import io
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


MISSING = "Chromium and its driver were not found: apt-get install chromium chromium-driver"


def installed() -> tuple[str, str] | None:
    """The paths of Chromium and of its driver, where both are there."""
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    return None if browser is None or driver is None else (browser, driver)


@contextmanager
def started(*flags: str) -> Iterator[Any]:
    """A driver of Chromium, started with these flags beside those above."""
    there = installed()
    if there is None:
        raise SystemExit(MISSING)
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = there[0]
    for flag in (*FLAGS, *flags):
        options.add_argument(flag)
    window = webdriver.Chrome(options=options, service=Service(there[1]))
    try:
        yield window
    finally:
        window.quit()


@contextmanager
def chromium(width: int, height: int) -> Iterator[Any]:
    """A driver of Chromium whose page is so large, in pixels."""
    with started() as window:
        resize(window, width, height)
        yield window


def resize(window: Any, width: int, height: int) -> None:
    """Make the page so large, in pixels."""
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    window.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def screenshot(window: Any) -> np.ndarray:
    """(H, W, 3) uint8."""
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(window.get_screenshot_as_png())).convert("RGB"))
