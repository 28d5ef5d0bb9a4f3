"""``diffusion``: volumes to a network that makes more of their kind.

Sized for volumes of 32^3 voxels on a few cores. For larger volumes or machines: more ``model.channels``, a smaller
``model.patch``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from voxfield.data.volume_batches import VolumeOptions
from voxfield.errors import InputError
from voxfield.models.diffusion import DiffusionConfig
from voxfield.models.diffusion_samplers import SamplingConfig
from voxfield.training.experiment import Experiment
from voxfield.training.schedules import LearningRate
from voxfield.training.trainer import TrainerConfig

TRAINS_ON: Final = "volumes"


@dataclass(frozen=True, kw_only=True)
class DiffusionExperiment(Experiment):
    """What decides a run on volumes.

    Attributes:
        data: which volumes.
        sampling: how volumes are drawn from it unless one says otherwise.
    """

    data: VolumeOptions
    sampling: SamplingConfig


def experiment(minutes: float | None = None) -> DiffusionExperiment:  # noqa: ARG001  (one size, however long it trains)
    """The recipe; schedules follow the limits."""
    return DiffusionExperiment(
        recipe="diffusion",
        model=DiffusionConfig(),
        data=VolumeOptions(),
        sampling=SamplingConfig(),
        trainer=TrainerConfig(
            steps=20_000,
            optimiser="adam",
            beta2=0.99,
            epsilon=1e-8,
            learning_rate=LearningRate(initial=1e-3, final_factor=0.05, decay_from=0.5, warm_up_steps=50),
            ema_decay=0.995,
            clip_gradient=1.0,
        ),
    )


def smallest_model() -> DiffusionConfig:
    """Settings of a model that trains in next to no time."""
    return DiffusionConfig(channels=(8, 8), attention=(False, True), head_channels=8, norm_groups=4, batch_size=2)


# --------------------------------------------------------------------------------- files with the sections of others

_SECTIONS: Final = (
    "data",
    "model",
    "training",
    "validation",
    "system",
    "logging",
    "prerender",
    "inference",
    "advanced",
    "experiment",
)
_OURS: Final = ("model", "data", "sampling", "trainer")


def read_settings(values: Mapping[str, Any], *, source: str) -> tuple[dict[str, Any], list[str]]:
    """Settings from a file of the sections that volume diffusions are commonly configured by.

    A file with a section or a key that only such files have is taken as such: its names are translated; what only
    steers other programs (``pin_memory``, where logs lie) is left out, and said so. Other files are ours already.

    Returns:
        Nested values for `voxfield.training.experiment.resolve`, and what there is to say of them.

    Raises:
        InputError: a value that cannot be translated, or an unknown section.
    """
    groups = {name: group for name, group in values.items() if isinstance(group, Mapping)}
    theirs = any((section, name) in _DERIVED for section, group in groups.items() for name in group)
    if not theirs and not set(values) & (set(_SECTIONS) - set(_OURS)):
        return dict(values), []
    unknown = set(values) - {*_SECTIONS, *_OURS}
    if unknown:
        raise InputError(f"{source}: unknown section {min(unknown)!r}. Known: {', '.join(_SECTIONS)}.")
    ours: dict[str, Any] = {name: dict(values[name]) for name in ("sampling", "trainer") if values.get(name)}
    left_out = []
    for section in _SECTIONS:
        group = values.get(section) or {}
        if not isinstance(group, Mapping):
            raise InputError(f"{source}: expected {section} to be a group of settings, got {group!r}.")
        for name, value in group.items():
            path = _TRANSLATED.get((section, name))
            if path is None and section == "model" and name in DiffusionConfig.__dataclass_fields__:
                path = f"model.{name}"
            if path is None and section == "data" and name in VolumeOptions.__dataclass_fields__:
                path = f"data.{name}"
            if path is None and section != "prerender" and (section, name) not in _DERIVED:
                left_out.append(f"{section}.{name}")
            elif path is not None and value is not None:
                _insert(ours, path, value)
    _derive(ours, values, source)
    notes = [f"{source}: not settings of this training, left out: {', '.join(left_out)}."] if left_out else []
    return ours, notes


_TRANSLATED: Final[Mapping[tuple[str, str], str]] = {
    ("model", "num_res_blocks"): "model.residual_blocks",
    ("model", "num_timesteps"): "model.schedule.timesteps",
    ("model", "beta_start"): "model.schedule.beta_start",
    ("model", "beta_end"): "model.schedule.beta_end",
    ("model", "beta_schedule"): "model.schedule.kind",
    ("model", "ema_decay"): "trainer.ema_decay",
    ("training", "batch_size"): "model.batch_size",
    ("training", "learning_rate"): "trainer.learning_rate.initial",
    ("training", "weight_decay"): "model.weight_decay",
    ("training", "warmup_steps"): "trainer.learning_rate.warm_up_steps",
    ("training", "gradient_clip_val"): "trainer.clip_gradient",
    ("training", "accumulate_grad_batches"): "trainer.accumulate",
    ("training", "max_steps"): "trainer.steps",
    ("training", "save_top_k"): "trainer.keep_checkpoints",
    ("validation", "ddim_steps"): "sampling.steps",
    ("validation", "ddim_eta"): "sampling.eta",
    ("inference", "sampler"): "sampling.sampler",
    ("inference", "steps"): "sampling.steps",
}
"""Their section and name to our path."""


_DERIVED: Final = frozenset(
    [("data", name) for name in ("use_prerendered", "prerendered_dir", "h5_file_path", "voxel_size", "data_key")]
    + [
        ("model", name)
        for name in ("model_channels", "channel_mult", "attention_resolutions", "use_attention", "use_ema")
    ]
)
"""Those that `_derive` looks at."""


def _derive(ours: dict[str, Any], values: Mapping[str, Any], source: str) -> None:
    """What follows from several of their settings."""
    data, model = values.get("data") or {}, values.get("model") or {}
    if data.get("use_prerendered") and not data.get("prerendered_dir"):
        raise InputError(f"{source}: data.use_prerendered is true, so data.prerendered_dir has to name the folder.")
    path = data.get("prerendered_dir") if data.get("use_prerendered") else data.get("h5_file_path")
    if path is not None:
        _insert(ours, "data.path", str(path))
    if data.get("data_key") and not data.get("use_prerendered"):
        _insert(ours, "data.key", str(data["data_key"]))
    if "model_channels" in model or "channel_mult" in model:
        width = int(model.get("model_channels", 32))
        factors = list(model.get("channel_mult", (1, 2)))
        _insert(ours, "model.channels", [width * int(factor) for factor in factors])
        _insert(ours, "model.attention", _attention(model, factors, data))
        _insert(ours, "model.patch", int(model.get("patch", 1)))
    if model.get("use_ema") is False:
        _insert(ours, "trainer.ema_decay", 0.0)
    if model.get("use_attention") is False and "channels" in ours.get("model", {}):
        _insert(ours, "model.attention", [False] * len(ours["model"]["channels"]))


def _attention(model: Mapping[str, Any], factors: list[Any], data: Mapping[str, Any]) -> list[bool]:
    """``attention_resolutions`` are sides of the U-Net's levels."""
    sides = set(model.get("attention_resolutions") or ())
    whole = int(data.get("voxel_size", 128)) if not isinstance(data.get("voxel_size"), list) else 0
    return [whole // 2**level in sides for level in range(len(factors))]


def _insert(nested: dict[str, Any], path: str, value: Any) -> None:
    *groups, name = path.split(".")
    for group in groups:
        nested = nested.setdefault(group, {})
    nested[name] = value
