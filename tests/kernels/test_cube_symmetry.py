import numpy as np
import pytest

from voxfield.errors import InputError
from voxfield.kernels.cube_symmetry import SYMMETRIES, canonical_blocks, symmetry_matrix, turn_blocks
from voxfield.kernels.cube_symmetry.symmetries import INVERSE
from voxfield.kernels.voxel_words import pack_blocks, unpack_blocks

SIDES = [4, 8, 16]


def blocks(side: int, count: int = 6) -> np.ndarray:
    """Random ones, a nearly empty one, and the symmetric ones: empty, full, a plane."""
    random = np.random.default_rng(side)
    cubes = random.random((count, side, side, side)) < 0.3
    cubes[0], cubes[1] = False, True
    cubes[2] = False
    cubes[2, 1] = True
    cubes[3] = False
    cubes[3, 0, 1, 2] = True
    return pack_blocks(cubes)


def as_rows(words: np.ndarray) -> list[tuple[int, ...]]:
    return [tuple(row) for row in words.view(np.uint64).tolist()]


def test_the_symmetries_are_a_group():
    matrices = {symmetry_matrix(number).tobytes() for number in range(SYMMETRIES)}
    assert len(matrices) == SYMMETRIES
    assert np.array_equal(symmetry_matrix(0), np.eye(3))
    for number in range(SYMMETRIES):
        assert np.array_equal(symmetry_matrix(number) @ symmetry_matrix(int(INVERSE[number])), np.eye(3))
        assert (symmetry_matrix(number) @ symmetry_matrix(17)).tobytes() in matrices


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("implementation", ["reference", "numba"])
def test_turning_moves_every_voxel_by_the_matrix(side, implementation):
    words = blocks(side)[-1:]
    cube = unpack_blocks(words, side)[0]
    # Twice the voxels' places about the centre: whole numbers.
    places = 2 * np.argwhere(cube)[:, ::-1] + 1 - side
    for number in range(SYMMETRIES):
        turned = turn_blocks(words, np.array([number], np.uint8), implementation=implementation)
        expected = np.zeros_like(cube)
        x, y, z = ((places @ symmetry_matrix(number).T + side - 1) // 2).T
        expected[z, y, x] = True
        assert np.array_equal(unpack_blocks(turned, side)[0], expected), number


@pytest.mark.parametrize("side", SIDES)
def test_implementations_agree(side):
    words = blocks(side, 40)
    one, other = (canonical_blocks(words, implementation=name) for name in ("reference", "numba"))
    assert np.array_equal(one.words, other.words)
    assert np.array_equal(one.symmetries, other.symmetries)
    symmetries = np.random.default_rng(0).integers(0, SYMMETRIES, len(words)).astype(np.uint8)
    turned = [turn_blocks(words, symmetries, implementation=name) for name in ("reference", "numba")]
    assert np.array_equal(*turned)


@pytest.mark.parametrize("side", SIDES)
def test_all_images_share_one_form_which_turns_back(side):
    for block in blocks(side):
        images = turn_blocks(np.repeat(block[None], SYMMETRIES, 0), np.arange(SYMMETRIES, dtype=np.uint8))
        canonical, symmetries = canonical_blocks(images)
        assert len(np.unique(canonical, axis=0)) == 1
        assert as_rows(canonical)[0] == min(as_rows(images))
        assert np.array_equal(turn_blocks(canonical, symmetries), images)
        # Of several symmetries that do, the least: equal blocks have equal ones.
        for image, number in zip(images, symmetries, strict=True):
            before = turn_blocks(np.repeat(canonical[:1], int(number), 0), np.arange(number, dtype=np.uint8))
            assert not (before == image).all(1).any()


def test_empty_input():
    words = np.zeros((0, 8), np.int64)
    assert canonical_blocks(words).words.shape == (0, 8)
    assert turn_blocks(words, np.zeros(0, np.uint8)).shape == (0, 8)


def test_views_are_taken_as_they_are():
    words = np.repeat(blocks(8), 2, 0)[::2]
    assert not words.flags.c_contiguous
    assert np.array_equal(canonical_blocks(words).words, canonical_blocks(words.copy()).words)


@pytest.mark.parametrize(
    ("words", "symmetries", "message"),
    [
        (np.zeros((2, 7), np.int64), np.zeros(2, np.uint8), "words: expected"),
        (np.zeros((2, 8), np.float32), np.zeros(2, np.uint8), "words: expected"),
        (np.zeros((2, 8), np.int64), np.zeros(3, np.uint8), "symmetries: expected"),
        (np.zeros((2, 8), np.int64), np.zeros(2, np.int64), "symmetries: expected"),
        (np.zeros((2, 8), np.int64), np.full(2, 48, np.uint8), "numbers below 48, got 48"),
    ],
)
def test_bad_input(words, symmetries, message):
    with pytest.raises(InputError, match=message):
        turn_blocks(words, symmetries)
