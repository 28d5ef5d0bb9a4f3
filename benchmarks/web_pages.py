"""``html``: what Chromium shows of a run's exported page, beside the run's own pictures and the truth."""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from chromium import chromium, resize, screenshot
from measuring import measured_row
from mesh_views import over_white

HELP = "test PSNR of a run's exported HTML page in Chromium, beside the run's own renderer, and its bytes"
PSNR, BYTES = 28.0, 25e6
"""What is aimed at: at least so many dB, at most so many bytes."""
PATIENCE = 600
"""Seconds that one picture may take."""
RENDERED = "const told = arguments[0]; voxfield.rendered().then(() => told('there'), (error) => told(error.message))"


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of ``html``."""
    parser.add_argument("--run", type=Path, required=True, help="a run on photographs, best a baked one")
    parser.add_argument("--resolution", type=int, help="of fields that are no grid; left out: 256")
    parser.add_argument("--split", default="test", help="whose views are compared")
    parser.add_argument("--max-images", type=int, help="measure only this many of its views")
    parser.add_argument("--keep", type=Path, help="keep the page, and pictures of it beside truth and renderer, here")


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Export the page, and look at every view through it and through the run."""
    import voxfield
    from voxfield.render.image import write_png
    from voxfield.render.metrics import psnr

    run = voxfield.open(options.run)
    captures, background = run.split(options.split), torch.ones(3)
    if captures.tone is not None:
        raise SystemExit("html: the run's pictures are linear, and the page shows them exposed. Name another run.")
    cameras, total = captures.image_cameras, len(captures)
    count = total if options.max_images is None else min(options.max_images, total)
    with tempfile.TemporaryDirectory(prefix="voxfield-html-") as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        began = time.perf_counter()
        done = run.export_html(folder / "page.html", resolution=options.resolution, background="white")
        exporting = time.perf_counter() - began
        views = np.linspace(0, total - 1, count).round().astype(int).tolist()
        truths = [over_white(captures.images.read(i)) for i in views]
        shown, seconds = look(done.file, cameras, views)
        made = [run.model.render_image(cameras, i, background=background)["rgb"].clamp(0, 1) for i in views]
        if options.keep is not None:
            for i, *pictures in zip(views, truths, made, shown, strict=True):
                write_png(folder / f"{i:03d}.png", torch.cat(pictures, dim=1))

    def mean(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> float:
        return float(np.mean([float(psnr(one, other)) for one, other in zip(ours, theirs, strict=True)]))

    least = min(float(psnr(one, other)) for one, other in zip(shown, truths, strict=True))
    return [
        measured_row(f"PSNR of the page's screenshots, {count} views", mean(shown, truths), "dB", bar=PSNR),
        measured_row("the least of them", least, "dB"),
        measured_row("PSNR of the run's own pictures, same views", mean(made, truths), "dB"),
        measured_row("PSNR of the screenshots against the run's own pictures", mean(shown, made), "dB"),
        measured_row(
            f"the page, {done.voxels:,} voxels, harmonics to band {done.sh_degree}", done.bytes, "B", bar=BYTES
        ),
        measured_row("exporting it", exporting, "s"),
        measured_row("a view in full, WebGL in software", float(np.median(seconds)), "s"),
    ]


def look(page: Path, cameras: Any, views: list[int]) -> tuple[list[torch.Tensor], list[float]]:
    """Screenshots (H, W, 3) in [0, 1] of a page at the cameras of some views, and the seconds that each took."""
    from voxfield.export.web_page import PageView

    pictures, seconds = [], []
    sizes = [(int(cameras.width[i]), int(cameras.height[i])) for i in views]
    with chromium(*sizes[0]) as window:
        window.set_script_timeout(PATIENCE)
        window.get(f"{page.resolve().as_uri()}#ui=off")
        wait(window)
        for i, size in zip(views, sizes, strict=True):
            resize(window, *size)
            rows, fov = cameras.camera_to_world[i].flatten().tolist(), PageView.from_cameras(cameras, i).fov
            began = time.perf_counter()
            window.execute_script("voxfield.setCamera(...arguments)", rows, fov)
            wait(window)
            seconds.append(time.perf_counter() - began)
            pictures.append(torch.from_numpy(screenshot(window).astype(np.float32) / 255))
    return pictures, seconds


def wait(window: Any) -> None:
    """Until the picture is there in full."""
    said = window.execute_async_script(RENDERED)
    if said != "there":
        raise SystemExit(f"html: the page could not be drawn: {said}")
