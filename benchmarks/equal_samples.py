"""``steps``: what a training step of one recipe takes beside another's, both on equally many samples.

Each trains in a process of its own, in turns, on pictures of four scales, with batches that stay of one size: as many
samples that light reaches in every step. What counts is the second half of each training, from its log.
"""

import argparse
import statistics
from pathlib import Path
from typing import Any

import trainings
from measuring import measured_row

HELP = "a training step of pynerf-occupancy-grid beside grid-ngp's, at equally many samples"
BAR = 1.6
"""Aimed at: at most so many times the first recipe's time."""
SETTINGS = (
    "capture.scales=1,2,4,8",
    "trainer.evaluation_images=0",
    "trainer.tensorboard=false",
    "trainer.log_every=10",
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of ``steps``."""
    parser.add_argument("--data", type=Path, required=True, help="a capture: a folder or its JSON file")
    parser.add_argument("--recipes", default="grid-ngp,pynerf-occupancy-grid", help="the first is what others stand by")
    parser.add_argument("--samples", type=int, default=49152, help="of a step, that light reaches")
    parser.add_argument("--steps", type=int, default=600, help="how long to train")
    parser.add_argument("--rounds", type=int, default=3, help="trainings of each")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="PATH=VALUE")


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Train in turns, and compare."""
    names = options.recipes.split(",")
    if len(names) < 2:
        raise SystemExit("steps: name two recipes or more with --recipes.")
    size = [f"model.{name}={options.samples}" for name in ("samples_per_batch", "final_samples_per_batch")]
    times: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(options.rounds):
        for name in names:
            point = trainings.train_and_measure(
                options.data,
                recipe=name,
                steps=options.steps,
                overrides=[*SETTINGS, *size, *options.overrides],
                evaluate=False,
            )
            times[name].append(seconds_of_sample(point))
    return rows(times, options.samples)


def seconds_of_sample(point: dict[str, Any]) -> float:
    """Seconds of a step for each of its samples."""
    if not point["rays_per_second"]:
        raise SystemExit("steps: too few steps to measure anything. Give more --steps.")
    return 1.0 / (point["rays_per_second"] * point["samples_per_ray"])


def rows(times: dict[str, list[float]], samples: int) -> list[dict[str, Any]]:
    """Rows of seconds of a sample by recipe, the first of which the others are compared with round by round."""
    first, *others = times
    made = [
        measured_row(
            f"`{name}`: a step of {samples:,} samples",
            statistics.median(walls) * samples,
            "s",
            best=min(walls) * samples,
        )
        for name, walls in times.items()
    ]
    for name in others:
        ratios = [one / other for one, other in zip(times[name], times[first], strict=True)]
        made.append(measured_row(f"`{name}` / `{first}`", statistics.median(ratios), "x", bar=BAR, best=min(ratios)))
    return made
