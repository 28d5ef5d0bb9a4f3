import hashlib
from collections import Counter

import numpy as np
import pytest

from voxfield.voxels import block_names
from voxfield.voxels.block_names import CountedNames, distinct_names, rows_of


def hashes(numbers: np.ndarray) -> np.ndarray:
    digests = b"".join(hashlib.sha256(bytes([number % 256, number // 256])).digest() for number in numbers.tolist())
    return np.frombuffer(digests, np.uint8).reshape(-1, 32)


def alike_at_first(count: int) -> np.ndarray:
    """Names of which many have the same first 8, 16 or 24 bytes, and some end in zeros."""
    draw = np.random.default_rng(0)
    names = draw.integers(0, 3, (count, 4)).repeat(8, axis=1).astype(np.uint8)
    names[:, 31] *= 120
    return names


@pytest.mark.parametrize("names", [hashes(np.random.default_rng(1).integers(0, 300, 1000)), alike_at_first(500)])
def test_different_names_are_those_of_sorted_bytes(names: np.ndarray) -> None:
    first, rank = distinct_names(names)
    plain = [one.tobytes() for one in names]
    assert [one.tobytes() for one in names[first]] == sorted(set(plain))
    assert first.tolist() == [plain.index(name) for name in sorted(set(plain))]
    assert np.array_equal(names[first][rank], names)
    assert np.array_equal(rows_of(names, names[first]), rank)


def test_no_names() -> None:
    first, rank = distinct_names(np.zeros((0, 32), np.uint8))
    assert len(first) == len(rank) == len(CountedNames()) == CountedNames().total() == 0


@pytest.mark.parametrize("merged_at", [1, 700, 1 << 16])
@pytest.mark.parametrize("width", [32, 40])
def test_counts_are_those_of_a_dictionary(merged_at: int, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_names, "_MERGED_AT", merged_at)
    draw, counted, expected = np.random.default_rng(2), CountedNames(width), Counter[bytes]()
    for turn in range(12):
        names = hashes(draw.integers(0, 400, 150))
        if turn % 3 == 0:
            names = alike_at_first(150)
        names = np.hstack([np.zeros((150, width - 32), np.uint8), names])
        counts = draw.integers(0, 9, 150) if turn % 2 else None
        counted.add(names, counts)
        for name, count in zip(names, [1] * 150 if counts is None else counts.tolist(), strict=True):
            expected[name.tobytes()] += count
    assert [one.tobytes() for one in counted.names] == sorted(expected)
    assert counted.counts.tolist() == [expected[name] for name in sorted(expected)]
    assert (len(counted), counted.total()) == (len(expected), expected.total())
