"""Volumes of every kind, and the real OpenVDB as a judge."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from voxfield.voxels.sparse import SparseVolume, Tiles

ORACLE = Path(__file__).with_name("openvdb_oracle.py")
SYSTEM_PYTHON = "/usr/bin/python3"


def values_of(kind: str, shape: tuple[int, ...], draw: np.random.Generator) -> np.ndarray:
    """Random values of a grid's type; halves where whole numbers cannot tell."""
    dtype = {"float": "f4", "double": "f8", "int32": "i4", "int64": "i8", "bool": "?"}.get(kind)
    if dtype is None:
        dtype, shape = {"s": "f4", "d": "f8", "i": "i4"}[kind[-1]], (*shape, 3)
    if dtype == "?":
        return draw.random(shape) < 0.5
    return (draw.normal(size=shape) * 1000).astype(dtype)


@pytest.fixture
def make_volume() -> Callable[..., SparseVolume]:
    """``make_volume(kind, seed)``: scattered blocks over several upper nodes, tiles of every side, and inactive values
    of every sort that the format tells apart: background, minus background, one, two and many others."""

    def make(kind: str, seed: int = 0, background: float = 5.0) -> SparseVolume:
        draw = np.random.default_rng(seed)
        count = 40
        cells = draw.integers(-600, 600, size=(count, 3))
        cells[:8] = draw.integers(-2, 2, size=(8, 3))
        origins = np.unique(cells * 8, axis=0).astype(np.int32)
        count = len(origins)
        values = values_of(kind, (count, 8, 8, 8), draw)
        active = draw.random((count, 8, 8, 8)) < draw.choice([0.0, 0.05, 0.5, 1.0], size=(count, 1, 1, 1))
        base = np.broadcast_to(np.asarray(background).astype(values.dtype), values.shape[4:]).copy()
        minus = ~base if values.dtype == np.bool_ else -base - (base == 0)
        others = values_of(kind, (2,), draw)
        choices = [
            (base,),
            (minus,),
            (others[0],),
            (base, minus),
            (minus, base),
            (base, others[0]),
            tuple(others),
            None,
        ]
        for row in range(count):
            chosen = choices[row % len(choices)]
            if chosen is not None:
                pick = draw.integers(0, len(chosen), size=(8, 8, 8))
                values[row] = np.where(
                    active[row].reshape((8, 8, 8) + (1,) * base.ndim), values[row], np.stack(chosen)[pick]
                )
        on = np.array([True, False, True, False, True])
        constants = values_of(kind, (5,), draw)
        constants[~on] = minus  # an inactive tile of background would be none
        tiles = Tiles(
            origins=np.array(
                [[8192, 0, 0], [-8192, 4096, 0], [16384, 128, 0], [16384, 0, 256], [16392, 0, 0]], np.int32
            ),
            sides=np.array([4096, 4096, 128, 128, 8], np.int32),
            values=constants,
            active=on,
        )
        return SparseVolume.from_blocks(origins, values, active, background=base, tiles=tiles)

    return make


def same_volume(one: SparseVolume, other: SparseVolume) -> bool:
    """Bit for bit, NaN alike NaN; tiles in any order."""

    def ordered(volume: SparseVolume) -> list[np.ndarray]:
        tiles = volume.tiles
        order = np.lexsort((*tiles.origins.T, tiles.sides))
        return [tiles.origins[order], tiles.sides[order], tiles.values[order], tiles.active[order]]

    pairs = [
        (one.background, other.background),
        (one.origins, other.origins),
        (one.active, other.active),
        (one.values, other.values),
        *zip(ordered(one), ordered(other), strict=True),
    ]
    return all(a.dtype == b.dtype and np.array_equal(a, b, equal_nan=a.dtype.kind == "f") for a, b in pairs)


@pytest.fixture
def same() -> Callable[[SparseVolume, SparseVolume], bool]:
    return same_volume


class OpenVdb:
    """The real OpenVDB, in a process of its own, and two files it made."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.full, self.half = folder / "full.vdb", folder / "half.vdb"
        self._run("write", str(self.full), str(self.half))

    def read(self, *paths: Path) -> list[tuple[dict[str, Any], list[tuple[np.ndarray, np.ndarray]]]]:
        """What it says of each file, and of each of its grids the values (x, y, z[, C]) and states in a box."""
        out = self._folder / "openvdb.npz"
        self._run("read", str(out), *map(str, paths))
        with np.load(out) as found:
            files = json.loads(str(found["described"]))
            return [
                (said, [(found[f"values{number}.{i}"], found[f"on{number}.{i}"]) for i in range(len(said["grids"]))])
                for number, said in enumerate(files)
            ]

    @staticmethod
    def _run(*arguments: str) -> None:
        done = subprocess.run(
            [SYSTEM_PYTHON, "-s", str(ORACLE), *arguments], capture_output=True, text=True, check=False, env={}
        )
        assert done.returncode == 0, done.stderr


@pytest.fixture(scope="session")
def openvdb(tmp_path_factory: pytest.TempPathFactory) -> OpenVdb:
    command = [SYSTEM_PYTHON, "-s", "-c", "import pyopenvdb"]
    if not Path(SYSTEM_PYTHON).exists() or subprocess.run(command, capture_output=True, check=False, env={}).returncode:
        pytest.skip("needs the real OpenVDB: apt-get install python3-openvdb")
    return OpenVdb(tmp_path_factory.mktemp("openvdb"))
