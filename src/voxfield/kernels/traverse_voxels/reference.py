"""Rays through voxels in plain torch: the specification of ``api.traverse_voxels``. All planes are cut, then sorted."""

import torch

from voxfield.kernels.voxel_words import unpack_voxels

SHORTEST = 1e-6
"""Voxels: shorter pieces are ignored."""


def traverse_voxels(
    origins: torch.Tensor, directions: torch.Tensor, words: torch.Tensor, resolution: int, first_hit_only: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """See ``api.traverse_voxels``."""
    device, origins, directions = origins.device, origins.double(), directions.double()
    occupied = unpack_voxels(words, resolution).to(device)
    planes = torch.arange(resolution + 1, dtype=torch.float64, device=device)
    usable = torch.isfinite(origins).all(1) & torch.isfinite(directions).all(1) & (directions != 0).any(1)
    # Distances at which each ray crosses each plane; those behind the origin and of parallel planes are none.
    parallel = directions == 0
    crossings = (planes - origins[:, :, None]) / torch.where(parallel, 1, directions)[:, :, None]
    crossings = torch.where(parallel[:, :, None] | ~(crossings > 0), torch.inf, crossings).flatten(1)
    axes = torch.arange(3, device=device).repeat_interleave(resolution + 1).expand(len(origins), -1)
    cuts, order = crossings.sort(1)
    axes = torch.gather(axes, 1, order)
    # The first piece starts at the origin: through no face, unless that lies on one of the grid.
    on_face = ((directions > 0) & (origins == 0)) | ((directions < 0) & (origins == resolution))
    through = torch.where(on_face, torch.arange(3, device=device), -1).amax(1, keepdim=True)
    start = torch.cat([origins.new_zeros(len(origins), 1), cuts[:, :-1]], 1)
    entered = torch.cat([through, axes[:, :-1]], 1)
    lengths = cuts - start
    real = torch.isfinite(cuts) & (lengths > SHORTEST) & usable[:, None]
    middle = origins[:, None] + directions[:, None] * torch.where(real, (start + cuts) / 2, 0)[..., None]
    cell = torch.where(real[..., None], middle, -1).floor().long()
    real &= ((cell >= 0) & (cell < resolution)).all(2)
    x, y, z = torch.where(real[..., None], cell, 0).unbind(2)
    filled = real & occupied[z, y, x]
    chord = torch.where(filled, lengths, 0).sum(1)
    if first_hit_only:
        chord = torch.full_like(chord, torch.nan)
    hit, first = filled.any(1), filled.long().argmax(1, keepdim=True)
    number = torch.gather(x + resolution * (y + resolution * z), 1, first)[:, 0]
    axis = torch.gather(entered, 1, first)[:, 0]
    normal = torch.zeros(len(origins), 3, dtype=torch.int8, device=device)
    rays = (hit & (axis >= 0)).nonzero()[:, 0]
    normal[rays, axis[rays]] = -directions[rays, axis[rays]].sign().to(torch.int8)
    distance = torch.where(hit, torch.gather(start, 1, first)[:, 0], torch.inf)
    return chord, distance, normal, torch.where(hit, number, -1)
