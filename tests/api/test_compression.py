"""Compressing and decompressing through the public calls and the command line."""

import numpy as np
import pytest

import voxfield
from voxfield.cli.__main__ import main
from voxfield.storage.compressed import CompressedFile
from voxfield.storage.vdb import VdbFile, VdbGrid, read_vdb
from voxfield.voxels.sparse import SparseVolume


@pytest.fixture
def file(tmp_path):
    axis = np.linspace(-1, 1, 40)
    dense = np.exp(-4 * (axis[:, None, None] ** 2 + axis[None, :, None] ** 2 + axis**2)).astype(np.float32)
    smoke = VdbGrid(name="smoke", volume=SparseVolume.from_dense(dense, tolerance=0.05), grid_class="fog volume")
    wind = VdbGrid(name="wind", volume=SparseVolume.from_dense(np.stack([dense, -dense, 2 * dense])), half=True)
    return voxfield.write_volume(tmp_path / "a.vdb", [smoke, wind], metadata={"title": "t"})


def test_there_and_back(file, tmp_path):
    packed, out = tmp_path / "a.vxv", tmp_path / "b.vdb"
    reports = voxfield.compress_volume(file, packed, voxfield.CompressionConfig(relative_error=0.01))
    assert [report.name for report in reports] == ["smoke", "wind"]
    assert packed.stat().st_size < file.stat().st_size / 8
    voxfield.decompress_volume(packed, out)
    for one, two in zip(read_vdb(file), read_vdb(out), strict=True):
        assert (one.name, one.half, one.grid_class) == (two.name, two.half, two.grid_class)
        assert np.array_equal(one.volume.active, two.volume.active)
        assert np.abs(one.volume.values.astype(float) - two.volume.values).max() <= 0.01 * 3
    again = voxfield.compress_volume(packed, tmp_path / "c.vxv", voxfield.CompressionConfig(relative_error=0.05))
    assert again[0].active_voxels == reports[0].active_voxels


def test_commands(file, tmp_path, capsys):
    packed, out = tmp_path / "a.vxv", tmp_path / "part.vdb"
    assert main(["vdb", "compress", str(file), "--output", str(packed), "--max-error", "0.01", "--grids", "smoke"]) == 0
    said = capsys.readouterr().out
    assert "smoke" in said
    assert "bytes, 1/" in said
    assert [header.name for header in CompressedFile(packed).grids] == ["smoke"]
    box = ["--lower", "0", "0", "0", "--upper", "8", "8", "16"]
    assert main(["vdb", "decompress", str(packed), "--output", str(out), *box]) == 0
    assert "smoke" in capsys.readouterr().out
    assert len(read_vdb(out)[0].volume.origins) <= 2
    assert main(["vdb", "compress", str(file), "--output", str(packed)]) == 2
    said = capsys.readouterr().err
    assert "--max-error" in said
    assert "--relative-error 0.01" in said
    both = ["--max-error", "1", "--relative-error", "0.5"]
    assert main(["vdb", "compress", str(file), "--output", str(packed), *both]) == 2
    assert "Leave one out" in capsys.readouterr().err
    bound = ["--max-error", "1"]
    assert main(["vdb", "compress", str(file), "--output", str(tmp_path / "c.vdb"), *bound]) == 2
    assert "c.vdb: a compressed volume is no OpenVDB file" in capsys.readouterr().err
    again = ["vdb", "compress", str(file), "--output", str(tmp_path / "c.vxv"), *bound, "--warm-start", str(packed)]
    assert main(again) == 2
    assert "warm_start: the codec quantised has no networks" in capsys.readouterr().err
    assert main([*again, "--codec", "neural", "--steps", "1"]) == 0
    assert "has no networks, as its grids are quantised" in " ".join(capsys.readouterr().err.split())
    nano = tmp_path / "n.nvdb"
    assert main(["vdb", "convert", str(file), str(nano), "--grids", "smoke"]) == 0
    assert main(["vdb", "info", str(nano)]) == 2
    assert "is a NanoVDB file, which is written here but not read" in capsys.readouterr().err
    assert main(["vdb", "decompress", str(file), "--output", str(out)]) == 2
    assert "not a compressed volume" in capsys.readouterr().err
    assert main(["vdb", "decompress", str(packed), "--output", str(out), "--lower", "0", "0", "0"]) == 2
    assert "both lower and upper" in capsys.readouterr().err


@pytest.fixture
def packed(file, tmp_path):
    voxfield.compress_volume(file, tmp_path / "a.vxv", voxfield.CompressionConfig(relative_error=0.01))
    return tmp_path / "a.vxv"


def test_verbs_read_compressed_volumes(file, packed, tmp_path, capsys):
    known, told = voxfield.volume_info(file, values=True), voxfield.volume_info(packed, values=True)
    assert (told["format"], told["codec"], told["version"]) == ("compressed volume", "quantised", None)
    assert told["metadata"] == {"title": "t"}
    for one, two in zip(known["grids"], told["grids"], strict=True):
        for key in ("name", "type", "half", "class", "active_voxels", "bounding_box", "voxel_size", "index_to_world"):
            assert one[key] == two[key]
        assert np.allclose(one["range"]["max"], two["range"]["max"], atol=0.03)
    assert "range" not in voxfield.volume_info(packed)["grids"][0]
    for verb in ("info", "stats"):
        assert main(["vdb", verb, str(packed)]) == 0
        assert "quantised, error up to" in capsys.readouterr().out
    assert main(["vdb", "info", str(packed), "--slice", "z"]) == 0
    assert "z = " in capsys.readouterr().out
    whole = [grid.volume for grid in read_vdb_of(packed, tmp_path)]
    converted = voxfield.convert_volume(packed, tmp_path / "c.vdb")
    merged = voxfield.merge_volumes([packed, file], tmp_path / "m.vdb", same_names="keep")
    cropped = voxfield.crop_volume(packed, tmp_path / "p.vdb", (0, 0, 0), (20, 40, 40))
    assert [grid.name for grid in merged] == ["smoke", "wind", "smoke", "wind"]
    for one, two, part in zip(whole, converted, cropped, strict=True):
        assert np.array_equal(one.values, two.volume.values)
        assert 0 < part.volume.active_count < one.active_count
    assert VdbFile(tmp_path / "p.vdb").metadata == {"title": "t"}
    assert voxfield.read_volume(packed, "wind").volume.channels == (3,)


def read_vdb_of(packed, tmp_path):
    return voxfield.decompress_volume(packed, tmp_path / "whole.vdb")


def test_the_viewer_shows_compressed_volumes(packed):
    from voxfield.viewer.exhibits import open_exhibit
    from voxfield.viewer.level_subjects import open_volume
    from voxfield.viewer.volume_subject import VolumeSubject

    assert isinstance(open_volume(packed), VolumeSubject)
    exhibit = open_exhibit(packed)
    assert exhibit.items == ("smoke", "wind")
    shown = exhibit.load("smoke")
    assert len(shown.points) == voxfield.read_volume(packed, "smoke").volume.active_count


@pytest.mark.parametrize("verb", ["lod", "optimise"])
def test_verbs_that_do_not_read_them_say_what_to_do(packed, tmp_path, capsys, verb):
    assert main(["vdb", verb, str(packed), "--output", str(tmp_path / "out.vdb")]) == 2
    assert "is a compressed volume. Unpack it first: voxfield vdb decompress" in capsys.readouterr().err


def test_grids_that_share_their_voxels_say_so(file, tmp_path):
    (smoke, _) = read_vdb(file)
    twin = VdbGrid(name="twin", volume=smoke.volume)
    voxfield.write_volume(tmp_path / "b.vdb", [smoke, twin])
    voxfield.compress_volume(tmp_path / "b.vdb", tmp_path / "b.vxv", voxfield.CompressionConfig(max_error=0.1))
    told = voxfield.volume_info(tmp_path / "b.vxv")
    assert [one["shares_tree_of"] for one in told["grids"]] == [None, "smoke"]
    assert told["total_active_voxels"] == smoke.volume.active_count
