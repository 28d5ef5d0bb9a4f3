from collections import Counter

import pytest

from voxfield.errors import InputError
from voxfield.jobs.split_shapes import SplitRatios, assign_splits


@pytest.mark.parametrize(
    ("count", "shares", "sizes"),
    [
        (10, (0.8, 0.2, 0.0), (8, 2, 0)),
        # The document's system gave 2, 0 and 1.
        (3, (0.8, 0.2, 0.0), (2, 1, 0)),
        (1, (0.8, 0.2, 0.0), (1, 0, 0)),
        (0, (0.8, 0.2, 0.0), (0, 0, 0)),
        (7, (0.5, 0.25, 0.25), (3, 2, 2)),
        (100, (0.7, 0.2, 0.1), (70, 20, 10)),
        (5, (0.0, 0.0, 1.0), (0, 0, 5)),
    ],
)
def test_sizes_are_exact(count, shares, sizes):
    train, val, test = shares
    splits = assign_splits([f"{at:04d}" for at in range(count)], SplitRatios(train=train, val=val, test=test))
    found = Counter(splits.values())
    assert tuple(found[name] for name in ("train", "val", "test")) == sizes


def test_the_seed_decides_and_the_order_does_not():
    ids = [f"{at:04d}" for at in range(40)]
    assert assign_splits(ids, SplitRatios()) == assign_splits(ids[::-1], SplitRatios())
    assert assign_splits(ids, SplitRatios()) != assign_splits(ids, SplitRatios(seed=1))


def test_errors_teach():
    with pytest.raises(InputError, match=r"expected shares that sum to 1, got 0\.9"):
        SplitRatios(train=0.7, val=0.2)
    with pytest.raises(InputError, match="val: expected a value at least 0"):
        SplitRatios(train=0.9, val=-0.2, test=0.3)
