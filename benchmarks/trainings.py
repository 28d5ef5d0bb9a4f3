"""``train-curve``, ``rates`` and ``memory``: what a training reaches, how fast it goes and how much it holds."""

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PROTOCOL = ("background", "resize", "split", "masks", "ssim", "step")
"""What of a run's protocol goes into the results: how it was measured, but no folder of the machine."""


def train_and_measure(
    data: Path,
    *,
    recipe: str,
    minutes: float | None = None,
    steps: int | None = None,
    seed: int = 42,
    overrides: Sequence[str] = (),
    keep_in: Path | None = None,
    evaluate: bool = True,
    max_images: int | None = None,
) -> dict[str, Any]:
    """Train in a process of its own, evaluate the test views, and gather what the log and the metrics say.

    Args:
        data: the capture.
        recipe: what to train.
        minutes, steps: the limit; neither: the recipe's own.
        seed, overrides: as in `voxfield.train`.
        keep_in: folder that keeps the run directory; None: a temporary one.
        evaluate: measure the test views afterwards.
        max_images: measure only this many of them.

    Raises:
        subprocess.CalledProcessError: the training failed; its own message is on standard error.
    """
    budget = "full" if minutes is None and steps is None else f"{minutes:g} min" if minutes else f"{steps} steps"
    with tempfile.TemporaryDirectory(prefix="voxfield-benchmark-") as temporary:
        folder = Path(temporary)
        output = (keep_in or folder) / f"{data_name(data)}-{recipe}-{budget.replace(' ', '-')}"
        order = {
            "recipe": recipe,
            "data": str(data),
            "output": str(output),
            "minutes": minutes,
            "steps": steps,
            "seed": seed,
            "overrides": list(overrides),
            "split": "test" if evaluate else None,
            "max_images": max_images,
            "result": str(folder / "result.json"),
        }
        subprocess.run([sys.executable, str(HERE / "train_once.py"), json.dumps(order)], check=True)
        result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        log = read_run_log(output)
    point = summarise(log, result.get("metrics"), budget=budget, seed=seed, overrides=overrides)
    return {**point, "peak_memory_bytes": result["peak_memory_bytes"], "machine": result["machine"]}


def measure_existing(run_dir: Path, *, max_images: int | None = None) -> dict[str, Any]:
    """The same of a run that is there already. What its process held is not known any more."""
    from measuring import describe_machine

    import voxfield
    from voxfield.recipes import load_recipe

    machine = describe_machine()
    run = voxfield.open(run_dir)
    metrics = run.evaluate(split="test", max_images=max_images)
    limits, usual = run.experiment.trainer, load_recipe(run.experiment.recipe).trainer
    if (limits.steps, limits.minutes) == (usual.steps, usual.minutes):
        budget = "full"
    else:
        budget = f"{limits.minutes:g} min" if limits.minutes else f"{limits.steps} steps"
    point = summarise(read_run_log(run_dir), metrics, budget=budget, seed=run.record.seed, overrides=())
    if budget == "full" and point["steps"] < limits.steps:  # interrupted
        point["budget"] = f"{point['steps']:,} of {limits.steps:,} steps"
    # The machine that trained, not only the one that evaluates now.
    machine["line"] = str(run.record.extra.get("machine", machine["line"]))
    return {**point, "peak_memory_bytes": None, "machine": machine}


def summarise(
    log: Sequence[dict[str, Any]],
    metrics: dict[str, Any] | None,
    *,
    budget: str,
    seed: int,
    overrides: Sequence[str],
) -> dict[str, Any]:
    """One point of a curve, from a run's log and its metrics on the test views."""
    lines = [line for line in log if line["kind"] == "train"]
    start = next((line for line in log if line["kind"] == "start"), {})
    # A finished run's last line counts every step; a killed one's has none, and the log's steps are all there is.
    last: dict[str, Any] = next((line for line in reversed(log) if line["kind"] in ("train", "end")), {})
    step, seconds = last.get("step", 0), last.get("train_seconds", 0.0)
    metrics = metrics or {}
    return {
        "budget": budget,
        "minutes": seconds / 60,
        "steps": step,
        "seed": seed,
        "overrides": list(overrides),
        **{name: metrics.get(name) for name in ("psnr", "ssim", "lpips", "num_images")},
        "per_scale": metrics.get("per_scale"),
        "render_rays_per_second": metrics.get("num_rays_per_sec"),
        "protocol": {name: value for name, value in (metrics.get("protocol") or {}).items() if name in PROTOCOL},
        "compile_seconds": start.get("compile_seconds"),
        **steady_state(lines),
        "while_training": [
            [line["train_seconds"] / 60, line["psnr"]] for line in log if line["kind"] == "eval" and line.get("psnr")
        ],
    }


def steady_state(lines: Sequence[dict[str, Any]]) -> dict[str, float | None]:
    """Speed over the second half of the training time.

    Returns:
        ``rays_per_second``: rays trained divided by training time, everything a step does included, occupancy updates
        too; ``rays_per_second_median``: the middle of the rates in the log, each of a single step;
        ``samples_per_ray``: the middle of the mean visible samples per ray. None where the log is too short.
    """
    none: dict[str, float | None] = {"rays_per_second": None, "rays_per_second_median": None, "samples_per_ray": None}
    if len(lines) < 3:
        return none
    half = lines[-1]["train_seconds"] / 2
    late = [line for line in lines if line["train_seconds"] >= half]
    if len(late) < 2:
        late = list(lines[-2:])
    # Batches grow slowly: between two lines of the log the mean of both stands for every step.
    rays = sum(
        (b["step"] - a["step"]) * (a["num_rays"] + b["num_rays"]) / 2 for a, b in zip(late[:-1], late[1:], strict=True)
    )
    seconds = late[-1]["train_seconds"] - late[0]["train_seconds"]
    return {
        "rays_per_second": rays / seconds if seconds > 0 else None,
        "rays_per_second_median": statistics.median(line["rays_per_second"] for line in late),
        "samples_per_ray": statistics.median(line["samples_per_ray"] for line in late),
    }


def merge_points(old: Sequence[dict[str, Any]], new: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Points, shortest training first; a new point replaces the old one of the same budget, and recipe where named."""
    by_budget = {(point["budget"], point.get("recipe")): point for point in [*old, *new]}
    return sorted(by_budget.values(), key=lambda point: point["minutes"])


def data_name(data: Path) -> str:
    """What a capture is called: its folder."""
    resolved = data.resolve()
    return resolved.parent.name if resolved.suffix == ".json" else resolved.name


def read_run_log(run_dir: Path) -> list[dict[str, Any]]:
    """The lines of a run's log."""
    from voxfield.storage.run_log import read_log

    return read_log(run_dir)
