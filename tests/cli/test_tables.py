from voxfield.cli.tables import (
    format_kernel_speeds,
    format_metric,
    format_nested,
    format_rate,
    format_scales,
    format_table,
)
from voxfield.jobs.kernel_speed import KernelSpeed


def test_metric() -> None:
    assert format_metric({"psnr": 30.126, "psnr_std": 0.5}, "psnr", 2) == "30.13 ± 0.50"
    assert format_metric({"psnr": 30.126}, "psnr", 1) == "30.1"
    assert format_metric({"lpips": None, "lpips_std": None}, "lpips", 2) == "not measured"


def test_table_aligns_and_leaves_no_trailing_blanks() -> None:
    assert format_table(("a", "long"), [("xyz", ""), ("p", "q")]) == "a    long\nxyz\np    q"


def test_scales() -> None:
    scales = [
        {"scale": 1, "width": 800, "height": 600, "psnr": 31.416, "ssim": 0.95, "lpips": None, "seconds": 4.0},
        {"scale": 8, "width": None, "psnr": 33.0, "ssim": None, "lpips": 0.1, "avg_error": 0.0123, "seconds": 0.25},
    ]
    assert format_scales({"per_scale": scales, "psnr": 32.2, "seconds": 2.0}) == (
        "scale  pixels   PSNR   SSIM    LPIPS   avg error  seconds\n"
        "1/1    800x600  31.42  0.9500  -       -          4.000\n"
        "1/8    various  33.00  -       0.1000  0.01230    0.250\n"
        "mean            32.20  -       -       -          2.000"
    )


def test_nested() -> None:
    values = {"recipe": "x", "step": 3, "none": None, "inner": {"psnr": 31.41592653, "list": [1, 2.5], "empty": []}}
    assert format_nested(values) == "recipe  x\nstep    3\ninner\n  psnr   31.4159\n  list   1, 2.5\n  empty  none"


def test_rate() -> None:
    assert [format_rate(rate) for rate in (None, 3.0, 4200.0, 1.5e6, 2e9)] == [
        "-",
        "3 /s",
        "4.2 k/s",
        "1.5 M/s",
        "2 G/s",
    ]


def test_kernel_that_fails_and_one_in_plain_torch_say_so() -> None:
    table = format_kernel_speeds(
        [
            KernelSpeed(op="a", implementation="numba", unit="points", count=4, forward=2e6, both=1e6, first_call=1.0),
            KernelSpeed(op="b", implementation="reference", unit="rays", count=4, forward=2e3),
            KernelSpeed(op="c", implementation="triton", unit="rays", count=4, error="no compiler"),
        ]
    )
    lines = table.splitlines()
    assert "2 M/s" in lines[1]
    assert "reference (plain torch)" in lines[2]
    assert "FAILS" in lines[3]
