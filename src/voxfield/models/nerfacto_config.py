"""Settings of `voxfield.models.nerfacto`."""

from dataclasses import dataclass, replace
from typing import Literal

from voxfield.checks import check_choice, check_range
from voxfield.errors import InputError
from voxfield.fields.hash_field import HashFieldConfig
from voxfield.fields.proposal import ProposalConfig
from voxfield.fields.pyramid_field import PyramidConfig
from voxfield.models.backdrop import check_background
from voxfield.render.depth_losses import DepthSupervisionConfig
from voxfield.render.ray_samplers import ProposalSchedule


@dataclass(frozen=True, kw_only=True)
class NerfactoConfig:
    """The model. Defaults are nerfstudio's unless their description says otherwise."""

    field: HashFieldConfig = HashFieldConfig(log2_table_size=19, appearance=32)
    """The radiance field."""
    pyramid: PyramidConfig | None = None
    """Levels of resolution that samples are asked for at by the width of their pixel (PyNeRF); None: one resolution."""
    sampling: Literal["proposal", "uniform"] = "proposal"
    """Where the field is asked: where proposal networks expect matter, or evenly along every ray, which needs several
    times ``num_samples``."""
    coarse_proposal: ProposalConfig = ProposalConfig(max_resolution=128)
    """The proposal network that is asked first. Its ``auto`` samples: 256, in bounded captures 128."""
    fine_proposal: ProposalConfig = ProposalConfig(max_resolution=256)
    """The one that is asked where the first expects matter. Its ``auto`` samples: 96, in bounded captures 64."""
    num_samples: int | Literal["auto"] = "auto"
    """Intervals a ray that the field itself is asked about, 1 to 1024. ``auto``: 48, in bounded captures 32, whose rays
    are short."""
    negligible_weight: float = 1e-4
    """Intervals with less of their ray's weight, 0 to 0.1, are given no colour, and training does not learn from them:
    most of what proposals look at is empty or hidden. 0: all are asked and learnt from."""
    rays_per_batch: int = 4096
    """Rays of a training step, at least 1."""
    background: str = "auto"
    """What training composites behind the field: ``random``, ``last_sample``, or a colour (``white``, ``black``,
    ``#rrggbb`` or ``r,g,b``). ``auto``: a random colour per ray, behind the truth's alpha too, but for pictures without
    alpha the plain colour that surrounds what they show, if there is one (`voxfield.data.plain_backdrop`).
    nerfstudio's is ``last_sample``, the farthest sample's colour, with which each photograph is soon explained by a
    distant wall of its own."""
    far: float = 1000.0
    """Distance at which rays end in unbounded captures, world units, above 0."""
    initial_density: float | Literal["auto"] = "auto"
    """Mean density of a fresh field, per world unit, above 0. ``auto``: 1, as nerfstudio's model has it (its recipe,
    0.01, begins with nothing before the far end), in bounded captures one over the box's longest side."""
    interlevel_weight: float = 1.0
    """Weight of the loss that makes proposals cover the final weights, at least 0."""
    distortion_weight: float | Literal["auto"] = "auto"
    """Weight of the loss that gathers a ray's weights in one place, at least 0. ``auto``: 0.002, in bounded captures
    0."""
    gradient_scaling: bool = False
    """Whether the gradients of samples nearer than 1 world unit to their camera are multiplied by the square of their
    distance, against floaters before cameras (Philip and Deschaintre 2023, ``render.near_gradients``)."""
    depth: DepthSupervisionConfig = DepthSupervisionConfig()
    """Learning from observed distances, which ``capture.depth`` chooses."""
    predict_normals: bool = False
    """Whether a network learns the normals of surfaces from those of the density, and renderings show its."""
    orientation_weight: float = 1e-4
    """Weight of the loss on learnt normals that face away from the camera, at least 0."""
    predicted_normal_weight: float = 1e-3
    """Weight of the loss on learnt normals that differ from the density's, at least 0."""
    annealing_steps: int = 1000
    """Steps over which resampling turns from even to following the proposals, at least 0."""
    schedule: ProposalSchedule = ProposalSchedule()
    """Which steps train the proposal networks."""
    poses: Literal["off", "SO3xR3", "SE3"] = "off"
    """Whether training corrects the poses of its cameras, and how. Off by default, unlike nerfstudio: poses of
    structure from motion are good, it costs half of the speed, and held-out pictures keep their uncorrected poses."""
    appearances: Literal["auto", "on", "off"] = "auto"
    """Whether pictures have appearances of their own, of ``field.appearance`` numbers. ``auto``: not in bounded
    captures with alpha, which are renderings: there they explain away what changes with the view, and new views lack
    them."""
    unseen_appearance: Literal["mean", "zero"] = "mean"
    """The appearance that renderings have: the mean of the training pictures', or nothing."""
    pose_learning_rate: float = 0.1
    """Factor on the learning rate for the poses, above 0."""

    def __post_init__(self) -> None:
        check_background(self.background)
        check_choice("sampling", self.sampling, ("proposal", "uniform"))
        check_choice("poses", self.poses, ("off", "SO3xR3", "SE3"))
        if self.num_samples != "auto":
            check_range("num_samples", self.num_samples, minimum=1, maximum=1024)
        check_range("rays_per_batch", self.rays_per_batch, minimum=1)
        check_range("negligible_weight", self.negligible_weight, minimum=0.0, maximum=0.1)
        check_range("far", self.far, above=0.0, maximum=1e6)
        check_range("interlevel_weight", self.interlevel_weight, minimum=0.0)
        check_range("annealing_steps", self.annealing_steps, minimum=0)
        check_choice("appearances", self.appearances, ("auto", "on", "off"))
        check_choice("unseen_appearance", self.unseen_appearance, ("mean", "zero"))
        check_range("orientation_weight", self.orientation_weight, minimum=0.0)
        check_range("predicted_normal_weight", self.predicted_normal_weight, minimum=0.0)
        check_range("pose_learning_rate", self.pose_learning_rate, above=0.0)
        for name, value in (("initial_density", self.initial_density), ("distortion_weight", self.distortion_weight)):
            if not isinstance(value, str):
                check_range(name, value, minimum=0.0)
        if self.predict_normals and self.pyramid is not None and self.pyramid.interpolate == "color":
            raise InputError("predict_normals: levels blended as colours share no features. Set interpolate=embedding.")

    def settled(self, *, side: float, unbounded: bool, ndc: bool, has_alpha: bool) -> "NerfactoConfig":
        """These settings with a value for every ``auto``, for a region of interest whose longest ``side`` is so many
        world units; of a capture in normalised device coordinates (``ndc``) it is the frame's.
        """
        samples = (256, 96, 48) if unbounded or ndc else (128, 64, 32)
        coarse, fine = (
            replace(proposal, num_samples=count) if proposal.num_samples == "auto" else proposal
            for proposal, count in zip((self.coarse_proposal, self.fine_proposal), samples[:2], strict=True)
        )
        distortion = 0.002 if unbounded or ndc else 0.0
        rendered = has_alpha and not (unbounded or ndc)
        appearances = ("off" if rendered else "on") if self.appearances == "auto" else self.appearances
        return replace(
            self,
            field=self.field if appearances == "on" else replace(self.field, appearance=0),
            appearances=appearances,
            coarse_proposal=coarse,
            fine_proposal=fine,
            num_samples=samples[2] if self.num_samples == "auto" else self.num_samples,
            background="random" if self.background == "auto" else self.background,
            initial_density=(
                (1.0 if unbounded else 1.0 / side) if self.initial_density == "auto" else self.initial_density
            ),
            distortion_weight=distortion if self.distortion_weight == "auto" else self.distortion_weight,
        )
