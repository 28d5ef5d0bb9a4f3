"""Generated volumes measured: against held-out ones, beside what needs no learning, and for being copies."""

from collections.abc import Sequence
from typing import Any, Final

import torch

from voxfield.checks import check_range
from voxfield.errors import InputError
from voxfield.voxels.set_metrics import (
    ENCODER,
    ShapeSet,
    baselines,
    compare_sets,
    nearest_of,
    occupancy_statistics,
    shape_distances,
)

_POINTS: Final = 512


def evaluate_volumes(
    generated: torch.Tensor,
    reference: Sequence[torch.Tensor],
    learnt: Sequence[torch.Tensor],
    *,
    threshold: float = 0.5,
    seed: int = 0,
) -> dict[str, Any]:
    """Every measure of `voxfield.voxels.set_metrics`: of generated volumes, two baselines and those trained on.

    Args:
        generated: (N, D, H, W), 0 to 1, two or more.
        reference: two or more real volumes, best as many, that were not trained on.
        learnt: those that were, two or more; the baselines are made of them.
        threshold: least value of an occupied voxel, above 0 to 1.
        seed: of points on surfaces and of the noise baseline.

    Returns:
        ``generated``, ``baselines`` (``mean_shape``, ``noise``) and ``training``, as many volumes that were trained on,
        with the same measures each, ``reference`` with those of occupancy, ``nearest_training``: one minus the
        intersection over union with the most similar training volume, of the generated and of the reference volumes,
        and ``protocol``.

    Raises:
        InputError: too few volumes, or of different shapes.
    """
    check_range("threshold", threshold, above=0.0, maximum=1.0)
    if min(len(generated), len(reference), len(learnt)) < 2:
        raise InputError(
            "expected two or more volumes each: generated, reference and trained on; got "
            f"{len(generated)}, {len(reference)} and {len(learnt)}. Give more, or leave the reference out."
        )
    real, known = torch.stack(list(reference)), torch.stack(list(learnt))
    if not generated.shape[1:] == real.shape[1:] == known.shape[1:]:
        raise InputError(
            f"reference: expected volumes of {tuple(generated.shape[1:])} voxels, got {tuple(real.shape[1:])}."
        )
    references = ShapeSet.of(real, threshold=threshold, points=_POINTS, seed=seed)
    own = shape_distances(references, references)
    shapes = ShapeSet.of(generated, threshold=threshold, points=_POINTS, seed=seed + 1)
    # Only its volumes are compared with, not its surfaces.
    training = ShapeSet.of(known, threshold=threshold, points=1, seed=seed)
    simple = baselines(list(known), len(generated), threshold=threshold, seed=seed)
    chosen = torch.randperm(len(known), generator=torch.Generator().manual_seed(seed))[: len(generated)]

    def measured(volumes: torch.Tensor) -> dict[str, Any]:
        others = ShapeSet.of(volumes, threshold=threshold, points=_POINTS, seed=seed + 1)
        return compare_sets(others, references, own)

    return {
        "generated": compare_sets(shapes, references, own),
        "baselines": {name: measured(volumes) for name, volumes in simple.items()},
        "training": measured(known[chosen]),
        "reference": occupancy_statistics(references),
        "nearest_training": {
            "generated": _nearness(shapes, training),
            "reference": _nearness(references, training),
        },
        "protocol": {
            "generated": len(generated),
            "reference": len(real),
            "training": len(known),
            "threshold": threshold,
            "points": _POINTS,
            "encoder": ENCODER,
            "seed": seed,
        },
    }


def reconstruction_measures(made: torch.Tensor, real: torch.Tensor) -> dict[str, float]:
    """What volumes (N, D, H, W), 0 to 1, lost on a way there and back.

    Returns:
        Mean absolute error, PSNR (peak 1) and intersection over union of the voxels of 0.5 and more, means over the
        volumes, each with ``_std``.
    """
    difference = (made - real).flatten(1)
    inside, wanted = (made >= 0.5).flatten(1), (real >= 0.5).flatten(1)
    either = (inside | wanted).sum(1)
    # Volumes in which neither has anything agree.
    iou = torch.where(either > 0, (inside & wanted).sum(1) / either.clamp(min=1), 1.0)
    each = {
        "mae": difference.abs().mean(1),
        "psnr": -10.0 * difference.square().mean(1).clamp(min=1e-12).log10(),
        "iou": iou,
    }
    means = {name: float(values.mean()) for name, values in each.items()}
    return means | {f"{name}_std": float(values.std(correction=0)) for name, values in each.items()}


def _nearness(shapes: ShapeSet, training: ShapeSet) -> dict[str, Any]:
    """Distances to the most similar training volumes."""
    _, distances = nearest_of(shapes, training)
    return {
        "mean": float(distances.mean()),
        "median": float(distances.median()),
        "least": float(distances.min()),
        "copies": int((distances < 0.02).sum()),
        "each": [round(one, 4) for one in distances.tolist()],
    }
