"""Compositing in plain torch: the specification of ``api.composite``, in the tensors' own precision.

Rays are padded to the longest one, (R, K), so that the equations read as they are printed.
"""

import torch


def composite(
    density: torch.Tensor,
    colour: torch.Tensor,
    t_start: torch.Tensor,
    t_end: torch.Tensor,
    ray_offsets: torch.Tensor,
    early_stop: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """See ``api.composite``. Returns rgb (R, C), opacity (R,), depth (R,), weights (S,)."""
    lengths = ray_offsets.diff()
    rays, samples = len(lengths), len(density)
    if samples == 0:
        # Sums over nothing, still connected to the inputs so that backward() works.
        nothing = density.sum() + density.new_zeros(rays)
        return colour.sum() + colour.new_zeros(rays, colour.shape[1]), nothing, nothing.clone(), density.clone()
    slot = torch.arange(int(lengths.max()), device=density.device)
    filled = slot < lengths[:, None]  # (R, K)
    index = torch.where(filled, ray_offsets[:-1, None] + slot, 0)

    optical = torch.where(filled, (density * (t_end - t_start))[index], 0)
    alpha = -torch.expm1(-optical)  # 1 - exp(-optical), exact for thin samples too
    before = torch.cat([optical.new_zeros(rays, 1), optical.cumsum(1)[:, :-1]], dim=1)
    transmittance = torch.exp(-before)  # T_i: the product of (1 - alpha_j) over j < i
    weight = torch.where(transmittance >= early_stop, alpha * transmittance, 0)  # padding has alpha 0

    t_mid = (0.5 * (t_start + t_end))[index]
    rgb = (weight[..., None] * colour[index]).sum(1)
    return rgb, weight.sum(1), (weight * t_mid).sum(1), weight[filled]
