"""Evaluation on a fake capture and fake models whose results are known in closed form."""

import json
import math
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from PIL import Image

from voxfield.colour import ToneCurve, display
from voxfield.data.image_store import FaultyPixels
from voxfield.data.scales import Scales
from voxfield.errors import FormatError, InputError, MissingFileError
from voxfield.geometry.camera import Cameras
from voxfield.render.image import SEPARATOR_PIXELS
from voxfield.render.metrics import psnr, ssim
from voxfield.storage.exr import read_exr
from voxfield.training import image_scores
from voxfield.training.evaluate import EvaluateConfig, evaluate
from voxfield.training.image_scores import average_error


@dataclass
class FakeImages:
    pixels: list
    masks: list | None = None
    faulty_pixels: tuple = ()

    def read(self, index):
        if isinstance(self.pixels[index], Exception):
            raise self.pixels[index]
        return self.pixels[index]

    def mask(self, index):
        return self.masks[index] if self.masks else None


@dataclass
class Skipped:
    path: str
    reason: str


@dataclass
class FakeCaptures:
    images: FakeImages
    cameras: Cameras
    names: tuple
    split: str = "test"
    source: dict = field(default_factory=lambda: {"format": "fake", "path": "scene", "downscale": 2, "hash": "abc"})
    skipped: tuple = ()
    has_masks: bool = False
    tone: ToneCurve | None = None
    scales: Scales | None = None


def captures(pixels, **options):
    shown = [p if isinstance(p, torch.Tensor) else torch.zeros(32, 40, 3) for p in pixels]
    count = len(pixels)
    height, width = (torch.tensor([p.shape[axis] for p in shown], dtype=torch.int64) for axis in (0, 1))
    cameras = Cameras(
        camera_to_world=torch.eye(3, 4).expand(count, 3, 4).clone(),
        focal=torch.full((count, 2), 50.0),
        principal=torch.full((count, 2), 20.0),
        width=width,
        height=height,
    )
    masks = options.pop("masks", None)
    names = options.pop("names", tuple(f"test/r_{i}" for i in range(count)))
    return FakeCaptures(FakeImages(list(pixels), masks), cameras, names, has_masks=masks is not None, **options)


def picture(seed, height=32, width=40, channels=3):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(60, 200, (height, width, channels), generator=generator, dtype=torch.uint8)


class Constant:
    """A model that sees one colour everywhere, and remembers what it was asked."""

    def __init__(self, value=0.5):
        self.value = value
        self.calls = []

    def __call__(self, cameras, i, *, background):
        height, width = int(cameras.height[i]), int(cameras.width[i])
        self.calls.append((height, width, tuple(background.tolist()), torch.is_grad_enabled()))
        rgb = torch.full((height, width, 3), float(self.value))
        return {"rgb": rgb, "opacity": torch.ones(height, width), "depth": torch.rand(height, width)}


def test_numbers_are_those_of_the_metrics(tmp_path):
    scene = captures([picture(0), picture(1), picture(2)])
    result = evaluate(Constant(), scene, output=tmp_path / "eval")
    expected = [psnr(torch.full((32, 40, 3), 0.5), p.float() / 255).item() for p in scene.images.pixels]
    assert [item["psnr"] for item in result["per_image"]] == pytest.approx(expected)
    assert result["psnr"] == pytest.approx(np.mean(expected))
    assert result["psnr_std"] == pytest.approx(np.std(expected, ddof=1))
    similar = [ssim(torch.full((32, 40, 3), 0.5), p.float() / 255).item() for p in scene.images.pixels]
    assert result["ssim"] == pytest.approx(np.mean(similar))
    assert result["num_images"] == 3
    for item in result["per_image"]:
        assert item["seconds"] > 0
    seconds = [item["seconds"] for item in result["per_image"]]
    assert result["num_rays_per_sec"] == pytest.approx(np.mean([32 * 40 / s for s in seconds]))
    assert result["fps"] == pytest.approx(np.mean([1 / s for s in seconds]))
    assert result["fps_std"] == pytest.approx(np.std([1 / s for s in seconds], ddof=1))


def test_the_clock_waits_for_the_device(tmp_path, monkeypatch):
    happened = []
    monkeypatch.setattr(image_scores, "synchronise", lambda device: happened.append(str(device)))

    class Remembered(Constant):
        def __call__(self, cameras, i, *, background):
            happened.append("render")
            return super().__call__(cameras, i, background=background)

    evaluate(Remembered(), captures([picture(0)]), output=tmp_path, device=torch.device("xpu:1"))
    # The first rendering is the untimed one.
    assert happened == ["render", "xpu:1", "render", "xpu:1"]


def test_metrics_file_holds_the_result_and_its_protocol(tmp_path):
    context = {"step": 500, "train_seconds": 12.5, "checkpoint": tmp_path / "step.pt", "psnr": math.nan}
    result = evaluate(Constant(), captures([picture(0)]), output=tmp_path, context=context)
    assert json.loads((tmp_path / "metrics.json").read_text(), parse_constant=pytest.fail) == result
    assert set(result) == {
        "psnr", "psnr_std", "ssim", "ssim_std", "lpips", "lpips_std", "num_rays_per_sec", "num_rays_per_sec_std",
        "fps", "fps_std", "num_images", "per_image", "protocol", "skipped", "notes",
        "psnr_aligned", "psnr_aligned_std", "ssim_aligned", "ssim_aligned_std", "lpips_aligned", "lpips_aligned_std",
        "verdicts", "outliers", "per_scale", "avg_error", "avg_error_std", "seconds", "seconds_std",
    }  # fmt: skip
    protocol = result["protocol"]
    assert protocol["ssim"] == {"window": 11, "sigma": 1.5, "border": "valid"}
    assert protocol["lpips"] is None
    assert protocol["background"] == "white"
    assert protocol["resize"] == {"downscale": 2}
    assert (protocol["split"], protocol["images"]) == ("test", ["test/r_0"])
    assert (protocol["step"], protocol["train_seconds"]) == (500, 12.5)
    assert protocol["checkpoint"] == str(tmp_path / "step.pt")
    assert protocol["source"]["hash"] == "abc"
    assert result["psnr_std"] is None, "one image has no deviation"
    assert result["lpips"] is None
    assert result["avg_error"] is None
    assert result["per_scale"] == []
    assert protocol["scales"] == [1]
    assert any("--lpips-weights" in note for note in result["notes"])


def scaled_captures(**options):
    """Two images, each at scales 1 and 2."""
    pixels = [picture(0, 64, 80), picture(1, 32, 40), picture(2, 64, 80), picture(3, 32, 40)]
    scales = Scales.of_copies(2, (1, 2))
    return captures(pixels, names=("a/r_0.png", "a/r_0.png", "r_1", "r_1"), scales=scales, **options)


def test_scales_are_measured_each_and_together(tmp_path):
    result = evaluate(Constant(), scaled_captures(), output=tmp_path)
    fine, coarse = result["per_scale"]
    assert (fine["scale"], fine["width"], fine["height"], fine["num_images"]) == (1, 80, 64, 2)
    assert (coarse["scale"], coarse["width"], coarse["height"], coarse["num_images"]) == (2, 40, 32, 2)
    scores = result["per_image"]
    assert [score["scale"] for score in scores] == [1, 2, 1, 2]
    assert fine["psnr"] == pytest.approx((scores[0]["psnr"] + scores[2]["psnr"]) / 2)
    assert coarse["ssim"] == pytest.approx((scores[1]["ssim"] + scores[3]["ssim"]) / 2)
    assert result["psnr"] == pytest.approx((fine["psnr"] + coarse["psnr"]) / 2)
    assert fine["seconds"] > 0
    assert result["protocol"]["scales"] == [1, 2]
    assert [score["picture"] for score in scores] == ["r_0.png", "r_0-scale2.png", "r_1.png", "r_1-scale2.png"]


def test_lpips_is_measured_of_each_scale_too(tmp_path):
    result = evaluate(Constant(), scaled_captures(), output=tmp_path, lpips=FakeLpips())
    kept = json.loads((tmp_path / "metrics.json").read_text())["per_scale"]
    assert [one["lpips"] for one in kept] == [one["lpips"] for one in result["per_scale"]]
    for one in result["per_scale"]:
        scores = [score for score in result["per_image"] if score["scale"] == one["scale"]]
        assert one["lpips"] == pytest.approx((scores[0]["lpips"] + scores[1]["lpips"]) / 2)
        assert one["avg_error"] == pytest.approx((scores[0]["avg_error"] + scores[1]["avg_error"]) / 2)
    fine, coarse = result["per_scale"]
    assert fine["lpips"] != coarse["lpips"]
    assert result["lpips"] == pytest.approx((fine["lpips"] + coarse["lpips"]) / 2)


def test_images_are_chosen_with_all_of_their_scales(tmp_path):
    settings = EvaluateConfig(max_images=1)
    result = evaluate(Constant(), scaled_captures(), output=tmp_path, settings=settings)
    assert [(score["name"], score["scale"]) for score in result["per_image"]] == [("a/r_0.png", 1), ("a/r_0.png", 2)]


def test_the_average_error_is_the_geometric_mean(tmp_path):
    # The published formula, exp(mean(log(...))), at PSNR 20, SSIM 0.92, LPIPS 0.1.
    expected = math.exp((math.log(0.01) + math.log(math.sqrt(0.04)) + math.log(0.1)) / 3)
    assert average_error(20.0, 0.92, 0.1) == pytest.approx(expected)
    assert average_error(20.0, 1.0, 0.1) == 0.0
    assert average_error(20.0, 1.0 + 1e-7, 0.1) == 0.0
    assert average_error(20.0, None, 0.1) is None
    assert average_error(20.0, 0.9, None) is None
    result = evaluate(Constant(), captures([picture(0, 64, 64)]), output=tmp_path, lpips=FakeLpips())
    score = result["per_image"][0]
    assert score["avg_error"] == pytest.approx(average_error(score["psnr"], score["ssim"], score["lpips"]))
    assert result["avg_error"] == score["avg_error"]


def test_focus_is_measured_unless_it_is_not_wanted(tmp_path):
    scene = captures([picture(i) for i in range(6)])
    result = evaluate(Constant(), scene, output=tmp_path)
    assert sum(result["verdicts"].values()) >= 6
    assert result["protocol"]["focus"]["outlier_z"] == 3.5
    for item in result["per_image"]:
        assert 0.0 <= item["focus"]["sharpness_truth"] < 10.0, "most of a noise is taken off"
        assert item["focus"]["sharpness_prediction"] is None, "one colour is neither sharp nor blurred"
        assert item["focus"]["verdict"]
    assert result["psnr_aligned"] is None
    without = evaluate(Constant(), scene, output=tmp_path, settings=EvaluateConfig(focus=False))
    assert (without["verdicts"], without["outliers"], without["protocol"]["focus"]) == ({}, [], None)
    assert not any("focus" in item for item in without["per_image"])
    assert without["psnr"] == result["psnr"]


def test_alignment_needs_something_that_aligns(tmp_path):
    with pytest.raises(InputError, match="align_poses: expected an aligner"):
        evaluate(Constant(), captures([picture(0)]), output=tmp_path, settings=EvaluateConfig(align_poses=True))


def test_panels_show_truth_prediction_error_depth(tmp_path):
    result = evaluate(Constant(1.0), captures([picture(0)]), output=tmp_path)
    assert result["per_image"][0]["picture"] == "r_0.png"
    panel = np.array(Image.open(tmp_path / "r_0.png"))
    assert panel.shape == (32, 4 * 40 + 3 * SEPARATOR_PIXELS, 3)
    assert np.array_equal(panel[:, :40], picture(0).numpy())
    assert (panel[:, 40 + SEPARATOR_PIXELS : 80 + SEPARATOR_PIXELS] == 255).all()


def test_panels_show_the_normals_of_models_that_have_some(tmp_path):
    class Facing(Constant):
        def __call__(self, cameras, i, *, background):
            shown = super().__call__(cameras, i, background=background)
            return {**shown, "normals": torch.tensor([0.0, -1.0, 0.0]).expand_as(shown["rgb"])}

    evaluate(Facing(1.0), captures([picture(0)]), output=tmp_path)
    panel = np.array(Image.open(tmp_path / "r_0.png"))
    assert panel.shape == (32, 5 * 40 + 4 * SEPARATOR_PIXELS, 3)
    assert (panel[:, -40:] == [128, 0, 128]).all()


def test_panels_can_be_left_out(tmp_path):
    result = evaluate(Constant(), captures([picture(0)]), output=tmp_path, settings=EvaluateConfig(save_images=False))
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.json"]
    assert "picture" not in result["per_image"][0]


def test_alpha_is_composited_over_the_background(tmp_path):
    image = picture(0, channels=4)
    image[:, :20, 3], image[:, 20:, 3] = 0, 255
    model = Constant(0.0)
    settings = EvaluateConfig(background="#ff0000")
    evaluate(model, captures([image]), output=tmp_path, settings=settings)
    panel = np.array(Image.open(tmp_path / "r_0.png"))
    assert (panel[:, :20] == [255, 0, 0]).all()
    assert np.array_equal(panel[:, 20:40], image[:, 20:, :3].numpy())
    assert all(call[2] == (1.0, 0.0, 0.0) for call in model.calls)


def test_one_small_warm_up_and_no_gradients(tmp_path):
    model = Constant()
    evaluate(model, captures([picture(0, 100, 200), picture(1, 100, 200)]), output=tmp_path)
    sizes = [call[:2] for call in model.calls]
    assert sizes == [(32, 64), (100, 200), (100, 200)]
    assert not any(call[3] for call in model.calls)


def test_broken_images_are_skipped_and_listed(tmp_path):
    broken = [FormatError("r_1.png: truncated"), FileNotFoundError("r_2.png is gone")]
    scene = captures([picture(0), *broken, picture(3)], skipped=(Skipped("r_9.png", "missing"),))
    seen = []
    result = evaluate(Constant(), scene, output=tmp_path, on_progress=lambda *args: seen.append(args))
    assert [item["name"] for item in result["per_image"]] == ["test/r_0", "test/r_3"]
    assert result["protocol"]["images"] == ["test/r_0", "test/r_3"]
    assert result["num_images"] == 2
    assert result["skipped"] == [
        {"name": "r_9.png", "reason": "missing"},
        {"name": "test/r_1", "reason": "r_1.png: truncated"},
        {"name": "test/r_2", "reason": "r_2.png is gone"},
    ]
    assert any("3 images were skipped" in note for note in result["notes"])
    assert seen == [(i + 1, 4, f"test/r_{i}") for i in range(4)]


def test_image_of_another_size_than_its_camera_is_skipped(tmp_path):
    scene = captures([picture(0), picture(1)])
    scene.images.pixels[1] = picture(1, 30, 40)
    result = evaluate(Constant(), scene, output=tmp_path)
    assert result["skipped"][0]["reason"] == "test/r_1: expected 40x32 pixels as its camera says, got 40x30."


def test_no_image_left_is_an_error_and_keeps_the_old_result(tmp_path):
    (tmp_path / "metrics.json").write_text("{}")
    with pytest.raises(InputError, match=r"None of the 1 test images can be read\. The last: r_0\.png: truncated"):
        evaluate(Constant(), captures([FormatError("r_0.png: truncated")]), output=tmp_path)
    assert (tmp_path / "metrics.json").read_text() == "{}"


def test_empty_split(tmp_path):
    scene = captures([picture(0)])
    scene.names = ()
    with pytest.raises(InputError, match="The test split has no images to evaluate"):
        evaluate(Constant(), scene, output=tmp_path)


@pytest.mark.parametrize(
    ("wanted", "chosen"), [(1, [0]), (2, [0, 2]), (3, [0, 1, 3]), (5, [0, 1, 2, 3, 4]), (9, [0, 1, 2, 3, 4])]
)
def test_a_subset_is_evenly_spread(tmp_path, wanted, chosen):
    scene = captures([picture(i) for i in range(5)])
    settings = EvaluateConfig(max_images=wanted, save_images=False)
    result = evaluate(Constant(), scene, output=tmp_path, settings=settings)
    assert [item["name"] for item in result["per_image"]] == [f"test/r_{i}" for i in chosen]


def test_masked_pixels_do_not_count(tmp_path):
    image = picture(0)
    mask = torch.ones(32, 40, dtype=torch.bool)
    mask[:, :10] = False
    hidden = image.clone()
    hidden[:, :10] = 255
    settings = EvaluateConfig(save_images=False)
    a, b = (
        evaluate(Constant(), captures([p], masks=[mask]), output=tmp_path, settings=settings) for p in (image, hidden)
    )
    assert a["psnr"] == pytest.approx(b["psnr"])
    assert a["psnr"] == pytest.approx(psnr(torch.full((32, 40, 3), 0.5), image.float() / 255, mask).item())
    assert a["protocol"]["masks"] is True


def test_mask_without_pixels_is_skipped(tmp_path):
    masks = [torch.zeros(32, 40, dtype=torch.bool), None]
    result = evaluate(Constant(), captures([picture(0), picture(1)], masks=masks), output=tmp_path)
    assert result["skipped"] == [{"name": "test/r_0", "reason": "test/r_0: its mask leaves no pixel to measure."}]


def test_tiny_images_have_no_ssim(tmp_path):
    result = evaluate(Constant(), captures([picture(0, 8, 8)]), output=tmp_path)
    assert result["ssim"] is None
    assert result["psnr"] > 0
    assert any(note.startswith("SSIM was not measured on 1 of 1 images") for note in result["notes"])


def test_non_finite_colours_count_as_black(tmp_path):
    scene = captures([torch.full((32, 40, 3), 128, dtype=torch.uint8)])
    result = evaluate(Constant(math.nan), scene, output=tmp_path)
    assert result["per_image"][0]["non_finite_pixels"] == 32 * 40
    assert result["psnr"] == pytest.approx(-20 * math.log10(128 / 255))
    assert any("NaN or infinite colours in 1 of 1 images" in note for note in result["notes"])


def test_prediction_is_clamped(tmp_path):
    scene = captures([torch.full((32, 40, 3), 255, dtype=torch.uint8)])
    assert evaluate(Constant(3.0), scene, output=tmp_path)["psnr"] == pytest.approx(100.0)


def test_pictures_of_equal_names_do_not_overwrite_each_other(tmp_path):
    names = ("a/img.png", "b/IMG.png", "../../evil", "é <b>.jpg", "...")
    result = evaluate(Constant(), captures([picture(i) for i in range(5)], names=names), output=tmp_path)
    files = [item["picture"] for item in result["per_image"]]
    assert files == ["00000-img.png", "00001-IMG.png", "evil.png", "b.png", "image.png"]
    assert sorted(p.name for p in tmp_path.glob("*.png")) == sorted(files)


class FakeLpips(torch.nn.Module):
    name = "LPIPS (alex)"
    files = {"alex.pth": "0123"}  # noqa: RUF012 - a stand-in

    def __init__(self):
        super().__init__()
        self.register_buffer("shift", torch.zeros(1))

    def forward(self, prediction, truth):
        return (prediction - truth).abs().mean()


def test_lpips_under_its_own_name(tmp_path):
    scene = captures([picture(0), picture(1), picture(2, 20, 20)])
    result = evaluate(Constant(), scene, output=tmp_path, lpips=FakeLpips())
    assert result["per_image"][0]["lpips"] == pytest.approx((picture(0).float() / 255 - 0.5).abs().mean().item())
    assert result["per_image"][2]["lpips"] is None
    assert result["protocol"]["lpips"] == {"network": "LPIPS (alex)", "files": {"alex.pth": "0123"}}
    assert result["notes"] == ["LPIPS (alex) was not measured on 1 of 3 images: too small for it, or masked."]


def test_wrong_lpips_weights_are_an_error_before_anything_is_rendered(tmp_path):
    model = Constant()
    with pytest.raises(MissingFileError, match=r"none\.pth: expected a file of LPIPS weights"):
        evaluate(
            model, captures([picture(0)]), output=tmp_path, settings=EvaluateConfig(lpips=str(tmp_path / "none.pth"))
        )
    assert model.calls == []


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        (EvaluateConfig(background="mauve"), "Colour: expected white"),
        (EvaluateConfig(ssim_border="zero"), "ssim_border: unknown value 'zero'"),
        (EvaluateConfig(max_images=0), "max_images: expected a value at least 1, got 0"),
    ],
)
def test_bad_settings(tmp_path, settings, match):
    with pytest.raises(InputError, match=match):
        evaluate(Constant(), captures([picture(0)]), output=tmp_path, settings=settings)


def test_model_that_returns_another_shape(tmp_path):
    def flat(cameras, i, *, background):
        return {name: torch.zeros(5, 3) for name in ("rgb", "opacity", "depth")}

    with pytest.raises(InputError, match=r"render_image's rgb: expected shape \(32, 40, 3\), got \(5, 3\)"):
        evaluate(flat, captures([picture(0)]), output=tmp_path)


def test_a_failing_model_keeps_what_was_written(tmp_path):
    def failing(cameras, i, *, background):
        if i == 1:
            raise RuntimeError("out of memory")
        return Constant()(cameras, i, background=background)

    with pytest.raises(RuntimeError, match="out of memory"):
        evaluate(failing, captures([picture(0), picture(1)]), output=tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["r_0.png"]


def test_a_capture_from_disk(tmp_path):
    """The real reader, with one picture that is cut short."""
    from voxfield.data.capture_reading import read_capture

    frames = [{"file_path": f"./test/r_{i}", "transform_matrix": torch.eye(4).tolist()} for i in range(3)]
    (tmp_path / "transforms_test.json").write_text(json.dumps({"camera_angle_x": 0.7, "frames": frames}))
    (tmp_path / "test").mkdir()
    for i in range(3):
        Image.fromarray(picture(i, channels=4).numpy()).save(tmp_path / "test" / f"r_{i}.png")
    broken = tmp_path / "test" / "r_1.png"
    broken.write_bytes(broken.read_bytes()[:-400])
    result = evaluate(Constant(), read_capture(tmp_path, split="test"), output=tmp_path / "eval")
    assert [item["name"] for item in result["per_image"]] == ["./test/r_0", "./test/r_2"]
    assert [item["name"] for item in result["skipped"]] == ["./test/r_1"]
    assert result["protocol"]["source"]["format"] == "blender"
    assert (tmp_path / "eval" / "r_2.png").is_file()


def test_linear_captures_are_measured_on_their_curve(tmp_path):
    tone = ToneCurve(exposure=0.5, mu=50.0)
    # In the files' units; exposed they are 20 and 0.05, and the model's colour, which is exposed, stands for 8.
    scene = captures([torch.full((16, 16, 3), value).half() for value in (40.0, 0.1)], tone=tone)
    result = evaluate(Constant(4.0), scene, output=tmp_path)
    bright, dark = result["per_image"]
    error = math.log(1001 / 201) / math.log(51)
    assert bright["psnr"] == pytest.approx(-20 * math.log10(error), abs=0.01)
    # Both are white on a screen.
    assert bright["psnr_srgb"] == 100
    assert dark["psnr_srgb"] == pytest.approx(-20 * math.log10(1 - float(display(torch.tensor(0.05)))), abs=0.01)
    assert result["psnr_srgb"] == pytest.approx((bright["psnr_srgb"] + dark["psnr_srgb"]) / 2)
    assert result["protocol"]["colour_space"] == {
        "psnr": "linear-tonemapped(mu=50)",
        "psnr_srgb": "srgb",
        "ssim": "srgb",
        "lpips": "srgb",
    }
    assert result["protocol"]["exposure"] == 0.5
    prediction, _ = read_exr(tmp_path / dark["exr"])
    assert prediction[0, 0].tolist() == [8.0, 8.0, 8.0]
    panel = np.array(Image.open(tmp_path / dark["picture"]))
    shown = int((display(torch.tensor(0.05)) * 255).round())
    assert panel[0, 0].tolist() == [shown] * 3
    assert panel[0, 16 + SEPARATOR_PIXELS].tolist() == [255, 255, 255]


def test_srgb_captures_say_so(tmp_path):
    result = evaluate(Constant(), captures([picture(0)]), output=tmp_path)
    assert result["protocol"]["colour_space"] == {"psnr": "srgb", "ssim": "srgb", "lpips": "srgb"}
    assert result["protocol"]["exposure"] is None
    assert "exr" not in result["per_image"][0]


def test_faulty_pixels_of_the_truth_are_noted(tmp_path):
    scene = captures([torch.ones(16, 16, 3)], tone=ToneCurve(exposure=1.0))
    scene.images.faulty_pixels = (FaultyPixels(name=scene.names[0], broken=3, negative=2),)
    notes = evaluate(Constant(), scene, output=tmp_path)["notes"]
    assert any(note.startswith("3 pixels of the truth are NaN") for note in notes)
    assert any(note.startswith("2 pixels of the truth have negative") for note in notes)
