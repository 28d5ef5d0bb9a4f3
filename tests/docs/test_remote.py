"""The page on files at URLs is run against an S3 server on this machine, as if by several machines."""

import re
import shlex

import h5py
import numpy as np
import pytest

from voxfield.cli.__main__ import main

# What a person waits for and a test does not.
SMALLER = [
    (r"(train grid-ngp .*)--minutes 5", r"\1--steps 20"),
    (r"(train grid-ngp .*)--minutes 20", r"\1--steps 30"),
    (r"(train raynet .*)--minutes 10", r"\1--steps 4 --set model.width=32 --set model.blocks_per_batch=2"),
    (r"(train diffusion .*)--minutes 10", r"\1--steps 2"),
    (r"--path orbit", "--path orbit --frames 2 --width 16 --height 16 --format images"),
    (r"(export mesh .*)", r"\1 --resolution 16 --opacity 0.01"),
    (r"(export vdb .*)", r"\1 --resolution 16"),
    (r"(dataset build .*)", r"\1 --resolution 32 --min-resolution 8 --workers 1"),
    (r"(dataset trace .*)", r"\1 --sphere-divisions 2 --samples-per-view 90 --workers 1"),
    (r"--voxel-size 128", "--voxel-size 8 --workers 1"),
]


@pytest.fixture
def remote(bucket, tiny_capture, shape_meshes):
    """What the page takes for granted in its bucket."""
    for name, folder in (("captures/lego", tiny_capture), ("models", shape_meshes)):
        for path in folder.rglob("*"):
            if path.is_file():
                bucket.write(f"{name}/{path.relative_to(folder).as_posix()}", path.read_bytes())
    return bucket


def test_the_page_runs(repository, remote, tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with h5py.File(tmp_path / "clouds.h5", "w") as file:
        file["pointclouds"] = np.random.default_rng(0).random((6, 50, 3)).astype(np.float32)
    remote.write("clouds.h5", (tmp_path / "clouds.h5").read_bytes())
    page = (repository / "docs" / "remote.md").read_text(encoding="utf-8").replace("my-bucket", remote.name)
    blocks = re.findall(r"^```(console|python)\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    lines = [line for language, text in blocks if language == "console" for line in text.splitlines()]
    commands = [line.removeprefix("$ voxfield ") for line in lines if line.startswith("$ voxfield ")]
    assert len(commands) == 17
    said = ""
    for number, command in enumerate(commands):
        if number in {1, 3, 11, 12}:
            # Another machine goes on.
            monkeypatch.setenv("VOXFIELD_CACHE", str(tmp_path / f"machine-{number}"))
        for pattern, replacement in SMALLER:
            command = re.sub(pattern, replacement, command)
        arguments = shlex.split(command)
        if command.startswith("train grid-ngp") and "--resume" not in command:
            arguments += [word for setting in tiny for word in ("--set", setting)]
        if command.split()[0] in {"train", "eval", "render", "prerender"} or command.startswith("dataset build"):
            arguments.append("--quiet")
        code = main(arguments)
        printed = capsys.readouterr()
        assert code == 0, f"{command}: {printed.err}"
        said += printed.out
    (code,) = [text for language, text in blocks if language == "python"]
    exec(compile(code, "docs/remote.md", "exec"), {})
    there = set(remote.names())
    assert remote.read("notes/lego.txt") == b"step 30"
    assert {
        "runs/lego/experiment.json",
        "runs/lego/checkpoints/step-000000030.pt",
        "runs/lego/eval/test/metrics.json",
        "runs/lego/report.html",
        "meshes/lego.ply",
        "volumes/lego.vdb",
        "volumes/levels/lod_0.vdb",
        "shapes/dataset/metadata.json",
        "shapes/dataset/splits.json",
        "shapes/ray_dataset_hierarchical/trace.json",
        "runs/raynet/experiment.json",
        "voxels/metadata.yaml",
        "runs/diffusion/experiment.json",
        "cameras/lego.json",
    } <= there
    assert sum(name.startswith("films/orbit/") and name.endswith(".png") for name in there) == 2
    assert f"Run:     s3://{remote.name}/runs/lego" in said
    assert f"Wrote  s3://{remote.name}/volumes/lego.vdb" in said
    assert f"s3://{remote.name}/captures/lego" in remote.read("runs/lego/experiment.json").decode()
    # Yet another machine finds the jobs done.
    monkeypatch.setenv("VOXFIELD_CACHE", str(tmp_path / "last-machine"))
    for command in (one for one in commands if one.startswith(("dataset build", "dataset trace", "prerender"))):
        for pattern, replacement in SMALLER:
            command = re.sub(pattern, replacement, command)
        assert main([*shlex.split(command), "--quiet"]) == 0
    said = capsys.readouterr().out
    assert "4 (0 made now)" in said
    assert "Traced 0 of" in said
    assert "6 samples (0 made now)" in said
