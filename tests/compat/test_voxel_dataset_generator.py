"""The snippets of docs/compat/voxel_dataset_generator.md, the document's own, on a small dataset of 128 to 4 voxels."""

import re
import sys
from types import SimpleNamespace

import pytest

import voxfield
from voxfield.cli.__main__ import main
from voxfield.compat.voxel_dataset_generator import datasets, pipeline
from voxfield.errors import InputError, MissingExtraError, UnavailableError


def test_the_snippets_run(repository, shape_meshes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    voxfield.build_shapes(
        sorted(shape_meshes.glob("*.obj"))[:2], "dataset", resolution=128, min_resolution=4, workers=1, quiet=True
    )
    voxfield.trace_shapes(
        "dataset",
        "ray_dataset_hierarchical",
        sphere_divisions=2,
        samples_per_view=900,
        layout="packed",
        workers=1,
        quiet=True,
    )
    page = (repository / "docs/compat/voxel_dataset_generator.md").read_text(encoding="utf-8")
    snippets = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert len(snippets) == 7
    names = {}
    for number, snippet in enumerate(snippets):
        # Processes and pinned memory are tested elsewhere; here they would take minutes and a GPU. A few batches do.
        text = re.sub(r"num_workers=\d+", "num_workers=0", snippet).replace("pin_memory=True", "pin_memory=False")
        text = text.replace("in loader:", "in itertools.islice(loader, 3):")
        exec(compile(f"import itertools\n{text}", f"snippet {number}", "exec"), names)
        if number == 1:
            assert names["voxels"].shape[:2] == (8, 1)
            assert names["origins"].shape[0] == 8
        if number == 2:
            assert names["origins"].shape == (4096, 3)
            assert names["voxels"].shape[:2] == (8, 1)
            assert names["ray_to_voxel"].shape == (4096,)
        if number == 3:
            assert all(len(names["dataset"][index]["origins"]) <= 1024 for index in range(5))
    assert next(iter(names["loader"]))["origins"].shape == (4, 256, 3)
    assert {block.level for block in names["dataset"].blocks} == {5}


def test_the_page_speaks_of_every_name(repository):
    pages = [
        (repository / "docs" / page).read_text(encoding="utf-8")
        for page in ("shapes.md", "compat/voxel_dataset_generator.md")
    ]
    assert [name for name in datasets.__all__ if name not in "".join(pages)] == []


def test_thingi10k_is_read_through_its_package(shape_meshes, tmp_path, monkeypatch):
    files = sorted(shape_meshes.glob("*.obj"))
    entries = [{"thing_id": thing, "file_path": str(file)} for thing, file in zip((7, 7, 8, 9), files, strict=True)]
    asked = {}
    package = SimpleNamespace(init=lambda **options: asked.update(options), dataset=lambda: iter(entries))
    monkeypatch.setitem(sys.modules, "thingi10k", package)
    built = pipeline.generate_dataset_from_thingi10k(
        num_objects=2, start_object=1, output_dir=tmp_path / "d", base_resolution=16, min_resolution=8, download_dir="c"
    )
    assert asked == {"variant": "raw", "cache_dir": "c"}
    assert built.objects == 2, "things 8 and 9"
    with pytest.raises(InputError, match="has 3 things, none from 5 on"):
        pipeline.generate_dataset_from_thingi10k(start_object=5, output_dir=tmp_path / "e")

    def without_network(**_: object) -> None:
        raise RuntimeError("Name or service not known")

    monkeypatch.setattr(package, "init", without_network)
    with pytest.raises(UnavailableError, match=r"could not fetch the data set \(Name or service not known\)"):
        pipeline.generate_dataset_from_thingi10k(output_dir=tmp_path / "g")
    monkeypatch.setitem(sys.modules, "thingi10k", None)
    with pytest.raises(MissingExtraError, match=r"voxfield\[neural-rendering\]"):
        pipeline.generate_dataset_from_thingi10k(output_dir=tmp_path / "f")


def test_thingi10k_is_built_from_the_command_line(shape_meshes, tmp_path, monkeypatch, capsys):
    files = sorted(shape_meshes.glob("*.obj"))
    entries = [{"thing_id": thing, "file_path": str(file)} for thing, file in zip((7, 7, 8, 9), files, strict=True)]
    package = SimpleNamespace(init=lambda **options: None, dataset=lambda: iter(entries))
    monkeypatch.setitem(sys.modules, "thingi10k", package)
    build = ["dataset", "build", "--output-dir", str(tmp_path / "d"), "--resolution", "16", "--quiet", "--workers", "1"]
    assert main([*build, "--thingi10k", "--num-objects", "2", "--start-object", "1"]) == 0
    assert sorted(voxfield.split_shapes(tmp_path / "d")["object_splits"]) == ["0001", "0002"], "things 8 and 9"
    capsys.readouterr()
    for arguments, message in (
        ([], "missing MESHES: name mesh files, folders or patterns, or say --thingi10k."),
        (["--thingi10k"], "--thingi10k: say how many meshes with --num-objects"),
        (["--thingi10k", "--num-objects", "2", "--start-object", "5"], "3"),
    ):
        assert main([*build, *arguments]) == 2
        assert message in capsys.readouterr().err
    assert main([*build[:2], str(shape_meshes), *build[2:], "--thingi10k", "--num-objects", "1"]) == 2
    assert "MESHES: --thingi10k takes their place" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "thingi10k", None)
    assert main([*build, "--thingi10k", "--num-objects", "2"]) == 2
    assert "voxfield[neural-rendering]" in capsys.readouterr().err
