from collections import Counter

import pytest

import voxfield
from voxfield.cli.__main__ import main
from voxfield.errors import InputError
from voxfield.jobs.split_shapes import SplitRatios, assign_splits
from voxfield.storage.shape_splits import read_splits


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


def test_copies_stay_together():
    ids = [f"{at:04d}" for at in range(20)]
    copies = {one: min(int(one), 17) for one in ids}  # the last three are one object
    for seed in range(5):
        splits = assign_splits(ids, SplitRatios(train=0.7, val=0.3, seed=seed), copies)
        assert len({splits[one] for one in ids[17:]}) == 1
        assert Counter(splits.values()) == {"train": 14, "val": 6}
    alone = dict(zip(ids, ids, strict=True))
    assert Counter(assign_splits(ids, SplitRatios(train=0.5, val=0.25, test=0.25), alone).values()) == {
        "train": 10,
        "val": 5,
        "test": 5,
    }


@pytest.mark.parametrize("layout", ["packed", "files"])
def test_shared_blocks_are_in_one_split_where_that_is_asked_for(tmp_path, layout, capsys):
    meshes = tmp_path / "meshes"
    meshes.mkdir()
    for number in range(6):
        height = min(number, 4) + 1  # the last two are one object
        corners = "".join(f"v {x} {y} {z}\n" for x, y, z in ((0, 0, 0), (9, 0, 0), (0, 9, 0), (0, 0, height)))
        (meshes / f"wedge{number}.obj").write_text(corners + "f 1 3 2\nf 1 2 4\nf 1 4 3\nf 2 3 4\n")
    folder = tmp_path / "set"
    voxfield.build_shapes(meshes, folder, resolution=16, min_resolution=4, layout=layout, workers=1, quiet=True)
    shares = {"train": 0.5, "val": 0.25, "test": 0.25}
    free = voxfield.split_shapes(folder, **shares)
    assert free["statistics"]["leakage"] > 0
    assert free["statistics"]["left_out"] == {"train": 0, "val": 0, "test": 0}
    arguments = [word for name, share in shares.items() for word in (f"--{name}", str(share))]
    assert main(["dataset", "split", str(folder), *arguments, "--forbid-shared"]) == 0
    said = capsys.readouterr().out
    assert "0.0% are in several splits" in said
    assert "Left out, as an earlier split has them: " in said
    splits, used = read_splits(folder), free["hash_object_usage"]
    assert splits.objects["0004"] == splits.objects["0005"]
    for name, users in used.items():
        having = [one for one in ("train", "val", "test") if splits.has(one, 1, name)]
        first = next(one for one in ("train", "val", "test") if one in {splits.objects[user] for user in users})
        assert having == (["train", "val", "test"] if name in splits.trivial else [first])
    assert main(["dataset", "verify", str(folder)]) == 0


def test_errors_teach():
    with pytest.raises(InputError, match=r"expected shares that sum to 1, got 0\.9"):
        SplitRatios(train=0.7, val=0.2)
    with pytest.raises(InputError, match="val: expected a value at least 0"):
        SplitRatios(train=0.9, val=-0.2, test=0.3)
