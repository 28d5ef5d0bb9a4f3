"""Dividing a dataset's objects into train, val and test, and saying what the splits share.

Objects are divided, not blocks: small blocks occur in almost every object, so splits share some. How many is reported.
Where sharing is forbidden, a block that objects of several splits use belongs to the first of train, val and test
alone, and copies of one object go to one split. Whole objects, level 0, are of blocks that other splits
may have all the same.
"""

import hashlib
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
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
    forbid_shared: bool = False
    """Whether each block that is neither empty nor full belongs to one split at most."""

    def __post_init__(self) -> None:
        for name in SPLIT_NAMES:
            check_range(name, getattr(self, name), minimum=0.0, maximum=1.0)
        check_range("seed", self.seed, minimum=0, maximum=2**31 - 1)
        total = self.train + self.val + self.test
        if abs(total - 1) > 1e-6:
            raise InputError(f"train, val, test: expected shares that sum to 1, got {total:g}.")


def assign_splits(
    objects: Sequence[str], ratios: SplitRatios, copies: Mapping[str, Hashable] | None = None
) -> dict[str, str]:
    """Which split each object belongs to.

    Sizes by largest remainder: each split gets its share rounded down, and what is left goes to the largest fractions
    (the first of equal ones), never to a split whose share is 0.

    Args:
        objects: their ids.
        ratios: shares and seed.
        copies: what is alike for objects that have to be in one split; sizes are then as near as such groups allow.
            None: any object may be in any.
    """
    ids = sorted(objects)
    shares = np.array([ratios.train, ratios.val, ratios.test]) * len(ids)
    sizes = np.floor(shares + 1e-9).astype(int)
    # A fraction that rounding made of nothing is none.
    fractions = np.round(shares - sizes, 9)
    for split in np.argsort(-fractions, kind="stable")[: len(ids) - sizes.sum()]:
        sizes[split] += 1
    order = np.random.default_rng(ratios.seed).permutation(len(ids))
    if copies is not None:
        return _assign_groups([ids[at] for at in order], sizes.tolist(), copies)
    names = np.repeat(np.array(SPLIT_NAMES), sizes)
    return {ids[at]: str(name) for at, name in sorted(zip(order.tolist(), names, strict=True))}


def _assign_groups(ids: Sequence[str], sizes: list[int], copies: Mapping[str, Hashable]) -> dict[str, str]:
    """Each group of copies, the largest first, goes where most places are left."""
    groups: dict[Hashable, list[str]] = {}
    for one in ids:
        groups.setdefault(copies[one], []).append(one)
    splits = {}
    for group in sorted(groups.values(), key=len, reverse=True):
        place = int(np.argmax(sizes))
        sizes[place] -= len(group)
        splits.update(dict.fromkeys(group, SPLIT_NAMES[place]))
    return dict(sorted(splits.items()))


def write_splits(dataset: ShapeDataset, folder: Path, ratios: SplitRatios) -> dict[str, Any]:
    """Divide a dataset's objects and write ``splits.json``.

    Args:
        dataset: whose objects.
        folder: where to write.
        ratios: shares and seed.

    Returns:
        The file's content: ``config``, ``object_splits``, ``hash_object_usage`` (which objects of which split use a
        block; where sharing is forbidden, those of its split), ``trivial_hashes`` (blocks all empty or all full) and
        ``statistics``.
    """
    ids = [str(dataset.info(index)["object_id"]) for index in range(len(dataset))]
    used = [dataset.hashes(index) for index in range(len(ids))]
    copies = None
    if ratios.forbid_shared:
        # Objects of the same largest blocks; of a dataset without levels none are known to be alike.
        copies = {one: frozenset(names[1]) if len(names) > 1 else one for one, names in zip(ids, used, strict=True)}
    splits = assign_splits(ids, ratios, copies)
    about = dataset.about
    trivial = {
        hashlib.sha256(value * (about.base_resolution >> level) ** 3).digest()
        for level in range(1, about.num_levels)
        for value in (b"\0", b"\1")
    }
    usage: dict[bytes, dict[str, str]] = {}
    for object_id, levels in zip(ids, used, strict=True):
        for names in levels:
            for name in names:
                usage.setdefault(name, {})[object_id] = splits[object_id]
    withheld = Counter[str]()
    if ratios.forbid_shared:
        usage, withheld = _unshared(usage, trivial)
    content = {
        "config": {
            "train_ratio": ratios.train,
            "val_ratio": ratios.val,
            "test_ratio": ratios.test,
            "seed": ratios.seed,
            "forbid_shared": ratios.forbid_shared,
        },
        "object_splits": splits,
        "hash_object_usage": {name.hex(): usage[name] for name in sorted(usage)},
        "trivial_hashes": sorted(name.hex() for name in trivial & set(usage)),
        "statistics": {
            **_statistics(splits, usage, trivial),
            "left_out": {name: withheld[name] for name in SPLIT_NAMES},
        },
    }
    write_json(folder / SPLITS, content, indent=None)
    return content


def _unshared(
    usage: dict[bytes, dict[str, str]], trivial: set[bytes]
) -> tuple[dict[bytes, dict[str, str]], Counter[str]]:
    """Usage in which each block is one split's alone, the first that has it, and how many each other one lost."""
    kept, withheld = {}, Counter[str]()
    for name, users in usage.items():
        if name not in trivial:
            owner, *others = [split for split in SPLIT_NAMES if split in users.values()]
            withheld.update(others)
            users = {one: split for one, split in users.items() if split == owner}
        kept[name] = users
    return kept, withheld


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
