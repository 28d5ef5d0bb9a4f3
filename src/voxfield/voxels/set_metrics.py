"""How alike two sets of volumes are, such as generated ones and held-out real ones.

A volume (D, H, W) with values from 0 to 1 stands for a shape: the voxels of at least ``threshold``. Lengths are in
units of the longest side of the volume. For sets G (generated) and R (reference), with d the Chamfer distance:

- coverage: the share of R that is nearest to some member of G (Achlioptas et al. 2018,
  https://arxiv.org/abs/1707.02392). G may be good and cover little, so it is read together with
- MMD, the minimum matching distance: the mean over R of the distance to the nearest of G;
- 1-NN accuracy (Lopez-Paz and Oquab 2017, https://arxiv.org/abs/1610.06545): how often a volume's nearest other one is
  of its own set: 0.5 for sets that cannot be told apart, 1 for sets that have nothing in common;
- JSD: the Jensen-Shannon divergence, base 2, of where the sets' occupied voxels lie, 0 to 1;
- nearest IoU: the mean over R of the greatest intersection over union with some member of G. Not the mean over G: the
  mean shape of a set has more in common with its nearest member than another real shape has;
- Frechet distance of features (Heusel et al. 2017, https://arxiv.org/abs/1706.08500), of the encoder `encode`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch

from voxfield.checks import check_range
from voxfield.errors import InputError
from voxfield.kernels.chamfer import chamfer_distances

ENCODER: Final = "four random convolutions (3^3, stride 2, ReLU; 16, 32, 64, 64 channels), seed 0; mean over space"
"""What `encode` is, as results name it."""
_WIDTHS: Final = (16, 32, 64, 64)


@dataclass(frozen=True, kw_only=True)
class ShapeSet:
    """Volumes of one shape, prepared to be compared."""

    volumes: torch.Tensor
    """(N, D, H, W) float32."""
    threshold: float
    """Least value of an occupied voxel."""
    points: torch.Tensor
    """(N, P, 3) float32 on the surfaces, x, y, z; of empty volumes NaN."""

    @classmethod
    def of(cls, volumes: torch.Tensor, *, threshold: float = 0.5, points: int = 512, seed: int = 0) -> "ShapeSet":
        """Prepare ``volumes`` (N, D, H, W), at least one, with so many ``points`` on each surface.

        Raises:
            InputError: no volumes, or values that are not finite.
        """
        if volumes.ndim != 4 or min(volumes.shape) < 1:
            raise InputError(f"volumes: expected (N, D, H, W), at least one, got {tuple(volumes.shape)}.")
        if not torch.isfinite(volumes).all():
            raise InputError("volumes: some values are NaN or infinite.")
        check_range("points", points, minimum=1)
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.stack([surface_points(one >= threshold, points, generator) for one in volumes])
        return cls(volumes=volumes.float(), threshold=threshold, points=drawn)

    def __len__(self) -> int:
        """How many volumes there are."""
        return len(self.volumes)

    @property
    def occupied(self) -> torch.Tensor:
        """(N, D, H, W) bool."""
        return self.volumes >= self.threshold


def surface_points(occupied: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
    """Points in the occupied voxels that have an empty neighbour across a face (or the volume's border).

    Args:
        occupied: (D, H, W) bool.
        count: how many points.
        generator: chooses voxels and places in them.

    Returns:
        (count, 3) float32 x, y, z in units of the longest side; NaN where no voxel is occupied.
    """
    padded = torch.nn.functional.pad(occupied, (1, 1, 1, 1, 1, 1))
    inner = occupied.clone()
    for axis, size in enumerate(occupied.shape):
        others = [slice(1, -1)] * 3
        for start in (0, 2):
            others[axis] = slice(start, start + size)
            inner &= padded[tuple(others)]
    cells = (occupied & ~inner).nonzero()
    if not len(cells):
        return torch.full((count, 3), torch.nan)
    chosen = cells[torch.randint(len(cells), (count,), generator=generator)].flip(1)
    return (chosen + torch.rand((count, 3), generator=generator)) / max(occupied.shape)


def shape_distances(one: ShapeSet, other: ShapeSet) -> torch.Tensor:
    """(N, M) float32: Chamfer distance of the points on the surfaces, each volume of one set to each of the other.

    Where either volume is empty, the distance is 6: that of opposite corners of a cube, both ways.
    """
    drawn = [torch.isfinite(each.points[:, 0, 0]) for each in (one, other)]
    distances = torch.full((len(one), len(other)), 6.0)
    between = chamfer_distances(one.points[drawn[0]], other.points[drawn[1]])
    distances[drawn[0][:, None] & drawn[1]] = between.flatten()
    return distances


def coverage(distances: torch.Tensor) -> float:
    """Share of the M columns that are some row's nearest."""
    return len(distances.argmin(1).unique()) / distances.shape[1]


def minimum_matching_distance(distances: torch.Tensor) -> float:
    """Mean over the columns of the least distance."""
    return float(distances.amin(0).mean())


def nearest_neighbour_accuracy(own: torch.Tensor, between: torch.Tensor, other: torch.Tensor) -> float:
    """Leave-one-out accuracy of telling the sets apart by the nearest neighbour.

    Args:
        own: (N, N) distances within the first set.
        between: (N, M).
        other: (M, M) within the second.
    """
    count = len(own)
    whole = torch.cat([torch.cat([own, between], 1), torch.cat([between.T, other], 1)])
    whole = whole.clone().fill_diagonal_(torch.inf)
    of_first = torch.arange(len(whole)) < count
    return float((of_first[whole.argmin(1)] == of_first).float().mean())


def occupancy_divergence(one: ShapeSet, other: ShapeSet) -> float:
    """Jensen-Shannon divergence, base 2, of where occupied voxels lie; 1 if either set is empty."""
    shares = [each.occupied.double().sum(0).flatten() for each in (one, other)]
    if any(float(share.sum()) == 0.0 for share in shares):
        return 1.0
    first, second = (share / share.sum() for share in shares)
    middle = (first + second) / 2
    return float((_relative_entropy(first, middle) + _relative_entropy(second, middle)) / 2)


def _relative_entropy(of: torch.Tensor, to: torch.Tensor) -> torch.Tensor:
    return torch.where(of > 0, of * (of / to.clamp(min=1e-300)).clamp(min=1e-300).log2(), 0.0).sum()


def intersection_over_union(one: ShapeSet, other: ShapeSet) -> torch.Tensor:
    """(N, M) float32; two empty volumes have 1."""
    first, second = (each.occupied.flatten(1).float() for each in (one, other))
    common = first @ second.T
    union = first.sum(1)[:, None] + second.sum(1)[None] - common
    return torch.where(union > 0, common / union.clamp(min=1.0), 1.0)


def encode(volumes: torch.Tensor) -> torch.Tensor:
    """Features (N, 64) of volumes (N, D, H, W): see `ENCODER`. Random features tell shapes apart without having seen
    any; their distances compare with each other, not with those of other encoders.
    """
    generator = torch.Generator().manual_seed(0)
    weights, inputs = [], 1
    for width in _WIDTHS:
        scale = (2.0 / (27 * inputs)) ** 0.5
        weights.append(torch.randn((width, inputs, 3, 3, 3), generator=generator) * scale)
        inputs = width
    features = []
    with torch.no_grad():
        for volume in volumes:
            held = volume[None, None].float()
            for weight in weights:
                held = torch.nn.functional.conv3d(held, weight, stride=2, padding=1).relu()
            features.append(held.mean((2, 3, 4))[0])
    return torch.stack(features)


def frechet_distance(one: torch.Tensor, other: torch.Tensor) -> float:
    """Squared Frechet distance of the normal distributions that fit features (N, F) and (M, F), two or more of each:
    ``|m1 - m2|^2 + tr(C1 + C2 - 2 (C1^1/2 C2 C1^1/2)^1/2)``.

    Raises:
        InputError: a single feature has no covariance.
    """
    if min(len(one), len(other)) < 2:
        raise InputError(f"features: expected two or more of each set, got {len(one)} and {len(other)}.")
    first, second = one.double(), other.double()
    covariances = [torch.cov(each.T) for each in (first, second)]
    root = _square_root(covariances[0])
    mixed = torch.linalg.eigvalsh(root @ covariances[1] @ root).clamp(min=0.0).sqrt().sum()
    apart = (first.mean(0) - second.mean(0)).square().sum()
    return max(0.0, float(apart + covariances[0].trace() + covariances[1].trace() - 2.0 * mixed))


def _square_root(matrix: torch.Tensor) -> torch.Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp(min=0.0).sqrt()) @ vectors.T


def compare_sets(generated: ShapeSet, reference: ShapeSet, reference_own: torch.Tensor | None = None) -> dict[str, Any]:
    """All measures of the module.

    Args:
        generated, reference: volumes of one shape, two or more of each.
        reference_own: distances within ``reference``, where they are known already.

    Returns:
        Plain numbers by name.

    Raises:
        InputError: the sets' volumes differ in shape.
    """
    if generated.volumes.shape[1:] != reference.volumes.shape[1:]:
        shapes = [tuple(each.volumes.shape[1:]) for each in (generated, reference)]
        raise InputError(f"reference: expected volumes of {shapes[0]} voxels, as the generated ones, got {shapes[1]}.")
    between = shape_distances(generated, reference)
    own = shape_distances(generated, generated)
    other = shape_distances(reference, reference) if reference_own is None else reference_own
    return {
        "coverage": coverage(between),
        "mmd": minimum_matching_distance(between),
        "one_nn_accuracy": nearest_neighbour_accuracy(own, between, other),
        "jsd": occupancy_divergence(generated, reference),
        "frechet": frechet_distance(encode(generated.volumes), encode(reference.volumes)),
        "iou_nearest": float(intersection_over_union(generated, reference).amax(0).mean()),
        **occupancy_statistics(generated),
    }


def occupancy_statistics(shapes: ShapeSet) -> dict[str, float]:
    """Mean and standard deviation of all values, the mean share of occupied voxels and its spread, empty volumes."""
    occupied = shapes.occupied.flatten(1).float().mean(1)
    return {
        "mean": float(shapes.volumes.mean()),
        "std": float(shapes.volumes.std()),
        "occupancy": float(occupied.mean()),
        "occupancy_std": float(occupied.std(correction=0)),
        "empty": int((occupied == 0).sum()),
    }


def nearest_of(shapes: ShapeSet, among: ShapeSet) -> tuple[torch.Tensor, torch.Tensor]:
    """The volume of ``among`` with the greatest intersection over union with each of ``shapes``.

    Returns:
        Which it is, (N,) int64, and one minus that measure, (N,) float32: 0 for a copy.
    """
    best, which = intersection_over_union(shapes, among).max(1)
    return which, 1.0 - best


def baselines(learnt: Sequence[torch.Tensor], count: int, *, threshold: float, seed: int) -> dict[str, torch.Tensor]:
    """What needs no learning, to compare with: sets of ``count`` volumes.

    Args:
        learnt: volumes (D, H, W) that were trained on.
        count: volumes of each baseline.
        threshold: least value of an occupied voxel.
        seed: of the noise.

    Returns:
        ``mean_shape``: the voxels most often occupied, as many as a volume has on average, again and again;
        ``noise``: voxels occupied at random, as many on average.
    """
    shares = torch.stack([(one >= threshold).float() for one in learnt]).mean(0)
    wanted = max(1, round(float(shares.sum())))
    mean_shape = torch.zeros(shares.numel())
    mean_shape[shares.flatten().topk(wanted).indices] = 1.0
    generator = torch.Generator().manual_seed(seed)
    noise = (torch.rand((count, *shares.shape), generator=generator) < shares.mean()).float()
    return {"mean_shape": mean_shape.reshape(shares.shape).expand(count, -1, -1, -1).clone(), "noise": noise}
