"""Measuring the pictures of a run in other processes than that of the call."""

import functools
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from voxfield.distributed.executors import ExecutorSettings, open_executor
from voxfield.errors import UnavailableError
from voxfield.kernels.threads import kernels_own_the_cores
from voxfield.training.evaluate import EvaluateConfig
from voxfield.training.image_scores import ImageScorer


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What is measured of a run, in types that travel to other processes."""

    split: str
    data: str | None
    """Another capture in the same world; None: the run's own."""
    scales: tuple[int, ...]
    settings: EvaluateConfig
    output: str
    """Where pictures are written."""


def score_elsewhere(
    open_run: Callable[[Path], Any], path: Path, asked: Measurement, *, step: int, where: ExecutorSettings
) -> Callable[[Sequence[int]], Iterator[tuple[int, dict[str, Any]]]]:
    """What `voxfield.training.evaluate.evaluate` takes as ``elsewhere``.

    Args:
        open_run: opens ``path`` in the other processes; picklable. It returns something with ``weights`` and
            ``_picture_scorer(asked)``, as a `voxfield.Run` has.
        path: of the run, absolute.
        asked: what is measured, its paths absolute.
        step: of the weights.
        where: the other processes.
    """
    task = functools.partial(_score, open_run, path, asked, step)

    def scored(indices: Sequence[int]) -> Iterator[tuple[int, dict[str, Any]]]:
        with open_executor(where, tasks=len(indices), folders=[path]) as executor:
            yield from executor.run(task, indices, ordered=True)

    return scored


@functools.lru_cache(maxsize=1)
def _opened(open_run: Callable[[Path], Any], path: Path, asked: Measurement, step: int) -> ImageScorer:
    run = open_run(path)
    if run.weights["step"] != step:
        raise UnavailableError(
            f"A worker on {platform.node()} reads other weights of {path} than this process. Wait until its training "
            "has ended, and let all workers see the same files."
        )
    scorer: ImageScorer = run._picture_scorer(asked)
    return scorer


def _score(open_run: Callable[[Path], Any], path: Path, asked: Measurement, step: int, index: int) -> dict[str, Any]:
    """A task: the scores of a picture."""
    with kernels_own_the_cores():
        return _opened(open_run, path, asked, step).scored(index)
