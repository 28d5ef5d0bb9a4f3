"""Inverse transform sampling in plain torch: the specification of ``api.pdf_resample``, in the tensors' own precision.

The cumulative sums are not normalised: the drawn numbers are scaled instead, which saves a division per weight.
"""

import torch


def pdf_resample(
    edges: torch.Tensor,
    weights: torch.Tensor,
    num_samples: int,
    jitter: torch.Tensor,
    padding: float,
    eps: float,
) -> torch.Tensor:
    """See ``api.pdf_resample``. Returns (R, num_samples + 1)."""
    samples = weights.shape[1]
    padded = weights + padding
    padded = padded + (eps - padded.sum(1, keepdim=True)).clamp(min=0) / samples
    cumulative = torch.nn.functional.pad(padded.cumsum(1), (1, 0))  # (R, S + 1)

    slot = torch.arange(num_samples + 1, device=weights.device, dtype=weights.dtype)
    drawn = (slot + jitter) / (num_samples + 1) * cumulative[:, -1:]  # (R, M + 1)
    # Right: where the sum is level, past the interval that holds nothing.
    interval = torch.searchsorted(cumulative, drawn, right=True).clamp(1, samples) - 1
    below, width = cumulative.gather(1, interval), padded.gather(1, interval)
    # No width: a last interval without weight, reached because drawn was rounded up to the whole sum.
    fraction = torch.where(width == 0, 1, ((drawn - below) / width).clamp(0, 1))
    left, right = edges.gather(1, interval), edges.gather(1, interval + 1)
    return left + fraction * (right - left)
