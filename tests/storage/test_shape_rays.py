import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import voxfield
from voxfield.errors import FormatError, InputError, MissingFileError
from voxfield.storage.shape_rays import COLUMNS, FileRays, PackedRays, RayBlock, open_rays, write_packed_rays
from voxfield.storage.shape_splits import read_splits


@pytest.fixture
def copied(shape_rays: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(shape_rays["packed"], tmp_path / "rays"))


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def trace(dataset: Path, output: Path, **options):
    defaults = {"sphere_divisions": 2, "samples_per_view": 90, "layout": "packed", "workers": 1, "quiet": True}
    return voxfield.trace_shapes(dataset, output, **{**defaults, **options})


def test_rays_that_are_cut_while_they_are_read_are_an_error_not_an_end(copied):
    packed = open_rays(copied)
    block = packed.blocks()[0]
    count = packed.count(block)
    into = {"distances": np.zeros(count, np.float32)}
    packed.gather([(block, 0, count)], into)
    file = copied / "packed" / json.loads((copied / "packed/index.json").read_text())["files"]["distances"]["file"]
    size = file.stat().st_size
    with file.open("r+b") as stream:
        stream.truncate(size // 2)
    for use in (lambda: packed.gather([(block, 0, count)], into), lambda: packed.read(block)):
        with pytest.raises(FormatError, match=f"{file.name}: was cut to .* of {size:,} bytes while it is in use"):
            use()
    file.unlink()
    with pytest.raises(FormatError, match="while it is in use"):
        packed.read(block)


def test_both_layouts_hold_the_same_rays(shape_rays):
    files, packed = open_rays(shape_rays["files"]), open_rays(shape_rays["packed"])
    assert isinstance(files, FileRays)
    assert isinstance(packed, PackedRays)
    assert files.blocks() == packed.blocks()
    assert {block.level for block in files.blocks()} == {0, 1, 2}
    for block in files.blocks():
        one, other = files.read(block), packed.read(block)
        assert files.count(block) == packed.count(block) == len(one["distances"])
        assert str(one["hash"]) == str(other["hash"])
        assert np.array_equal(one["view_positions"], other["view_positions"])
        orders = [np.lexsort((*arrays["origins"].T, *arrays["directions"].T)) for arrays in (one, other)]
        assert not np.array_equal(one["origins"], other["origins"]), "packed rays are shuffled"
        for name in COLUMNS:
            assert one[name].dtype == other[name].dtype == np.dtype(COLUMNS[name][0])
            assert np.array_equal(one[name][orders[0]], other[name][orders[1]]), name
    packed.check_files()


def test_any_stretch_of_packed_rays_is_a_fair_sample(shape_rays):
    packed = open_rays(shape_rays["packed"])
    block = packed.blocks()[0]
    views = packed.read(block, 0, packed.count(block) // 2)["view_ids"]
    assert set(views.tolist()) == {0, 1, 2, 3}
    assert len(packed.read(block, 3, 5)["distances"]) == 2


def test_packing_continues_and_gives_the_same_bytes(shape_dataset, shape_rays, tmp_path):
    output = tmp_path / "rays"
    trace(shape_dataset, output, max_level=1)
    first = len(open_rays(output).blocks())
    again = trace(shape_dataset, output)
    assert again.summary["skipped_already_exists"] == first
    assert trace(shape_dataset, output).summary["processed"] == 0
    assert not list(output.glob("level_*"))

    assert content(output / "packed") == content(shape_rays["packed"] / "packed")
    with pytest.raises(InputError, match=r"its rays are packed\. Add --layout packed"):
        trace(shape_dataset, output, layout="files")


def test_layouts_of_rays_convert_into_each_other_without_loss(shape_rays, tmp_path):
    for layout, other in (("files", "packed"), ("packed", "files")):
        count = voxfield.convert_shapes(shape_rays[layout], tmp_path / other, layout=other)
        assert count == len(open_rays(shape_rays[layout]).blocks())
        ours, theirs = content(tmp_path / other), content(shape_rays[other])
        for summary in (ours, theirs):
            del summary["processing_summary.json"]
        assert ours == theirs
        assert not list(tmp_path.glob(".*"))
    with pytest.raises(InputError, match="exists already"):
        voxfield.convert_shapes(shape_rays["files"], tmp_path / "packed", layout="packed")


def test_a_damaged_source_leaves_no_half_of_a_conversion(copied, tmp_path):
    name = json.loads((copied / "packed" / "index.json").read_text())["files"]["distances"]["file"]
    path = copied / "packed" / name
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(FormatError, match="checksum"):
        voxfield.convert_shapes(copied, tmp_path / "files", layout="files")
    assert not list(tmp_path.glob("*files*"))
    assert not list(tmp_path.glob(".*"))


def test_blocks_of_different_datasets_are_not_packed_together(shape_rays, tmp_path):
    output = Path(shutil.copytree(shape_rays["files"], tmp_path / "rays"))
    path = output / open_rays(output).blocks()[-1].file
    np.savez(path, **dict(np.load(path)) | {"voxel_size": np.array(2.0, np.float32)})
    with pytest.raises(FormatError, match=r"'voxel_size': 2\.0.*they are of different datasets"):
        write_packed_rays(tmp_path / "packed", [open_rays(output)])
    np.savez(path, **dict(np.load(path)) | {"voxel_size": np.array("large")})
    with pytest.raises(FormatError, match="expected voxel_size"):
        write_packed_rays(tmp_path / "packed", [open_rays(output)])


def test_rays_in_files_are_packed_when_asked_for(shape_dataset, shape_rays, tmp_path):
    output = Path(shutil.copytree(shape_rays["files"], tmp_path / "rays"))
    assert trace(shape_dataset, output).summary["processed"] == 0
    assert open_rays(output).blocks() == open_rays(shape_rays["files"]).blocks()
    assert not list(output.glob("level_*"))


def test_rays_without_the_newer_columns_are_packed_too(tmp_path):
    """As other programs' generators write them."""
    rays, name = 5, "ab" * 32
    arrays = {key: np.zeros((rays, *shape), dtype) for key, (dtype, shape) in COLUMNS.items()}
    for key in ("hit_distances", "normals", "voxel_ids"):
        del arrays[key]
    path = tmp_path / "rays" / RayBlock(2, name).file
    path.parent.mkdir(parents=True)
    np.savez_compressed(path, **arrays, hash=np.array(name), view_positions=np.zeros((4, 3), np.float32))
    write_packed_rays(tmp_path / "packed", [open_rays(tmp_path / "rays")])
    packed = open_rays(tmp_path / "packed")
    assert set(packed.read(packed.blocks()[0])) == {*arrays, "view_positions", "hash"}


def test_no_rays_at_all(tmp_path):
    with pytest.raises(MissingFileError, match="Make it: voxfield dataset trace"):
        open_rays(tmp_path / "nowhere")
    with pytest.raises(MissingFileError, match="holds no rays"):
        open_rays(tmp_path)


def test_a_file_with_other_keys_or_cut_short(shape_rays, tmp_path):
    output = Path(shutil.copytree(shape_rays["files"], tmp_path / "rays"))
    rays = open_rays(output)
    first, second, third = rays.blocks()[0], rays.blocks()[1], rays.blocks()[-1]
    np.savez(output / first.file, origins=np.zeros((3, 3), np.float32))
    with pytest.raises(FormatError, match=r"expected origins, <f4 \(0, 3\)"):
        rays.read(first)
    with pytest.raises(FormatError, match="damaged or cut short"):
        rays.count(first)
    path = output / second.file
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(FormatError, match="cut short"):
        rays.read(second)
    lone = tmp_path / "lone" / third.file
    lone.parent.mkdir(parents=True)
    np.savez(lone, **dict(np.load(output / third.file)) | {"hash": np.array("cd" * 32)})
    with pytest.raises(FormatError, match="say that they are of 'cdcd"):
        write_packed_rays(tmp_path / "packed", [open_rays(tmp_path / "lone")])


@pytest.mark.parametrize("fault", ["short", "schema", "escape", "missing", "objects", "constants"])
def test_a_damaged_index_is_refused(copied, fault):
    path = copied / "packed" / "index.json"
    index = json.loads(path.read_text())
    origins = copied / "packed" / index["files"]["origins"]["file"]
    if fault == "short":
        origins.write_bytes(origins.read_bytes()[:-12])
    elif fault == "missing":
        origins.unlink()
    elif fault == "constants":
        index["constants"]["1"]["grid_shape"] = [8, 8]
    elif fault == "schema":
        index["schema"] = 9
    elif fault == "escape":
        index["files"]["origins"]["file"] = "../../origins.npy"
    else:
        index["objects"] = index["objects"][:-1]
    path.write_text(json.dumps(index))
    with pytest.raises((FormatError, MissingFileError)):
        open_rays(copied)


def test_a_changed_bit_is_found(copied):
    name = json.loads((copied / "packed" / "index.json").read_text())["files"]["distances"]["file"]
    path = copied / "packed" / name
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    packed = open_rays(copied)
    assert isinstance(packed, PackedRays)
    with pytest.raises(FormatError, match="checksum"):
        packed.check_files()


def test_splits_that_are_missing_say_how_to_make_them(tmp_path):
    with pytest.raises(MissingFileError, match=r"Splits file not found: .*voxfield dataset split"):
        read_splits(tmp_path)
    (tmp_path / "splits.json").write_text("{}")
    with pytest.raises(FormatError, match="has no 'object_splits'"):
        read_splits(tmp_path)
