"""Compressing and decompressing through the public calls and the command line."""

import numpy as np
import pytest

import voxfield
from voxfield.cli.__main__ import main
from voxfield.storage.compressed import CompressedFile
from voxfield.storage.vdb import VdbGrid, read_vdb
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
    assert main(["vdb", "decompress", str(file), "--output", str(out)]) == 2
    assert "not a compressed volume" in capsys.readouterr().err
    assert main(["vdb", "decompress", str(packed), "--output", str(out), "--lower", "0", "0", "0"]) == 2
    assert "both lower and upper" in capsys.readouterr().err
