"""Settings of `voxfield.models.grid_ngp`."""

from dataclasses import dataclass, replace
from typing import Literal

from voxfield.checks import check_range
from voxfield.fields.hash_field import HashFieldConfig
from voxfield.fields.occupancy import OccupancyConfig
from voxfield.fields.pyramid_field import PyramidConfig
from voxfield.models.backdrop import check_background


@dataclass(frozen=True, kw_only=True)
class GridNgpConfig:
    """The model. Lengths are relative to the capture's region of interest."""

    field: HashFieldConfig = HashFieldConfig()
    """The radiance field."""
    pyramid: PyramidConfig | None = None
    """Levels of resolution that samples are asked for at by the width of their pixel (PyNeRF); None: one resolution."""
    occupancy: OccupancyConfig = OccupancyConfig()
    """The occupancy grid."""
    background: str = "auto"
    """What training composites behind the field: ``random`` (a colour per ray, behind truth with alpha too, so that
    opacity is learned), a colour (``white``, ``black``, ``#rrggbb`` or ``r,g,b``), or ``last_sample`` (the farthest
    sample's colour fills what is left; for photographs without alpha, whose transparent parts it would otherwise be
    compared with itself in). ``auto``: for pictures without alpha the plain colour that surrounds what they show, if
    there is one (`voxfield.data.plain_backdrop`); else random, or black for bounded scenes without alpha."""
    steps_across: int = 1024
    """Samples along the diagonal of the region of interest if all of it were occupied, 16 to 16384."""
    coarse_until: float = 0.5
    """Progress (0 to 1) until which training steps are twice as long: rays cost half while detail is still to come."""
    cone_angle: float | Literal["auto"] = "auto"
    """Growth of the step with distance (0: constant). ``auto``: 0 for bounded scenes, 1/64 for unbounded ones."""
    cascades: int | Literal["auto"] = "auto"
    """Nested occupancy grids, each twice as large, 1 to 8. ``auto``: 1 for bounded scenes, 4 for unbounded ones."""
    samples_per_batch: int = 49152
    """Samples that light reaches which a training step aims at (the number of rays follows), at least 256."""
    final_samples_per_batch: int = 131072
    """The same at the end of training: batches grow geometrically, small while steps count, large for less noise."""
    max_samples_per_ray: int = 1024
    """Most samples on one ray, at least 1."""
    early_stop: float = 1e-3
    """Light below which a ray ends in training, 0 to 1."""
    render_early_stop: float = 1e-3
    """The same in rendering."""
    huber_delta: float = 0.1
    """Error above which the loss grows linearly, so that a few wrong pixels do not rule it; 0: squared error."""

    def __post_init__(self) -> None:
        check_background(self.background)
        check_range("steps_across", self.steps_across, minimum=16, maximum=16384)
        check_range("samples_per_batch", self.samples_per_batch, minimum=256)
        check_range("final_samples_per_batch", self.final_samples_per_batch, minimum=256)
        check_range("coarse_until", self.coarse_until, minimum=0.0, maximum=1.0)
        check_range("max_samples_per_ray", self.max_samples_per_ray, minimum=1)
        check_range("early_stop", self.early_stop, minimum=0.0, maximum=0.5)
        check_range("render_early_stop", self.render_early_stop, minimum=0.0, maximum=0.5)
        check_range("huber_delta", self.huber_delta, minimum=0.0)

    def settled(self, *, unbounded: bool, has_alpha: bool) -> "GridNgpConfig":
        """These settings with a value for every ``auto``. Random colours behind the field teach opacity with alpha, and
        without that every ray of an unbounded scene must end somewhere.
        """
        background = "random" if has_alpha or unbounded else "black"
        return replace(
            self,
            background=background if self.background == "auto" else self.background,
            cone_angle=(1 / 64 if unbounded else 0.0) if self.cone_angle == "auto" else self.cone_angle,
            cascades=(4 if unbounded else 1) if self.cascades == "auto" else self.cascades,
        )
