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
    forbid_shared: bool = False,
) -> int:
    """Divide a voxel dataset's objects into train, val and test anew, and say what the splits share.

    Args:
        dataset: its folder.
        train: share of the objects in the split; the three sum to 1.
        val: as train.
        test: as train.
        seed: the same seed and objects give the same splits.
        forbid_shared: blocks that objects of several splits use belong to the first of train, val and test alone, and
            copies of an object go to one split.
    """
    import voxfield

    splits = voxfield.split_shapes(dataset, train=train, val=val, test=test, seed=seed, forbid_shared=forbid_shared)
    statistics = splits["statistics"]
    objects = statistics["objects"]
    print(", ".join(f"{name} {objects[name]}" for name in ("train", "val", "test")), f"of {objects['total']} objects")
    total = statistics["unique_nontrivial_hashes"]["total"]
    print(f"Of {total:,} different blocks, neither empty nor full, {statistics['leakage']:.1%} are in several splits")
    if forbid_shared:
        left_out = statistics["left_out"]
        print(
            f"Left out, as an earlier split has them: {left_out['val']:,} blocks of val, {left_out['test']:,} of test"
        )
    print(f"Wrote {dataset / 'splits.json'}")
    return 0
