import json
from pathlib import Path

import numpy as np
import pytest

import voxfield
from voxfield.cli.__main__ import main
from voxfield.data.shape_batches import ShapeRayOptions, resolve_options
from voxfield.errors import FormatError, InputError, MissingFileError
from voxfield.storage.shape_dataset import open_shapes

OBJ = "v 0 0 0\nv 5 0 1\nv 0 4 0\nv 0 0 3\nf 1 3 2\nf 1 2 4\nf 2 3 4\nf 1 4 3\n"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("shapes")
    (folder / "wedge.obj").write_text(OBJ)
    output = folder / "dataset"
    voxfield.build_shapes(
        folder / "wedge.obj", output, resolution=16, layout="files", full_tree=True, workers=1, quiet=True
    )
    return output


def trace(dataset, output, **options):
    defaults = {"sphere_divisions": 2, "samples_per_view": 30, "workers": 1, "quiet": True}
    return voxfield.trace_shapes(dataset, output, **{**defaults, **options})


def rays(output: Path) -> dict[str, dict[str, np.ndarray]]:
    return {path.name: dict(np.load(path)) for path in sorted(output.rglob("*_rays.npz"))}


def test_files_hold_what_the_document_names(dataset, tmp_path):
    traced = trace(dataset, tmp_path / "rays")
    assert traced.failures == ()
    name = open_shapes(dataset).block_names(1)[0].hex()
    arrays = dict(np.load(tmp_path / "rays" / "level_0" / "00" / "0000_rays.npz"))
    count = len(arrays["origins"])
    expected = {
        "origins": ("f4", (count, 3)),
        "directions": ("f4", (count, 3)),
        "distances": ("f4", (count,)),
        "hits": ("u1", (count,)),
        "hit_distances": ("f4", (count,)),
        "normals": ("i1", (count, 3)),
        "voxel_ids": ("i4", (count,)),
        "face_ids": ("i4", (count,)),
        "view_ids": ("i4", (count,)),
        "view_positions": ("f4", (4, 3)),
        "grid_shape": ("i4", (3,)),
    }
    for key, (dtype, shape) in expected.items():
        assert (arrays[key].dtype, arrays[key].shape) == (np.dtype(dtype), shape), key
    assert (str(arrays["sampling_mode"]), int(arrays["level"]), float(arrays["voxel_size"])) == ("sphere", 0, 1.0)
    assert np.array_equal(arrays["hits"] > 0, arrays["distances"] > 0)
    assert np.array_equal(arrays["hits"] > 0, np.isfinite(arrays["hit_distances"]))
    assert 0 < arrays["hits"].mean() < 1
    assert (tmp_path / "rays" / "level_1" / name[:2] / f"{name}_rays.npz").is_file()
    summary = json.loads((tmp_path / "rays" / "processing_summary.json").read_text())
    assert summary["skipped_empty"] == 2
    assert summary["processed"] == len(rays(tmp_path / "rays")) == summary["total_subvolumes"] - 2


def test_first_hits_lie_on_the_faces_of_occupied_voxels(dataset, tmp_path):
    trace(dataset, tmp_path / "rays", min_level=0, max_level=0)
    (arrays,) = rays(tmp_path / "rays").values()
    with np.load(dataset / "objects" / "object_0000" / "level_0.npz") as stored:
        voxels = stored["voxels"]
    hit = arrays["hits"] > 0
    number = arrays["voxel_ids"][hit]
    x, y, z = number % 16, number // 16 % 16, number // 256
    assert voxels[z, y, x].all()
    point = arrays["origins"][hit] + arrays["hit_distances"][hit, None] * arrays["directions"][hit] + 8
    offset = point - (np.stack([x, y, z], 1) + 0.5)
    # In the middle of the face that the normal names, half a voxel from the centre.
    np.testing.assert_allclose((offset * arrays["normals"][hit]).sum(1), 0.5, atol=1e-4)
    assert np.abs(offset).max() <= 0.5 + 1e-4


def test_packed_and_processes_give_the_same_rays(dataset, tmp_path):
    voxfield.convert_shapes(dataset, tmp_path / "packed", layout="packed")
    trace(dataset, tmp_path / "one")
    trace(tmp_path / "packed", tmp_path / "two", workers=2)
    files = [{p.relative_to(o): p.read_bytes() for p in o.rglob("*.npz")} for o in (tmp_path / "one", tmp_path / "two")]
    assert files[0] == files[1]


def test_adaptive_sampling_halves_the_rays(dataset, tmp_path):
    trace(dataset, tmp_path / "rays", samples_per_view=60, adaptive_sampling=True, min_samples=24)
    levels = {int(arrays["level"]): len(arrays["origins"]) for arrays in rays(tmp_path / "rays").values()}
    assert levels[0] == 2 * levels[1]
    assert levels[2] * 60 == levels[0] * 24


def test_a_second_call_continues(dataset, tmp_path):
    output = tmp_path / "rays"
    done = trace(dataset, output).summary["processed"]
    before = rays(output)
    next(output.glob("level_2/*/*.npz")).unlink()
    again = trace(dataset, output).summary
    assert (again["processed"], again["skipped_already_exists"]) == (1, done - 1)
    assert rays(output).keys() == before.keys()
    with pytest.raises(InputError, match="its rays were traced with seed 42"):
        trace(dataset, output, seed=7)
    voxfield.build_shapes(dataset.parent / "wedge.obj", tmp_path / "finer", resolution=32, workers=1, quiet=True)
    with pytest.raises(InputError, match="its rays were traced with base_resolution 16"):
        trace(tmp_path / "finer", output)
    about = json.loads((output / "trace.json").read_text())
    del about["base_resolution"]  # as earlier versions wrote it
    (output / "trace.json").write_text(json.dumps(about))
    assert trace(dataset, output).summary["processed"] == 0


def test_errors_teach(dataset, tmp_path):
    with pytest.raises(InputError, match="at most the dataset's last level, 2"):
        trace(dataset, tmp_path / "rays", max_level=3)
    with pytest.raises(InputError, match="samples_per_view"):
        trace(dataset, tmp_path / "rays", samples_per_view=2)
    with pytest.raises(MissingFileError, match=r"no dataset \(metadata.json is missing\). Make one"):
        trace(tmp_path, tmp_path / "rays")
    with pytest.raises(InputError, match="holds other files"):
        trace(dataset, dataset)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "metadata.json").write_text('{"base_resolution": 16}')
    with pytest.raises(FormatError, match="is damaged"):
        trace(tmp_path / "broken", tmp_path / "rays")


def test_a_damaged_block_is_named_and_the_others_traced(dataset, tmp_path):
    voxfield.convert_shapes(dataset, tmp_path / "copy", layout="packed")
    voxfield.convert_shapes(tmp_path / "copy", tmp_path / "damaged", layout="files")
    victim = next((tmp_path / "damaged").glob("subvolumes/level_2/*/*.npz"))
    victim.write_bytes(victim.read_bytes()[:50])
    traced = trace(tmp_path / "damaged", tmp_path / "rays")
    assert [item.path for item in traced.failures] == [victim.stem]
    assert traced.summary["errors"] == 1
    assert traced.summary["processed"] > 5


def test_the_command_line(tmp_path, capsys, monkeypatch):
    (tmp_path / "wedge.obj").write_text(OBJ)
    dataset, output = str(tmp_path / "dataset"), str(tmp_path / "rays")
    assert main(["dataset", "build", str(tmp_path / "wedge.obj"), "--output-dir", dataset, "--resolution", "16",
                 "--workers", "1", "--quiet"]) == 0  # fmt: skip
    assert main(["dataset", "split", dataset, "--train", "1", "--val", "0"]) == 0
    assert main(["dataset", "stats", dataset]) == 0
    assert main(["dataset", "verify", dataset, "--quiet"]) == 0
    assert main(["dataset", "convert", dataset, f"{dataset}2", "--layout", "files"]) == 0
    assert main(["dataset", "trace", dataset, "--output-dir", output, "--sphere-divisions", "1",
                 "--samples-per-view", "30", "--workers", "1", "--quiet"]) == 0  # fmt: skip
    said = capsys.readouterr().out
    for expected in (
        "1 (1 made now)",
        "train 1, val 0, test 0 of 1 objects",
        "voxels across",
        "as they should be",
        "Traced",
    ):
        assert expected in said
    # Elsewhere than in the dataset's folder: rays lie where `train raynet` looks for them.
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main(["dataset", "trace", "../dataset", "--sphere-divisions", "1", "--samples-per-view", "3", "--workers",
                 "1", "--quiet"]) == 0  # fmt: skip
    assert resolve_options(Path(dataset), ShapeRayOptions()).rays == str(tmp_path / "ray_dataset_hierarchical")
    assert not list(Path().iterdir())
    assert main(["dataset", "build", str(tmp_path / "none.obj"), "--output-dir", dataset]) == 2
    assert "no such file or folder" in capsys.readouterr().err
