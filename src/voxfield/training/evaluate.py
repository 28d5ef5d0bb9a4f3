"""Measuring a model on pictures it was not trained on: ``metrics.json`` and one panel of pictures per image.

A number says little without how it was measured, so ``metrics.json`` carries its protocol: background, resize, split,
image list, SSIM border, LPIPS network and weights, step, training time and checkpoint.

What a number hides, ``focus`` of each image says: whether a bad PSNR comes of blur, a wrong pose, another exposure or
something that only the photograph shows (`voxfield.training.focus`). By option every camera is also moved to where the
field explains its photograph best, and measured there once more (`voxfield.training.alignment`).

Metrics are taken on [0, 1] RGB float32 with the prediction clamped to [0, 1] and the truth composited over the same
background the model renders on, in sRGB values as the NeRF papers do. Linear captures (EXR) are unbounded: their PSNR
is that of exposed light on the capture's tone curve, with 1 as the peak and nothing clipped; SSIM, LPIPS and
``psnr_srgb`` are those of what a screen shows of it, exposed, clipped to [0, 1] and in sRGB. The protocol states each
metric's space.

Where images have copies at several scales, every copy is an image that is measured, at its own resolution, and
``per_scale`` holds the means of each scale; the others are means over all of them, so over the scales. ``avg_error`` is
the geometric mean of three errors of an image, as mip-NeRF and PyNeRF compare methods by:

    avg_error = exp(mean(log[10^(-PSNR / 10), sqrt((1 - SSIM) / 2), LPIPS]))
"""

import math
import os
import re
import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import torch

from voxfield.checks import check_choice, check_range, check_shape
from voxfield.colour import ToneCurve, compared, display, linear_from_srgb
from voxfield.data.capture import spread
from voxfield.distributed.devices import synchronise
from voxfield.errors import FormatError, InputError, VoxfieldError
from voxfield.render.image import colour_from_name, error_colours, panel, side_by_side, write_linear, write_png
from voxfield.render.lpips import MINIMUM_SIDE, Lpips, load_lpips
from voxfield.render.metrics import SSIM_SIGMA, SSIM_WINDOW, SsimBorder, psnr, ssim
from voxfield.storage.atomic import write_json
from voxfield.storage.json_values import json_values
from voxfield.training.alignment import AlignmentConfig, PoseAligner
from voxfield.training.focus import focus_protocol, judge, measure_focus

if TYPE_CHECKING:
    from voxfield.data.posed_images import PosedImages
    from voxfield.geometry.camera import Cameras

METRICS_NAME = "metrics.json"

ALIGNED_FOLDER = "aligned"
"""Where the pictures of aligned cameras lie, beside ``metrics.json``."""

_WARM_UP_SIDE = 64
_METRICS = ("psnr", "ssim", "lpips")

RenderImage = Callable[..., Mapping[str, torch.Tensor]]
"""``render_image(cameras, i, *, background)`` -> ``rgb`` (H, W, 3), ``opacity`` (H, W), ``depth`` (H, W), and where the
model has them ``normals`` (H, W, 3).

``background`` is a (3,) float32 tensor in [0, 1] on the CPU; ``cameras`` may be of any resolution. Both colours are
sRGB, or exposed linear light where the capture has a tone curve."""


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """How a model is measured."""

    background: str = "white"
    """Colour behind the scene, of truth and of the model: white, black, grey, #rrggbb, or r,g,b from 0 to 1."""
    ssim_border: SsimBorder = "valid"
    """``valid``: windows inside the image (NeRF papers); ``reflect``: also over reflected borders (nerfstudio)."""
    lpips: str | None = None
    """LPIPS weights: a file, a folder or ``"trunk.pth,heads.pth"``. None leaves LPIPS out."""
    max_images: int | None = None
    """Measure only this many images, each at all of its scales, evenly spread over the split, at least 1. None measures
    all."""
    save_images: bool = True
    """Write a panel truth | prediction | error | depth (| normals) for every image; of linear captures also the
    prediction as EXR, in the capture's units."""
    focus: bool = True
    """Also measure sharpness, shift and exposure, and say in words what is wrong with each image."""
    align_poses: bool = False
    """Also move each camera to where the field explains its photograph best, and measure there: ``psnr_aligned``."""
    alignment: AlignmentConfig = AlignmentConfig()
    """How cameras are moved, if they are."""


def evaluate(
    render_image: RenderImage,
    captures: "PosedImages",
    *,
    output: str | os.PathLike[str],
    settings: EvaluateConfig | None = None,
    context: Mapping[str, Any] | None = None,
    lpips: Lpips | None = None,
    aligner: PoseAligner | None = None,
    device: torch.device | None = None,
    on_progress: Callable[[int, int, str], None] | None = None,
) -> dict[str, Any]:
    """Render the images of a split, compare them with the truth, and write the result.

    An image whose truth cannot be read is left out, listed under ``skipped`` and counted; the others are measured.
    Images with a mask are measured inside it. The time of an image is that of ``render_image`` alone, after one small
    untimed rendering that pays for compilation.

    Args:
        render_image: the model, see `RenderImage`.
        captures: the split to measure.
        output: folder for ``metrics.json`` and the panels, ``eval/<split>`` of a run directory; made when absent.
        settings: how to measure; the defaults when absent.
        context: what else the protocol says, e.g. ``step``, ``train_seconds``, ``checkpoint``, ``device``.
        lpips: a network loaded already, used instead of ``settings.lpips``.
        aligner: moves the cameras; needed with ``settings.align_poses``, unused without.
        device: where the model renders, which the clock waits for; None: the CPU.
        on_progress: called after every image with images done, images in all, and the image's name.

    Returns:
        What ``metrics.json`` holds: psnr (dB), ssim, lpips, of linear captures psnr_srgb, the same with ``_aligned``,
        avg_error, seconds (to render an image), num_rays_per_sec and fps, each with ``_std`` (sample standard deviation
        over images, null below two); num_images; per_scale (the same of each scale, with scale, width and height; empty
        where there is one); verdicts (how many images are blurred, misaligned, ...); outliers; per_image; skipped;
        notes; protocol. A metric that could not be taken (LPIPS without weights, SSIM of tiny images, avg_error without
        either, aligned ones without alignment) is null, and ``notes`` says why where it was asked for. ``psnr`` never
        depends on the alignment.

    Raises:
        InputError: when the split is empty, none of its images can be read, a setting is off range, or the model
            returns other shapes than the camera's.
        MissingFileError, FormatError: for LPIPS weights that cannot be loaded.
    """
    settings = settings or EvaluateConfig()
    indices = chosen_pictures(captures, settings)
    check_choice("ssim_border", settings.ssim_border, get_args(SsimBorder))
    tone, background = captures.tone, torch.tensor(colour_from_name(settings.background))
    if tone is not None:
        background = linear_from_srgb(background)
    if lpips is None and settings.lpips is not None:
        lpips = load_lpips(settings.lpips)
    if settings.align_poses and aligner is None:
        raise InputError("align_poses: expected an aligner to move the cameras with, got none.")
    measurer = _Measurer(
        render_image,
        captures,
        settings,
        Path(output),
        background,
        lpips,
        aligner if settings.align_poses else None,
        device or torch.device("cpu"),
    )
    scores: list[dict[str, Any]] = []
    skipped = [{"name": str(item.path), "reason": str(item.reason)} for item in captures.skipped]
    for done, index in enumerate(indices, start=1):
        name = captures.names[index]
        try:
            truth = _read_truth(captures, index, background)
        except (VoxfieldError, OSError) as error:
            skipped.append({"name": name, "reason": str(error)})
        else:
            if not scores:
                _warm_up(render_image, captures.cameras[index : index + 1], background)
            scores.append({"name": name, **_scale_of(captures, index), **measurer.score(index, truth)})
        if on_progress is not None:
            on_progress(done, len(indices), name)
    if not scores:
        raise InputError(
            f"None of the {len(indices)} {captures.split} images can be read. The last: {skipped[-1]['reason']}"
        )
    found = judge(scores) if settings.focus else {"verdicts": {}, "outliers": []}
    protocol = _protocol(captures, settings, lpips, measurer.aligner, [score["name"] for score in scores])
    result: dict[str, Any] = json_values(
        {
            **_summary(scores),
            "per_scale": _per_scale(scores),
            **found,
            "skipped": skipped,
            "notes": _notes(scores, skipped, lpips) + _pixel_notes(captures),
            "per_image": scores,
            "protocol": {**protocol, **(context or {})},
        }
    )
    write_json(Path(output) / METRICS_NAME, result)
    return result


@dataclass(frozen=True)
class _Truth:
    """A photograph as it is measured against."""

    colour: torch.Tensor
    """(H, W, 3) over the background, in [0, 1] or exposed linear light."""
    mask: torch.Tensor | None
    """(H, W) bool: the pixels that count, if not all."""
    foreground: torch.Tensor | None
    """(H, W) bool: the pixels that show the scene rather than the background laid behind alpha, if there is any."""


class _Measurer:
    """Scores images one by one."""

    def __init__(
        self,
        render_image: RenderImage,
        captures: "PosedImages",
        settings: EvaluateConfig,
        folder: Path,
        background: torch.Tensor,
        lpips: Lpips | None,
        aligner: PoseAligner | None,
        device: torch.device,
    ) -> None:
        self._render_image, self._cameras, self._settings = render_image, captures.cameras, settings
        self._tone, self._limit = captures.tone, 1.0 if captures.tone is None else math.inf
        self._folder, self._background, self._lpips, self.aligner = folder, background, lpips, aligner
        self._pictures, self._device = _picture_names(_labels(captures)), device

    def score(self, index: int, truth: _Truth) -> dict[str, Any]:
        """All that is said of an image; its pictures are written."""
        score, rendering = self._measure(self._cameras, index, truth)
        score |= self._compare(rendering["rgb"], truth)
        score["avg_error"] = average_error(score["psnr"], score["ssim"], score["lpips"])
        if self._settings.save_images:
            score |= _save(self._folder / self._pictures[index], truth.colour, rendering, self._tone)
        best = rendering["rgb"]
        if self.aligner is not None:
            aligned, best = self._align(self.aligner, index, truth, rendering)
            score |= aligned
        if self._settings.focus:
            shown = [
                image if self._tone is None else display(image) for image in (rendering["rgb"], truth.colour, best)
            ]
            score["focus"] = measure_focus(
                shown[0], shown[1], mask=truth.mask, foreground=truth.foreground, aligned=shown[2]
            )
        return score

    def _measure(self, cameras: "Cameras", index: int, truth: _Truth) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        return _measure(self._render_image, cameras, index, truth.colour, self._background, self._limit, self._device)

    def _compare(self, prediction: torch.Tensor, truth: _Truth) -> dict[str, Any]:
        return _compare(prediction, truth, self._settings.ssim_border, self._lpips, self._tone)

    def _align(
        self, aligner: PoseAligner, index: int, truth: _Truth, rendering: Mapping[str, torch.Tensor]
    ) -> tuple[dict[str, Any], torch.Tensor]:
        """The scores of the camera moved, and what it sees."""
        prediction = rendering["rgb"]
        alignment = aligner.align(
            self._cameras,
            index,
            compared(truth.colour, self._tone),
            depth=rendering["depth"],
            opacity=rendering["opacity"],
            background=self._background,
            mask=truth.mask,
        )
        if alignment is None:
            return {f"{name}_aligned": None for name in _METRICS}, prediction
        seen = self._measure(alignment.camera, 0, truth)[1]["rgb"] if alignment.moved else prediction
        result: dict[str, Any] = {f"{name}_aligned": value for name, value in self._compare(seen, truth).items()}
        before, after, goal = (compared(image, self._tone) for image in (prediction, seen, truth.colour))
        result["alignment"] = {
            "degrees": alignment.degrees,
            "distance": alignment.distance,
            "pixels": alignment.pixels,
            "psnr_unseen": psnr(before, goal, alignment.unseen).item(),
            "psnr_unseen_aligned": psnr(after, goal, alignment.unseen).item(),
        }
        if self._settings.save_images:
            name = f"{ALIGNED_FOLDER}/{self._pictures[index]}"
            result["picture_aligned"] = name
            shown = [image if self._tone is None else display(image) for image in (seen, truth.colour)]
            write_png(self._folder / name, side_by_side([shown[0], error_colours(*shown)]))
        return result, seen


def average_error(psnr: float, ssim: float | None, lpips: float | None) -> float | None:
    """The geometric mean of the errors that PSNR (dB), SSIM and LPIPS stand for, at least 0; None without all three.

    10^(-PSNR / 10) is the mean squared error, sqrt((1 - SSIM) / 2) is in [0, 1]; one of 0 makes the mean 0.
    """
    if ssim is None or lpips is None:
        return None
    return float((10.0 ** (-psnr / 10.0) * math.sqrt(max(1.0 - ssim, 0.0) / 2.0) * max(lpips, 0.0)) ** (1.0 / 3.0))


def chosen_pictures(captures: "PosedImages", settings: EvaluateConfig) -> list[int]:
    """Numbers of the pictures that `evaluate` measures: of some images all copies.

    Raises:
        InputError: there are none, or ``max_images`` is below 1.
    """
    count = len(captures.names) if captures.scales is None else captures.scales.num_images
    if count == 0:
        raise InputError(f"The {captures.split} split has no images to evaluate. Choose another split.")
    if settings.max_images is not None:
        check_range("max_images", settings.max_images, minimum=1)
    images = spread(count, count if settings.max_images is None else settings.max_images)
    return images if captures.scales is None else captures.scales.copies_of(images)


def _scale_of(captures: "PosedImages", index: int) -> dict[str, int]:
    return {} if captures.scales is None else {"scale": int(captures.scales.factor[index])}


def _labels(captures: "PosedImages") -> list[str]:
    """The pictures' names, of copies with their scale."""
    if captures.scales is None:
        return list(captures.names)
    named = zip(captures.names, captures.scales.factor.tolist(), strict=True)
    return [name if factor == 1 else f"{Path(name).with_suffix('')}-scale{factor}.png" for name, factor in named]


def _picture_names(names: Sequence[str]) -> list[str]:
    """One file name per image: its own last part, with the index in front where two images share it."""
    stems = [re.sub(r"[^A-Za-z0-9._-]+", "_", Path(name).stem).strip("._")[:80] or "image" for name in names]
    # Some file systems take A.png and a.png for one file.
    count = Counter(stem.lower() for stem in stems)
    return [
        f"{stem}.png" if count[stem.lower()] == 1 else f"{index:05d}-{stem}.png" for index, stem in enumerate(stems)
    ]


def _read_truth(captures: "PosedImages", index: int, background: torch.Tensor) -> _Truth:
    pixels = captures.images.read(index)
    expected = (int(captures.cameras.height[index]), int(captures.cameras.width[index]))
    if tuple(pixels.shape[:2]) != expected:
        raise FormatError(
            f"{captures.names[index]}: expected {expected[1]}x{expected[0]} pixels as its camera says, "
            f"got {pixels.shape[1]}x{pixels.shape[0]}."
        )
    tone, foreground = captures.tone, None
    colour = pixels[..., :3].float() / 255.0 if tone is None else pixels[..., :3].float() * tone.exposure
    if pixels.shape[-1] == 4:
        alpha = pixels[..., 3:].float() / (255.0 if tone is None else 1.0)
        colour = colour * alpha + background * (1.0 - alpha)
        foreground = alpha[..., 0] > 0.5
    mask = captures.images.mask(index) if captures.has_masks else None
    if mask is not None and not bool(mask.any()):
        raise FormatError(f"{captures.names[index]}: its mask leaves no pixel to measure.")
    return _Truth(colour, mask, foreground)


def _warm_up(render_image: RenderImage, camera: "Cameras", background: torch.Tensor) -> None:
    factor = min(_WARM_UP_SIDE / max(int(camera.width[0]), int(camera.height[0])), 1.0)
    with torch.inference_mode():
        render_image(camera.rescaled(factor), 0, background=background)


def _measure(
    render_image: RenderImage,
    cameras: "Cameras",
    index: int,
    truth: torch.Tensor,
    background: torch.Tensor,
    limit: float,
    device: torch.device,
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Render an image: its score so far, and ``rgb`` (finite, clamped to [0, ``limit``]), ``opacity``, ``depth`` and,
    where the model has them, ``normals`` on the CPU.
    """
    height, width = truth.shape[:2]
    synchronise(device)
    began = time.perf_counter()
    with torch.inference_mode():
        output = render_image(cameras, index, background=background)
        synchronise(device)
    seconds = max(time.perf_counter() - began, 1e-9)
    shown = ("rgb", "opacity", "depth", *(("normals",) if "normals" in output else ()))
    rendering = {name: output[name].detach().float().cpu() for name in shown}
    check_shape("render_image's rgb", rendering["rgb"], (height, width, 3))
    check_shape("render_image's opacity", rendering["opacity"], (height, width))
    check_shape("render_image's depth", rendering["depth"], (height, width))
    score: dict[str, Any] = {"seconds": seconds, "width": width, "height": height}
    broken = int((~rendering["rgb"].isfinite()).any(dim=-1).sum())
    if broken:
        # Black, not left out: a model must not gain by failing on its worst pixels.
        score["non_finite_pixels"] = broken
    rendering["rgb"] = rendering["rgb"].nan_to_num(0.0, 0.0, 0.0).clamp(0.0, limit)
    return score, rendering


def _compare(
    prediction: torch.Tensor,
    photograph: _Truth,
    border: SsimBorder,
    lpips: Lpips | None,
    tone: ToneCurve | None = None,
) -> dict[str, Any]:
    """The metrics of one image; None for those that its size or mask does not allow."""
    mask, truth = photograph.mask, photograph.colour
    if tone is not None:
        shown = _compare(display(prediction), replace(photograph, colour=display(truth)), border, lpips)
        on_curve = psnr(tone.encode(prediction), tone.encode(truth), mask).item()
        return {**shown, "psnr": on_curve, "psnr_srgb": shown["psnr"]}
    if mask is not None:
        # What a mask hides must not reach the metrics through the windows and receptive fields that overlap it.
        prediction = torch.where(mask[..., None], prediction, truth)
    side = min(truth.shape[:2])
    score: dict[str, Any] = {"psnr": psnr(prediction, truth, mask).item(), "ssim": None, "lpips": None}
    if side >= SSIM_WINDOW and (mask is None or _keeps_a_window(mask, border)):
        score["ssim"] = ssim(prediction, truth, border, mask).item()
    if lpips is not None and side >= MINIMUM_SIDE:
        with torch.inference_mode():
            score["lpips"] = lpips(prediction.to(lpips.shift.device), truth.to(lpips.shift.device)).item()
    return score


def _save(
    path: Path, truth: torch.Tensor, rendering: dict[str, torch.Tensor], tone: ToneCurve | None
) -> dict[str, str]:
    """Write an image's panel, and of linear captures the prediction as EXR beside it; their names, for the scores."""
    if tone is None:
        write_png(path, panel(truth, **rendering))
        return {"picture": path.name}
    exr = write_linear(path.with_suffix(".exr"), rendering["rgb"] / tone.exposure, depth=rendering["depth"])
    write_png(path, panel(display(truth), **{**rendering, "rgb": display(rendering["rgb"])}))
    return {"picture": path.name, "exr": exr.name}


def _keeps_a_window(mask: torch.Tensor, border: SsimBorder) -> bool:
    margin = SSIM_WINDOW // 2 if border == "valid" else 0
    return bool(mask[margin : mask.shape[0] - margin, margin : mask.shape[1] - margin].any())


def _columns(score: Mapping[str, Any]) -> list[str]:
    """Which metrics there are: those of linear captures have one more."""
    names = [*_METRICS, *(["psnr_srgb"] if "psnr_srgb" in score else [])]
    return names + [f"{name}_aligned" for name in names]


def _summary(scores: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean and sample standard deviation over the images."""
    rates = [score["width"] * score["height"] / score["seconds"] for score in scores]
    columns: dict[str, list[float]] = {
        **{name: [s[name] for s in scores if s.get(name) is not None] for name in _columns(scores[0])},
        "avg_error": [s["avg_error"] for s in scores if s.get("avg_error") is not None],
        "seconds": [score["seconds"] for score in scores],
        "num_rays_per_sec": rates,
        "fps": [1.0 / score["seconds"] for score in scores],
    }
    summary: dict[str, Any] = {}
    for name, values in columns.items():
        summary[name] = statistics.fmean(values) if values else None
        summary[f"{name}_std"] = statistics.stdev(values) if len(values) > 1 else None
    return {**summary, "num_images": len(scores)}


def _per_scale(scores: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The summary of each scale, the finest first."""
    found = []
    for scale in sorted({score["scale"] for score in scores if "scale" in score}):
        members = [score for score in scores if score["scale"] == scale]
        sizes = {(score["width"], score["height"]) for score in members}
        width, height = sizes.pop() if len(sizes) == 1 else (None, None)
        found.append({"scale": scale, "width": width, "height": height, **_summary(members)})
    return found


def _notes(scores: Sequence[Mapping[str, Any]], skipped: Sequence[Mapping[str, str]], lpips: Lpips | None) -> list[str]:
    notes = []
    if lpips is None:
        notes.append("LPIPS was not measured, so neither was avg_error: no weights were given (--lpips-weights).")
    for name, label in (("ssim", "SSIM"), ("lpips", lpips.name if lpips else "LPIPS")):
        missing = sum(score[name] is None for score in scores)
        if missing and not (name == "lpips" and lpips is None):
            notes.append(f"{label} was not measured on {missing} of {len(scores)} images: too small for it, or masked.")
    if skipped:
        were = "image was" if len(skipped) == 1 else "images were"
        notes.append(f"{len(skipped)} {were} skipped: missing or broken files.")
    unaligned = sum("psnr_aligned" in score and score["psnr_aligned"] is None for score in scores)
    if unaligned:
        notes.append(f"{unaligned} of {len(scores)} images were not aligned: their masks leave one half empty.")
    broken = sum("non_finite_pixels" in score for score in scores)
    if broken:
        notes.append(
            f"The model gave NaN or infinite colours in {broken} of {len(scores)} images; those pixels count as black."
        )
    return notes


def _pixel_notes(captures: "PosedImages") -> list[str]:
    faulty = captures.images.faulty_pixels
    broken, negative = sum(one.broken for one in faulty), sum(one.negative for one in faulty)
    notes = [f"{broken} pixels of the truth are NaN or infinite; they were left out."] if broken else []
    return notes + ([f"{negative} pixels of the truth have negative values, taken as 0."] if negative else [])


def _protocol(
    captures: "PosedImages",
    settings: EvaluateConfig,
    lpips: Lpips | None,
    aligner: PoseAligner | None,
    names: Sequence[str],
) -> dict[str, Any]:
    source = dict(captures.source)
    return {
        "background": settings.background,
        "resize": {"downscale": source.get("downscale", 1)},
        "split": captures.split,
        "scales": [1] if captures.scales is None else list(captures.scales.values),
        "images": list(names),
        "masks": bool(captures.has_masks),
        "colour_space": {
            **dict.fromkeys(_METRICS, "srgb"),
            **({} if captures.tone is None else {"psnr": captures.tone.name, "psnr_srgb": "srgb"}),
        },
        "exposure": None if captures.tone is None else captures.tone.exposure,
        "ssim": {"window": SSIM_WINDOW, "sigma": SSIM_SIGMA, "border": settings.ssim_border},
        "lpips": None if lpips is None else {"network": lpips.name, "files": lpips.files},
        "focus": focus_protocol() if settings.focus else None,
        "alignment": None if aligner is None else aligner.protocol(),
        "source": source,
    }
