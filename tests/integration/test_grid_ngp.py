"""The main job from end to end through the command line on a tiny scene, and everything that may go wrong."""

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch

import voxfield
from voxfield.cli.__main__ import main
from voxfield.data.image_store import ImageStore
from voxfield.data.posed_images import PosedImages
from voxfield.data.synthetic import posed_images, write_nerfstudio
from voxfield.storage.checkpoint import list_checkpoints, load_checkpoint
from voxfield.storage.run_log import read_log

Train = Callable[..., int]


@pytest.fixture
def train(tiny: tuple[str, ...]) -> Train:
    """``train(data, output, *options)`` runs the verb on the CPU with tiny settings and returns its exit code."""

    def call(data: Path, output: Path, *options: str) -> int:
        settings = [part for setting in tiny for part in ("--set", setting)]
        arguments = ["train", "grid-ngp", str(data), "--output", str(output), "--device", "cpu", "--quiet"]
        return main([*arguments, *settings, *options])

    return call


@pytest.fixture
def capture(tiny_capture: Path, tmp_path: Path) -> Path:
    """A copy of the tiny capture to spoil."""
    return Path(shutil.copytree(tiny_capture, tmp_path / "capture"))


def edit(capture: Path, change: Callable[[dict[str, Any]], object], split: str = "train") -> Path:
    """Change a transforms file through its content."""
    path = capture / f"transforms_{split}.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return path


def stretched(capture: PosedImages, *, width: int) -> PosedImages:
    """The same views, each pixel repeated along its row."""
    factor = width // int(capture.cameras.width[0])
    stretch = capture.cameras.focal.new_tensor([factor, 1.0])
    cameras = dataclasses.replace(
        capture.cameras,
        width=capture.cameras.width * factor,
        focal=capture.cameras.focal * stretch,
        principal=capture.cameras.principal * stretch,
    )
    pictures = [capture.images.read(index).repeat_interleave(factor, dim=1) for index in range(len(capture))]
    return dataclasses.replace(capture, cameras=cameras, images=ImageStore.from_tensors(pictures))


def state_of(run_dir: Path) -> dict[str, Any]:
    return load_checkpoint(list_checkpoints(run_dir)[-1])


def assert_same_state(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one["step"] == other["step"]
    assert set(one["model"]) == set(other["model"])
    for name, tensor in one["model"].items():
        assert torch.equal(tensor, other["model"][name]), name
    for pair, same in zip(one["optimiser"]["moments"], other["optimiser"]["moments"], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(pair, same, strict=True))


# ------------------------------------------------------------------------------------------------------ the main job


@pytest.fixture(scope="module")
def trained(tiny: tuple[str, ...], tiny_capture: Path, tmp_path_factory: pytest.TempPathFactory) -> voxfield.Run:
    output = tmp_path_factory.mktemp("runs") / "spheres"
    return voxfield.train("grid-ngp", tiny_capture, output=output, steps=300, device="cpu", quiet=True, overrides=tiny)


def test_training_learns_the_scene(trained: voxfield.Run) -> None:
    assert trained.outcome == "finished"
    lines = [line for line in read_log(trained.path) if line["kind"] == "train"]
    first, last = lines[0]["loss"], sum(line["loss"] for line in lines[-5:]) / 5
    assert last < 0.4 * first
    metrics = trained.evaluate(quiet=True)
    # Measured: 20 dB. Before training it is 9: all white against a scene that covers half of the picture.
    assert metrics["psnr"] > 17.5
    assert metrics["num_images"] == 2


def test_settings_that_follow_from_the_capture_are_recorded(trained: voxfield.Run) -> None:
    recorded = json.loads((trained.path / "experiment.json").read_text())["values"]["model"]
    assert (recorded["background"], recorded["cascades"], recorded["cone_angle"]) == ("random", 1, 0.0)


def test_the_run_directory_is_complete(trained: voxfield.Run) -> None:
    trained.evaluate(quiet=True)
    names = {path.relative_to(trained.path).as_posix() for path in trained.path.rglob("*") if path.is_file()}
    assert {"experiment.json", "log.jsonl", "report.html", "checkpoints/step-000000300.pt"} <= names
    assert {"eval/test/metrics.json", "eval/test/focus.html", "eval/test/r_0.png", "eval/test/r_1.png"} <= names
    assert not [name for name in names if name.endswith(".partial") or "failures" in name]
    start, *middle, end = read_log(trained.path)
    assert start["kind"] == "start"
    assert {"recipe", "data", "seed", "device", "machine", "time", "compile_seconds"} <= set(start)
    assert (end["kind"], end["reason"], end["step"]) == ("end", "finished", 300)
    assert end["peak_memory_bytes"] is None or 2**27 < end["peak_memory_bytes"] < 2**36
    assert "peak_device_memory_bytes" not in end, "a CPU has no memory of its own"
    assert [line["step"] for line in middle if line["kind"] == "train"] == list(range(5, 301, 5))
    (measured,) = [line for line in middle if line["kind"] == "eval"]
    assert (measured["step"], measured["split"]) == (300, "val")
    assert measured["psnr"] > 15


def test_aligned_poses_leave_the_plain_metrics_alone(trained: voxfield.Run) -> None:
    plain = trained.evaluate(max_images=1, quiet=True)
    weight = next(iter(cast(torch.nn.Module, trained.model).parameters()))
    aligned = trained.evaluate(max_images=1, align_poses=True, quiet=True)
    assert aligned["psnr"] == pytest.approx(plain["psnr"], abs=1e-3)
    assert plain["psnr_aligned"] is None
    assert aligned["psnr_aligned"] > aligned["psnr"] - 0.5
    (image,) = aligned["per_image"]
    # The poses are exact: what the blurred little field likes better is near.
    assert image["alignment"]["pixels"] < 1.0
    assert (trained.path / "eval" / "test" / image["picture_aligned"]).is_file()
    assert aligned["protocol"]["alignment"]["manifold"] == "SO3xR3"
    assert weight.requires_grad


def test_metrics_carry_their_protocol(trained: voxfield.Run) -> None:
    metrics = trained.evaluate(split="test", max_images=1, background="black", quiet=True)
    protocol = metrics["protocol"]
    assert protocol["background"] == "black"
    assert protocol["step"] == 300
    assert protocol["checkpoint"] == "step-000000300.pt"
    assert protocol["train_seconds"] > 0
    assert protocol["ssim"] == {"window": 11, "sigma": 1.5, "border": "valid"}
    assert protocol["lpips"] is None
    assert metrics["lpips"] is None


def test_verbs_work_on_the_run(trained: voxfield.Run, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(trained.path)
    assert main(["eval", run, "--quiet", "--max-images", "1"]) == 0
    assert main(["render", run, "--quiet", "--path", "orbit", "--frames", "2", "--width", "16"]) == 0
    assert main(["render", run, "--quiet", "--path", "dataset", "--frames", "2", "--format", "images"]) == 0
    assert main(["report", run]) == 0
    assert main(["info", run, "--json"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"PSNR +\d+\.\d\d", said)
    assert (trained.path / "renders" / "orbit.mp4").stat().st_size > 500
    assert (trained.path / "renders" / "orbit" / "frame_00001.png").is_file()
    information = json.loads(said[said.index("{") :])
    assert (information["step"], information["state"]) == (300, "finished")


def test_an_opened_run_renders(trained: voxfield.Run) -> None:
    run = voxfield.open(trained.path)
    cameras = run.split("test").cameras
    seen = run.render(cameras, 1)
    assert seen["rgb"].shape == (32, 32, 3)
    assert seen["opacity"].shape == seen["depth"].shape == (32, 32)
    assert 0 <= float(seen["opacity"].min()) <= float(seen["opacity"].max()) <= 1 + 1e-5
    # The scene stands in the middle, 4 units away; the corners look past it.
    assert float(seen["opacity"][16, 16]) > 0.5
    assert 2.5 < float(seen["depth"][16, 16]) < 5.0
    for name, value in run.render(cameras, 1).items():
        assert torch.equal(value, seen[name]), name


def test_a_finished_run_has_nothing_left_to_do(
    trained: voxfield.Run, tiny_capture: Path, train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    held = {path: path.read_bytes() for path in trained.path.rglob("*.pt")} | {
        trained.path / "log.jsonl": (trained.path / "log.jsonl").read_bytes()
    }
    assert train(tiny_capture, trained.path, "--resume") == 0
    assert all(path.read_bytes() == content for path, content in held.items())


# ------------------------------------------------------------------------------------------------- stopping, resuming


def test_a_resumed_run_equals_an_uninterrupted_one(tiny_capture: Path, tmp_path: Path, train: Train) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    quiet = ("--set", "trainer.evaluation_images=0", "--set", "trainer.ema_decay=0.9", "--steps", "40")
    assert train(tiny_capture, whole, *quiet) == 0
    # Checkpoints at every step; then the later half of the run is lost.
    frequent = ("--set", "trainer.checkpoint_every=1e-9", "--set", "trainer.keep_checkpoints=100")
    assert train(tiny_capture, parts, *quiet, *frequent) == 0
    for path in list_checkpoints(parts):
        if path.name > "step-000000021.pt":
            path.unlink()
    assert train(tiny_capture, parts, *quiet, "--resume", "--seed", "7") == 0
    assert_same_state(state_of(whole), state_of(parts))
    averages = zip(state_of(whole)["average"]["values"], state_of(parts)["average"]["values"], strict=True)
    assert all(torch.equal(a, b) for a, b in averages)
    steps = [line["step"] for line in read_log(parts) if line["kind"] == "train"]
    assert steps == list(range(5, 41, 5))


def test_a_capture_beyond_the_image_cache_resumes_exactly_too(
    tiny_capture: Path, tmp_path: Path, train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    quiet = ("--set", "trainer.evaluation_images=0", "--set", "capture.rotate_every=2", "--steps", "20")
    assert train(tiny_capture, whole, *quiet, "--image-cache", "1KB") == 0
    frequent = ("--set", "trainer.checkpoint_every=1e-9", "--set", "trainer.keep_checkpoints=100")
    assert train(tiny_capture, parts, *quiet, *frequent, "--image-cache", "1KB") == 0
    for path in list_checkpoints(parts):
        if path.name > "step-000000011.pt":
            path.unlink()
    assert train(tiny_capture, parts, *quiet, "--resume") == 0
    assert_same_state(state_of(whole), state_of(parts))
    assert voxfield.open(whole).experiment.capture.cache_bytes == 1000
    events = [line["message"] for line in read_log(whole) if line["kind"] == "event"]
    assert any("a new picture is taken in every 2 steps" in event for event in events)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("voxfield-decode")]
    capsys.readouterr()
    assert train(tiny_capture, tmp_path / "no-unit", "--image-cache", "4") == 2
    assert_short(capsys, "image_cache", "4GB")


def test_large_pictures_are_measured_small_while_training(tmp_path: Path, train: Train) -> None:
    write_nerfstudio(tmp_path / "capture", stretched(posed_images(count=9, resolution=16), width=1616))
    options = ("--steps", "5", "--set", "capture.downscale=1", "--set", "trainer.evaluation_images=1")
    assert train(tmp_path / "capture", tmp_path / "run", *options, "--image-cache", "10KB") == 0
    events = [line["message"] for line in read_log(tmp_path / "run") if line["kind"] == "event"]
    assert any("measured reduced to at most 1600 pixels a side" in event for event in events)
    measured = [line for line in read_log(tmp_path / "run") if line["kind"] == "eval"]
    assert len(measured) == 1


def test_seeds_decide_the_run(tiny_capture: Path, tmp_path: Path, train: Train) -> None:
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        assert train(tiny_capture, tmp_path / name, "--steps", "10", "--seed", seed) == 0
    assert_same_state(state_of(tmp_path / "a"), state_of(tmp_path / "b"))
    assert not torch.equal(
        state_of(tmp_path / "a")["model"]["field.table"], state_of(tmp_path / "c")["model"]["field.table"]
    )


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_the_run_goes_on_later(
    tiny_capture: Path, tmp_path: Path, tiny: tuple[str, ...], train: Train, number: signal.Signals
) -> None:
    run = tmp_path / "run"
    settings = [part for setting in tiny for part in ("--set", setting)]
    arguments = ["train", "grid-ngp", str(tiny_capture), "--output", str(run), "--device", "cpu", "--minutes", "30"]
    with subprocess.Popen(
        [sys.executable, "-m", "voxfield.cli", *arguments, *settings],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        while not (run / "log.jsonl").exists() or '"train"' not in (run / "log.jsonl").read_text():
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        process.send_signal(number)
        out, err = process.communicate(timeout=100)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    (line,) = [line for line in out.splitlines() if line.startswith("Interrupted")]
    assert line.endswith(f"voxfield train grid-ngp {tiny_capture} --output {run} --resume")
    saved = state_of(run)
    end = read_log(run)[-1]
    assert (end["kind"], end["reason"], end["step"]) == ("end", "interrupted", saved["step"])
    assert end["peak_memory_bytes"] > 0
    assert (run / "report.html").is_file()
    assert train(tiny_capture, run, "--resume", "--steps", str(saved["step"] + 5)) == 0
    assert state_of(run)["step"] == saved["step"] + 5


def test_a_checkpoint_cut_short_gives_way_to_the_one_before(tiny_capture: Path, tmp_path: Path, train: Train) -> None:
    run = tmp_path / "run"
    frequent = ("--set", "trainer.checkpoint_every=1e-9", "--set", "trainer.keep_checkpoints=3")
    assert train(tiny_capture, run, "--steps", "10", *frequent) == 0
    newest = list_checkpoints(run)[-1]
    newest.write_bytes(newest.read_bytes()[:1000])
    assert train(tiny_capture, run, "--steps", "12", "--resume") == 0
    events = [line["message"] for line in read_log(run) if line["kind"] == "event"]
    assert any(newest.name in event and "Continued from step-000000009.pt" in event for event in events)
    assert state_of(run)["step"] == 12


def test_when_no_checkpoint_can_be_read_it_says_so(
    tiny_capture: Path, tmp_path: Path, train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert train(tiny_capture, run, "--steps", "5") == 0
    (only,) = list_checkpoints(run)
    only.write_bytes(only.read_bytes()[:1000])
    log = (run / "log.jsonl").read_bytes()
    capsys.readouterr()
    for arguments in (["eval", str(run)], ["render", str(run)]):
        assert main(arguments) == 2
        assert_short(capsys, only.name, "train it again")
    assert train(tiny_capture, run, "--steps", "10", "--resume") == 2
    assert_short(capsys, only.name, "train it again")
    assert (run / "log.jsonl").read_bytes() == log


def test_a_run_stopped_before_its_first_checkpoint_can_be_resumed(
    tiny_capture: Path, tmp_path: Path, train: Train
) -> None:
    run = tmp_path / "run"
    assert train(tiny_capture, run, "--steps", "5") == 0
    shutil.rmtree(run / "checkpoints")
    assert train(tiny_capture, run, "--steps", "10", "--resume") == 0
    assert state_of(run)["step"] == 10
    assert [line["step"] for line in read_log(run) if line["kind"] == "train"] == [5, 10]


def test_a_loss_that_becomes_nan(
    tiny_capture: Path,
    tmp_path: Path,
    train: Train,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from voxfield.models.grid_ngp import GridNgp

    before_step = GridNgp.before_step

    def spoil(self: GridNgp, step: int, *rest: Any) -> None:
        before_step(self, step, *rest)
        if step == 8:
            with torch.no_grad():
                self.field.table.fill_(torch.nan)

    monkeypatch.setattr(GridNgp, "before_step", spoil)
    run = tmp_path / "run"
    assert train(tiny_capture, run, "--steps", "20", "--set", "trainer.checkpoint_every=1e-9") == 1
    assert_short(capsys, "step-000000008.pt was kept", "--set trainer.learning_rate.initial=")
    assert all(bool(value.isfinite().all()) for value in state_of(run)["model"].values())
    assert read_log(run)[-1]["reason"] == "diverged"


# ------------------------------------------------------------------------------------------------------- other scenes


@pytest.mark.parametrize("background", ["white", "black", "random"])
def test_backgrounds(background: str, tiny_capture: Path, tmp_path: Path, train: Train) -> None:
    assert train(tiny_capture, tmp_path / "run", "--steps", "60", "--set", f"model.background={background}") == 0
    lines = [line for line in read_log(tmp_path / "run") if line["kind"] == "train"]
    assert lines[-1]["loss"] < lines[0]["loss"]


def test_the_last_samples_colour_behind_photographs(capture: Path, tmp_path: Path, train: Train) -> None:
    from PIL import Image

    for path in capture.glob("*/*.png"):
        with Image.open(path) as picture:
            opaque = Image.new("RGBA", picture.size, "white")
            opaque.alpha_composite(picture)
        opaque.convert("RGB").save(path)
    assert train(capture, tmp_path / "run", "--steps", "60", "--set", "model.background=last_sample") == 0
    lines = [line for line in read_log(tmp_path / "run") if line["kind"] == "train"]
    assert lines[-1]["loss"] < lines[0]["loss"]


def test_an_unbounded_scene(tmp_path: Path, train: Train) -> None:
    write_nerfstudio(tmp_path / "scene", posed_images(count=9, resolution=32), aabb_scale=4)
    run = tmp_path / "run"
    assert train(tmp_path / "scene", run, "--steps", "60") == 0
    opened = voxfield.open(run)
    assert opened.captures.unbounded
    model: Any = opened.model
    assert model.occupancy.cascades > 1
    assert model.step_rule.cone_angle > 0
    lines = [line for line in read_log(run) if line["kind"] == "train"]
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert bool(opened.render(opened.captures.cameras, 0)["rgb"].isfinite().all())


@pytest.mark.parametrize("settings", [("model.cascades=2",), ("model.cone_angle=0.01", "model.cascades=3")])
def test_cascades_and_cones_by_hand(
    settings: tuple[str, ...], tiny_capture: Path, tmp_path: Path, train: Train
) -> None:
    options = [part for setting in settings for part in ("--set", setting)]
    assert train(tiny_capture, tmp_path / "run", "--steps", "10", *options) == 0


def test_bfloat16_on_a_cpu(tiny_capture: Path, tmp_path: Path, train: Train) -> None:
    assert train(tiny_capture, tmp_path / "run", "--steps", "60", "--precision", "bfloat16") == 0
    start, *lines = read_log(tmp_path / "run")
    assert start["device"] == "cpu in bfloat16"
    losses = [line["loss"] for line in lines if line["kind"] == "train"]
    assert losses[-1] < losses[0]


def test_the_json_file_itself_is_data(tmp_path: Path, train: Train) -> None:
    write_nerfstudio(tmp_path / "scene", posed_images(count=4, resolution=16))
    assert train(tmp_path / "scene" / "transforms.json", tmp_path / "run", "--steps", "3") == 0


# ---------------------------------------------------------------------------------------------------------- bad input


def assert_short(capsys: pytest.CaptureFixture[str], *named: str) -> None:
    """What was said on stderr: one or two lines, no traceback, with everything ``named`` in it."""
    said = capsys.readouterr().err
    assert 1 <= len(said.splitlines()) <= 2, said
    for part in named:
        assert part.lower() in said.lower(), (part, said)


def broken_pose(value: float, entry: tuple[int, int]) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        content["frames"][1]["transform_matrix"][entry[0]][entry[1]] = value

    return change


CASES: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "no JSON": (lambda c: [path.unlink() for path in c.glob("*.json")], ("transforms_train.json", "capture")),
    "malformed JSON": (
        lambda c: (c / "transforms_train.json").write_text('{"frames": ['),
        ("transforms_train.json", "JSON"),
    ),
    "JSON of another kind": (lambda c: (c / "transforms_train.json").write_text("[1, 2]"), ("transforms_train.json",)),
    "NaN in a pose": (lambda c: edit(c, broken_pose(float("nan"), (0, 3))), ("transforms_train.json", "r_1")),
    "a pose that is not rigid": (lambda c: edit(c, broken_pose(3.0, (0, 0))), ("transforms_train.json", "r_1")),
    "a short pose": (
        lambda c: edit(c, lambda j: j["frames"][1].update(transform_matrix=[[1, 0, 0, 0]])),
        ("transforms_train.json", "r_1"),
    ),
    "zero focal length": (
        lambda c: edit(c, lambda j: j.update(camera_angle_x=0.0)),
        ("transforms_train.json", "camera_angle_x"),
    ),
    "an empty split": (lambda c: edit(c, lambda j: j.update(frames=[])), ("transforms_train.json", "empty")),
    "a path outside": (
        lambda c: edit(c, lambda j: j["frames"][0].update(file_path="../../secret")),
        ("transforms_train.json", "../../secret", "outside"),
    ),
    "no picture at all": (lambda c: shutil.rmtree(c / "train"), ("transforms_train.json", "train")),
    "no picture that can be read": (
        lambda c: [path.write_bytes(b"no picture") for path in (c / "train").iterdir()],
        ("transforms_train.json", "r_0"),
    ),
}


@pytest.mark.parametrize(("spoil", "named"), CASES.values(), ids=CASES)
def test_bad_data_is_one_error_of_two_lines(
    spoil: Callable[[Path], object],
    named: tuple[str, ...],
    capture: Path,
    tmp_path: Path,
    train: Train,
    capsys: pytest.CaptureFixture[str],
) -> None:
    spoil(capture)
    assert train(capture, tmp_path / "run", "--steps", "5") == 2
    assert_short(capsys, *named)
    assert not (tmp_path / "run").exists(), "a failed start leaves nothing in the way of the next"


def other_size(path: Path) -> None:
    from PIL import Image

    Image.new("RGBA", (16, 16)).save(path)


FAULTS: dict[str, Callable[[Path], object]] = {
    "missing": lambda path: path.unlink(),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "empty": lambda path: path.write_bytes(b""),
    "no picture": lambda path: path.write_text("hello"),
    "of another size": other_size,
}


@pytest.mark.parametrize("spoil", FAULTS.values(), ids=FAULTS)
def test_a_broken_picture_among_many_is_left_out_listed_and_counted(
    spoil: Callable[[Path], object], capture: Path, tmp_path: Path, train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(capture / "train" / "r_3.png")
    run = tmp_path / "run"
    assert train(capture, run, "--steps", "5") == 1
    captured = capsys.readouterr()
    assert "Trained without 1 picture" in captured.out
    assert str(run / "failures.json") in captured.out
    assert captured.err == ""
    (listed,) = json.loads((run / "failures.json").read_text())
    assert "r_3" in listed["path"]
    assert listed["reason"]
    assert any("1 picture was left out" in line.get("message", "") for line in read_log(run))
    assert state_of(run)["step"] == 5


def test_broken_held_out_pictures_do_not_stop_training(
    capture: Path, tmp_path: Path, train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in [*(capture / "val").iterdir(), capture / "test" / "r_0.png"]:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    run = tmp_path / "run"
    assert train(capture, run, "--steps", "5") == 0
    capsys.readouterr()
    assert main(["eval", str(run), "--quiet"]) == 1
    assert "without 1 picture" in capsys.readouterr().out
    metrics = json.loads((run / "eval" / "test" / "metrics.json").read_text())
    assert metrics["num_images"] == 1
    assert len(metrics["skipped"]) == 1


def test_the_data_must_exist(tmp_path: Path, train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(tmp_path / "nowhere", tmp_path / "run") == 2
    assert_short(capsys, str(tmp_path / "nowhere"))


def test_an_existing_run_is_not_written_over(
    trained: voxfield.Run, tiny_capture: Path, train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(tiny_capture, trained.path) == 2
    assert_short(capsys, str(trained.path), "--resume", "--output")


def test_a_run_of_another_recipe(
    tiny_capture: Path, tmp_path: Path, train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert train(tiny_capture, run, "--steps", "3") == 0
    record = json.loads((run / "experiment.json").read_text())
    (run / "experiment.json").write_text(json.dumps(record | {"recipe": "unheard-of"}))
    capsys.readouterr()
    for arguments in (["eval", str(run)], ["info", str(run)], ["render", str(run)]):
        assert main(arguments) == 2
        assert_short(capsys, "unheard-of")
    (run / "experiment.json").write_text(json.dumps(record | {"recipe": "nerfacto"}))
    assert train(tiny_capture, run, "--resume") == 2
    assert_short(capsys, str(run), "nerfacto")


def test_resuming_with_another_model_is_refused(
    tiny_capture: Path, tmp_path: Path, train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert train(tiny_capture, run, "--steps", "3") == 0
    held = (run / "experiment.json").read_bytes()
    capsys.readouterr()
    assert train(tiny_capture, run, "--steps", "6", "--resume", "--set", "model.field.hidden=48") == 2
    assert_short(capsys, str(run), "does not fit")
    assert (run / "experiment.json").read_bytes() == held


@pytest.mark.parametrize("verb", ["eval", "render", "report", "info"])
def test_a_folder_that_is_no_run(verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, str(tmp_path)]) == 2
    assert_short(capsys, str(tmp_path))
    assert main([verb, str(tmp_path / "nowhere")]) == 2
    assert_short(capsys, str(tmp_path / "nowhere"))


@pytest.mark.parametrize("content", ["", "{", "[]", '{"schema_version": 99}'])
def test_a_damaged_experiment_file(
    content: str, tiny_capture: Path, tmp_path: Path, train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "experiment.json").write_text(content)
    assert main(["info", str(tmp_path)]) == 2
    assert_short(capsys, "experiment.json")
    assert train(tiny_capture, tmp_path, "--resume") == 2
    assert_short(capsys, "experiment.json")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--set", "model.field.log2_tablesize=3"), ("log2_table_size",)),
        (("--set", "model.field.hidden=many"), ("model.field.hidden", "whole number")),
        (("--set", "model.field.hidden=0"), ("hidden",)),
        (("--steps", "0"), ("steps",)),
        (("--minutes", "-1"), ("minutes",)),
        (("--config", "nowhere.yaml"), ("nowhere.yaml",)),
        (("--device", "gpu"), ("expected auto, cpu, cuda",)),
        (("--precision", "float8"), ("precision",)),
        (("--precision", "float16"), ("float16", "bfloat16")),
        (("--resume",), ("run",)),
    ],
)
def test_wrong_options(
    options: tuple[str, ...],
    named: tuple[str, ...],
    tiny_capture: Path,
    tmp_path: Path,
    train: Train,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert train(tiny_capture, tmp_path / "run", *options) == 2
    assert_short(capsys, *named)
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_cuda_where_there_is_none(tiny_capture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "grid-ngp", str(tiny_capture), "--output", str(tmp_path / "r"), "--device", "cuda"]) == 2
    assert_short(capsys, "cuda", "--device cpu")
    assert main(["train", "grid-npg", str(tiny_capture)]) == 2
    assert_short(capsys, "Did you mean grid-ngp")
