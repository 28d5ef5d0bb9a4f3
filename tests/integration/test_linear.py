"""EXR pictures in, linear light out: a training on a synthetic scene whose light spans four decades."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import voxfield
from voxfield.cli.__main__ import main
from voxfield.colour import ToneCurve, display, linear_from_srgb
from voxfield.data.synthetic import SyntheticScene, posed_images, write_blender
from voxfield.errors import FormatError, InputError
from voxfield.models.nerfacto import Nerfacto
from voxfield.recipes import build_model, smallest_model
from voxfield.storage.exr import read_exr
from voxfield.storage.run_log import read_log
from voxfield.viewer.subjects import Shot, develop, look

SCENE = SyntheticScene.bright_example()
TONE = ToneCurve(exposure=1.0)


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("captures") / "lamp"
    splits = [
        posed_images(SCENE, count=count, resolution=32, split=split, tone=TONE)
        for split, count in (("train", 10), ("val", 1), ("test", 2))
    ]
    write_blender(folder, splits)
    # One pixel of one picture is broken.
    picture, _ = read_exr(folder / "train/r_3.exr")
    picture[5, 7, 1] = np.nan
    import OpenEXR

    OpenEXR.File({}, {"RGBA": picture.astype(np.float16)}).write(str(folder / "train/r_3.exr"))
    return folder


@pytest.fixture(scope="module")
def run(tiny: tuple[str, ...], capture: Path, tmp_path_factory: pytest.TempPathFactory) -> voxfield.Run:
    output = tmp_path_factory.mktemp("runs") / "lamp"
    return voxfield.train("grid-ngp", capture, output=output, steps=300, device="cpu", quiet=True, overrides=tiny)


def test_light_above_one_is_recovered(run: voxfield.Run) -> None:
    cameras = run.split("test").cameras
    seen = run.render(cameras, 0)["rgb"]
    exact = SCENE.linear_picture(cameras, 0)
    bright = (exact[..., :3].amax(-1) > 2) & (exact[..., 3] > 0.99)
    assert int(bright.sum()) > 20
    error = ((seen - exact[..., :3]).abs() / exact[..., :3])[bright]
    # Measured: 0.1. Light clipped at white would be off by 0.8 and more.
    assert float(error.median()) < 0.3
    assert float(seen.max()) > 20


def test_the_run_records_its_exposure(run: voxfield.Run) -> None:
    exposure = run.experiment.capture.exposure
    assert isinstance(exposure, float)
    for split in ("train", "val", "test"):
        tone = run.split(split).tone
        assert tone is not None
        assert tone.exposure == exposure
    events = [line["message"] for line in read_log(run.path) if line["kind"] == "event"]
    assert any("exposed by a factor of" in event for event in events)
    assert any(event.startswith("1 pixels are NaN or infinite (masked)") for event in events)


def test_metrics_state_their_space(run: voxfield.Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", str(run.path), "--quiet"]) == 0
    assert "[linear-tonemapped(mu=50)]" in capsys.readouterr().out
    metrics = json.loads((run.path / "eval/test/metrics.json").read_text())
    assert metrics["protocol"]["colour_space"]["psnr"] == "linear-tonemapped(mu=50)"
    # Measured: 24 dB on the curve, 26 dB on the screen.
    assert metrics["psnr"] > 19
    assert metrics["psnr_srgb"] > 20
    assert (run.path / "eval/test" / metrics["per_image"][0]["exr"]).is_file()
    assert "linear-tonemapped(mu=50)" in run.report().read_text()


def test_exr_frames_hold_what_the_model_sees(run: voxfield.Run, tmp_path: Path) -> None:
    arguments = ["render", str(run.path), "--quiet", "--path", "dataset", "--frames", "1"]
    assert main([*arguments, "--format", "exr", "--output", str(tmp_path)]) == 0
    picture, header = read_exr(tmp_path / "frame_00000.exr")
    assert header.alpha
    seen = run.render(run.split("test").cameras, 0, background="black")
    torch.testing.assert_close(torch.from_numpy(picture[..., :3]), seen["rgb"], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(torch.from_numpy(picture[..., 3]), seen["opacity"], rtol=1e-3, atol=1e-4)


def test_pictures_are_exposed_for_the_screen(run: voxfield.Run, tmp_path: Path) -> None:
    seen = run.render(run.split("test").cameras, 0)["rgb"] * run.experiment.capture.exposure
    for options, expected in (
        ((), display(seen)),
        (("--exposure", "-3"), display(seen, stops=-3)),
        (("--tone-map", "filmic"), display(seen, tone_map="filmic")),
    ):
        arguments = ["render", str(run.path), "--quiet", "--path", "dataset", "--frames", "1", "--format", "images"]
        assert main([*arguments, "--output", str(tmp_path), *options]) == 0
        shown = torch.from_numpy(np.array(Image.open(tmp_path / "frame_00000.png")))
        assert int((shown.float() - expected * 255).abs().max()) <= 1


def test_the_viewer_exposes_what_the_model_sees(run: voxfield.Run) -> None:
    subject = run.subject()
    assert subject.linear
    cameras = run.split("test").cameras
    fov = 2 * float((0.5 * cameras.height[0] / cameras.focal[0, 1]).atan())
    shot = Shot(camera_to_world=cameras.camera_to_world[0], fov=fov, aspect=1.0, exposure=-3.0, tone_map="filmic")
    camera = shot.camera(32)
    made = develop(look(subject, camera.image_rays(0), shot, torch.ones(3)), shot, camera)
    # Renderings are light in the pictures' own units; models see exposed light.
    exposed = run.render(cameras, 0)["rgb"] * run.split("test").tone.exposure
    seen = display(exposed, stops=-3.0, tone_map="filmic")
    assert float((made.rgb / 255 - seen).abs().max()) < 0.01


def test_backgrounds_are_what_a_screen_shows(run: voxfield.Run) -> None:
    seen = run.render(run.split("test").cameras, 0, background="0.5,0.5,0.5")
    empty = seen["opacity"] < 0.01
    assert bool(empty.any())
    exposed = seen["rgb"][empty] * run.experiment.capture.exposure
    torch.testing.assert_close(exposed.median(), linear_from_srgb(torch.tensor(0.5)), atol=0.01, rtol=0.0)


def test_linear_runs_are_not_measured_on_srgb_pictures(run: voxfield.Run, tiny_capture: Path) -> None:
    with pytest.raises(FormatError, match=r"capture\.exposure is for linear pictures"):
        run.evaluate(data=tiny_capture, quiet=True)


def test_a_run_continues_with_its_exposure(
    run: voxfield.Run, tiny: tuple[str, ...], capture: Path, tmp_path: Path
) -> None:
    options = {"output": tmp_path / "run", "device": "cpu", "quiet": True}
    voxfield.train("grid-ngp", capture, steps=5, overrides=[*tiny, "capture.exposure=0.125"], **options)
    resumed = voxfield.train("grid-ngp", capture, steps=8, resume=True, **options)
    assert resumed.experiment.capture.exposure == 0.125


def test_srgb_runs_are_brightened_and_written_as_linear_light(
    tiny: tuple[str, ...], tiny_capture: Path, capture: Path, tmp_path: Path
) -> None:
    run = voxfield.train(
        "grid-ngp", tiny_capture, output=tmp_path / "run", steps=10, device="cpu", quiet=True, overrides=tiny
    )
    assert run.experiment.capture.exposure == "auto"
    cameras = run.split("test").cameras
    seen = run.render(cameras, 0)["rgb"]
    png, *_ = run.render_path("dataset", frames=1, format="images", exposure=1.0, quiet=True)
    expected = display(linear_from_srgb(seen), stops=1.0) * 255
    shown = torch.from_numpy(np.array(Image.open(png))).float()
    assert int((shown - expected).abs().max()) <= 1
    exr, *_ = run.render_path("dataset", frames=1, format="exr", quiet=True)
    black = run.render(cameras, 0, background="black")
    straight = black["rgb"] / black["opacity"][..., None].clamp(min=1e-6)
    light = linear_from_srgb(straight) * black["opacity"][..., None]
    torch.testing.assert_close(torch.from_numpy(read_exr(exr)[0][..., :3]), light, rtol=2e-3, atol=1e-3)
    with pytest.raises(InputError, match="holds linear pictures, but the run was trained on sRGB"):
        run.evaluate(data=capture, quiet=True)


def test_wrong_options_are_told_before_anything_is_rendered(run: voxfield.Run) -> None:
    for options, words in (
        ({"format": "jpeg"}, "format"),
        ({"exposure": 1000.0}, "exposure"),
        ({"tone_map": "reinhard"}, "tone_map"),
    ):
        with pytest.raises(InputError, match=words):
            run.render_path("orbit", frames=1, quiet=True, **options)


def test_nerfacto_learns_linear_light_too() -> None:
    scene = posed_images(SCENE, count=2, resolution=8, tone=ToneCurve(exposure=0.5))
    model = build_model("nerfacto", smallest_model("nerfacto"), scene, 0)
    assert isinstance(model, Nerfacto)
    from voxfield.data.ray_batches import RaySampler

    with RaySampler(scene, 0) as sampler:
        batch = sampler.sample(64, 0)
    result = model.training_step(batch, 0, torch.Generator().manual_seed(0))
    result.loss.backward()
    assert model.field.linear
    gradient = model.field.colour_net[-1].grad
    assert gradient is not None
    assert bool(gradient.isfinite().all() & (gradient != 0).any())
    expected = result.squared_error
    assert 0 < expected < 10
