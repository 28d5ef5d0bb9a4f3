"""The jobs that are killed: small, but with the stages, processes and files of large ones."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from fault_harness import Job

import voxfield
from voxfield.data.synthetic import posed_images, write_blender
from voxfield.storage.checkpoint import list_checkpoints, load_checkpoint
from voxfield.storage.run_log import read_log
from voxfield.storage.vdb import VdbFile, VdbGrid, write_vdb
from voxfield.voxels.sparse import SparseVolume

TINY = (
    "model.field.hidden=32",
    "model.field.colour_layers=1",
    "model.field.num_levels=4",
    "model.field.base_resolution=8",
    "model.field.max_resolution=64",
    "model.field.log2_table_size=10",
    "model.steps_across=64",
    "model.occupancy.resolution=32",
    "model.occupancy.update_every=4",
    "model.samples_per_batch=4096",
    "model.final_samples_per_batch=4096",
    "trainer.tensorboard=false",
    "trainer.log_every=2",
    "trainer.evaluation_images=1",
    "trainer.checkpoint_every=0.05",
)
"""Small enough for a hundred trainings, with a checkpoint every few steps."""
CALLS_OWN = {"processing_summary.json"}
"""What a call says of itself alone: how much of the work it found done."""


def tree(folder: Path) -> dict[str, str]:
    """What lies below a folder: paths and checksums."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in CALLS_OWN
    }


def same_bytes(folder: Path, undisturbed: Path) -> None:
    """Two folders have the same files, and no others."""
    assert tree(folder) == tree(undisturbed)


def no_litter(folder: Path) -> None:
    """Nothing half-written lies anywhere."""
    assert [path for path in folder.rglob("*") if path.name.startswith(".") or ".partial" in path.name] == []


def write_meshes(folder: Path, count: int = 6) -> None:
    """Lopsided wedges."""
    folder.mkdir()
    for number in range(count):
        corners = f"v 0 0 0\nv {3 + number} 0 1\nv 0 {7 - number} 0\nv 0.5 0 3\n"
        (folder / f"wedge{number}.obj").write_text(corners + "f 1 3 2\nf 1 2 4\nf 2 3 4\nf 1 4 3\n")


def build(material: Path) -> Job:
    """Meshes to a dataset, on two processes."""
    write_meshes(material / "meshes")
    options = ["--resolution", 64, "--min-resolution", 8, "--workers", 2, "--quiet"]

    def whole(folder: Path) -> None:
        if (folder / "metadata.json").is_file():
            voxfield.verify_shapes(folder)

    return Job(
        name="dataset build",
        arguments=lambda folder: ["dataset", "build", material / "meshes", "--output-dir", folder, *options],
        same=_also(same_bytes, no_litter),
        whole=whole,
    )


def trace(material: Path, workers: int = 2) -> Job:
    """Rays of a dataset, packed at the end."""
    write_meshes(material / "traced meshes", 3)
    dataset = material / "dataset"
    voxfield.build_shapes(material / "traced meshes", dataset, resolution=32, min_resolution=8, workers=1, quiet=True)
    options = ["--sphere-divisions", 2, "--samples-per-view", 90, "--layout", "packed", "--workers", workers, "--quiet"]
    return Job(
        name="dataset trace",
        arguments=lambda folder: ["dataset", "trace", dataset, "--output-dir", folder, *options],
        same=_also(same_bytes, no_litter),
    )


def prerender(material: Path, workers: int = 2) -> Job:
    """Clouds to voxels, in several batches."""
    np.save(material / "clouds.npy", np.random.default_rng(0).random((24, 200, 3)).astype(np.float32))
    options = ["--voxel-size", 24, "--volume-dims", 1, 1, 1, "--batch-size", 5, "--workers", workers, "--quiet"]
    return Job(
        name="prerender",
        arguments=lambda folder: ["prerender", material / "clouds.npy", "--output-dir", folder, *options],
        same=_also(same_bytes, no_litter),
    )


def save_vdb(material: Path) -> Job:
    """A volume written over one of the same name, which must be there all the time, the old one or the new."""
    draw = np.random.default_rng(0)
    dense = np.where(draw.random((96, 96, 96)) < 0.4, draw.random((96, 96, 96)), 0).astype(np.float32)
    source = write_vdb(material / "source.vdb", [VdbGrid(name="fog", volume=SparseVolume.from_dense(dense))])
    old = SparseVolume.from_dense(np.ones((3, 3, 3), np.float32))

    def prepare(folder: Path) -> None:
        folder.mkdir()
        write_vdb(folder / "out.vdb", [VdbGrid(name="old", volume=old)])

    def whole(folder: Path) -> None:
        (header,) = VdbFile(folder / "out.vdb").grids
        assert VdbFile(folder / "out.vdb").read(header).volume.active_count == {"old": 27}.get(
            header.name, np.count_nonzero(dense)
        )

    return Job(
        name="vdb convert",
        arguments=lambda folder: ["vdb", "convert", source, folder / "out.vdb", "--compression", "zip"],
        same=_also(same_bytes, no_litter),
        whole=whole,
        prepare=prepare,
    )


def train(material: Path) -> Job:
    """A training that writes checkpoints all the time: continued, it comes to the same weights, bit by bit."""
    splits = [posed_images(count=4, resolution=24, split=split) for split in ("train", "val", "test")]
    write_blender(material / "photos", splits)
    settings = [word for setting in TINY for word in ("--set", setting)]

    def arguments(folder: Path) -> list[object]:
        begun = (folder / "run" / "experiment.json").is_file()
        call = ["train", "grid-ngp", material / "photos", "--output", folder / "run", "--steps", 60, "--device", "cpu"]
        return [*call, "--quiet", *settings, *(["--resume"] if begun else [])]

    def whole(folder: Path) -> None:
        for path in list_checkpoints(folder / "run"):
            load_checkpoint(path)
        if (folder / "run" / "log.jsonl").is_file():
            read_log(folder / "run")
        if (folder / "run" / "experiment.json").is_file():
            json.loads((folder / "run" / "experiment.json").read_text())

    def same(folder: Path, undisturbed: Path) -> None:
        states = [load_checkpoint(list_checkpoints(one / "run")[-1]) for one in (folder, undisturbed)]
        assert states[0]["step"] == states[1]["step"] == 60
        assert states[0]["model"].keys() == states[1]["model"].keys()
        for name, value in states[0]["model"].items():
            assert not isinstance(value, torch.Tensor) or torch.equal(value, states[1]["model"][name]), name
        steps = [
            [line["step"] for line in read_log(one / "run") if line["kind"] == "train"] for one in (folder, undisturbed)
        ]
        assert steps[0] == steps[1]
        no_litter(folder)

    return Job(name="train", arguments=arguments, same=same, whole=whole)


def download(material: Path, url: str) -> Job:
    """Pictures from a web server on this machine."""
    return Job(
        name="capture download",
        arguments=lambda folder: [
            *("capture", "download", "eyefultower", "--capture-name", "riverview", "--resolution-name", "jpeg_2k"),
            *("--output", folder, "--source", url, "--transfers", 2, "--quiet"),
        ],
        same=_also(same_bytes, no_litter),
    )


def _also(same: Callable[[Path, Path], None], clean: Callable[[Path], None]) -> Callable[[Path, Path], None]:
    def both(folder: Path, undisturbed: Path) -> None:
        clean(folder)
        same(folder, undisturbed)

    return both


LOCAL = {"build": build, "trace": trace, "prerender": prerender, "vdb": save_vdb, "train": train}
"""Those that need nothing but a folder for their material."""
KILLS = int(os.environ.get("VOXFIELD_KILLS", "200"))
"""Kills of the long campaign."""
