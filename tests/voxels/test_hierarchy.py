import dataclasses
import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voxfield.errors import FormatError, InputError
from voxfield.kernels.cube_symmetry import canonical_blocks
from voxfield.kernels.voxel_words import pack_blocks, unpack_blocks
from voxfield.voxels import hierarchy
from voxfield.voxels.hierarchy import build_tree, check_resolutions, check_tree, hash_blocks, reassemble


def shape(side: int) -> np.ndarray:
    """A ball, a full octant, a repeated pattern and much nothing."""
    z, y, x = np.indices((side,) * 3) + 0.5
    grid = (x - side / 3) ** 2 + (y - side / 2) ** 2 + (z - side / 2) ** 2 < (side / 3.5) ** 2
    half = side // 2
    grid[half:, half:, half:] = True
    grid[:half:4, half::4, half::4] = True
    return grid


def tree_of(grid: np.ndarray, smallest: int = 4, **options):
    return build_tree(pack_blocks(grid[None])[0], len(grid), smallest, **options)


@pytest.mark.parametrize("symmetry", [False, True])
@pytest.mark.parametrize("full_tree", [False, True])
@pytest.mark.parametrize(("side", "smallest"), [(4, 4), (8, 4), (32, 4), (32, 8), (32, 32)])
def test_every_level_reassembles(side, smallest, full_tree, symmetry):
    grid = shape(side)
    tree = tree_of(grid, smallest, full_tree=full_tree, symmetry=symmetry)
    assert (tree.symmetries is not None) == symmetry
    check_tree(tree)
    for level in range(len(tree.levels)):
        words = reassemble(tree, level)
        assert np.array_equal(unpack_blocks(words[None], side)[0], grid)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([8, 16, 32]), st.floats(0.0, 1.0), st.booleans())
def test_any_grid_is_reassembled_from_blocks_up_to_symmetry(seed, side, share, full_tree):
    random = np.random.default_rng(seed)
    # Some coarse, so that blocks repeat, turned and mirrored.
    grid = np.repeat(np.repeat(np.repeat(random.random((side // 2,) * 3) < share, 2, 0), 2, 1), 2, 2)
    grid ^= random.random(grid.shape) < 0.1 * random.random()
    tree = tree_of(grid, symmetry=True, full_tree=full_tree)
    check_tree(tree)
    exact = tree_of(grid, full_tree=full_tree)
    assert np.array_equal(
        tree.nodes[["level", "octant", "x", "y", "z"]], exact.nodes[["level", "octant", "x", "y", "z"]]
    )
    for turned, plain in zip(tree.levels[1:], exact.levels[1:], strict=True):
        assert len(turned.words) <= len(plain.words)
        assert len(turned.words) == len(np.unique(canonical_blocks(plain.words).words, axis=0))


def test_an_object_with_mirrors_keeps_one_octant():
    grid = np.pad(np.random.default_rng(0).random((16,) * 3) < 0.5, (0, 16), mode="symmetric")
    assert len(tree_of(grid, 16, symmetry=True).levels[1].words) == 1
    assert len(tree_of(grid, 16).levels[1].words) == 8


def test_full_tree_of_128_down_to_4_has_the_known_number_of_nodes():
    tree = tree_of(shape(128), full_tree=True)
    assert len(tree.nodes) + 1 == 37_449
    assert len(tree.levels) == 6


def test_nodes_are_what_brute_force_finds():
    grid = shape(16)
    tree = tree_of(grid, full_tree=True)
    for level, octant, x, y, z, block in tree.nodes.tolist():
        side = 16 >> level
        part = grid[z : z + side, y : y + side, x : x + side]
        assert octant == (x // side & 1) + 2 * (y // side & 1) + 4 * (z // side & 1)
        assert tree.levels[level].hashes[block].tobytes() == hashlib.sha256(part.tobytes()).digest()


def test_a_pruned_tree_has_no_empty_blocks_and_nothing_below_full_ones():
    tree, every = tree_of(shape(32)), tree_of(shape(32), full_tree=True)
    for pruned, complete in zip(tree.levels[1:], every.levels[1:], strict=True):
        assert pruned.words.any(1).all()
        assert {name.tobytes() for name in pruned.hashes} <= {name.tobytes() for name in complete.hashes}
    corner = tree.nodes[(tree.nodes["x"] >= 16) & (tree.nodes["y"] >= 16) & (tree.nodes["z"] >= 16)]
    assert corner["level"].tolist() == [1]


@pytest.mark.parametrize(("value", "nodes"), [(False, 0), (True, 8)])
def test_empty_and_full_grids(value, nodes):
    tree = tree_of(np.full((16,) * 3, value))
    assert len(tree.nodes) == nodes
    check_tree(tree)
    assert len(tree_of(np.full((16,) * 3, value), full_tree=True).nodes) == 8 + 64


def test_large_blocks_are_hashed_alike(monkeypatch):
    words = pack_blocks(shape(32)[None])
    expected = hash_blocks(words)
    assert expected[0].tobytes() == hashlib.sha256(shape(32).tobytes()).digest()
    monkeypatch.setattr(hierarchy, "_CHUNK_BYTES", 100)
    assert np.array_equal(hash_blocks(words), expected)


def test_damage_is_found():
    tree = tree_of(shape(16))
    words = tree.levels[2].words.copy()
    words[0, 0] ^= 1
    damaged = dataclasses.replace(tree.levels[2], words=words)
    with pytest.raises(FormatError, match=r"level 2: block [0-9a-f]{64} does not hold what its name says"):
        check_tree(dataclasses.replace(tree, levels=(*tree.levels[:2], damaged)))
    with pytest.raises(FormatError, match="do not make up the object"):
        check_tree(dataclasses.replace(tree, nodes=tree.nodes[1:]))
    turned = tree_of(shape(16), symmetry=True)
    strange = turned.symmetries.copy()
    strange[-1] = 48
    with pytest.raises(FormatError, match="names symmetry 48 of 48"):
        check_tree(dataclasses.replace(turned, symmetries=strange))
    with pytest.raises(InputError, match="symmetries: expected"):
        dataclasses.replace(turned, symmetries=strange[1:])
    with pytest.raises(FormatError, match="do not make up the object"):
        check_tree(dataclasses.replace(turned, symmetries=(turned.symmetries + 1) % 48))
    for name, value, message in (("block", 10**6, "names block"), ("x", 3, "lattice"), ("x", 16, "lattice")):
        nodes = tree.nodes.copy()
        nodes[name][-1] = value
        with pytest.raises(FormatError, match=message):
            check_tree(dataclasses.replace(tree, nodes=nodes))


@pytest.mark.parametrize(
    ("resolution", "smallest", "message"),
    [
        (100, 4, "resolution: expected a power of two, got 100. Take 64 or 128"),
        (64, 6, "min_resolution: expected a power of two, got 6"),
        (64, 128, "min_resolution: expected at most the resolution, 64, got 128"),
        (64, 2, "min_resolution: expected a value at least 4"),
        (2048, 4, "resolution: expected a value at least 4 and at most 1024"),
    ],
)
def test_resolutions_are_checked(resolution, smallest, message):
    with pytest.raises(InputError, match=message):
        check_resolutions(resolution, smallest)
    assert check_resolutions(128, 4) == 6
