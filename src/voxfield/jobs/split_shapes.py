"""Dividing a dataset's objects into train, val and test, and saying what the splits share.

Objects are divided, not blocks: small blocks occur in almost every object, so splits share some. How many is reported.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from voxfield.checks import check_range
from voxfield.errors import InputError
from voxfield.storage.atomic import write_json
from voxfield.storage.shape_dataset import ShapeDataset
from voxfield.storage.shapes import SPLITS

SPLIT_NAMES: Final = ("train", "val", "test")


@dataclass(frozen=True, kw_only=True)
class SplitRatios:
    """Shares of the splits; they must sum to 1."""

    train: float = 0.8
    val: float = 0.2
    test: float = 0.0
    seed: int = 42
    """The same seed and objects give the same splits."""

    def __post_init__(self) -> None:
        for name in SPLIT_NAMES:
            check_range(name, getattr(self, name), minimum=0.0, maximum=1.0)
        check_range("seed", self.seed, minimum=0, maximum=2**31 - 1)
        total = self.train + self.val + self.test
        if abs(total - 1) > 1e-6:
            raise InputError(f"train, val, test: expected shares that sum to 1, got {total:g}.")


def assign_splits(objects: Sequence[str], ratios: SplitRatios) -> dict[str, str]:
    """Which split each object belongs to.

    Sizes by largest remainder: each split gets its share rounded down, and what is left goes to the largest fractions
    (the first of equal ones), never to a split whose share is 0.

    Args:
        objects: their ids.
        ratios: shares and seed.
    """
    ids = sorted(objects)
    shares = np.array([ratios.train, ratios.val, ratios.test]) * len(ids)
    sizes = np.floor(shares + 1e-9).astype(int)
    # A fraction that rounding made of nothing is none.
    fractions = np.round(shares - sizes, 9)
    for split in np.argsort(-fractions, kind="stable")[: len(ids) - sizes.sum()]:
        sizes[split] += 1
    order = np.random.default_rng(ratios.seed).permutation(len(ids))
    names = np.repeat(np.array(SPLIT_NAMES), sizes)
    return {ids[at]: str(name) for at, name in sorted(zip(order.tolist(), names, strict=True))}


def write_splits(dataset: ShapeDataset, folder: Path, ratios: SplitRatios) -> dict[str, Any]:
    """Divide a dataset's objects and write ``splits.json``.

    Args:
        dataset: whose objects.
        folder: where to write.
        ratios: shares and seed.

    Returns:
        The file's content: ``config``, ``object_splits``, ``hash_object_usage`` (which objects of which split use a
        block), ``trivial_hashes`` (blocks all empty or all full) and ``statistics``.
    """
    ids = [str(dataset.info(index)["object_id"]) for index in range(len(dataset))]
    splits = assign_splits(ids, ratios)
    about = dataset.about
    trivial = {
        hashlib.sha256(value * (about.base_resolution >> level) ** 3).digest()
        for level in range(1, about.num_levels)
        for value in (b"\0", b"\1")
    }
    usage: dict[bytes, dict[str, str]] = {}
    for index, object_id in enumerate(ids):
        for names in dataset.hashes(index):
            for name in names:
                usage.setdefault(name, {})[object_id] = splits[object_id]
    content = {
        "config": {
            "train_ratio": ratios.train,
            "val_ratio": ratios.val,
            "test_ratio": ratios.test,
            "seed": ratios.seed,
        },
        "object_splits": splits,
        "hash_object_usage": {name.hex(): usage[name] for name in sorted(usage)},
        "trivial_hashes": sorted(name.hex() for name in trivial & set(usage)),
        "statistics": _statistics(splits, usage, trivial),
    }
    write_json(folder / SPLITS, content)
    return content


def _statistics(splits: dict[str, str], usage: dict[bytes, dict[str, str]], trivial: set[bytes]) -> dict[str, Any]:
    """How many objects and blocks each split has, and shares."""
    objects = Counter(splits.values())
    shared = Counter(frozenset(used.values()) for name, used in usage.items() if name not in trivial)
    kinds = {
        "only_train": ("train",),
        "only_val": ("val",),
        "only_test": ("test",),
        "train_val": ("train", "val"),
        "train_test": ("train", "test"),
        "val_test": ("val", "test"),
        "all_splits": SPLIT_NAMES,
    }
    distribution = {kind: shared[frozenset(members)] for kind, members in kinds.items()}
    total, alone = sum(shared.values()), sum(count for members, count in shared.items() if len(members) == 1)
    found = len(trivial & set(usage))
    return {
        "objects": {**{name: objects[name] for name in SPLIT_NAMES}, "total": len(splits)},
        "unique_nontrivial_hashes": {"total": total, "distribution": {**distribution, "trivial": found}},
        "trivial_hashes": {"count": found},
        "leakage": (total - alone) / total if total else 0.0,
    }
