"""Grid marching in plain torch: the specification of ``api.march_grid``, in the tensors' own precision.

Every lattice point of every ray is visited, one k after another; nothing is skipped. What a fast implementation may
skip: from a midpoint in an empty block, all lattice points whose midpoints lie in that block *and* would choose the
same cascade. The choice changes where the ray enters the next smaller cascade's box (blocks of 16 cells straddle it
when the resolution is below 64) and where the growing step asks for larger cells, so a skip ends at the first of the
three.
"""

import torch

from voxfield.kernels.march_grid.occupancy import OccupancyBits, cascade_box, unpack_occupancy
from voxfield.kernels.march_grid.samples import PackedSamples, StepRule
from voxfield.kernels.ray_box.reference import ray_box


def march_grid(
    origins: torch.Tensor,
    directions: torch.Tensor,
    occupancy: OccupancyBits,
    box: torch.Tensor,
    step: StepRule,
    jitter: torch.Tensor | None,
    near: float,
    far: float,
    max_samples: int,
) -> PackedSamples:
    """See ``api.march_grid``. Cost: rays times lattice points of the longest clipped ray."""
    occupied = unpack_occupancy(occupancy)
    outermost = cascade_box(box, occupancy.num_cascades - 1)
    t_enter, t_exit = ray_box(origins, directions, outermost)
    t_enter, t_exit = t_enter.clamp(min=near), t_exit.clamp(max=far)
    hit = t_enter < t_exit
    # A miss has infinite ends, which stepping space would turn into NaN.
    t_enter, t_exit = torch.where(hit, t_enter, 0), torch.where(hit, t_exit, 0)
    first = step.to_steps(t_enter) + (0 if jitter is None else jitter)
    steps = (step.to_steps(t_exit) - first).max().ceil().int().item() + 1 if len(origins) else 0

    kept_rays: list[torch.Tensor] = []
    kept_steps: list[torch.Tensor] = []
    count = torch.zeros(len(origins), dtype=torch.int64, device=origins.device)
    for k in range(int(steps)):
        t_mid = step.to_distance(first + k + 0.5)
        position = origins + directions * t_mid[:, None]
        cascade = choose_cascade(position, t_mid, box, occupancy, step)
        cell = cell_of(position, cascade, box, occupancy.resolution)
        x, y, z = cell.unbind(1)
        keep = (t_mid < t_exit) & (count < max_samples) & occupied[cascade, z, y, x]
        count += keep
        kept_rays.append(keep.nonzero()[:, 0])
        kept_steps.append(torch.full_like(kept_rays[-1], k))

    nothing = [torch.zeros(0, dtype=torch.int64, device=origins.device)]
    ray, order = torch.cat(kept_rays or nothing).sort(stable=True)
    lattice = first[ray] + torch.cat(kept_steps or nothing)[order]
    midpoint = origins[ray] + directions[ray] * step.to_distance(lattice + 0.5)[:, None]
    return PackedSamples(
        t_start=step.to_distance(lattice),
        t_end=step.to_distance(lattice + 1),
        ray_index=ray.int(),
        ray_offsets=torch.cat([count.new_zeros(1), count.cumsum(0)]),
        positions=(midpoint - outermost[0]) / (outermost[1] - outermost[0]),
    )


def choose_cascade(
    position: torch.Tensor, t: torch.Tensor, box: torch.Tensor, occupancy: OccupancyBits, step: StepRule
) -> torch.Tensor:
    """The cascade (R,) int64 whose cell decides about midpoints at ``position`` (R, 3), distance ``t`` (R,)."""
    centre, half = (box[0] + box[1]) / 2, (box[1] - box[0]) / 2
    reach = ((position - centre) / half).abs().amax(1)  # 2**c is the face of cascade c
    cell_size = (box[1] - box[0]).max() / occupancy.resolution
    cascade = torch.zeros(len(position), dtype=torch.int64, device=position.device)
    for c in range(occupancy.num_cascades - 1):
        too_small = (reach > 2**c) | (cell_size * 2**c < step.step_at(t) / 2)
        cascade = torch.where(too_small, c + 1, cascade)
    return cascade


def cell_of(position: torch.Tensor, cascade: torch.Tensor, box: torch.Tensor, resolution: int) -> torch.Tensor:
    """Cell (R, 3) int64, xyz, of ``position`` in its ``cascade``, clamped to the grid."""
    centre, side = (box[0] + box[1]) / 2, box[1] - box[0]
    unit = (position - centre) / (side * 2.0 ** cascade[:, None]) + 0.5
    return (unit * resolution).floor().nan_to_num().long().clamp(0, resolution - 1)
