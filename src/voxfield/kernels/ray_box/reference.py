"""The slab test in plain torch: the specification of ``api.ray_box``, in the tensors' own precision."""

import torch


def ray_box(origins: torch.Tensor, directions: torch.Tensor, box: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """See ``api.ray_box``."""
    minimum, maximum = box
    parallel = directions == 0
    # Division, not multiplication by 1 / direction: the inverse of a tiny direction is infinite, and 0 * inf is NaN.
    divisor = torch.where(parallel, 1, directions)
    first, second = (minimum - origins) / divisor, (maximum - origins) / divisor
    between = (origins >= minimum) & (origins <= maximum)
    # A slab that the ray runs along does not bound it; one that it runs beside leaves nothing.
    low = torch.where(parallel, torch.where(between, -torch.inf, torch.inf), torch.minimum(first, second))
    high = torch.where(parallel, torch.where(between, torch.inf, -torch.inf), torch.maximum(first, second))
    t_near, t_far = low.amax(1).clamp(min=0), high.amin(1)
    hit = t_near <= t_far  # false for NaN
    return torch.where(hit, t_near, torch.inf), torch.where(hit, t_far, -torch.inf)
