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


@contextmanager
def chromium(width: int, height: int) -> Iterator[Any]:
    """A driver of Chromium whose page is so large, in pixels."""
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if browser is None or driver is None:
        raise SystemExit("Chromium and its driver were not found: apt-get install chromium chromium-driver")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in FLAGS:
        options.add_argument(flag)
    window = webdriver.Chrome(options=options, service=Service(driver))
    try:
        resize(window, width, height)
        yield window
    finally:
        window.quit()


def resize(window: Any, width: int, height: int) -> None:
    """Make the page so large, in pixels."""
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    window.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def screenshot(window: Any) -> np.ndarray:
    """(H, W, 3) uint8."""
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(window.get_screenshot_as_png())).convert("RGB"))
