"""The main job on real input: some hundred steps learn a recognisable scene. Skipped where the captures are absent."""

from pathlib import Path

import pytest

import voxfield


@pytest.mark.slow
@pytest.mark.parametrize(
    ("capture", "steps", "expected"),
    [("images/nerf_synthetic/lego", 400, 24.0), ("images/fox", 300, 19.0)],
)
def test_a_real_capture_is_learned(
    shared_data: Path, tmp_path: Path, capture: str, steps: int, expected: float
) -> None:
    folder = shared_data / capture
    if not folder.exists():
        pytest.skip(f"needs {capture} in VOXFIELD_TEST_DATA")
    run = voxfield.train(
        "grid-ngp",
        folder,
        output=tmp_path / "run",
        steps=steps,
        device="cpu",
        quiet=True,
        overrides=["trainer.evaluation_images=0", "capture.downscale=2"],
    )
    measured = run.evaluate(max_images=2, quiet=True)
    assert measured["psnr"] >= expected
    assert (tmp_path / "run" / "report.html").stat().st_size > 10_000
