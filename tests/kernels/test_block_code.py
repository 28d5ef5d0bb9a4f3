"""Blocks come back as they were, at few bits, and whatever bytes are decoded."""

import zlib

import numpy as np
import pytest

from voxfield.errors import InputError
from voxfield.kernels.block_code import (
    EARLIER,
    LARGEST,
    TAPS,
    decode_states,
    decode_values,
    encode_states,
    encode_values,
    fit_taps,
)

NONE = np.full((3, len(EARLIER)), -1, np.int32)
PLAIN = np.array([0, 0, 4096, *[0] * 7], np.int16)
WIDE = np.array([2500, 1500, 2500, -400, *[-100] * 24], np.int16)


def row_of_blocks(count):
    """Blocks one behind another along z."""
    neighbours = np.full((count, len(EARLIER)), -1, np.int32)
    neighbours[1:, EARLIER.index((0, 0, -1))] = np.arange(count - 1)
    return neighbours


def plane(count):
    """Values 3 x + 2 y - z over a row of blocks."""
    x, y, z = np.meshgrid(*[np.arange(8)] * 3, indexing="ij")
    return np.stack([(3 * x + 2 * y - (z + 8 * number)).ravel() for number in range(count)]).astype(np.int32)


@pytest.mark.parametrize("kind", ["random", "empty", "full", "ball"])
def test_states_come_back(kind):
    draw = np.random.default_rng(0)
    x, y, z = np.meshgrid(*[np.arange(8)] * 3, indexing="ij")
    ball = ((x**2 + y**2 + (z - 3) ** 2) < 30).ravel()
    states = {
        "random": draw.choice([0, 1, 2, 4], (3, 512)),
        "empty": np.zeros((3, 512)),
        "full": np.ones((3, 512)),
        "ball": np.stack([ball] * 3),
    }[kind].astype(np.uint8)
    raw = encode_states(states, row_of_blocks(3))
    assert np.array_equal(decode_states(raw, row_of_blocks(3)), states)
    assert len(raw) < {"random": 450, "empty": 12, "full": 12, "ball": 110}[kind]


def test_hints_save_bits_and_must_be_the_same():
    states = (np.random.default_rng(0).random((3, 512)) < 0.5).astype(np.uint8)
    plain, told = encode_states(states, NONE), encode_states(states, NONE, 3 * states)
    assert len(told) < len(plain) / 4
    assert np.array_equal(decode_states(told, NONE, 3 * states), states)
    with pytest.raises(InputError, match="end before"):
        decode_states(told, NONE)


@pytest.mark.parametrize("taps", [PLAIN, WIDE], ids=["few", "wide"])
@pytest.mark.parametrize("size", [1, 100, LARGEST])
def test_values_come_back(size, taps):
    draw = np.random.default_rng(1)
    values = draw.integers(-size, size + 1, (3, 512)).astype(np.int32)
    active = draw.random((3, 512)) < 0.7
    raw = encode_values(values, active, row_of_blocks(3), taps, missing=size)
    found = np.where(active, 7, values).astype(np.int32)
    decode_values(raw, found, active, row_of_blocks(3), taps, missing=size)
    assert np.array_equal(found, values)


def test_taps_predict_a_plane_exactly():
    values, active = plane(40), np.ones((40, 512), np.bool_)
    neighbours = row_of_blocks(40)
    taps = fit_taps(values, active, neighbours)
    assert len(encode_values(values, active, neighbours, taps)) < len(
        encode_values(values, active, NONE[[0] * 40], PLAIN)
    )


@pytest.mark.parametrize("taps", [PLAIN, WIDE], ids=["few", "wide"])
def test_interpreted_and_compiled_are_one(taps):
    draw = np.random.default_rng(2)
    states = draw.choice([0, 1, 1, 2, 4], (2, 512)).astype(np.uint8)
    hints = draw.integers(0, 4, (2, 512)).astype(np.uint8)
    neighbours = row_of_blocks(2)
    raw = encode_states(states, neighbours, hints, implementation="reference")
    assert raw == encode_states(states, neighbours, hints)
    assert np.array_equal(decode_states(raw, neighbours, hints, implementation="reference"), states)
    values = (draw.normal(size=(2, 512)) * 40).astype(np.int32)
    values[0, :3] = LARGEST, -LARGEST, 1 << 20
    active = states == 1
    raw = encode_values(values, active, neighbours, taps, implementation="reference")
    assert raw == encode_values(values, active, neighbours, taps)
    found = np.where(active, 0, values).astype(np.int32)
    decode_values(raw, found, active, neighbours, taps, implementation="reference")
    assert np.array_equal(found, values)


def test_any_bytes_decode_to_something_or_end_too_soon():
    draw = np.random.default_rng(3)
    ended = 0
    for _ in range(40):
        raw = draw.integers(0, 256, int(draw.integers(0, 3000)), dtype=np.uint8).tobytes()
        try:
            assert set(np.unique(decode_states(raw, NONE))) <= {0, 1, 2, 4}
            values = np.zeros((3, 512), np.int32)
            decode_values(raw, values, np.ones((3, 512), np.bool_), NONE, np.full(len(TAPS), 32767, np.int16))
            assert np.abs(values.astype(np.int64)).max() <= LARGEST
        except InputError as error:
            ended += "end before" in str(error)
    assert 0 < ended < 40


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: encode_states(np.zeros((3, 512), np.int64), NONE), r"states: expected contiguous \(N, 512\) uint8"),
        (lambda: encode_states(np.full((3, 512), 3, np.uint8), NONE), "0, 1, 2 or 4"),
        (lambda: encode_states(np.zeros((3, 512), np.uint8), NONE[:2]), "neighbours"),
        (lambda: encode_states(np.zeros((3, 512), np.uint8), NONE + 2), "earlier"),
        (lambda: encode_states(np.zeros((3, 512), np.uint8), NONE, np.full((3, 512), 4, np.uint8)), "hints"),
        (lambda: fit_taps(np.zeros((3, 512), np.float32), np.ones((3, 512), np.bool_), NONE), "values"),
        (
            lambda: decode_values(b"", np.full((3, 512), 1, np.int32), np.ones((3, 512), np.bool_), NONE, PLAIN[:3]),
            "taps",
        ),
        (
            lambda: encode_values(np.full((3, 512), LARGEST + 1, np.int32), np.ones((3, 512), np.bool_), NONE, PLAIN),
            "magnitudes",
        ),
    ],
)
def test_what_does_not_fit_is_said(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_no_blocks():
    nothing = np.empty((0, len(EARLIER)), np.int32)
    raw = encode_states(np.empty((0, 512), np.uint8), nothing)
    assert decode_states(raw, nothing).shape == (0, 512)


def test_codes_of_files_that_exist_stay():
    """What these functions wrote when the file format was made: changing it would orphan every file."""
    draw = np.random.default_rng(5)
    neighbours = row_of_blocks(6)
    neighbours[2:, 0] = np.arange(4)
    neighbours[1:, EARLIER.index((-1, 0, 0))] = np.arange(5)
    states = draw.choice([0, 1, 1, 1, 2, 4], (6, 512)).astype(np.uint8)
    hints = draw.integers(0, 4, (6, 512)).astype(np.uint8)
    raw = encode_states(states, neighbours, hints)
    assert (len(raw), zlib.crc32(raw)) == (716, 576080111)
    values = np.cumsum(draw.integers(-40, 41, (6, 512)), axis=1).astype(np.int32)
    values[3] *= 100_000
    taps = np.array([0, 768, 0, 0, 0, 0, 0, 0, 601, 0], np.int16)
    raw = encode_values(values, (states & 1).astype(np.bool_), neighbours, taps, missing=3)
    assert (len(raw), zlib.crc32(raw)) == (2357, 3528400453)
