"""What looking at a run, or making something of it, needs of memory: by its newest checkpoint and what is asked for."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol

import torch

from voxfield.data.posed_images import PosedImages
from voxfield.distributed.devices import Placement
from voxfield.distributed.memory import MemoryPart, check_short_job, memory_bound, need_of, process_part
from voxfield.kernels.workspace import keep_at_most
from voxfield.storage.checkpoint import list_checkpoints
from voxfield.training.progress import Progress

RAY_BYTES: Final = 10_000
"""Of a ray with its samples that is looked at together with others. Measured."""
PIXEL_BYTES: Final = 150
"""Of a pixel of a picture that is rendered: its ray and all that is seen, and the picture as written. Measured."""
MEASURED_BYTES: Final = 500
"""Of a pixel that is compared with its photograph. Measured."""
USUAL_RAYS: Final = 1 << 15
"""Looked at together where nobody says; of some models fewer."""
VOLUME_BYTES: Final = 120
"""Of a place of a grid on which a field is sampled as a volume. Measured."""
SURFACE_BYTES: Final = 40
"""Of a place of a grid on which a field is asked for its surface. Measured."""
POINT_BYTES: Final = 400
"""Of a point of a cloud: nine numbers as found, put together, moved and written. Estimated."""
NETWORK_LIBRARIES: Final = 150_000_000
"""MONAI, and torch's own kernels for convolutions."""
FEWEST_RAYS: Final = 256
"""Looked at together, however little memory there is."""
_TOGETHER_BYTES: Final = 400_000_000
"""Of the points that a field is asked about together, wherever that is for a grid."""
_CHECKPOINT: Final = 1.4
"""Times a checkpoint's file while it is loaded: all that it holds, and the model."""


def check_memory(
    memory: int | str | None,
    *parts: MemoryPart,
    held: Sequence[MemoryPart],
    device: torch.device,
    remedy: str,
    quiet: bool,
) -> None:
    """Say what something done with runs needs, where it is much.

    Args:
        memory: as `voxfield.distributed.memory.memory_bound`.
        parts: what is made of them, on ``device``: of an accelerator that is not main memory.
        held: the runs, see `field_part`.
        device: where it is made.
        remedy: what a person can lower.
        quiet: say nothing.

    Raises:
        InputError: it is more than ``memory``, or than there is.
    """
    need = need_of(*held, *(parts if device.type == "cpu" else ()), process=process_part(device))
    check_short_job(memory, need, remedy, Progress(quiet=quiet).say)


class Sampled(Protocol):
    """A run, as far as sampling its field on a grid needs it."""

    @property
    def path(self) -> Path:
        """Of the run."""

    @property
    def placement(self) -> Placement:
        """Where it is asked."""

    @property
    def captures(self) -> PosedImages:
        """What it was trained on."""


def check_sampling(
    run: Sampled, memory: int | str | None, *, resolution: int | None, place_bytes: int, quiet: bool
) -> None:
    """Say what asking a run's field at every place of a grid needs; see `check_memory`.

    Args:
        run: whose.
        memory: as for `check_memory`.
        resolution: places along the longest side of its region of interest; None: the grid is the run's own.
        place_bytes: of a place, with what is made of it.
        quiet: say nothing.
    """
    sides = run.captures.bounds.size
    places = 0 if resolution is None else math.prod(max(1, round(resolution * side / max(sides))) for side in sides)
    keep_at_most(_TOGETHER_BYTES)
    check_memory(
        memory,
        MemoryPart(what="places of the grid", size=places * place_bytes),
        MemoryPart(what="places asked about together", size=_TOGETHER_BYTES),
        held=[field_part(run.path)],
        device=run.placement.device,
        remedy="Take a lower --resolution",
        quiet=quiet,
    )


def check_cloud(run: Sampled, memory: int | str | None, *, points: int, quiet: bool) -> None:
    """Say what looking for ``points`` points along rays needs; see `check_memory`."""
    keep_at_most(_TOGETHER_BYTES)
    check_memory(
        memory,
        MemoryPart(what="points", size=points * POINT_BYTES),
        MemoryPart(what="rays looked at together", size=USUAL_RAYS * RAY_BYTES),
        held=[field_part(run.path)],
        device=run.placement.device,
        remedy="Take fewer --points",
        quiet=quiet,
    )


def field_part(path: Path) -> MemoryPart:
    """A run's model while its newest checkpoint is loaded."""
    sizes = [one.stat().st_size for one in list_checkpoints(path)[-1:]]
    return MemoryPart(what="field and checkpoint", size=int(_CHECKPOINT * sum(sizes)))


def rays_within(memory: int | str | None, wanted: int, parts: Sequence[MemoryPart]) -> int:
    """How many rays are looked at together: ``wanted``, or fewer where a person's bound leaves no room for them.

    Args:
        memory: what a person allows, if they do.
        wanted: rays asked for; 0: as many as suit the model.
        parts: what is needed besides.

    Returns:
        Rays; 0: as many as suit the model.
    """
    most = wanted or USUAL_RAYS
    fitting = most if memory is None else memory_bound(memory).fitted(most * RAY_BYTES, *parts) // RAY_BYTES
    return wanted if fitting >= most else max(FEWEST_RAYS, fitting)
