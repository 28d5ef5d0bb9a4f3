import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import voxfield
from voxfield.errors import FormatError, InputError, MissingFileError
from voxfield.storage.shape_dataset import open_shapes
from voxfield.voxels.hierarchy import reassemble

FACES = "f 1 3 2\nf 2 3 4\nf 5 6 7\nf 6 8 7\nf 1 2 5\nf 2 6 5\nf 3 7 4\nf 4 7 8\nf 1 5 3\nf 3 5 7\nf 2 4 6\nf 4 8 6\n"


def write_box(path: Path, x: float, y: float, z: float) -> None:
    corners = [(i & 1, i >> 1 & 1, i >> 2) for i in range(8)]
    # Sheared, so that blocks differ.
    path.write_text("".join(f"v {a * x + 0.3 * b * y} {b * y} {c * z + 0.2 * a}\n" for a, b, c in corners) + FACES)


@pytest.fixture(scope="module")
def meshes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("meshes")
    for number, sides in enumerate([(3, 2, 1), (1, 1, 1), (2, 3, 2), (1, 4, 2)]):
        write_box(folder / f"box{number}.obj", *sides)
        os.utime(folder / f"box{number}.obj", (1e9, 1e9))
    return folder


def build(meshes, output, **options):
    defaults = {"resolution": 16, "min_resolution": 4, "workers": 1, "quiet": True}
    return voxfield.build_shapes(meshes, output, **{**defaults, **options})


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("layout", ["packed", "files"])
def test_a_folder_of_meshes_becomes_a_dataset(meshes, tmp_path, layout):
    built = build(meshes, tmp_path / "d", layout=layout)
    assert (built.objects, built.made, built.failures) == (4, 4, ())
    dataset = open_shapes(tmp_path / "d")
    assert [dataset.info(at)["source_file"] for at in range(4)] == [f"box{at}.obj" for at in range(4)]
    assert voxfield.verify_shapes(tmp_path / "d", quiet=True).faults == ()
    splits = json.loads((tmp_path / "d" / "splits.json").read_text())
    assert splits["statistics"]["objects"] == {"train": 3, "val": 1, "test": 0, "total": 4}
    assert not (tmp_path / "d" / ".build").exists()


def test_files_layout_is_the_documented_one(meshes, tmp_path):
    build(meshes, tmp_path / "d", layout="files", full_tree=True)
    home = tmp_path / "d" / "objects" / "object_0002"
    with np.load(home / "level_0.npz") as arrays:
        root = arrays["voxels"]
    assert (root.dtype, root.shape) == (bool, (16, 16, 16))
    records = json.loads((home / "subdivision_map.json").read_text())
    assert len(records) == 8 + 64
    registry = json.loads((tmp_path / "d" / "registry.json").read_text())["registry"]
    for record in records:
        x, y, z = (record[f"global_position_{axis}"] for axis in "xyz")
        entry = registry[record["hash"]]
        with np.load(tmp_path / "d" / entry["path"]) as arrays:
            voxels = arrays["voxels"]
        side = entry["resolution"]
        assert np.array_equal(voxels, root[z : z + side, y : y + side, x : x + side])
        assert record["is_empty"] == entry["is_empty"] == (not voxels.any())
        assert record["position_x"] == x % (2 * side)
    metadata = json.loads((home / "metadata.json").read_text())
    assert metadata["num_occupied_voxels"] == int(root.sum())
    assert metadata["voxel_pitch"] == pytest.approx(max(metadata["original_extents"]) / 16)
    whole = json.loads((tmp_path / "d" / "metadata.json").read_text())
    assert whole["overall_stats"]["total_subvolumes"] == 4 * 72
    assert sum(entry["count"] for entry in registry.values()) == 4 * 72


def test_layouts_convert_into_each_other_without_loss(meshes, tmp_path):
    build(meshes, tmp_path / "files", layout="files")
    build(meshes, tmp_path / "packed", layout="packed")
    assert voxfield.convert_shapes(tmp_path / "files", tmp_path / "p", layout="packed") == 4
    assert voxfield.convert_shapes(tmp_path / "packed", tmp_path / "f", layout="files") == 4
    assert content(tmp_path / "p") == content(tmp_path / "packed")
    assert content(tmp_path / "f") == content(tmp_path / "files")
    with pytest.raises(InputError, match="exists already"):
        voxfield.convert_shapes(tmp_path / "files", tmp_path / "p", layout="files")


@pytest.mark.parametrize("full_tree", [False, True])
def test_blocks_up_to_symmetry_make_the_same_objects(meshes, tmp_path, full_tree):
    plain = build(meshes, tmp_path / "plain", full_tree=full_tree)
    built = build(meshes, tmp_path / "packed", symmetry=True, full_tree=full_tree)
    assert build(meshes, tmp_path / "files", symmetry=True, full_tree=full_tree, layout="files").made == 4
    for layout in ("packed", "files"):
        assert voxfield.verify_shapes(tmp_path / layout, quiet=True).faults == ()
        one, other = open_shapes(tmp_path / "plain"), open_shapes(tmp_path / layout)
        for at in range(4):
            assert np.array_equal(one.root_words(at), other.root_words(at))
            trees = one.read(at).tree, other.read(at).tree
            for level in range(1, 3):
                assert np.array_equal(reassemble(trees[0], level), reassemble(trees[1], level))
    whole, kept = plain.stats["deduplication_stats"], built.stats["deduplication_stats"]
    for level in ("1", "2"):
        assert kept[level]["oriented"] == whole[level]["unique"]
        assert kept[level]["unique"] < whole[level]["unique"]
        assert kept[level]["total"] == whole[level]["total"]
    assert voxfield.convert_shapes(tmp_path / "files", tmp_path / "p", layout="packed") == 4
    assert voxfield.convert_shapes(tmp_path / "packed", tmp_path / "f", layout="files") == 4
    assert content(tmp_path / "p") == content(tmp_path / "packed")
    assert content(tmp_path / "f") == content(tmp_path / "files")
    assert build(meshes, tmp_path / "packed", symmetry=True, full_tree=full_tree).made == 0
    assert build(meshes, tmp_path / "packed", full_tree=full_tree).made == 4
    assert content(tmp_path / "packed") == content(tmp_path / "plain")


def test_damaged_symmetries_are_found(meshes, tmp_path):
    build(meshes, tmp_path / "d", symmetry=True, layout="files")
    path = tmp_path / "d" / "objects" / "object_0001" / "subdivision_map.json"
    whole = path.read_text()
    for stated, message in (("48", "does not fit"), ("-1", "does not fit"), ('"up"', "is damaged")):
        path.write_text(re.sub(r'"symmetry": \d+', f'"symmetry": {stated}', whole, count=1))
        with pytest.raises(FormatError, match=message):
            open_shapes(tmp_path / "d").read(1)
    path.write_text(whole.replace('"symmetry"', '"symmetries"'))
    with pytest.raises(FormatError, match="symmetry"):
        open_shapes(tmp_path / "d").read(1)
    build(meshes, tmp_path / "p", symmetry=True)
    next((tmp_path / "p" / "packed").glob("symmetries.*")).unlink()
    with pytest.raises(MissingFileError, match="is missing"):
        open_shapes(tmp_path / "p")


def test_a_second_call_does_only_what_is_missing(meshes, tmp_path, capsys):
    output = tmp_path / "d"
    assert build(meshes, output, num_objects=2).made == 2
    assert build(meshes, output).made == 2
    before = content(output)
    (output / "splits.json").unlink()
    assert build(meshes, output).made == 0
    assert content(output) == before
    assert build(meshes, output, layout="files").made == 0
    assert build(meshes, output, layout="packed").made == 0
    assert content(output) == before
    build(meshes, tmp_path / "fresh")
    assert content(tmp_path / "fresh") == before
    assert build(meshes, output, min_resolution=8, quiet=False).made == 4
    assert "has other blocks; it is made anew" in " ".join(capsys.readouterr().err.split())


def test_processes_give_the_same_bytes(meshes, tmp_path):
    build(meshes, tmp_path / "one", workers=1)
    build(meshes, tmp_path / "two", workers=2)
    assert content(tmp_path / "one") == content(tmp_path / "two")


def test_a_killed_build_continues_to_the_same_bytes(meshes, tmp_path):
    output = tmp_path / "d"
    code = (
        "import sys, time, voxfield, voxfield.jobs.build_shapes as job\n"
        "make = job._make_object\n"
        "job._make_object = lambda task: (make(task), time.sleep(60 * (task.object_id == '0001')))[0]\n"
        "voxfield.build_shapes(sys.argv[1], sys.argv[2], resolution=16, workers=1, quiet=True)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(meshes), str(output)])
    deadline = time.monotonic() + 100
    while not (output / ".build" / "object_0001.npz").exists() and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    with pytest.raises(MissingFileError, match="interrupted: run the same `voxfield dataset build` again"):
        voxfield.verify_shapes(output, quiet=True)
    # Also a file that was being written when the power went.
    (output / ".build" / "object_0002.npz").write_bytes(b"PK half")
    assert build(meshes, output).made == 2
    build(meshes, tmp_path / "fresh")
    assert content(output) == content(tmp_path / "fresh")


def test_broken_meshes_are_named_and_the_others_kept(meshes, tmp_path):
    folder = tmp_path / "meshes"
    shutil.copytree(meshes, folder)
    (folder / "letter.stl").write_text("Dear reader")
    (folder / "empty.obj").write_text("")
    (folder / "sheet.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    built = build(folder, tmp_path / "d", coverage="solid")
    assert built.objects == 4
    reasons = {Path(item.path).name: item.reason for item in built.failures}
    assert set(reasons) == {"letter.stl", "empty.obj", "sheet.obj"}
    assert "encloses no voxel" in reasons["sheet.obj"]
    assert len(json.loads((tmp_path / "d" / "failures.json").read_text())) == 3
    assert [one["object_id"] for one in map(open_shapes(tmp_path / "d").info, range(4))] == [
        "0000",
        "0001",
        "0002",
        "0003",
    ]
    with pytest.raises(InputError, match="none of 1 meshes could be used"):
        build(folder / "letter.stl", tmp_path / "none")


def test_settings_are_checked_before_anything_is_written(meshes, tmp_path):
    for change, message in [
        ({"resolution": 100}, "power of two"),
        ({"resolution": 8, "min_resolution": 16}, "min_resolution: expected at most the resolution"),
        ({"start_object": 9}, "start_object: expected less than the number of meshes, 4"),
        ({"layout": "tar"}, "layout: unknown value 'tar'"),
    ]:
        with pytest.raises(InputError, match=message):
            build(meshes, tmp_path / "d", **change)
    assert not (tmp_path / "d").exists()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    (tmp_path / "other" / "metadata.json").write_text('{"title": "thesis"}')
    (tmp_path / "other" / "objects").mkdir()
    with pytest.raises(InputError, match="holds other files already"):
        build(meshes, tmp_path / "other")
    assert len(list((tmp_path / "other").iterdir())) == 3


@pytest.mark.parametrize("layout", ["packed", "files"])
def test_damage_is_found(meshes, tmp_path, layout):
    output = tmp_path / "d"
    build(meshes, output, layout=layout)
    pattern = "packed/level_2.words*" if layout == "packed" else "subvolumes/level_2/*/*.npz"
    victim = next(output.glob(pattern))
    whole = victim.read_bytes()
    victim.write_bytes(whole[:-8] + b"\xa5" * 8)
    assert voxfield.verify_shapes(output, quiet=True).faults
    victim.write_bytes(whole)
    metadata = output / "metadata.json"
    metadata.write_text(metadata.read_text().replace('"unique": ', '"unique": 1'))
    assert "counts" in voxfield.verify_shapes(output, quiet=True).faults[0].reason
    metadata.write_text("[1, 2")
    with pytest.raises(FormatError, match="is damaged"):
        voxfield.verify_shapes(output, quiet=True)


@pytest.mark.parametrize(
    ("file", "found", "stated"),
    [
        ("metadata.json", r'"min_resolution": \d+', '"min_resolution": 0'),
        ("metadata.json", r'"min_resolution": \d+', '"min_resolution": 12'),
        ("metadata.json", r'"base_resolution": \d+', '"base_resolution": 1e999'),
        ("packed/index.json", r'"root": \d+', '"root": {}'),
        ("packed/index.json", r'"nodes": \d+', '"nodes": 1e999'),
        ("packed/index.json", r'"info": \{', '"info": "x", "other": {'),
        ("objects/object_0001/subdivision_map.json", r'"octant_index": \d+', '"octant_index": 1e999'),
    ],
)
def test_values_that_are_none_are_refused(meshes, tmp_path, file, found, stated):
    build(meshes, tmp_path / "d", layout="packed" if "packed" in file else "files")
    path = tmp_path / "d" / file
    spoiled, times = re.subn(found, stated, path.read_text(), count=1)
    assert times == 1
    path.write_text(spoiled)
    with pytest.raises(FormatError, match=path.name):
        open_shapes(tmp_path / "d").read(1)


def test_an_index_cannot_name_files_elsewhere(meshes, tmp_path):
    build(meshes, tmp_path / "d")
    index = tmp_path / "d" / "packed" / "index.json"
    content = json.loads(index.read_text())
    content["nodes"]["file"] = "../metadata.json"
    index.write_text(json.dumps(content))
    with pytest.raises(FormatError, match="outside the dataset"):
        open_shapes(tmp_path / "d")


@pytest.mark.slow
def test_real_meshes(shared_data, tmp_path):
    names = ["armadillo.obj", "Duck.glb", "torus.STL", "P.off", "empty.ply", "soup.stl"]
    built = voxfield.build_shapes([shared_data / "meshes" / name for name in names], tmp_path / "d", quiet=True)
    assert built.objects == 5
    assert [Path(failure.path).name for failure in built.failures] == ["empty.ply"]
    assert voxfield.verify_shapes(tmp_path / "d", quiet=True).faults == ()
