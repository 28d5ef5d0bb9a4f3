"""``voxfield dataset split``."""

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

EXAMPLE = "voxfield dataset split dataset --train 0.8 --val 0.1 --test 0.1"


def command(
    dataset: Annotated[Positional[Path], arg(metavar="DATASET")],
    /,
    *,
    train: Annotated[float, arg(metavar="SHARE")] = 0.8,
    val: Annotated[float, arg(metavar="SHARE")] = 0.2,
    test: Annotated[float, arg(metavar="SHARE")] = 0.0,
    seed: int = 42,
) -> int:
    """Divide a voxel dataset's objects into train, val and test anew, and say what the splits share.

    Args:
        dataset: its folder.
        train: share of the objects in the split; the three sum to 1.
        val: as train.
        test: as train.
        seed: the same seed and objects give the same splits.
    """
    import voxfield

    splits = voxfield.split_shapes(dataset, train=train, val=val, test=test, seed=seed)
    statistics = splits["statistics"]
    objects = statistics["objects"]
    print(", ".join(f"{name} {objects[name]}" for name in ("train", "val", "test")), f"of {objects['total']} objects")
    total = statistics["unique_nontrivial_hashes"]["total"]
    print(f"Of {total:,} different blocks, neither empty nor full, {statistics['leakage']:.1%} occur in several splits")
    print(f"Wrote {dataset / 'splits.json'}")
    return 0
