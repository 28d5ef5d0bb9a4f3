"""Several scales from end to end: training, measuring, rendering, exporting."""

import json
import shutil
from pathlib import Path
from types import ModuleType

import pytest
import torch

import voxfield
from voxfield.cli.__main__ import main
from voxfield.data.decode import read_header
from voxfield.errors import InputError
from voxfield.export.weights import read_weights
from voxfield.storage.checkpoint import list_checkpoints, load_checkpoint

SCALES = "capture.scales=1,2,4,8"


@pytest.fixture(scope="module")
def run(tiny: tuple[str, ...], tiny_capture: Path, tmp_path_factory: pytest.TempPathFactory) -> voxfield.Run:
    """A run on four scales."""
    output = tmp_path_factory.mktemp("runs") / "scales"
    return voxfield.train(
        "grid-ngp", tiny_capture, output=output, steps=60, device="cpu", quiet=True, overrides=[*tiny, SCALES]
    )


def last_parameters(run: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(list_checkpoints(run)[-1])["model"]


def test_a_run_records_its_scales(run: voxfield.Run) -> None:
    assert run.experiment.capture.scales == (1, 2, 4, 8)
    assert run.captures.num_images == 10
    assert len(run.captures) == 40


def test_metrics_come_scale_by_scale(run: voxfield.Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", str(run.path), "--quiet"]) == 0
    metrics = json.loads((run.path / "eval/test/metrics.json").read_text())
    assert [(one["scale"], one["width"], one["num_images"]) for one in metrics["per_scale"]] == [
        (1, 32, 2), (2, 16, 2), (4, 8, 2), (8, 4, 2),
    ]  # fmt: skip
    assert metrics["protocol"]["scales"] == [1, 2, 4, 8]
    assert metrics["avg_error"] is None
    assert "1/8    4x4     " in capsys.readouterr().out
    only = run.evaluate(scales=(1, 4), quiet=True)
    assert [one["scale"] for one in only["per_scale"]] == [1, 4]
    assert "scale by scale" in run.report().read_text()


def test_a_coarse_to_fine_run_resumes_exactly(tiny: tuple[str, ...], tiny_capture: Path, tmp_path: Path) -> None:
    schedule = "capture.scale_schedule={0:8,10:4,20:1}"
    often = ("trainer.steps=30", "trainer.checkpoint_every=1e-6", "trainer.keep_checkpoints=30")
    settings = [*tiny, SCALES, schedule, *often]
    voxfield.train("grid-ngp", tiny_capture, output=tmp_path / "whole", device="cpu", quiet=True, overrides=settings)
    # As if it had been stopped while the second scale was learnt.
    shutil.copytree(tmp_path / "whole", tmp_path / "parts")
    for checkpoint in list_checkpoints(tmp_path / "parts")[15:]:
        checkpoint.unlink()
    voxfield.train("grid-ngp", tiny_capture, output=tmp_path / "parts", device="cpu", quiet=True, resume=True)
    whole, parts = last_parameters(tmp_path / "whole"), last_parameters(tmp_path / "parts")
    assert len(list_checkpoints(tmp_path / "parts")) == 30
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())
    record = json.loads((tmp_path / "whole" / "experiment.json").read_text())
    assert record["values"]["capture"]["scale_schedule"] == {"0": 8, "10": 4, "20": 1}
    assert voxfield.open(tmp_path / "whole").experiment.capture.scale_schedule == {0: 8, 10: 4, 20: 1}


def test_nerfacto_has_one_appearance_an_image(tiny_capture: Path, tmp_path: Path) -> None:
    settings = (
        SCALES, "model.field.log2_table_size=8", "model.field.max_resolution=64", "model.num_samples=8",
        "model.coarse_proposal.num_samples=16", "model.fine_proposal.num_samples=16", "model.rays_per_batch=64",
        "model.coarse_proposal.log2_table_size=8", "model.fine_proposal.log2_table_size=8", "trainer.tensorboard=false",
        "model.poses=SE3",
    )  # fmt: skip
    run = voxfield.train(
        "nerfacto", tiny_capture, output=tmp_path / "run", steps=4, device="cpu", quiet=True, overrides=settings
    )
    assert run.model.appearance.shape[0] == 10
    assert run.model.poses.corrections.shape[0] == 10
    assert run.evaluate(quiet=True, max_images=1)["num_images"] == 4


def test_a_zoom_beside_another_run(
    run: voxfield.Run, tiny: tuple[str, ...], tiny_capture: Path, tmp_path: Path
) -> None:
    other = voxfield.train(
        "grid-ngp", tiny_capture, output=tmp_path / "single", steps=5, device="cpu", quiet=True, overrides=tiny
    )
    files = run.render_path(
        "zoom", frames=2, width=24, beside=other, save_depth=True, chunk_size=100, format="images", quiet=True
    )
    assert {path.parent for path in files} == {run.path / "renders" / "zoom-beside-single"}
    assert sorted(path.name for path in files) == [
        "depth_00000.npy", "depth_00000.png", "depth_00001.npy", "depth_00001.png",
        "frame_00000.png", "frame_00001.png",
    ]  # fmt: skip
    pictures = [path for path in files if path.name.startswith("frame")]
    assert read_header(pictures[0]).size == (2 * 24 + 4, 24)
    assert len(run.render_path("dataset", split="train", width=8, format="images", quiet=True)) == 10
    with pytest.raises(InputError, match="beside: pictures beside each other are for PNGs and videos"):
        run.render_path("zoom", frames=1, beside=other.path, format="exr", quiet=True)
    with pytest.raises(InputError, match="chunk_size"):
        run.render_path("zoom", frames=1, chunk_size=0, format="images", quiet=True)


def test_runs_of_other_worlds_cannot_be_compared(
    run: voxfield.Run, tiny: tuple[str, ...], tmp_path: Path, captures: ModuleType
) -> None:
    captures.write_llff(tmp_path / "llff", captures.some_cameras(centred=True))
    other = voxfield.train(
        "grid-ngp", tmp_path / "llff", output=tmp_path / "other", steps=1, device="cpu", quiet=True, overrides=tiny
    )
    with pytest.raises(InputError, match="its world is another than that of"):
        run.render_path("zoom", frames=1, beside=other, format="images", quiet=True)


def test_a_run_is_exported_for_nerfstudio(
    run: voxfield.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", "nerfstudio", str(run.path), str(tmp_path / "out")]) == 0
    assert "Wrote" in capsys.readouterr().out
    transforms = json.loads((tmp_path / "out/transforms.json").read_text())
    assert len(transforms["train_filenames"]) == 10
    assert torch.equal(read_weights(tmp_path / "out")["field.table"], run.model.field.table)
    listing = json.loads((tmp_path / "out/weights.json").read_text())
    assert (listing["recipe"], listing["step"]) == ("grid-ngp", 60)
    assert json.loads((tmp_path / "out/world.json").read_text())["scale"] == pytest.approx(1.0)
    assert main(["export", "nerfstudio", str(run.path), str(tmp_path / "out")]) == 2


def test_the_benchmark_is_trained_and_measured(
    tiny: tuple[str, ...], tiny_capture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "multiscale"
    words = ["capture", "multiscale", str(tiny_capture), str(data), "--near", "1", "--scales", "1", "2", "--quiet"]
    assert main(words) == 0
    assert "10 train, 2 val, 2 test, each at 2 scales" in capsys.readouterr().out
    run = voxfield.train("grid-ngp", data, output=tmp_path / "run", steps=3, device="cpu", quiet=True, overrides=tiny)
    assert [one["scale"] for one in run.evaluate(quiet=True)["per_scale"]] == [1, 2]
    assert main([*words[:-4], "--scales", "1", "3"]) == 2


@pytest.mark.parametrize(
    ("scales", "expected"),
    [
        ("1,3,5", "at scale 3 up to 2 rows and 2 columns of 10 pictures, at scale 5 up to 2 rows and 2 columns of 10"),
        ("1,2", None),
    ],
)
def test_what_cropped_copies_leave_out_is_logged(
    tiny: tuple[str, ...], tiny_capture: Path, tmp_path: Path, scales: str, expected: str | None
) -> None:
    settings = [*tiny, f"capture.scales={scales}", "capture.uneven_scales=crop"]
    run = voxfield.train(
        "grid-ngp", tiny_capture, output=tmp_path / "run", steps=1, device="cpu", quiet=True, overrides=settings
    )
    lines = [json.loads(line) for line in (run.path / "log.jsonl").read_text().splitlines()]
    said = [
        line["message"] for line in lines if line["kind"] == "event" and "Reduced copies leave out" in line["message"]
    ]
    assert len(said) == (0 if expected is None else 1)
    assert expected is None or expected in said[0]
