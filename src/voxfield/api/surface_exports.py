"""What runs' meshes and point clouds share: which cameras look, how colours become sRGB, in whose coordinates."""

import os
from dataclasses import dataclass, replace
from typing import get_args

import torch

from voxfield.checks import check_choice
from voxfield.colour import display
from voxfield.data.posed_images import PosedImages
from voxfield.export.cameras import Space
from voxfield.export.surfaces import CloudConfig, MeshConfig, SurfaceExport, cloud_of, mesh_of, write_surface_of
from voxfield.geometry.camera import Cameras
from voxfield.geometry.pose import SceneTransform
from voxfield.kernels.threads import kernels_own_the_cores
from voxfield.models.base import Model
from voxfield.storage.surface_files import ColouredSurface, check_surface_path
from voxfield.training.progress import Progress


@dataclass(frozen=True, kw_only=True, eq=False)
class SurfaceExporter:
    """A trained field and the capture it is of."""

    model: Model
    captures: PosedImages
    """The training split."""
    device: torch.device
    """The model's."""
    space: Space
    """Coordinates that files are in."""

    def __post_init__(self) -> None:
        check_choice("space", self.space, get_args(Space))

    def write_mesh(self, output: str | os.PathLike[str], config: MeshConfig, *, quiet: bool) -> SurfaceExport:
        """See `voxfield.Run.export_mesh`."""
        with Progress(quiet=quiet) as progress, kernels_own_the_cores():
            surface = mesh_of(
                self.model,
                self.captures.bounds,
                self._cameras(),
                config=config,
                shown=self._shown,
                stages=progress.stage,
            )
        return self._write(output, surface)

    def write_cloud(
        self, output: str | os.PathLike[str], config: CloudConfig, *, seed: int, quiet: bool
    ) -> SurfaceExport:
        """See `voxfield.Run.export_pointcloud`."""
        check_surface_path(output, (".ply",))
        generator = torch.Generator().manual_seed(seed)
        with Progress(quiet=quiet) as progress:
            with progress.stage("Looking along rays", config.points, "points") as told, kernels_own_the_cores():
                cloud = cloud_of(
                    self.model,
                    self.captures.bounds,
                    self._cameras(),
                    config=config,
                    generator=generator,
                    advance=told.advance,
                )
        shown = self._shown(torch.from_numpy(cloud.colours)).numpy()
        return self._write(output, replace(cloud, colours=shown))

    def _cameras(self) -> Cameras:
        """The training cameras, of single pictures, with the poses that training corrected them to."""
        given = self.captures.image_cameras.to(self.device)
        with torch.no_grad():
            return replace(given, camera_to_world=self.model.refined_poses(given.camera_to_world))

    def _shown(self, colours: torch.Tensor) -> torch.Tensor:
        """The model's colours as sRGB values in [0, 1]."""
        return colours.clamp(0, 1) if self.captures.tone is None else display(colours)

    def _write(self, output: str | os.PathLike[str], surface: ColouredSurface) -> SurfaceExport:
        to_world = SceneTransform.identity() if self.space == "world" else self.captures.transform
        return write_surface_of(output, surface, to_world)
