import numpy as np
import pytest
import torch

from voxfield.errors import InputError
from voxfield.kernels.voxel_words import pack_blocks, pack_voxels, padded_side, unpack_blocks, unpack_voxels, word_count


@pytest.mark.parametrize("resolution", [1, 3, 4, 5, 8, 13, 32])
def test_round_trip(resolution):
    grid = torch.rand(resolution, resolution, resolution, generator=torch.Generator().manual_seed(resolution)) < 0.4
    words = pack_voxels(grid)
    assert words.shape == (word_count(resolution),)
    assert torch.equal(unpack_voxels(words, resolution), grid)


def test_layout_is_the_documented_one():
    for x, y, z, word, bit in [(1, 0, 0, 0, 1), (0, 2, 0, 0, 8), (3, 3, 3, 0, 63), (4, 0, 0, 1, 0), (0, 5, 10, 34, 36)]:
        grid = torch.zeros(16, 16, 16, dtype=torch.bool)
        grid[z, y, x] = True
        words = pack_voxels(grid).numpy().view(np.uint64)
        assert words.nonzero()[0].tolist() == [word]
        assert int(words[word]) == 1 << bit


def test_octants_follow_one_another():
    cubes = np.random.default_rng(0).random((1, 16, 16, 16)) < 0.5
    words = pack_blocks(cubes).reshape(8, -1)
    for octant in range(8):
        x, y, z = (8 * (octant >> axis & 1) for axis in range(3))
        assert np.array_equal(
            unpack_blocks(words[octant : octant + 1], 8)[0], cubes[0, z : z + 8, y : y + 8, x : x + 8]
        )


def test_no_blocks():
    assert pack_blocks(np.zeros((0, 8, 8, 8), bool)).shape == (0, 8)
    assert unpack_blocks(np.zeros((0, 8), np.int64), 8).shape == (0, 8, 8, 8)


def test_errors_teach():
    assert padded_side(1024) == 1024
    with pytest.raises(InputError, match="resolution"):
        padded_side(1025)
    with pytest.raises(InputError, match=r"words: expected shape \(8\)"):
        unpack_voxels(torch.zeros(7, dtype=torch.int64), 8)
    with pytest.raises(InputError, match=r"occupied: expected dtype torch\.bool"):
        pack_voxels(torch.zeros(4, 4, 4))
