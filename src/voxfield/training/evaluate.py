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

import os
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import torch

from voxfield.checks import check_choice, check_range
from voxfield.colour import linear_from_srgb
from voxfield.data.capture import spread
from voxfield.errors import InputError
from voxfield.render.image import colour_from_name
from voxfield.render.lpips import Lpips, load_lpips
from voxfield.render.metrics import SSIM_SIGMA, SSIM_WINDOW, SsimBorder
from voxfield.storage.atomic import write_json
from voxfield.storage.json_values import json_values
from voxfield.training.alignment import AlignmentConfig, PoseAligner
from voxfield.training.focus import focus_protocol, judge
from voxfield.training.image_scores import METRICS, ImageScorer, RenderImage

if TYPE_CHECKING:
    from voxfield.data.posed_images import PosedImages

METRICS_NAME = "metrics.json"


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

    def quick(self, max_images: int) -> "EvaluateConfig":
        """The same of at most so many images, without what takes long or is measured only at the end."""
        return replace(self, max_images=max_images, lpips=None, focus=False, align_poses=False)

    def with_absolute_paths(self) -> "EvaluateConfig":
        """The same for a process with another working directory."""
        if self.lpips is None:
            return self
        return replace(self, lpips=",".join(str(Path(part).absolute()) for part in self.lpips.split(",")))


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
    elsewhere: Callable[[Sequence[int]], Iterable[tuple[int, dict[str, Any]]]] | None = None,
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
        elsewhere: who scores the pictures with these numbers in place of this process, in their order, by an
            `ImageScorer` like that of `picture_scorer`; then ``render_image`` is not called.
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
    scorer = picture_scorer(
        render_image, captures, output=output, settings=settings, lpips=lpips, aligner=aligner, device=device
    )
    scores: list[dict[str, Any]] = []
    skipped = [{"name": str(item.path), "reason": str(item.reason)} for item in captures.skipped]
    scored = ((index, scorer.scored(index)) for index in indices) if elsewhere is None else elsewhere(indices)
    for done, (index, score) in enumerate(scored, start=1):
        name = captures.names[index]
        if "unreadable" in score:
            skipped.append({"name": name, "reason": score["unreadable"]})
        else:
            scores.append({"name": name, **_scale_of(captures, index), **score})
        if on_progress is not None:
            on_progress(done, len(indices), name)
    if not scores:
        raise InputError(
            f"None of the {len(indices)} {captures.split} images can be read. The last: {skipped[-1]['reason']}"
        )
    found = judge(scores) if settings.focus else {"verdicts": {}, "outliers": []}
    protocol = _protocol(captures, settings, scorer.lpips, scorer.aligner, [score["name"] for score in scores])
    result: dict[str, Any] = json_values(
        {
            **_summary(scores),
            "per_scale": _per_scale(scores),
            **found,
            "skipped": skipped,
            "notes": _notes(scores, skipped, scorer.lpips) + _pixel_notes(scores),
            "per_image": scores,
            "protocol": {**protocol, **(context or {})},
        }
    )
    write_json(Path(output) / METRICS_NAME, result)
    return result


def picture_scorer(
    render_image: RenderImage,
    captures: "PosedImages",
    *,
    output: str | os.PathLike[str],
    settings: EvaluateConfig,
    lpips: Lpips | None = None,
    aligner: PoseAligner | None = None,
    device: torch.device | None = None,
) -> ImageScorer:
    """What scores pictures as `evaluate` does, whose arguments these are.

    Raises:
        InputError: a setting is off range, or cameras are to be moved and there is no aligner.
        MissingFileError, FormatError: for LPIPS weights that cannot be loaded.
    """
    check_choice("ssim_border", settings.ssim_border, get_args(SsimBorder))
    background = torch.tensor(colour_from_name(settings.background))
    if lpips is None and settings.lpips is not None:
        lpips = load_lpips(settings.lpips)
    if settings.align_poses and aligner is None:
        raise InputError("align_poses: expected an aligner to move the cameras with, got none.")
    return ImageScorer(
        render_image=render_image,
        captures=captures,
        folder=Path(output),
        background=background if captures.tone is None else linear_from_srgb(background),
        ssim_border=settings.ssim_border,
        lpips=lpips,
        aligner=aligner if settings.align_poses else None,
        device=device or torch.device("cpu"),
        save_images=settings.save_images,
        focus=settings.focus,
    )


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


def _columns(score: Mapping[str, Any]) -> list[str]:
    """Which metrics there are: those of linear captures have one more."""
    names = [*METRICS, *(["psnr_srgb"] if "psnr_srgb" in score else [])]
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


def _pixel_notes(scores: Sequence[Mapping[str, Any]]) -> list[str]:
    # Copies of a picture at several scales come of the same pixels.
    faulty = {score["name"]: score for score in scores if "broken_pixels" in score}.values()
    broken, negative = (sum(score[f"{kind}_pixels"] for score in faulty) for kind in ("broken", "negative"))
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
            **dict.fromkeys(METRICS, "srgb"),
            **({} if captures.tone is None else {"psnr": captures.tone.name, "psnr_srgb": "srgb"}),
        },
        "exposure": None if captures.tone is None else captures.tone.exposure,
        "ssim": {"window": SSIM_WINDOW, "sigma": SSIM_SIGMA, "border": settings.ssim_border},
        "lpips": None if lpips is None else {"network": lpips.name, "files": lpips.files},
        "focus": focus_protocol() if settings.focus else None,
        "alignment": None if aligner is None else aligner.protocol(),
        "source": source,
    }
