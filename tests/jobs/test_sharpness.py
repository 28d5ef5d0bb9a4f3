import numpy as np
import pytest
from PIL import Image, ImageFilter

from voxfield.jobs.sharpness import MEASURED_SIDE, find_blurred, measure_sharpness


def noise(width: int = 120, height: int = 80) -> Image.Image:
    """Fine and coarse structure in equal parts, as photographs have both."""
    random = np.random.default_rng(0)
    fine = Image.fromarray(random.integers(40, 200, (height, width, 3), dtype=np.uint8))
    coarse = Image.fromarray(random.integers(40, 200, (5, 8, 3), dtype=np.uint8)).resize((width, height))
    return Image.blend(fine.filter(ImageFilter.GaussianBlur(0.7)), coarse, 0.5)


def test_it_is_the_formula() -> None:
    grey = np.array(noise().convert("L"))
    g = grey.astype(np.float64)
    laplacian = [
        g[y - 1, x] + g[y + 1, x] + g[y, x - 1] + g[y, x + 1] - 4 * g[y, x] for y in range(1, 79) for x in range(1, 119)
    ]
    assert measure_sharpness(Image.fromarray(grey)) == pytest.approx(np.var(laplacian) / np.var(g), rel=1e-4)


def test_blur_lowers_it_and_contrast_does_not() -> None:
    picture = noise()
    values = [measure_sharpness(picture.filter(ImageFilter.GaussianBlur(radius))) for radius in (0, 0.5, 1, 2)]
    assert values == sorted(values, reverse=True)
    assert values[3] < 0.3 * values[0]
    darker = Image.fromarray((np.asarray(picture) // 2 + 20).astype(np.uint8))
    assert measure_sharpness(darker) == pytest.approx(values[0], rel=0.02)


def test_checkers_reach_the_bound() -> None:
    board = (np.indices((60, 60)).sum(axis=0) % 2 * 255).astype(np.uint8)
    assert measure_sharpness(Image.fromarray(board)) == pytest.approx(64, rel=1e-3)


@pytest.mark.parametrize("size", [(1, 1), (2, 50), (50, 2), (3, 3), (MEASURED_SIDE + 1, 3)])
def test_flat_and_tiny_pictures_have_none(size: tuple[int, int]) -> None:
    assert measure_sharpness(Image.new("RGB", size, (9, 80, 7))) == 0.0


def test_large_pictures_are_measured_reduced() -> None:
    # Each pixel of the small one became four: at the size it is measured at, nothing changed.
    small = noise(MEASURED_SIDE // 2 + 20, 60)
    large = small.resize((small.width * 2, small.height * 2), Image.Resampling.NEAREST)
    assert measure_sharpness(large) == pytest.approx(measure_sharpness(small), rel=1e-3)


def test_blurred_are_those_below_a_share_of_the_median() -> None:
    assert find_blurred({"a": 1.0, "b": 1.2, "c": 0.2, "d": 0.9, "e": 0.05}) == {
        "e": pytest.approx(0.05 / 0.9),
        "c": pytest.approx(0.2 / 0.9),
    }
    assert list(find_blurred({"a": 1.0, "b": 1.2, "c": 0.2, "d": 0.9, "e": 0.05})) == ["e", "c"]
    assert find_blurred({}) == {}
    assert find_blurred({"a": 0.0, "b": 0.0}) == {}
