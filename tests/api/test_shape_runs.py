"""raynet from a dataset to pictures, on a few small shapes."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import voxfield
from voxfield.api.shape_runs import ShapeRun
from voxfield.cli.__main__ import main
from voxfield.data.shape_batches import ShapeRayOptions, resolve_options
from voxfield.errors import InputError, MissingFileError
from voxfield.export.shape_pictures import predicted_view, shape_cameras, traced_view
from voxfield.models.raynet import RayPrediction
from voxfield.storage.run_log import read_log
from voxfield.storage.shape_dataset import open_shapes

TINY = (
    "model.features=8",
    "model.layers=1",
    "model.width=16",
    "model.intervals=12",
    "model.rays_per_batch=256",
    "model.blocks_per_batch=8",
    "trainer.tensorboard=false",
    "trainer.log_every=10",
)


@pytest.fixture(scope="module")
def run(shape_dataset, shape_rays, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "raynet"
    settings = (*TINY, f"data.rays={shape_rays['packed']}", "data.level=2")
    return voxfield.train(
        "raynet", shape_dataset, output=folder, steps=60, device="cpu", quiet=True, overrides=settings
    )


def test_training_writes_what_every_run_has(run, shape_rays):
    assert isinstance(run, ShapeRun)
    assert run.outcome == "finished"
    lines = read_log(run.path / "log.jsonl")
    train = [line for line in lines if line["kind"] == "train"]
    assert train[-1]["loss"] < train[0]["loss"]
    assert {"hit_accuracy", "depth_mae", "chord_mae", "rays_per_second", "num_rays"} <= set(train[-1])
    measured = next(line for line in lines if line["kind"] == "eval")
    assert measured["split"] == "held-out rays"
    assert 0 < measured["hit_f1"] <= 1
    assert run.experiment.data.rays == str(shape_rays["packed"].resolve())
    assert "chord mae" in (run.path / "report.html").read_text(encoding="utf-8")


def test_the_level_is_one_that_has_rays(shape_dataset, shape_rays, tmp_path):
    everything = resolve_options(shape_dataset, ShapeRayOptions(rays=str(shape_rays["packed"])))
    assert everything.level == 1
    voxfield.trace_shapes(shape_dataset, tmp_path, min_level=2, samples_per_view=30, workers=1, quiet=True)
    assert resolve_options(shape_dataset, ShapeRayOptions(rays=str(tmp_path))).level == 2
    coarse = tmp_path / "coarse"
    voxfield.trace_shapes(shape_dataset, coarse, max_level=0, samples_per_view=30, workers=1, quiet=True)
    assert resolve_options(shape_dataset, ShapeRayOptions(rays=str(coarse))).level == 0


def test_seen_and_unseen_blocks_are_measured_apart(run):
    metrics = run.evaluate(split="test", quiet=True)
    for part in ("seen", "unseen"):
        figures = metrics[part]
        assert 0 < figures["hit_f1"] <= 1
        assert figures["chord_mae_diagonal"] == pytest.approx(figures["chord_mae"] / (8 * 3**0.5))
        assert figures["num_rays"] > 0
    assert json.loads((run.path / "eval/test/metrics.json").read_text())["seen"] == metrics["seen"]
    assert run.evaluate(split="train", quiet=True)["unseen"] is None
    with pytest.raises(InputError, match="split"):
        run.evaluate(split="all")


def test_a_reopened_run_says_the_same(run):
    again = voxfield.open(run.path)
    assert isinstance(again, ShapeRun)
    assert all(
        torch.equal(one, other) for one, other in zip(again.model.parameters(), run.model.parameters(), strict=True)
    )


class Oracle(torch.nn.Module):
    """Stands for a network that is always right: it traces the block that it was shown."""

    def __init__(self, resolution: int) -> None:
        super().__init__()
        self.resolution, self.anchor = resolution, torch.nn.Parameter(torch.zeros(1))

    def encode(self, voxels):
        return voxels

    def in_parts(self, origins, directions, features, rays):
        from voxfield.kernels.traverse_voxels import traverse_voxels
        from voxfield.kernels.voxel_words import pack_voxels

        words = pack_voxels(features[0, 0] > 0.5)
        met = traverse_voxels(origins[0] + self.resolution / 2, directions[0], words, self.resolution)
        yield RayPrediction(
            hit=met.hit[None].float(),
            depth=met.distance[None].nan_to_num(posinf=0.0),
            chord=met.chord[None],
            log_miss=met.chord[None],
        )


@pytest.mark.parametrize("level", [0, 1, 2])
def test_a_perfect_network_gives_the_traced_picture(shape_dataset, level):
    tree = open_shapes(shape_dataset).read(0).tree
    cameras = shape_cameras(32, 3, 40)
    for view in range(3):
        truth = traced_view(tree.levels[0].words[0], 32, cameras, view)
        seen = predicted_view(Oracle(32 >> level), tree, level, cameras, view)
        assert torch.isfinite(truth.depth).float().mean() > 0.05
        assert (torch.isfinite(truth.depth) == torch.isfinite(seen.depth)).float().mean() > 0.99
        both = torch.isfinite(truth.depth) & torch.isfinite(seen.depth)
        assert (truth.depth - seen.depth)[both].abs().median() < 1e-3
        assert (truth.chord - seen.chord).abs().mean() < 0.05


def test_pictures_beside_the_truth(run, capsys):
    assert main(["render", str(run.path), "--width", "32", "--frames", "2", "--quiet"]) == 0
    files = sorted((run.path / "renders/shapes").glob("*.png"))
    assert len(files) == 2
    assert str(files[0]) in capsys.readouterr().out
    with Image.open(files[0]) as picture:
        assert picture.size[0] > 4 * 32
        assert np.asarray(picture).std() > 0
    with pytest.raises(InputError, match="has no object '0099'"):
        run.render_shapes(objects=["0099"], quiet=True)
    assert main(["render", str(run.path), "--path", "zoom"]) == 2
    assert "--path: for runs on photographs" in capsys.readouterr().err
    assert main(["eval", str(run.path), "--quiet"]) == 0
    assert "hit_f1" in capsys.readouterr().out.replace(" ", "_")


def test_missing_rays_say_how_to_trace_them(shape_dataset, tmp_path):
    with pytest.raises(MissingFileError, match="voxfield dataset trace"):
        voxfield.train("raynet", shape_dataset, output=tmp_path / "run", device="cpu", quiet=True)
    assert not (tmp_path / "run/experiment.json").exists()


def test_levels_and_shares_that_there_are_not(shape_dataset, shape_rays, tmp_path):
    rays = f"data.rays={shape_rays['files']}"
    for wrong, said in (("data.level=7", "has levels 0 to 2"), ("data.held_out=1.5", "held_out")):
        with pytest.raises(InputError, match=said):
            voxfield.train(
                "raynet", shape_dataset, output=tmp_path / "run", device="cpu", quiet=True, overrides=(rays, wrong)
            )


def test_a_dataset_that_moved_is_named(run, shape_dataset, tmp_path):
    moved = shutil.copytree(shape_dataset, tmp_path / "moved")
    opened = voxfield.open(run.path)
    metrics = opened.evaluate(split="train", data=moved, quiet=True)
    assert metrics["seen"] == run.evaluate(split="train", quiet=True)["seen"]
    with pytest.raises(MissingFileError, match="Name it with --data"):
        voxfield.open(run.path).evaluate(split="train", data=tmp_path / "nowhere", quiet=True)
