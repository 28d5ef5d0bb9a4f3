"""Volumes that are written beside OpenVDB, and those of voxels far apart."""

from types import ModuleType

import numpy as np
import pytest


@pytest.fixture
def vdb_files(benchmark) -> ModuleType:
    return benchmark("vdb_files")


@pytest.mark.parametrize("kind", ["shell", "scattered"])
def test_a_twentieth_of_the_cube_is_active(vdb_files: ModuleType, kind: str) -> None:
    dense = getattr(vdb_files, kind)(64)
    assert dense.shape == (64, 64, 64)
    assert dense.dtype == np.float32
    assert (dense != 0).mean() == pytest.approx(vdb_files.ACTIVE, rel=0.05)


def test_surfaces_have_about_as_many_voxels_as_asked_for(benchmark) -> None:
    found = benchmark("drive_spread_volume").surfaces(50_000, np.random.default_rng(0))
    assert len(np.unique(found, axis=0)) == len(found) == pytest.approx(50_000, rel=0.1)
    assert np.ptp(found, axis=0).min() > 80_000


def test_voxels_far_apart_are_written_read_and_sampled(vdb_files: ModuleType) -> None:
    rows = vdb_files.spread(20_000)
    assert [row["what"].split(": ")[-1].split(" ")[0] for row in rows] == [
        *("write", "bytes", "read", "sample", "peak"),
        "of",
    ]
    *_, peak, start = [row["value"] for row in rows]
    assert 0 < start <= peak
    assert rows[-2]["bar"] == vdb_files.MEMORY


def test_ours_stands_beside_openvdbs(vdb_files: ModuleType) -> None:
    if not vdb_files.has_openvdb(vdb_files.SYSTEM_PYTHON):
        pytest.skip("needs the real OpenVDB: apt-get install python3-openvdb")
    rows = vdb_files.beside("random", vdb_files.scattered(32), 1, vdb_files.SYSTEM_PYTHON)
    by_name = {row["what"].split(": ")[1]: row for row in rows}
    for verb in ("write", "read"):
        theirs = next(row for name, row in by_name.items() if name.startswith(f"{verb}, OpenVDB"))
        ratio = by_name[f"{verb}, our time / OpenVDB's"]
        assert ratio["value"] == pytest.approx(by_name[verb]["value"] / theirs["value"])
        assert ratio["bar"] == vdb_files.TIMES
    assert 0.5 < by_name["our bytes / OpenVDB's"]["value"] < 1.5
    with pytest.raises(SystemExit, match="ours"):
        vdb_files.check_active([7, 6], 7)


def test_an_interpreter_without_openvdb_is_said(vdb_files: ModuleType, tmp_path) -> None:
    import argparse

    parser = argparse.ArgumentParser()
    vdb_files.add_options(parser)
    options = parser.parse_args(["shell", "--openvdb-python", str(tmp_path / "none")])
    with pytest.raises(SystemExit, match="python3-openvdb"):
        vdb_files.measure(options)
