"""The page on pre-rendering is run, and so are the commands of the guide it replaces."""

import re
import shlex
from pathlib import Path

import h5py
import numpy as np
import pytest

import voxfield
from voxfield.cli.__main__ import main

DIMS = (28000, 28000, 1600)

# What a person waits for and a test does not.
SMALLER = [
    (r"--voxel-size \d+", "--voxel-size 8"),
    (r"--compression zstd", "--compression lzf"),
    ("_size: 128", "_size: 8"),
]


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    points = (np.random.default_rng(0).random((12, 50, 3)) * DIMS).astype(np.float32)
    with h5py.File(tmp_path / "pointclouds.h5", "w") as file:
        file["pointclouds"] = points
    (tmp_path / "clouds").mkdir()
    for number in range(2):
        np.save(tmp_path / "clouds" / f"{number}.npy", points[number])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("os.cpu_count", lambda: 1)  # what the processes do is tested elsewhere
    return tmp_path


def small(text: str) -> str:
    for pattern, replacement in SMALLER:
        text = re.sub(pattern, replacement, text)
    return text


def test_the_page_runs(repository, here, capsys):
    page = small((repository / "docs" / "prerender.md").read_text(encoding="utf-8"))
    config = re.search(r"^```yaml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    (here / "diffusion.yaml").write_text(config.group(1))
    for language, text in re.findall(r"^```(console|python)\n(.*?)^```", page, re.MULTILINE | re.DOTALL):
        if language == "python":
            exec(compile(text, "docs/prerender.md", "exec"), {})
            continue
        for line in text.splitlines():
            assert main([*shlex.split(line.removeprefix("$ "))[1:], "--quiet"]) == 0, line
    said = capsys.readouterr().out
    # The third command finds what the first made: flags and file say the same.
    assert re.findall(r"complete: (\d+) samples \((\d+) made now\) in (\d+) batches", said) == [
        ("12", "12", "1"), ("2", "2", "1"), ("12", "0", "1"),
    ]  # fmt: skip
    assert "torch.Size([1, 8, 8, 8])" in said
    assert "PrerenderedVoxelDataset(10 samples (train) of 8 x 8 x 8 voxels)" in said


def test_every_option_is_on_the_page(repository):
    import inspect

    from voxfield.cli.prerender import command

    page = (repository / "docs" / "prerender.md").read_text(encoding="utf-8")
    names = [name.replace("_", "-") for name in inspect.signature(command).parameters]
    known = {"points", "quiet", "workers", "config"}
    keys = page.replace("_", "-")
    missing = [name for name in names if name not in known and f"--{name}" not in page and f"{name}:" not in keys]
    assert not missing


GUIDE = """
--config diffusion_config.yaml --output-dir out_a
--input-h5 pointclouds.h5 --output-dir out_b --voxel-size 8 --voxelization-method gaussian --sigma 1.0 --volume-dims
 28000.0 28000.0 1600.0 --padding 0 0 0 --batch-size 100 --threshold 0.001 --precision 10 --compression gzip
--config diffusion_config.yaml --output-dir out_test --max-samples 10
--config diffusion_config.yaml --output-dir out_test
"""

GUIDE_CONFIG = """
data:
  use_prerendered: true
  prerendered_dir: "out_test"
  h5_file_path: pointclouds.h5
  voxel_size: 8
  volume_dims: [28000.0, 28000.0, 1600.0]
prerender:
  output_dir: "elsewhere"
  max_samples: null
  batch_size: 100
  threshold: 0.001
  precision: 10
  compression: "gzip"
  overwrite: false
"""


def test_the_guides_commands_run(here, capsys):
    (here / "diffusion_config.yaml").write_text(GUIDE_CONFIG)
    counts = []
    for line in GUIDE.replace("\n ", " ").strip().splitlines():
        assert main(["prerender", *shlex.split(line), "--quiet"]) == 0, line
        counts += re.findall(r"Pre-rendering is complete: (\d+) samples", capsys.readouterr().out)
    assert counts == ["12", "12", "10", "12"]
    assert not (here / "elsewhere").exists()
    one, other = ((here / name / "voxels_batch_0000.h5").read_bytes() for name in ("out_a", "out_b"))
    assert one == other
    assert len(voxfield.voxel_dataset("diffusion_config.yaml")) == 12


def test_failures_are_said_and_change_the_exit_code(here, capsys):
    np.save(here / "clouds" / "9.npy", np.full((3, 3), np.nan))
    arguments = ["prerender", "clouds", "--output-dir", "d", "--voxel-size", "8", "--dtype", "uint8", "--quiet"]
    assert main(arguments) == 1
    said = capsys.readouterr().out
    assert re.search(r"Failed: sample 2, clouds.9\.npy: none of its 3 points is finite", said)
    assert "Storing as uint8 changed values by 0.00" in said
    assert "Pre-rendering is complete: 2 samples (2 made now, 1 failed) in 1 batches: d" in said
    assert main([*arguments, "--sigma", "3"]) == 2
    assert "with sigma=1.0, not 3.0" in capsys.readouterr().err
    assert main(["prerender", "--output-dir", "d"]) == 2
    assert main(["prerender", "clouds", "--output-dir", "d", "--voxel-size", "8", "8"]) == 2
    assert "voxel_size" in capsys.readouterr().err
