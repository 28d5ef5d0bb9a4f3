"""The numbered examples and the one of Thingi10K run, on little data, each as a person would start it."""

import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

import voxfield
from voxfield.data.synthetic import posed_images, write_blender

TINY = (
    "trainer.tensorboard=false",
    "model.field.num_levels=2",
    "model.field.log2_table_size=8",
    "model.field.base_resolution=8",
    "model.field.max_resolution=32",
    "model.field.hidden=16",
    "model.samples_per_batch=1024",
    "model.final_samples_per_batch=1024",
    "model.occupancy.resolution=16",
    "model.occupancy.warm_up_updates=1",
)
PYRAMID = ("model.pyramid.num_levels=3", "model.pyramid.trained_resolution=32")


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    splits = [posed_images(count=count, resolution=16, split=split) for count, split in ((4, "train"), (2, "test"))]
    write_blender(tmp_path / "scene", splits)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "scene"


def example(repository: Path, name: str) -> ModuleType:
    """The example as a module, its ``main`` not called yet."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", repository / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_train_and_render(
    repository: Path,
    scene: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    module = example(repository, "01_train_and_render")
    assert module.SCENE.is_dir(), "the embedded scene"
    train, render_path = voxfield.train, voxfield.Run.render_path
    asked: list[dict[str, Any]] = []

    def smaller(*arguments: Any, **options: Any) -> Any:
        asked.append(options)
        return train(*arguments, **options | {"minutes": None, "steps": 3}, overrides=TINY, device="cpu", quiet=True)

    monkeypatch.setattr(module, "SCENE", scene)
    monkeypatch.setattr(voxfield, "train", smaller)
    monkeypatch.setattr(
        voxfield.Run, "render_path", lambda run, path, **_: render_path(run, path, frames=2, width=16, height=16)
    )
    module.main(0.5)
    said = capsys.readouterr().out
    assert asked == [{"output": "runs/example-01", "minutes": 0.5}]
    assert "PSNR " in said
    assert "on 2 held-out pictures" in said
    written = [line.removeprefix("wrote ") for line in said.splitlines() if line.startswith("wrote ")]
    assert written
    assert all((tmp_path / file).is_file() for file in written)


def test_pyramid_levels(
    repository: Path,
    scene: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from PIL import Image

    settings = (*TINY, *PYRAMID)
    voxfield.train(
        "pynerf-occupancy-grid", scene, output="runs/levels", steps=3, overrides=settings, device="cpu", quiet=True
    )
    module = example(repository, "02_pyramid_levels")
    monkeypatch.setattr(module, "WIDTH", 24)
    module.main("runs/levels", "levels.png")
    said = capsys.readouterr().out
    assert re.search(r"^3 times as far, 24 pixels wide: (level \d|nothing to be seen yet)", said, re.MULTILINE)
    with Image.open(tmp_path / "levels.png") as picture:
        # Three views beside each other, above their levels and the legend.
        assert picture.size == (3 * 24, 2 * 24 + 14)
    voxfield.train("grid-ngp", scene, output="runs/plain", steps=1, overrides=TINY, device="cpu", quiet=True)
    with pytest.raises(SystemExit, match="runs/plain: a run of grid-ngp has no pyramid"):
        module.main("runs/plain")


def test_thingi10k(
    repository: Path,
    shape_meshes: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    meshes = sorted(path for path in shape_meshes.rglob("*") if path.is_file())
    started: list[dict[str, Any]] = []
    # As the data set's own package answers: a thing may have several files.
    entries = [{"thing_id": number // 2, "file_path": str(meshes[number // 2])} for number in range(2 * len(meshes))]
    stub = SimpleNamespace(init=lambda **options: started.append(options), dataset=lambda: iter(entries))
    monkeypatch.setitem(sys.modules, "thingi10k", stub)
    monkeypatch.chdir(tmp_path)
    options = ["--num-objects", "2", "--start-object", "1", "--resolution", "16", "--min-resolution", "8"]
    monkeypatch.setattr(sys, "argv", ["generate", *options, "--download-dir", str(tmp_path / "fetched")])
    example(repository, "generate_thingi10k_dataset").main()
    assert started == [{"variant": "raw", "cache_dir": str(tmp_path / "fetched")}]
    assert "2 objects in dataset" in capsys.readouterr().out
    assert json.loads((tmp_path / "dataset/metadata.json").read_text(encoding="utf-8"))["num_objects"] == 2
