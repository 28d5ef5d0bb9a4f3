import math

import pytest
import torch

from voxfield.colour import (
    ToneCurve,
    automatic_exposure,
    compared,
    display,
    linear_from_srgb,
    luminance,
    srgb_from_linear,
)
from voxfield.errors import InputError


def test_the_srgb_transfer_is_the_standards() -> None:
    # IEC 61966-2-1, computed in double precision from its formula.
    linear = torch.tensor([0.0, 0.001, 0.0031308, 0.18, 0.5, 1.0], dtype=torch.float64)
    expected = [0.0, 0.01292, 12.92 * 0.0031308, *(1.055 * x ** (1 / 2.4) - 0.055 for x in (0.18, 0.5)), 1.0]
    torch.testing.assert_close(srgb_from_linear(linear), torch.tensor(expected, dtype=torch.float64))
    assert float(srgb_from_linear(torch.tensor(0.21404114))) == pytest.approx(0.5, abs=1e-6)
    assert srgb_from_linear(torch.tensor([-1.0, 7.0])).tolist() == pytest.approx([0.0, 1.0])


def test_every_8_bit_value_survives_the_way_to_linear_and_back() -> None:
    levels = torch.arange(256) / 255
    assert torch.equal((srgb_from_linear(linear_from_srgb(levels)) * 255).round(), torch.arange(256.0))


def test_a_stop_doubles_the_light() -> None:
    exposed = torch.tensor([[0.05, 0.1, 0.2]])
    torch.testing.assert_close(display(exposed, stops=1.0), srgb_from_linear(2 * exposed))
    torch.testing.assert_close(display(exposed, stops=-2.0), srgb_from_linear(exposed / 4))
    assert display(torch.tensor([math.nan, math.inf, 1e30])).tolist() == pytest.approx([0.0, 1.0, 1.0])


def test_the_filmic_curve_rolls_off_where_clipping_ends() -> None:
    bright = torch.tensor([0.0, 0.5, 1.0, 2.0, 4.0])
    shown = display(bright, tone_map="filmic")
    assert shown[0] == 0
    assert bool((shown.diff() > 0).all())
    # Narkowicz's fit of 1 is (2.51 + 0.03) / (2.43 + 0.59 + 0.14).
    torch.testing.assert_close(shown[2], srgb_from_linear(torch.tensor(2.54 / 3.16)))
    assert display(bright).tolist()[2:] == pytest.approx([1.0, 1.0, 1.0])


def test_wrong_ways_to_show_are_named() -> None:
    with pytest.raises(InputError, match="exposure"):
        display(torch.zeros(1, 3), stops=math.nan)
    with pytest.raises(InputError, match=r"tone_map.*filmic"):
        display(torch.zeros(1, 3), tone_map="film")  # type: ignore[arg-type]


def test_the_tone_curve_inverts_and_keeps_black_and_white() -> None:
    tone = ToneCurve(exposure=3.0, mu=50.0)
    exposed = torch.tensor([0.0, 1e-4, 0.18, 1.0, 40.0, 6e4], dtype=torch.float64)
    encoded = tone.encode(exposed)
    assert encoded[0] == 0
    assert float(encoded[3]) == pytest.approx(1.0)
    assert float(encoded[2]) == pytest.approx(math.log(10.0) / math.log(51.0))
    torch.testing.assert_close(tone.decode(encoded), exposed)
    assert torch.equal(compared(exposed, tone), encoded)
    assert compared(exposed, None) is exposed


def test_the_tone_curve_weighs_errors_up_to_white_like_srgb() -> None:
    x = torch.tensor([1e-6, 0.18], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(ToneCurve(exposure=1.0).encode(x).sum(), x)
    (srgb,) = torch.autograd.grad(srgb_from_linear(x).sum(), x)
    torch.testing.assert_close(slope, srgb, rtol=0.1, atol=0.0)


@pytest.mark.parametrize(("exposure", "mu"), [(0.0, 50.0), (-1.0, 50.0), (math.nan, 50.0), (1.0, 0.0), (1.0, math.inf)])
def test_impossible_curves_are_refused(exposure: float, mu: float) -> None:
    with pytest.raises(InputError):
        ToneCurve(exposure=exposure, mu=mu)


def test_the_exposure_brings_the_log_average_to_middle_grey() -> None:
    # Half of the light at 0.1, half at 10: their geometric mean is 1.
    samples = [torch.full((10, 3), 0.1), torch.full((10, 3), 10.0)]
    assert automatic_exposure(samples) == pytest.approx(0.18)
    scaled = [100 * sample for sample in samples]
    assert automatic_exposure(scaled) == pytest.approx(0.0018)


def test_black_does_not_set_the_exposure() -> None:
    lit = torch.full((10, 3), 2.0)
    assert automatic_exposure([lit, torch.zeros(1000, 3)]) == pytest.approx(0.09)
    assert automatic_exposure([torch.zeros(5, 3)]) == 1.0
    assert automatic_exposure([]) == 1.0
    with pytest.raises(InputError, match="samples"):
        automatic_exposure([torch.zeros(5, 4)])


def test_white_has_the_luminance_of_its_channels() -> None:
    assert float(luminance(torch.full((3,), 5.0))) == pytest.approx(5.0)
