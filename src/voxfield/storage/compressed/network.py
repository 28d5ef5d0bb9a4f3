"""The network of a grid: what it says of any voxel, its training, and its weights as bytes.

A hash grid over the leaves' box (Müller et al. 2022) feeds one small ReLU network, whose outputs are the regressors and
classifiers of Kim, Lee and Museth, NeuralVDB (ACM TOG 2024, https://arxiv.org/abs/2208.04448): a value for each
channel, how likely the voxel is active, and how likely its leaf is there.

Tables are stored in 8 bits with a scale for each level, weights in 16. What is compressed is compared with what these
stored numbers say, so their rounding costs bits, never the error. Sums may still differ between machines in the last
bits of float32: `VALUE_MARGIN` and `LOGIT_MARGIN` are kept free for that.
"""

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch

from voxfield.errors import InputError
from voxfield.kernels.adam import AdamRule, adam_step
from voxfield.kernels.fused_mlp import fused_mlp
from voxfield.kernels.hash_encode import HashGrid, hash_encode
from voxfield.storage.compressed.chunk import Guess
from voxfield.storage.compressed.layout import damaged, inflated, packed_parts, unpacked_parts
from voxfield.storage.compressed.topology import CUBE_SIDE, leaf_centres
from voxfield.voxels.sparse import SparseVolume
from voxfield.voxels.vdb_tree import LEAF_SIDE, LEAF_VOXELS, unique_origins

VALUE_MARGIN: Final = 2e-5
"""Share of half the value range by which machines may differ in a predicted value."""
LOGIT_MARGIN: Final = 1e-3
"""By which they may differ in a logit."""
_THRESHOLDS: Final = (-2.0, 0.0, 2.0)
"""Logits between the classes of hints."""
_BATCH: Final = 1 << 14
_SLICE: Final = 1 << 16  # voxels evaluated at once, so that their features stay in cache
_FEATURES: Final = 2
_FROZEN: Final = 0.85
"""Share of the steps after which tables are rounded and only the weights go on learning."""
_BOX_SLACK: Final = 0.125
"""Share of the leaves' box added on each side, so that the next frame of an animation fits the same box."""


@dataclass(frozen=True, kw_only=True)
class NetworkShape:
    """Sizes of a network, and what its outputs are scaled to."""

    channels: int
    levels: int
    log2_table_size: int
    max_resolution: int
    hidden: int
    lower: tuple[float, float, float]
    """Index coordinates of the unit cube's smallest corner."""
    extent: float
    """Voxels along the unit cube."""
    middle: tuple[float, ...]
    """What an output of 0 means, for each channel."""
    half_range: tuple[float, ...]
    """What an output of 1 adds to it, above 0."""

    @property
    def grid(self) -> HashGrid:
        """Topology of the hash grid."""
        return HashGrid(
            num_levels=self.levels,
            features=_FEATURES,
            log2_table_size=self.log2_table_size,
            base_resolution=min(4, self.max_resolution),
            max_resolution=self.max_resolution,
        )

    @property
    def layers(self) -> list[tuple[int, int]]:
        """(outputs, inputs) of every layer; the last outputs are the logits of voxels and leaves."""
        return [
            (self.hidden, self.grid.num_outputs),
            (self.hidden, self.hidden),
            (self.channels + 2, self.hidden),
        ]

    @property
    def half_ranges(self) -> np.ndarray:
        """(C,) float64."""
        return np.array(self.half_range, dtype=np.float64)

    @classmethod
    def fitted(cls, volume: SparseVolume, low: np.ndarray, high: np.ndarray) -> "NetworkShape":
        """For a volume with active values from ``low`` to ``high`` (C,): larger volumes get larger networks."""
        bounds = volume.origins.min(axis=0).astype(np.float64), volume.origins.max(axis=0) + float(LEAF_SIDE)
        extent = float((bounds[1] - bounds[0]).max()) * (1 + 2 * _BOX_SLACK)
        middle = (bounds[0] + bounds[1]) / 2
        active = max(1, int(np.count_nonzero(volume.active)) * len(low))
        # A byte of table for every 40 values: a third of what quantised ones take at 1%.
        entries = max(64.0, active / 40 / _FEATURES)
        return cls(
            channels=len(low),
            levels=8,
            # Half of eight levels are hashed at that size, the others smaller.
            log2_table_size=min(19, max(5, round(math.log2(entries / 4)))),
            max_resolution=min(4096, max(4, int(extent / 4))),
            hidden=32 if active > 50_000 else 16,
            lower=tuple((middle - extent / 2).tolist()),
            extent=extent,
            middle=tuple(((low + high) / 2).tolist()),
            half_range=tuple(np.where(high > low, (high - low) / 2, 1.0).tolist()),
        )

    def holds(self, volume: SparseVolume) -> bool:
        """Whether all leaves lie in the unit cube."""
        lower, upper = volume.origins.min(axis=0), volume.origins.max(axis=0) + LEAF_SIDE
        low = np.array(self.lower)
        return bool((lower >= low).all() and (upper <= low + self.extent).all())


class GridNetwork:
    """A network as it is stored. Made by `train_network` or `unpack_network`."""

    def __init__(self, shape: NetworkShape, table: np.ndarray, scales: np.ndarray, weights: list[np.ndarray]) -> None:
        """From the stored numbers: table (entries, 2) int8, scales (levels,) float32, weights float16."""
        self.shape, self._table, self._scales, self._weights = shape, table, scales, weights
        self._entries = torch.from_numpy(table.astype(np.float32) * _by_level(scales, shape.grid)[:, None])
        self._layers = [torch.from_numpy(weight.astype(np.float32)) for weight in weights]

    def parameters(self) -> list[torch.Tensor]:
        """Copies of the table and the weights, float32, to go on training from."""
        return [one.clone() for one in (self._entries, *self._layers)]

    def guess(self, origins: np.ndarray) -> Guess:
        """What the network says of the voxels of leaves at ``origins`` (N, 3)."""
        outputs = self._outputs(_voxels(origins).reshape(-1, 3))
        channels = self.shape.channels
        with np.errstate(over="ignore", invalid="ignore"):
            values = outputs[:, :channels] * self.shape.half_ranges + np.array(self.shape.middle)
        hints, unsure = _classes(outputs[:, channels])
        block = (len(origins), LEAF_VOXELS)
        return Guess(
            values=values.astype(np.float32).reshape(*block, channels), hints=hints.reshape(block), unsure=unsure
        )

    def guess_leaves(self, cubes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Hints (cubes, 512) about which leaves there are, and the rising places of those that are unsure."""
        outputs = self._outputs(leaf_centres(cubes).reshape(-1, 3))
        hints, unsure = _classes(outputs[:, self.shape.channels + 1])
        return hints.reshape(len(cubes), LEAF_VOXELS), unsure

    def packed(self) -> bytes:
        """The stored numbers as bytes."""
        table = zlib.compress(np.ascontiguousarray(self._table.T).tobytes(), 9)
        weights = b"".join(weight.astype("<f2").tobytes() for weight in self._weights)
        return packed_parts([table, self._scales.astype("<f4").tobytes(), weights])

    def _outputs(self, coordinates: np.ndarray) -> np.ndarray:
        """(M, C + 2) float32 at index coordinates (M, 3)."""
        unit = torch.from_numpy(_unit(coordinates, self.shape))
        grid = self.shape.grid
        with torch.no_grad():
            parts = [
                fused_mlp(hash_encode(part, self._entries, grid, implementation="numba"), self._layers)
                for part in unit.split(_SLICE)
            ]
        return torch.cat([torch.empty(0, self.shape.channels + 2), *parts]).numpy()


def unpack_network(raw: bytes, said: dict[str, Any], where: str) -> GridNetwork:
    """The inverse of `GridNetwork.packed`, for a shape as the directory states it.

    Raises:
        FormatError: the bytes are damaged, or the shape is none.
    """
    try:
        shape = NetworkShape(
            **{
                name: _whole(said[name])
                for name in ("channels", "levels", "log2_table_size", "max_resolution", "hidden")
            },
            lower=_numbers(said["lower"], 3),  # type: ignore[arg-type]
            extent=_numbers([said["extent"]], 1)[0],
            middle=_numbers(said["middle"], said["channels"]),
            half_range=_numbers(said["half_range"], said["channels"]),
        )
        grid = shape.grid
    except (KeyError, TypeError, ValueError, OverflowError):
        raise damaged(where) from None
    if not 1 <= shape.hidden <= 1024 or shape.extent <= 0 or not 1 <= shape.channels <= 4:
        raise damaged(where)
    packed, scales, weights = unpacked_parts(raw, 3, where)
    sizes = [rows * columns for rows, columns in shape.layers]
    # zlib packs to a thousandth at most.
    if grid.num_entries * _FEATURES > 1032 * len(packed) or (len(scales), len(weights)) != (
        4 * shape.levels,
        2 * sum(sizes),
    ):
        raise damaged(where)
    table = np.frombuffer(inflated(packed, grid.num_entries * _FEATURES, where), np.int8).reshape(_FEATURES, -1)
    found = np.split(np.frombuffer(weights, "<f2"), np.cumsum(sizes)[:-1])
    factors = np.frombuffer(scales, "<f4")
    if not np.isfinite(factors).all() or not all(np.isfinite(one).all() for one in found):
        raise damaged(where)
    layers = [one.reshape(size) for one, size in zip(found, shape.layers, strict=True)]
    return GridNetwork(shape, np.ascontiguousarray(table.T), factors.astype(np.float32), layers)


def train_network(
    volume: SparseVolume,
    shape: NetworkShape,
    max_error: float,
    *,
    steps: int,
    seed: int = 0,
    start: GridNetwork | None = None,
    advance: Callable[[int], None] | None = None,
) -> GridNetwork:
    """Train a network on a volume.

    The loss is of bits rather than of squares: an error costs what it exceeds ``max_error`` by, about linearly, and a
    class its cross entropy.

    Args:
        volume: with at least one leaf.
        shape: sizes; that of ``start`` if that is given.
        max_error: what corrections are for, in the values' unit.
        steps: updates, at least 1.
        seed: of the first weights and of which voxels are seen.
        start: a network of the same shape whose weights training begins with (the frame before).
        advance: is told of steps done.
    """
    trainer = _Trainer(volume, shape, max_error, steps, seed, start)
    for step in range(steps):
        trainer.step(step)
        if advance is not None:
            advance(step + 1)
    return trainer.network()


class _Trainer:
    """Parameters, their moments, and the voxels they learn from."""

    def __init__(
        self,
        volume: SparseVolume,
        shape: NetworkShape,
        max_error: float,
        steps: int,
        seed: int,
        start: GridNetwork | None,
    ) -> None:
        self._volume, self._shape, self._steps = volume, shape, steps
        self._draw = np.random.default_rng(seed)
        self._generator = torch.Generator().manual_seed(seed)
        self._tolerance = torch.from_numpy(np.maximum(max_error / shape.half_ranges, 1e-4).astype(np.float32))
        parameters = self._fresh() if start is None else start.parameters()
        self._parameters = [one.contiguous().requires_grad_() for one in parameters]
        self._gradients = [torch.zeros_like(one) for one in parameters]
        self._moments = [(torch.zeros_like(one), torch.zeros_like(one)) for one in parameters]
        self._rate = 1.0 if start is None else 0.3
        self._active = np.flatnonzero(volume.active)
        self._cubes, which = unique_origins(volume.origins & -CUBE_SIDE)
        x, y, z = (volume.origins & (CUBE_SIDE - 1)).T // LEAF_SIDE
        self._leaves = np.zeros((len(self._cubes), LEAF_VOXELS), dtype=np.bool_)
        self._leaves[which, (x * 8 + y) * 8 + z] = True
        self._frozen: tuple[np.ndarray, np.ndarray] | None = None

    def step(self, number: int) -> None:
        """One update."""
        if number >= _FROZEN * self._steps and self._frozen is None:
            self._freeze()
        batches = [self._voxels(), self._candidates()]
        unit = torch.from_numpy(_unit(np.concatenate([batch[0] for batch in batches]), self._shape))
        frozen = self._frozen is not None
        table = self._parameters[0].detach() if frozen else self._parameters[0]
        encoded = hash_encode(unit, table, self._shape.grid, table_grad=None if frozen else self._gradients[0])
        outputs = fused_mlp(encoded, self._parameters[1:])
        self._loss(outputs, batches).backward()
        for parameter, gradient in zip(self._parameters[1:], self._gradients[1:], strict=True):
            assert parameter.grad is not None
            gradient.copy_(parameter.grad)
            parameter.grad = None
        falling = self._rate * (0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * number / self._steps)))
        rules = [AdamRule(learning_rate=rate * falling, skip_zero=rate > 5e-3, epsilon=1e-12) for rate in (1e-2, 3e-3)]
        for index in range(1 if frozen else 0, len(self._parameters)):
            adam_step(
                self._parameters[index].detach(),
                self._gradients[index],
                *self._moments[index],
                step=number + 1,
                rule=rules[min(index, 1)],
            )

    def network(self) -> GridNetwork:
        """The network as it is stored."""
        if self._frozen is None:
            self._freeze()
        assert self._frozen is not None
        limit = float(np.finfo(np.float16).max)
        weights = [one.detach().clamp(-limit, limit).numpy().astype(np.float16) for one in self._parameters[1:]]
        return GridNetwork(self._shape, *self._frozen, weights)

    def _fresh(self) -> list[torch.Tensor]:
        """First values: a small table, and weights with the variance of He et al. 2015."""
        table = torch.empty(self._shape.grid.num_entries, _FEATURES).uniform_(-0.1, 0.1, generator=self._generator)
        layers = [
            torch.empty(size).uniform_(-((6 / size[1]) ** 0.5), (6 / size[1]) ** 0.5, generator=self._generator)
            for size in self._shape.layers
        ]
        return [table, *layers]

    def _voxels(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Coordinates, values (M, C) and states of voxels: some of the active ones, some of any."""
        volume = self._volume
        places = self._draw.integers(0, volume.active.size, _BATCH // 2)
        if len(self._active):
            chosen = self._draw.integers(0, len(self._active), _BATCH // 2)
            places = np.concatenate([places, self._active[chosen]])
        rows, local = places // LEAF_VOXELS, places % LEAF_VOXELS
        coordinates = volume.origins[rows] + np.stack([local >> 6, local >> 3 & 7, local & 7], axis=-1)
        values = volume.values.reshape(-1, self._shape.channels)[places]
        return coordinates, values, volume.active.reshape(-1)[places]

    def _candidates(self) -> tuple[np.ndarray, np.ndarray]:
        """Middles of leaves that there might be, and whether there are."""
        places = self._draw.integers(0, self._leaves.size, _BATCH // 8)
        rows, local = places // LEAF_VOXELS, places % LEAF_VOXELS
        offsets = np.stack([local >> 6, local >> 3 & 7, local & 7], axis=-1) * LEAF_SIDE + (LEAF_SIDE - 1) / 2
        return self._cubes[rows] + offsets, self._leaves.reshape(-1)[places]

    def _loss(self, outputs: torch.Tensor, batches: list[tuple[np.ndarray, ...]]) -> torch.Tensor:
        """Bits, roughly, that corrections of a voxel will take."""
        (_, values, active), (_, there) = batches
        channels, voxels = self._shape.channels, len(active)
        middle, scale = np.array(self._shape.middle), self._shape.half_ranges
        with np.errstate(over="ignore", invalid="ignore"):
            wanted = torch.from_numpy(((values.astype(np.float64) - middle) / scale).astype(np.float32))
        on = torch.from_numpy(active)
        known = on[:, None] & wanted.isfinite()
        missed = torch.where(known, (outputs[:voxels, :channels] - wanted.nan_to_num(0, 0, 0)) / self._tolerance, 0)
        loss = ((missed.square() + 1).sqrt() - 1).clamp(max=1e4).sum() / known.sum().clamp(min=1)
        entropy = torch.nn.functional.binary_cross_entropy_with_logits
        loss = loss + entropy(outputs[:voxels, channels], on.float())
        return loss + 0.25 * entropy(outputs[voxels:, channels + 1], torch.from_numpy(there).float())

    def _freeze(self) -> None:
        """Round the table to what will be stored."""
        grid = self._shape.grid
        entries = self._parameters[0].detach()
        scales = np.array(
            [
                max(float(entries[begin:end].abs().max()), 1e-12) / 127
                for begin, end in zip(grid.offsets[:-1], grid.offsets[1:], strict=True)
            ],
            dtype=np.float32,
        )
        factors = _by_level(scales, grid)[:, None]
        table = np.clip(np.rint(entries.numpy() / factors), -127, 127).astype(np.int8)
        entries.copy_(torch.from_numpy(table.astype(np.float32) * factors))
        self._frozen = table, scales


def _by_level(scales: np.ndarray, grid: HashGrid) -> np.ndarray:
    """(entries,) the scale of each entry's level."""
    return np.repeat(scales, np.diff(grid.offsets))


def _unit(coordinates: np.ndarray, shape: NetworkShape) -> np.ndarray:
    """Index coordinates (M, 3) in the unit cube, float32."""
    with np.errstate(over="ignore", invalid="ignore"):
        return ((coordinates - np.array(shape.lower)) / shape.extent).astype(np.float32)


def _voxels(origins: np.ndarray) -> np.ndarray:
    """(N, 512, 3) float64 coordinates of the voxels of leaves."""
    places = np.arange(LEAF_VOXELS)
    return origins[:, None].astype(np.float64) + np.stack([places >> 6, places >> 3 & 7, places & 7], axis=-1)


def _classes(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Class of each logit, (M,) uint8, and the rising places of those near a threshold."""
    hints, near = np.zeros(len(logits), dtype=np.uint8), np.zeros(len(logits), dtype=np.bool_)
    for threshold in _THRESHOLDS:
        hints += logits > threshold
        near |= np.abs(logits - threshold) < LOGIT_MARGIN
    return hints, np.flatnonzero(near)


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InputError(f"expected a whole number, got {value!r}.")
    return value


def _numbers(values: Any, count: int) -> tuple[float, ...]:
    numbers = tuple(float(value) for value in values)
    if len(numbers) != count or not all(map(math.isfinite, numbers)):
        raise InputError(f"expected {count} finite numbers, got {values!r}.")
    return numbers
