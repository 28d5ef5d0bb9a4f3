"""Verdicts on figures made up for the purpose."""

import pytest
import torch

from voxfield.training.focus import FEWEST_IMAGES, judge, measure_focus


def image(name="p", psnr=30.0, *, ratio=0.9, shift=0.2, exposure=0.1, alignment=None):
    focus = {
        "sharpness_ratio": ratio,
        "shift_pixels": shift,
        "exposure": None if exposure is None else {"psnr_gain": exposure},
    }
    score = {"name": name, "psnr": psnr, "focus": focus}
    if alignment is not None:
        pixels, gain = alignment
        score["alignment"] = {"pixels": pixels, "psnr_unseen": 20.0, "psnr_unseen_aligned": 20.0 + gain}
    return score


def verdict(**figures):
    score = image(**figures)
    judge([score])
    return score["focus"]["verdict"]


@pytest.mark.parametrize(
    ("figures", "expected"),
    [
        ({}, "sharp and aligned"),
        ({"ratio": 0.5}, "prediction blurred"),
        ({"ratio": 0.51}, "sharp and aligned"),
        ({"ratio": 2.0}, "photograph blurred"),
        ({"shift": 1.0}, "misaligned"),
        ({"shift": 5.0, "alignment": (0.1, 3.0)}, "sharp and aligned"),
        ({"shift": 0.0, "alignment": (0.5, 1.0)}, "misaligned"),
        ({"shift": 0.0, "alignment": (9.0, 0.9)}, "sharp and aligned"),
        ({"exposure": 1.0}, "exposure differs"),
        ({"shift": 3.0, "exposure": 2.0, "ratio": 0.1}, "misaligned, exposure differs, prediction blurred"),
        ({"shift": None, "exposure": None, "ratio": None}, "sharp and aligned"),
    ],
)
def test_words_follow_the_thresholds(figures, expected):
    assert verdict(**figures) == expected


def test_outliers_are_found_by_median_and_deviation():
    scores = [image(f"p{i}", 30.0 + i) for i in range(5)] + [image("far", 10.0), image("off", 5.0, shift=3.0)]
    result = judge(scores)
    assert [item["name"] for item in result["outliers"]] == ["off", "far"]
    assert scores[5]["focus"]["verdict"] == "outlier (content)"
    assert scores[6]["focus"]["verdict"] == "misaligned", "a reason is said instead"
    assert result["verdicts"] == {"sharp and aligned": 5, "outlier (content)": 1, "misaligned": 1}


def test_equal_pictures_have_no_outliers():
    scores = [image(f"p{i}", 30.0) for i in range(8)] + [image("a trifle", 29.0)]
    assert judge(scores)["outliers"] == []


def test_few_pictures_have_no_outliers():
    scores = [image(f"p{i}", 30.0) for i in range(FEWEST_IMAGES - 2)] + [image("far", 1.0)]
    assert judge(scores)["outliers"] == []
    assert scores[-1]["focus"]["psnr_z"] is None


def test_flat_pictures_have_no_quotient():
    flat = torch.full((64, 64, 3), 0.5)
    found = measure_focus(flat, flat, mask=None, foreground=None, aligned=flat)
    assert found["sharpness_ratio"] is None
    assert found["shift_pixels"] is None
    assert found["exposure"]["psnr_gain"] == pytest.approx(0.0)
