"""Scoring one picture: rendering its camera, comparing what is seen with the photograph, writing panels of both."""

import math
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch

from voxfield.checks import check_shape
from voxfield.colour import ToneCurve, compared, display
from voxfield.distributed.devices import synchronise
from voxfield.errors import FormatError, VoxfieldError
from voxfield.render.image import error_colours, panel, side_by_side, write_linear, write_png
from voxfield.render.lpips import MINIMUM_SIDE, Lpips
from voxfield.render.metrics import SSIM_WINDOW, SsimBorder, psnr, ssim
from voxfield.training.alignment import PoseAligner
from voxfield.training.focus import measure_focus

if TYPE_CHECKING:
    from voxfield.data.posed_images import PosedImages
    from voxfield.geometry.camera import Cameras

METRICS: Final = ("psnr", "ssim", "lpips")
"""What every image is measured by."""
ALIGNED_FOLDER: Final = "aligned"
"""Where the pictures of aligned cameras lie, beside ``metrics.json``."""

_WARM_UP_SIDE = 64

RenderImage = Callable[..., Mapping[str, torch.Tensor]]
"""``render_image(cameras, i, *, background)`` -> ``rgb`` (H, W, 3), ``opacity`` (H, W), ``depth`` (H, W), and where the
model has them ``normals`` (H, W, 3).

``background`` is a (3,) float32 tensor in [0, 1] on the CPU; ``cameras`` may be of any resolution. Both colours are
sRGB, or exposed linear light where the capture has a tone curve."""


@dataclass(frozen=True)
class Truth:
    """A photograph as it is measured against."""

    colour: torch.Tensor
    """(H, W, 3) over the background, in [0, 1] or exposed linear light."""
    mask: torch.Tensor | None
    """(H, W) bool: the pixels that count, if not all."""
    foreground: torch.Tensor | None
    """(H, W) bool: the pixels that show the scene rather than the background laid behind alpha, if there is any."""


@dataclass(frozen=True, kw_only=True)
class ImageScorer:
    """Scores the images of a split one by one."""

    render_image: RenderImage
    """The model."""
    captures: "PosedImages"
    """The split."""
    folder: Path
    """Where pictures are written."""
    background: torch.Tensor
    """(3,) colour behind the scene, in the space of the model's colours."""
    ssim_border: SsimBorder
    """Which windows SSIM looks at."""
    lpips: Lpips | None
    """The network of LPIPS, if that is measured."""
    aligner: PoseAligner | None
    """Moves each camera to where its photograph is explained best, if that is measured."""
    device: torch.device
    """Where the model renders, which the clock waits for."""
    save_images: bool
    """Write a panel of every image."""
    focus: bool
    """Measure sharpness, shift and exposure too."""
    warm: list[int] = field(default_factory=list, init=False)
    """The picture whose camera warmed the model up, once one did."""

    @cached_property
    def pictures(self) -> list[str]:
        """The panels' file names."""
        return _picture_names(_labels(self.captures))

    def scored(self, index: int) -> dict[str, Any]:
        """`score` of a picture that is read here; of one that cannot be read only why, under ``unreadable``."""
        try:
            truth = read_truth(self.captures, index, self.background)
        except (VoxfieldError, OSError) as error:
            return {"unreadable": str(error)}
        if not self.warm:
            self._warm_up(index)
            self.warm.append(index)
        name = self.captures.names[index]
        faulty = next((one for one in self.captures.images.faulty_pixels if one.name == name), None)
        told = {} if faulty is None else {"broken_pixels": faulty.broken, "negative_pixels": faulty.negative}
        return self.score(index, truth) | told

    def _warm_up(self, index: int) -> None:
        """Render a small image with a camera, untimed, which pays for compilation."""
        camera = self.captures.cameras[index : index + 1]
        factor = min(_WARM_UP_SIDE / max(int(camera.width[0]), int(camera.height[0])), 1.0)
        with torch.inference_mode():
            self.render_image(camera.rescaled(factor), 0, background=self.background)

    def score(self, index: int, truth: Truth) -> dict[str, Any]:
        """All that is said of an image; its pictures are written."""
        score, rendering = self._measure(self.captures.cameras, index, truth)
        score |= self._compare(rendering["rgb"], truth)
        score["avg_error"] = average_error(score["psnr"], score["ssim"], score["lpips"])
        if self.save_images:
            score |= _save(self.folder / self.pictures[index], truth.colour, rendering, self.captures.tone)
        best = rendering["rgb"]
        if self.aligner is not None:
            aligned, best = self._align(self.aligner, index, truth, rendering)
            score |= aligned
        if self.focus:
            shown = [self._on_screen(image) for image in (rendering["rgb"], truth.colour, best)]
            score["focus"] = measure_focus(
                shown[0], shown[1], mask=truth.mask, foreground=truth.foreground, aligned=shown[2]
            )
        return score

    def _measure(
        self, cameras: "Cameras", index: int, photograph: Truth
    ) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """Render an image: its score so far, and ``rgb`` (finite, clamped to [0, 1], of linear captures only from
        below), ``opacity``, ``depth`` and, where the model has them, ``normals`` on the CPU.
        """
        limit = 1.0 if self.captures.tone is None else math.inf
        height, width = photograph.colour.shape[:2]
        synchronise(self.device)
        began = time.perf_counter()
        with torch.inference_mode():
            output = self.render_image(cameras, index, background=self.background)
            synchronise(self.device)
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

    def _on_screen(self, image: torch.Tensor) -> torch.Tensor:
        return image if self.captures.tone is None else display(image)

    def _compare(self, prediction: torch.Tensor, truth: Truth) -> dict[str, Any]:
        return _compare(prediction, truth, self.ssim_border, self.lpips, self.captures.tone)

    def _align(
        self, aligner: PoseAligner, index: int, truth: Truth, rendering: Mapping[str, torch.Tensor]
    ) -> tuple[dict[str, Any], torch.Tensor]:
        """The scores of the camera moved, and what it sees."""
        prediction = rendering["rgb"]
        alignment = aligner.align(
            self.captures.cameras,
            index,
            compared(truth.colour, self.captures.tone),
            depth=rendering["depth"],
            opacity=rendering["opacity"],
            background=self.background,
            mask=truth.mask,
        )
        if alignment is None:
            return {f"{name}_aligned": None for name in METRICS}, prediction
        seen = self._measure(alignment.camera, 0, truth)[1]["rgb"] if alignment.moved else prediction
        result: dict[str, Any] = {f"{name}_aligned": value for name, value in self._compare(seen, truth).items()}
        before, after, goal = (compared(image, self.captures.tone) for image in (prediction, seen, truth.colour))
        result["alignment"] = {
            "degrees": alignment.degrees,
            "distance": alignment.distance,
            "pixels": alignment.pixels,
            "psnr_unseen": psnr(before, goal, alignment.unseen).item(),
            "psnr_unseen_aligned": psnr(after, goal, alignment.unseen).item(),
        }
        if self.save_images:
            name = f"{ALIGNED_FOLDER}/{self.pictures[index]}"
            result["picture_aligned"] = name
            shown = [self._on_screen(image) for image in (seen, truth.colour)]
            write_png(self.folder / name, side_by_side([shown[0], error_colours(*shown)]))
        return result, seen


def average_error(psnr: float, ssim: float | None, lpips: float | None) -> float | None:
    """The geometric mean of the errors that PSNR (dB), SSIM and LPIPS stand for, at least 0; None without all three.

    10^(-PSNR / 10) is the mean squared error, sqrt((1 - SSIM) / 2) is in [0, 1]; one of 0 makes the mean 0.
    """
    if ssim is None or lpips is None:
        return None
    return float((10.0 ** (-psnr / 10.0) * math.sqrt(max(1.0 - ssim, 0.0) / 2.0) * max(lpips, 0.0)) ** (1.0 / 3.0))


def read_truth(captures: "PosedImages", index: int, background: torch.Tensor) -> Truth:
    """A photograph, laid over the background where it has alpha.

    Raises:
        FormatError: it cannot be read, is of another size than its camera, or masked all over.
    """
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
    return Truth(colour, mask, foreground)


def _compare(
    prediction: torch.Tensor,
    photograph: Truth,
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
