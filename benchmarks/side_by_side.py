"""``nerfstudio``: its nerfacto and ours on the same capture, in turns, so that both meet the same machine.

Both run with their default settings: 4,096 rays a step, 256, 96 and 48 samples a ray. nerfstudio runs from an
environment of its own, with its torch implementation, and reads the capture as ``capture convert`` writes it.
"""

import statistics
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from alternation import Driver, in_turns

CHUNK = 4096
"""Rays rendered at once, by both: our default, and quicker for nerfstudio too than its own 32,768 on a CPU."""


def compare(
    data: Path, nerfstudio_python: str, *, rounds: int, steps: int, rays: int, start_step: int = 0, seed: int = 42
) -> dict[str, dict[str, Any]]:
    """Measure both.

    Args:
        data: the capture.
        nerfstudio_python: interpreter of an environment with nerfstudio.
        rounds: turns of each, after one that is not counted.
        steps: training steps a turn.
        rays: rays rendered a turn; no more than a picture has.
        start_step: number of the first step. From 5,000 on the proposal networks learn in one step of five.
        seed: of both.

    Returns:
        For ``voxfield`` and ``nerfstudio``: version, torch, rays and samples of a step, steps measured, rates in rays
        a second (of the middle step or turn, and of the best), peak memory of the process in bytes.

    Raises:
        alternation.DriverError: one of them ended; with its last words.
    """
    from voxfield.errors import InputError
    from voxfield.export.nerfstudio import convert_capture

    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="voxfield-benchmark-")))
        try:
            convert_capture(data, folder / "capture", images="link")
        except InputError:  # on another file system
            convert_capture(data, folder / "capture", images="copy")
        order = {"data": str(folder / "capture"), "start_step": start_step, "seed": seed, "chunk": CHUNK}
        drivers = []
        for name, python in (("voxfield", sys.executable), ("nerfstudio", nerfstudio_python)):
            driver = Driver(python, f"drive_{name}.py", order, folder / f"{name}.log")
            stack.callback(driver.close)
            drivers.append(driver)
        about = [driver.ask("about") for driver in drivers]
        rays = min(rays, *(one["image_rays"] for one in about))
        trained = in_turns(drivers, "train", rounds=rounds + 1, count=steps)
        rendered = in_turns(drivers, "render", rounds=rounds + 1, count=rays)
        memory = [driver.ask("peak_memory_bytes") for driver in drivers]
    return {
        name: summarise(one, turns[1:], renders[1:], rays, peak)
        for name, one, turns, renders, peak in zip(
            ("voxfield", "nerfstudio"), about, trained, rendered, memory, strict=True
        )
    }


def summarise(
    about: dict[str, Any], turns: Sequence[Sequence[float]], renders: Sequence[float], rays: int, peak: int | None
) -> dict[str, Any]:
    """Rates of one system from the seconds of its steps, turn by turn, and of its renderings."""
    seconds = [step for turn in turns for step in turn]
    return {
        **{name: about[name] for name in ("version", "torch", "rays", "samples")},
        "steps": len(seconds),
        "training_rays_per_second": about["rays"] / statistics.median(seconds),
        "training_rays_per_second_best": about["rays"] / min(seconds),
        "rendered_rays": rays,
        "rendering_rays_per_second": rays / statistics.median(renders),
        "rendering_rays_per_second_best": rays / min(renders),
        "peak_memory_bytes": peak,
    }
