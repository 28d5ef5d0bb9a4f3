"""Why an image scored as it did, in words: blurred, misaligned, of another exposure, or of other content.

The words and the figures they rest on; thresholds are constants here and are written into every ``metrics.json``:

- ``misaligned``: aligning the camera moved the picture by at least ``MISALIGNED_PIXELS`` and gained at least
  ``MISALIGNED_GAIN`` on the pixels the alignment did not see. Without alignment: the prediction lies at least
  ``SHIFTED_PIXELS`` beside the truth (`voxfield.render.focus.image_shift`).
- ``exposure differs``: one gain and offset per channel gain at least ``EXPOSURE_GAIN``.
- ``prediction blurred``: the prediction has at most ``BLURRED_RATIO`` of the truth's sharpness.
- ``photograph blurred``: the prediction has at least ``PHOTOGRAPH_BLURRED_RATIO`` times the truth's.
- ``outlier (content)``: PSNR lies below the split's by a robust z-score of ``OUTLIER_Z``, and nothing above holds.
- ``sharp and aligned``: none of these.

More than one may hold; they are joined by commas, in this order.
"""

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch

from voxfield.render.focus import fit_exposure, image_shift, sharpness
from voxfield.render.metrics import psnr

MISALIGNED_PIXELS = 0.5
"""Motion of the picture by alignment, pixels, below which a camera stood right."""

MISALIGNED_GAIN = 1.0
"""Gain by alignment, dB, below which it did not matter."""

SHIFTED_PIXELS = 1.0
"""Distance between prediction and truth, pixels: above what blur and noise make of none."""

EXPOSURE_GAIN = 1.0
"""Gain by an exposure of its own, dB."""

BLURRED_RATIO = 0.5
"""Quotient of sharpness, prediction by truth: what a blur of one pixel leaves of a photograph sharp to the pixel."""

PHOTOGRAPH_BLURRED_RATIO = 2.0
"""The same the other way round."""

LEAST_SHARPNESS = 0.01
"""Added to both before they are divided; what a blur of ten pixels leaves."""

OUTLIER_Z = 3.5
"""Robust z-score at which an image is an outlier (Iglewicz and Hoaglin 1993)."""

FEWEST_IMAGES = 5
"""Images a split needs before one of them can be an outlier."""

LEAST_SPREAD = 0.5
"""Least standard deviation, dB, a split's PSNR is credited with: equal images must not make outliers of trifles."""

FINE = "sharp and aligned"


def measure_focus(
    prediction: torch.Tensor,
    truth: torch.Tensor,
    *,
    mask: torch.Tensor | None,
    foreground: torch.Tensor | None,
    aligned: torch.Tensor,
) -> dict[str, Any]:
    """The figures a verdict rests on.

    Args:
        prediction: (H, W, 3) in [0, 1], from the pose the camera came with.
        truth: the same shape.
        mask: (H, W) bool, the pixels that count.
        foreground: (H, W) bool, the pixels that show no background laid behind alpha.
        aligned: what the camera sees once aligned; ``prediction`` without alignment. Its exposure is compared.

    Returns:
        ``sharpness_truth``, ``sharpness_prediction``, ``sharpness_ratio``, ``shift_pixels``, ``exposure`` (``gain`` and
        ``offset`` of red, green and blue, ``psnr``, ``psnr_gain``); None for each that the image is too small, flat or
        masked for.
    """
    sharp = {"truth": sharpness(truth, mask), "prediction": sharpness(prediction, mask)}
    fitted = fit_exposure(aligned, truth, mask, foreground)
    exposure = None
    if fitted is not None:
        before = psnr(aligned, truth, mask).item()
        exposure = {**asdict(fitted), "psnr_gain": fitted.psnr - before}
    return {
        "sharpness_truth": sharp["truth"],
        "sharpness_prediction": sharp["prediction"],
        "sharpness_ratio": _quotient(sharp["prediction"], sharp["truth"]),
        "shift_pixels": image_shift(prediction, truth, mask),
        "exposure": exposure,
    }


def judge(scores: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Add ``psnr_z`` and ``verdict`` to the ``focus`` of every image.

    Args:
        scores: the images of a split, each with ``name``, ``psnr``, ``focus`` of `measure_focus` and, where its camera
            was aligned, ``alignment``.

    Returns:
        ``verdicts``: how many images each word was said of; ``outliers``: those far below the split, the worst first.
    """
    centre, spread = _middle([score["psnr"] for score in scores])
    outliers, words = [], Counter[str]()
    for score in scores:
        focus = score["focus"]
        focus["psnr_z"] = None if spread is None else (score["psnr"] - centre) / spread
        outlying = focus["psnr_z"] is not None and focus["psnr_z"] <= -OUTLIER_Z
        said = _causes(score) or (["outlier (content)"] if outlying else [FINE])
        focus["verdict"] = ", ".join(said)
        words.update(said)
        if outlying:
            keys = {"name": score["name"], "psnr": score["psnr"]}
            outliers.append({**keys, "psnr_z": focus["psnr_z"], "verdict": focus["verdict"]})
    return {"verdicts": dict(words.most_common()), "outliers": sorted(outliers, key=lambda item: item["psnr_z"])}


def focus_protocol() -> dict[str, Any]:
    """The thresholds behind the words."""
    return {
        "misaligned": {"pixels": MISALIGNED_PIXELS, "gain": MISALIGNED_GAIN, "pixels_unaligned": SHIFTED_PIXELS},
        "exposure_gain": EXPOSURE_GAIN,
        "sharpness_ratio": {"prediction_blurred": BLURRED_RATIO, "photograph_blurred": PHOTOGRAPH_BLURRED_RATIO},
        "outlier_z": OUTLIER_Z,
        "outlier_images": FEWEST_IMAGES,
    }


def _middle(values: Sequence[float]) -> tuple[float, float | None]:
    """Median, and the standard deviation that the median absolute deviation stands for; None of too few values."""
    centre = statistics.median(values)
    if len(values) < FEWEST_IMAGES:
        return centre, None
    deviation = statistics.median([abs(value - centre) for value in values])
    return centre, max(deviation / 0.6745, LEAST_SPREAD)


def _causes(score: Mapping[str, Any]) -> list[str]:
    """What is wrong with an image, by the module's rules."""
    focus, alignment, said = score["focus"], score.get("alignment"), []
    if alignment is None:
        misaligned = _reaches(focus["shift_pixels"], SHIFTED_PIXELS)
    else:
        gain = alignment["psnr_unseen_aligned"] - alignment["psnr_unseen"]
        misaligned = alignment["pixels"] >= MISALIGNED_PIXELS and gain >= MISALIGNED_GAIN
    if misaligned:
        said.append("misaligned")
    if focus["exposure"] is not None and focus["exposure"]["psnr_gain"] >= EXPOSURE_GAIN:
        said.append("exposure differs")
    ratio = focus["sharpness_ratio"]
    if ratio is not None and ratio <= BLURRED_RATIO:
        said.append("prediction blurred")
    elif _reaches(ratio, PHOTOGRAPH_BLURRED_RATIO):
        said.append("photograph blurred")
    return said


def _quotient(prediction: float | None, truth: float | None) -> float | None:
    if prediction is None or truth is None:
        return None
    # Two pictures without anything fine are as sharp as each other.
    return (prediction + LEAST_SHARPNESS) / (truth + LEAST_SHARPNESS)


def _reaches(value: float | None, threshold: float) -> bool:
    return value is not None and value >= threshold
