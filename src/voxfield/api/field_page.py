"""A run as a page that shows its field without Voxfield."""

import dataclasses
import os
from pathlib import Path
from typing import Protocol

import torch

from voxfield.api.places import anywhere
from voxfield.api.run_memory import VOLUME_BYTES, check_sampling
from voxfield.data.posed_images import PosedImages
from voxfield.distributed.devices import Placement
from voxfield.errors import InputError
from voxfield.export.volumes import beyond_the_grid, volume_of
from voxfield.export.web_page import PageConfig, PageExport, PageView, check_page_path, write_page
from voxfield.kernels.sh_grid import MarchRule
from voxfield.kernels.threads import kernels_own_the_cores
from voxfield.models.base import Model
from voxfield.models.plenoxels import Plenoxels
from voxfield.training.experiment import PhotographExperiment

SAMPLED_RESOLUTION = 256
"""Voxels along the longest side of fields that have none, where nobody says how many."""


class PagedRun(Protocol):
    """What of a run a page is made of."""

    path: Path
    placement: Placement

    @property
    def experiment(self) -> PhotographExperiment:
        """Its settings."""

    @property
    def captures(self) -> PosedImages:
        """Its training split."""

    @property
    def model(self) -> Model:
        """What it learnt."""


@anywhere(output="output")
def export_html(
    run: PagedRun,
    output: str | os.PathLike[str],
    *,
    resolution: int | None = None,
    sh_degree: int = 2,
    min_opacity: float = 0.01,
    max_bytes: int | str = "25MB",
    camera: int = 0,
    background: str | None = None,
    title: str | None = None,
    memory: int | str | None = None,
    quiet: bool = True,
) -> PageExport:
    """Write the run's field as one HTML file that shows it in a browser, without a server and without a network.

    Of a plenoxels run (`voxfield.bake` makes one of any other) the grid as it was trained. Any other field is sampled,
    as `voxfield.bake` samples it, without training after.

    Args:
        run: the run.
        output: the ``.html`` file.
        resolution, sh_degree, min_opacity, max_bytes, camera, background, title: see
            `voxfield.export.web_page.PageConfig`.
        memory: most memory, in bytes or as ``"8GB"``; what there is to spare if None. What is needed is known before.
        quiet: do not say that much is needed.

    Raises:
        InputError: settings that do not fit, too little memory, no matter, a field that does not fit into
            ``max_bytes``, or a run in normalised device coordinates.
    """
    config = PageConfig(
        resolution=resolution,
        sh_degree=sh_degree,
        min_opacity=min_opacity,
        max_bytes=max_bytes,
        camera=camera,
        background=background,
        title=title,
    )
    check_page_path(output)
    captures, device = run.captures, run.placement.device
    if captures.ndc is not None:
        raise InputError("The run is in normalised device coordinates, which are no box in the world.")
    check_sampling(run, memory, resolution=resolution, place_bytes=VOLUME_BYTES, quiet=quiet)
    model, given = run.model, captures.image_cameras
    with torch.no_grad():
        poses = model.refined_poses(given.camera_to_world.to(device)).cpu()
    view = PageView.from_cameras(dataclasses.replace(given, camera_to_world=poses), config.camera)
    resolution, rule = config.resolution, MarchRule()
    if isinstance(model, Plenoxels):
        rule = model.config.march
    elif resolution is None:
        resolution = SAMPLED_RESOLUTION
    with kernels_own_the_cores():
        grid = volume_of(
            model,
            captures.bounds,
            captures.cameras.origins.to(device),
            resolution,
            sh_degree=config.sh_degree,
            min_opacity=config.min_opacity,
        )
    return write_page(
        output,
        grid,
        view=view,
        title=run.path.resolve().name if config.title is None else config.title,
        background=config.background or run.experiment.evaluation.background,
        linear=captures.tone is not None,
        near=captures.near,
        step=rule.step,
        sh_degree=config.sh_degree,
        max_bytes=config.max_bytes,
        left_out=beyond_the_grid(model),
    )
