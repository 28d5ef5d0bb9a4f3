"""The document's model classes, over `voxfield.models.nerfacto` with a pyramid and its fields."""

import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from voxfield.checks import check_range, check_shape
from voxfield.compat.pyramid_levels import PIXEL_WIDTH
from voxfield.data.posed_images import PosedImages
from voxfield.distributed.devices import check_device
from voxfield.errors import FormatError, InputError
from voxfield.export import nerfstudio
from voxfield.export.weights import Weights, write_weights
from voxfield.fields.hash_field import HashFieldConfig
from voxfield.fields.proposal import ProposalConfig
from voxfield.fields.pyramid_field import PyramidConfig
from voxfield.geometry.bounds import Bounds
from voxfield.geometry.camera import Cameras
from voxfield.geometry.rays import Rays
from voxfield.kernels.hash_encode import HashGrid, hash_encode
from voxfield.models.base import render_camera
from voxfield.models.nerfacto import Nerfacto
from voxfield.models.nerfacto_config import NerfactoConfig
from voxfield.render.image import colour_from_name
from voxfield.storage.checkpoint import load_checkpoint, write_checkpoint
from voxfield.training.settings import replace_values, to_plain

HALF_SIZE = 1.5
"""Half the edge of the region that a model covers which is told nothing of its data: NeRF-synthetic's."""


@dataclass(kw_only=True)
class PyNeRFConfig:
    """The document's settings, by its names, with its defaults."""

    num_levels: int = 8
    """Levels of the pyramid, and of the hash grid they share."""
    base_resolution: int = 16
    """Cells along each axis of the coarsest level."""
    max_resolution: int = 2048
    """Cells along each axis of the finest level."""
    scale_factor: float = 2.0
    """Factor between neighbouring levels, above 1."""
    hash_table_size: int = 2**20
    """Entries of a level of the hash grid, a power of two."""
    features_per_level: int = 4
    """Features of an entry: 1, 2, 4 or 8."""
    hidden_dim: int = 128
    """Units of a hidden layer."""
    num_layers: int = 3
    """Hidden layers of the colour network."""
    batch_size: int = 4096
    """Rays of a training step."""
    learning_rate: float = 1e-3
    """Of Adam, after its warm-up."""
    max_steps: int = 20_000
    """Steps of a training."""
    num_samples: int = 64
    """Intervals that each of two proposal networks looks at a ray in; those of the field without ``num_importance``."""
    num_importance: int = 128
    """Intervals that the field is asked about, where proposals expect matter; 0: evenly along the ray."""
    color_loss_weight: float = 1.0
    """Weight of the colours' squared error, above 0."""
    pyramid_loss_weight: float = 0.1
    """Weight of the difference between neighbouring levels, at least 0. Not of the paper."""
    l2_loss_weight: float = 0.0
    """Weight of the networks' squared weights, at least 0."""
    pixel_width: float = PIXEL_WIDTH
    """How wide a pixel is at distance 1, for rays that come without ``pixel_area``: NeRF-synthetic's 800 x 800."""

    def __post_init__(self) -> None:
        bits = math.log2(max(self.hash_table_size, 1))
        if not bits.is_integer():
            raise InputError(f"hash_table_size: expected a power of two, such as 2**19, got {self.hash_table_size}.")
        check_range("max_steps", self.max_steps, minimum=1)
        check_range("num_importance", self.num_importance, minimum=0)
        check_range("learning_rate", self.learning_rate, above=0.0)
        check_range("color_loss_weight", self.color_loss_weight, above=0.0)
        check_range("pixel_width", self.pixel_width, above=0.0, maximum=1.0)
        self.model_config()

    def model_config(self) -> NerfactoConfig:
        """The settings as our model has them. Two losses' weights are one ratio: Adam does not mind their scale."""
        proposal = ProposalConfig(num_samples=self.num_samples)
        return NerfactoConfig(
            field=HashFieldConfig(
                num_levels=self.num_levels,
                features=self.features_per_level,
                log2_table_size=int(math.log2(self.hash_table_size)),
                base_resolution=self.base_resolution,
                max_resolution=self.max_resolution,
                hidden=self.hidden_dim,
                colour_layers=self.num_layers,
            ),
            pyramid=PyramidConfig(
                num_levels=self.num_levels,
                scale_factor=self.scale_factor,
                consistency_weight=self.pyramid_loss_weight / self.color_loss_weight,
                l2_weight=self.l2_loss_weight / self.color_loss_weight,
                # Training loops of one's own do not say which levels they train where.
                trained_resolution=0,
            ),
            sampling="proposal" if self.num_importance else "uniform",
            coarse_proposal=proposal,
            fine_proposal=proposal,
            num_samples=self.num_importance or self.num_samples,
            rays_per_batch=self.batch_size,
        )


class PyramidEncoder(torch.nn.Module):
    """The hash encoding of all levels of a pyramid, side by side."""

    def __init__(
        self,
        num_levels: int = 8,
        base_resolution: int = 16,
        max_resolution: int = 2048,
        features_per_level: int = 4,
        hash_table_size: int = 2**20,
        seed: int = 0,
    ) -> None:
        """A fresh encoding; ``hash_table_size`` is a power of two."""
        super().__init__()
        if hash_table_size < 1 or hash_table_size & (hash_table_size - 1):
            raise InputError(f"hash_table_size: expected a power of two, got {hash_table_size}.")
        self.grid = HashGrid(
            num_levels=num_levels,
            features=features_per_level,
            log2_table_size=hash_table_size.bit_length() - 1,
            base_resolution=base_resolution,
            max_resolution=max_resolution,
        )
        table = torch.empty(self.grid.num_entries, features_per_level)
        self.table = torch.nn.Parameter(table.uniform_(-1e-4, 1e-4, generator=torch.Generator().manual_seed(seed)))

    def forward(self, positions: torch.Tensor) -> torch.Tensor:
        """Features (N, num_levels * features_per_level) at ``positions`` (N, 3) in the unit cube."""
        return hash_encode(positions, self.table, self.grid)


class PyNeRF(torch.nn.Module):
    """A pyramidal radiance field for the document's calls; ``field_model`` is the model that does the work."""

    def __init__(
        self,
        config: PyNeRFConfig | None = None,
        *,
        bounds: Bounds | None = None,
        unbounded: bool = False,
        near: float = 0.05,
        has_alpha: bool = True,
        seed: int = 0,
    ) -> None:
        """A fresh model.

        Args:
            config: the settings.
            bounds: the region of interest, world units; NeRF-synthetic's cube of 1.5 around the origin if not given.
            unbounded: whether there is anything beyond it.
            near: least distance sampled along a ray, world units.
            has_alpha: whether the pictures to learn have an alpha channel.
            seed: of the initial parameters.
        """
        super().__init__()
        self.config = config or PyNeRFConfig()
        self.field_model = Nerfacto(
            self.config.model_config(),
            bounds or Bounds.from_cube(HALF_SIZE),
            unbounded=unbounded,
            near=near,
            has_alpha=has_alpha,
            num_cameras=1,
            seed=seed,
        )

    @classmethod
    def for_captures(cls, config: PyNeRFConfig, captures: PosedImages, *, seed: int = 0) -> "PyNeRF":
        """A fresh model for the scene of ``captures`` (``PyNeRFDataset.captures``)."""
        return cls(
            config,
            bounds=captures.bounds,
            unbounded=captures.unbounded,
            near=captures.near,
            has_alpha=captures.has_alpha,
            seed=seed,
        )

    def forward(
        self,
        rays_o: torch.Tensor,
        rays_d: torch.Tensor,
        bounds: torch.Tensor | Sequence[float] | None = None,
        *,
        pixel_area: torch.Tensor | None = None,
        background: str = "white",
    ) -> dict[str, torch.Tensor]:
        """What rays see, differentiable with respect to the parameters.

        Args:
            rays_o: (N, 3): where the rays start.
            rays_d: (N, 3), of any length above 0: distances are in multiples of it.
            bounds: (N, 2) or (2,): nearest and farthest distance. The nearest of all is where sampling begins; where it
                ends the model's own region says.
            pixel_area: (N,): area of a pixel at distance 1; None: that of ``config.pixel_width``.
            background: colour behind the field: white, black, grey, #rrggbb or r,g,b.

        Returns:
            ``rgb`` (N, 3), ``depth`` (N,): mean distance of what is seen times its opacity, ``acc`` (N,): opacity.

        Raises:
            InputError: shapes or bounds that do not fit, or a pixel area that is not above 0 and finite.
        """
        rays, length = _rays(rays_o, rays_d, pixel_area, self.config.pixel_width)
        near = _nearest(bounds, rays_o, length)
        colour = torch.tensor(colour_from_name(background))
        kept = self.field_model.near
        self.field_model.near = kept if near is None else near
        try:
            seen = self.field_model.outputs_with_gradient(rays, background=colour)
        finally:
            self.field_model.near = kept
        return {"rgb": seen["rgb"], "depth": seen["depth"] / length, "acc": seen["opacity"]}


class PyramidRenderer:
    """Renders rays and pictures of a `PyNeRF`, some rays at a time."""

    def __init__(self, model: PyNeRF, *, chunk_size: int = 4096, background: str = "white") -> None:
        """Render ``model``, ``chunk_size`` (>= 1) rays at a time, over ``background``."""
        check_range("chunk_size", chunk_size, minimum=1)
        self.model, self.chunk_size, self.background = model, chunk_size, background

    @torch.no_grad()
    def render_rays(
        self,
        rays_o: torch.Tensor,
        rays_d: torch.Tensor,
        bounds: torch.Tensor | Sequence[float] | None = None,
        *,
        pixel_area: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """`PyNeRF.forward` of any number of rays, without gradients."""
        check_shape("rays_o", rays_o, ("N", 3))
        parts = []
        for start in range(0, max(len(rays_o), 1), self.chunk_size):
            part = slice(start, start + self.chunk_size)
            area = None if pixel_area is None else pixel_area[part]
            limits = bounds[part] if isinstance(bounds, torch.Tensor) and bounds.ndim == 2 else bounds
            parts.append(self.model(rays_o[part], rays_d[part], limits, pixel_area=area, background=self.background))
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    @torch.no_grad()
    def render_image(self, cameras: Cameras, index: int = 0) -> dict[str, torch.Tensor]:
        """What camera ``index`` sees: ``rgb`` (H, W, 3), ``depth`` (H, W), ``acc`` (H, W), on the CPU."""
        device = self.model.field_model.device

        def look(rays: Rays) -> dict[str, torch.Tensor]:
            rays = rays.to(device)
            area = rays.pixel_area
            return self.model(rays.origins, rays.directions, pixel_area=area, background=self.background)

        return render_camera(look, cameras, index, self.chunk_size)


def save_pyramid_model(
    model: PyNeRF,
    config: PyNeRFConfig,
    path: str | os.PathLike[str],
    epoch: int | None = None,
    optimizer_state: dict[str, Any] | None = None,
) -> Path:
    """Write a model as a checkpoint of tensors and plain values, whatever ``path`` ends in, and return the path."""
    state = {
        "model": model.state_dict(),
        "config": to_plain(config),
        "scene": {
            "bounds": [list(model.field_model.bounds.minimum), list(model.field_model.bounds.maximum)],
            "unbounded": model.field_model.unbounded,
        },
        "optimiser": optimizer_state,
    }
    return write_checkpoint(path, epoch or 0, state)


def load_pyramid_model(
    model: PyNeRF, path: str | os.PathLike[str], device: torch.device | str = "cpu"
) -> tuple[PyNeRF, PyNeRFConfig]:
    """Fill ``model`` from a checkpoint that `save_pyramid_model` wrote; nothing in the file is executed.

    Returns:
        The model, on ``device``, and the settings it was saved with.

    Raises:
        MissingFileError: there is no such file.
        FormatError: it is no such checkpoint, or one of another pyramid or region.
        InputError, UnavailableError: as `check_device`.
    """
    device = check_device(device)
    state = load_checkpoint(path)
    if not isinstance(state.get("model"), dict) or not isinstance(state.get("config"), dict):
        raise FormatError(f"{path}: holds no model of save_pyramid_model.")
    try:
        config = replace_values(PyNeRFConfig(), state["config"], source=str(path))
    except InputError as error:
        raise FormatError(str(error)) from None
    own = model.field_model.bounds
    scene = state.get("scene", {})
    here = {"bounds": [list(own.minimum), list(own.maximum)], "unbounded": model.field_model.unbounded}
    if scene != here:
        raise FormatError(f"{path}: is of another region ({scene}) than the model's ({here}). Make the model for that.")
    try:
        model.load_state_dict(state["model"])
    except (RuntimeError, FormatError) as error:
        reason = " ".join(str(error).split())[:160]
        raise FormatError(
            f"{path}: is of another pyramid than the model's ({reason}). Make PyNeRF({config})."
        ) from None
    return model.to(device), config


def convert_to_nerfstudio_format(
    model: PyNeRF,
    config: PyNeRFConfig,
    output_path: str | os.PathLike[str],
    *,
    data_dir: str | os.PathLike[str] | None = None,
) -> Weights:
    """Write a model's weights as safetensors with a list of what each is, and with ``data_dir`` also the capture as
    nerfstudio's ``transforms.json``. nerfstudio loads the latter, not the weights.

    Raises:
        InputError, MissingFileError, FormatError: as `voxfield.export.nerfstudio.convert_capture`.
    """
    if data_dir is not None:
        nerfstudio.convert_capture(data_dir, output_path)
    return write_weights(output_path, model, about={"recipe": "pynerf", "config": asdict(config)})


def _rays(
    rays_o: torch.Tensor, rays_d: torch.Tensor, pixel_area: torch.Tensor | None, width: float
) -> tuple[Rays, torch.Tensor]:
    """The rays with unit directions, and the lengths (N,) these had."""
    check_shape("rays_o", rays_o, ("N", 3))
    check_shape("rays_d", rays_d, (len(rays_o), 3))
    length = rays_d.norm(dim=1)
    if not bool((length > 0).all()):
        raise InputError("rays_d: expected directions longer than 0, got some that are 0 or NaN.")
    area = torch.full_like(length, width**2) if pixel_area is None else pixel_area
    return Rays(
        origins=rays_o.float().contiguous(),
        directions=(rays_d / length[:, None]).float().contiguous(),
        pixel_area=area.float(),
        camera_index=torch.zeros(len(rays_o), dtype=torch.int64, device=rays_o.device),
    ), length


def _nearest(bounds: torch.Tensor | Sequence[float] | None, rays_o: torch.Tensor, length: torch.Tensor) -> float | None:
    """The nearest distance of all rays, in units of the world."""
    if bounds is None:
        return None
    limits = torch.as_tensor(bounds, dtype=torch.float32, device=rays_o.device)
    if limits.shape not in {(2,), (len(rays_o), 2)}:
        raise InputError(f"bounds: expected shape (2,) or ({len(rays_o)}, 2), got {tuple(limits.shape)}.")
    near, far = limits.expand(len(rays_o), 2).unbind(1)
    if not bool(((near >= 0) & (near < far)).all()):
        raise InputError("bounds: expected 0 <= near < far for every ray.")
    return float((near * length).min()) if len(near) else None
