"""Every row of the page for people who come from elsewhere is run."""

import re
import shlex
from pathlib import Path
from types import ModuleType

import h5py
import numpy as np
import pytest
import torch

from voxfield.cli.__main__ import main

ELSEWHERE = {
    "voxfield capture process images photographs --output data/new": "tests/jobs/test_process_photos.py",
    "voxfield view runs/poster": "tests/viewer/test_browser.py",
    "voxfield dataset build --thingi10k --num-objects 100 --output-dir dataset": (
        "tests/compat/test_voxel_dataset_generator.py"
    ),
    "torchrun --nproc-per-node 6 -m voxfield train nerfacto data/poster --view": "tests/integration/test_torchrun.py",
}
"""Commands that need minutes, a browser, a launcher or the network, and the tests that run them."""

NO_TRAINING = ("trainer.tensorboard=false",)
FIELD = (
    *NO_TRAINING,
    "model.field.num_levels=2",
    "model.field.log2_table_size=8",
    "model.field.base_resolution=8",
    "model.field.max_resolution=32",
    "model.field.hidden=16",
)
SMALL = {
    "nerfacto": (
        *FIELD,
        "model.coarse_proposal.num_samples=16",
        "model.coarse_proposal.log2_table_size=8",
        "model.fine_proposal.num_samples=16",
        "model.fine_proposal.log2_table_size=8",
        "model.num_samples=8",
        "model.rays_per_batch=64",
    ),
    "pynerf": (
        *FIELD,
        "model.pyramid.num_levels=3",
        "model.pyramid.trained_resolution=32",
        "model.samples_per_batch=1024",
        "model.final_samples_per_batch=1024",
        "model.occupancy.resolution=16",
        "model.occupancy.warm_up_updates=1",
    ),
    "plenoxels": (
        *NO_TRAINING,
        "model.resolutions=[[8,8,8]]",
        "model.refine_at=[]",
        "model.sh_degree=1",
        "model.rays_per_batch=64",
        "model.pruning_rays=500",
    ),
    "raynet": (
        *NO_TRAINING,
        "model.features=8",
        "model.layers=0",
        "model.width=16",
        "model.intervals=8",
        "model.rays_per_batch=64",
        "model.blocks_per_batch=4",
    ),
    "diffusion": (
        *NO_TRAINING,
        "model.channels=8,8",
        "model.norm_groups=4",
        "model.head_channels=8",
        "model.batch_size=2",
        "model.schedule.timesteps=10",
        "sampling.steps=2",
    ),
}
"""Settings of models that cost next to nothing."""

QUICKER = [
    (r"--steps \d+", "--steps 2"),
    (r"--frames \d+", "--frames 2"),
    (r"--resolution \d+", "--resolution 16"),
    (r"--samples-per-view \d+", "--samples-per-view 30 --workers 1"),
    (r"--voxel-size \d+", "--voxel-size 8"),
    (r"voxfield render (.*)", r"voxfield render \1 --width 16"),
    (r"--path (orbit|spiral|interpolate)(?!.*--frames)", r"--path \1 --frames 2"),
    (r"export mesh(.*)", r"export mesh\1 --resolution 16 --opacity 0.01"),
    (r"export blender(.*)", r"export blender\1 --resolution 16 --frames 2"),
    (r"export pointcloud(.*)", r"export pointcloud\1 --points 50"),
    (r"--view\b", "--view --port 0"),
    (r"dataset build(.*)", r"dataset build\1 --workers 1"),
    (r"(prerender .*)", r"\1 --workers 1"),
    (r"sample diffusion(.*)", r"sample diffusion\1 --formats hdf5"),
]
"""What a person waits for and a test does not."""

CONFIG = """
data: {use_prerendered: true, prerendered_dir: prerendered_config, h5_file_path: pointclouds.h5,
  voxel_size: 8, volume_dims: [28000.0, 28000.0, 1600.0], train_ratio: 0.8}
prerender: {output_dir: elsewhere, max_samples: null, batch_size: 100, threshold: 0.001, precision: 10,
  compression: gzip, overwrite: false}
"""


def rows(page: str) -> list[str]:
    """The right side of every table."""
    lines = [line for line in page.splitlines() if line.startswith("|")]
    return [line.split(" | ")[1].removesuffix(" |") for line in lines if line not in ("| there | here |", "|---|---|")]


def commands(row: str) -> list[str]:
    return re.findall(r"`((?:voxfield|torchrun) [^`]+)`", row)


def quick(command: str, source: str) -> list[str]:
    """The words of the command, for a small model and little data."""
    for pattern, replacement in QUICKER:
        command = re.sub(pattern, replacement, command)
    words = shlex.split(command)[1:]
    if words[0] == "train":
        given = {word.split("=")[0] for word in words}
        small = [setting for setting in SMALL[words[1]] if setting.split("=")[0] not in given]
        if "--resume" not in words:
            words += [part for setting in small for part in ("--set", setting)]
        if "--steps" not in words:
            words += ["--steps", "2"]
        words += ["--device", "cpu", "--quiet"]
    elif words[:2] == ["capture", "download"]:
        words += ["--source", source, "--quiet"]
    return words


@pytest.fixture
def here(tmp_path: Path, captures: ModuleType, shape_meshes: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with everything the page's commands name."""
    from voxfield.data.camera_path import CameraPath, View
    from voxfield.data.synthetic import posed_images, write_blender
    from voxfield.jobs.fetch_eyefultower import CAPTURES, RESOLUTIONS

    captures.write_nerfstudio(tmp_path / "data/poster", captures.some_cameras())
    captures.write_llff(tmp_path / "nerf_llff_data/fern", captures.some_cameras(centred=True))
    splits = [posed_images(count=4, resolution=16, split=split) for split in ("train", "val", "test")]
    write_blender(tmp_path / "nerf_synthetic/lego", splits)
    (tmp_path / "meshes").symlink_to(shape_meshes)
    points = np.random.default_rng(0).random((12, 50, 3)) * (28000, 28000, 1600)
    with h5py.File(tmp_path / "pointclouds.h5", "w") as file:
        file["pointclouds"] = points.astype(np.float32)
    (tmp_path / "diffusion_config.yaml").write_text(CONFIG)
    poses = captures.some_cameras(2).camera_to_world
    frames = tuple(View.from_pose(pose, fov=50.0, aspect=1.5) for pose in poses)
    CameraPath(width=48, height=32, frames=frames).write(tmp_path / "camera_path.json")
    captures.write_eyefultower(tmp_path / "source/riverview", captures.some_cameras())
    for folder in RESOLUTIONS.values():
        for index in range(9):
            draw, ending = (captures.picture, "jpg") if "jpeg" in folder else (captures.exr_picture, "exr")
            draw(tmp_path / f"source/riverview/{folder}/{captures.eyeful_name(index)}.{ending}", index)
    for name in CAPTURES:
        if name != "riverview":
            (tmp_path / "source" / name).symlink_to(tmp_path / "source/riverview")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.timeout(600)  # some fifty commands
def test_every_row_runs(repository: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    ran, failed = 0, []
    for row in rows((repository / "docs/migration.md").read_text(encoding="utf-8")):
        for command in commands(row):
            if command in ELSEWHERE:
                assert (repository / ELSEWHERE[command]).is_file()
                continue
            code = main(quick(command, (here / "source").as_uri()))
            said = capsys.readouterr()
            ran += 1
            if code:
                failed.append(f"{command}\n{said.out[-500:]}{said.err[-1500:]}")
    assert not failed, "\n\n".join(failed)
    assert ran > 50
