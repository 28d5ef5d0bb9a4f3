"""Looking at an exported page in Chromium."""

from pathlib import Path

import pytest
import torch

from voxfield.data.synthetic import posed_images
from voxfield.export.web_page import PageView, write_page
from voxfield.kernels.sh_grid import MarchRule
from voxfield.render.metrics import psnr
from voxfield.voxels.voxel_grid import VoxelGrid


@pytest.mark.browser
def test_screenshots_are_of_the_views_that_were_asked_for(benchmark, tmp_path: Path) -> None:
    pytest.importorskip("selenium", reason="needs selenium")
    chromium = benchmark("chromium")
    if chromium.installed() is None:
        pytest.skip(chromium.MISSING)
    captures = posed_images(count=3, resolution=48)
    draw = torch.Generator().manual_seed(0)
    density, sh = torch.full((12, 12, 12), 4.0), torch.rand(12, 12, 12, 3, 1, generator=draw) * 3 - 1.5
    grid = VoxelGrid.from_dense(density, sh, captures.bounds).requires_grad_(False)
    write_page(
        tmp_path / "a.html", grid, view=PageView.from_cameras(captures.cameras, 0), title="x", background="white"
    )
    pictures, seconds = benchmark("web_pages").look(tmp_path / "a.html", captures.cameras, [2, 1])
    assert len(seconds) == 2
    for i, shown in zip([2, 1], pictures, strict=True):
        seen = grid.render(captures.cameras.image_rays(i), rule=MarchRule(step=0.5))
        expected = (seen.rgb + (1 - seen.opacity)[:, None]).clamp(0, 1).reshape(shown.shape)
        assert float(expected.std()) > 0.05
        assert float(psnr(shown, expected)) > 40
