"""``ranks``: how many rays a second several processes train on together, beside one process with one thread.

Both train with the same settings for the same steps, in turns, one core to a process; ranks then see as many times the
rays. What counts is the second half of the training, from the log of rank 0.
"""

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import trainings

QUIET = ("trainer.evaluation_images=0", "trainer.tensorboard=false", "trainer.log_every=5")


def measure(
    data: Path, recipes: Sequence[str], *, ranks: int, steps: int, rounds: int, overrides: Sequence[str]
) -> list[dict[str, Any]]:
    """Rates of each recipe.

    Args:
        data: the capture.
        recipes: what to train.
        ranks: how many processes, at least 2.
        steps: of each training.
        rounds: how often each is trained both ways.
        overrides: settings.

    Returns:
        For each recipe ``recipe``, ``ranks``, ``steps``, ``one`` and ``together`` (rays a second, the middle of all
        rounds), ``ratio`` (the middle of the rounds' ratios), ``ratios``, and ``exchanged_bytes`` (received by a rank
        in a step).

    Raises:
        subprocess.CalledProcessError: a training failed.
    """
    rows = []
    for recipe in recipes:
        pairs = [
            (_train(data, recipe, 1, steps, overrides), _train(data, recipe, ranks, steps, overrides))
            for _ in range(rounds)
        ]
        ratios = [together["rate"] / one["rate"] for one, together in pairs]
        rows.append(
            {
                "recipe": recipe,
                "ranks": ranks,
                "steps": steps,
                "one": statistics.median(one["rate"] for one, _ in pairs),
                "together": statistics.median(together["rate"] for _, together in pairs),
                "ratio": statistics.median(ratios),
                "ratios": ratios,
                "exchanged_bytes": statistics.median(together["exchanged_bytes"] for _, together in pairs),
            }
        )
    return rows


def _train(data: Path, recipe: str, ranks: int, steps: int, overrides: Sequence[str]) -> dict[str, float]:
    """One training in processes of its own: rays a second and bytes received in a step, both late in it."""
    python = [sys.executable]
    if ranks > 1:
        python += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    settings = [word for setting in (*QUIET, *overrides) for word in ("--set", setting)]
    with tempfile.TemporaryDirectory(prefix="voxfield-ranks-") as folder:
        run_dir = Path(folder) / "run"
        training = ["-m", "voxfield", "train", recipe, str(data), "--output", str(run_dir), "--steps", str(steps)]
        subprocess.run(
            [*python, *training, "--device", "cpu", "--quiet", *settings],
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        lines = [line for line in trainings.read_run_log(run_dir) if line["kind"] == "train"]
    late = [line.get("exchanged_bytes", 0.0) for line in lines[len(lines) // 2 :]]
    rate = trainings.steady_state(lines)["rays_per_second"]
    if rate is None:
        raise SystemExit("ranks: too few steps to measure anything. Give more --steps.")
    return {"rate": rate, "exchanged_bytes": statistics.median(late)}
