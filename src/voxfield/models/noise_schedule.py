"""How a diffusion drowns volumes in noise, and what a network is asked to find in them.

At time t = 0 .. T - 1 a volume x0 has become ``x_t = a_t x0 + s_t e`` with e standard normal, ``a_t^2 = prod_i<=t (1 -
beta_i)`` and ``s_t^2 = 1 - a_t^2`` (Ho et al. 2020, https://arxiv.org/abs/2006.11239, equation 4). A network predicts e
(``epsilon``), x0 (``x0``) or ``v = a_t e - s_t x0`` (Salimans and Ho 2022, https://arxiv.org/abs/2202.00512); each
follows from any other.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Final, Literal, get_args

import torch

from voxfield.checks import check_choice, check_range

Prediction = Literal["epsilon", "x0", "v"]
"""What the network predicts."""
UNSCALED_VOXELS: Final = 8**3
"""Of volumes that the schedules suit as they are."""


@dataclass(frozen=True, kw_only=True)
class NoiseScheduleConfig:
    """The betas."""

    kind: Literal["linear", "cosine"] = "cosine"
    """``linear`` in beta (Ho et al. 2020); ``cosine``: a_t^2 falls as cos^2 (Nichol and Dhariwal 2021, equation 17)."""
    timesteps: int = 1000
    """T, 2 to 10,000."""
    beta_start: float = 1e-4
    """First beta of ``linear``, above 0. It suits 1000 steps: fewer want greater betas."""
    beta_end: float = 2e-2
    """Last beta of ``linear``, ``beta_start`` to below 1."""
    snr_scale: float | None = None
    """What the ratio of signal to noise, ``a_t^2 / s_t^2``, is multiplied by at every time, above 0. Neighbouring
    voxels say the same, so a large volume shows through noise in which a small one is lost; less than 1 drowns it for
    as long (Hoogeboom et al. 2023, https://arxiv.org/abs/2301.11093, section 3.1). None: of ``cosine`` as many times
    less as there are more than `UNSCALED_VOXELS`; 1 for ``linear``, whose betas say all, and for latents."""

    def __post_init__(self) -> None:
        check_choice("kind", self.kind, ("linear", "cosine"))
        check_range("timesteps", self.timesteps, minimum=2, maximum=10_000)
        check_range("beta_start", self.beta_start, above=0.0, maximum=0.9999)
        check_range("beta_end", self.beta_end, minimum=self.beta_start, maximum=0.9999)
        if self.snr_scale is not None:
            check_range("snr_scale", self.snr_scale, above=0.0, maximum=1e6)

    def of_voxels(self, count: int) -> "NoiseScheduleConfig":
        """These settings for volumes of ``count`` voxels, with a scale."""
        if self.snr_scale is not None:
            return self
        fitting = 1.0 if self.kind == "linear" else min(1.0, UNSCALED_VOXELS / count)
        return dataclasses.replace(self, snr_scale=fitting)


class NoiseSchedule:
    """Signal and noise at every time, and conversions between predictions."""

    def __init__(self, config: NoiseScheduleConfig) -> None:
        """Compute the schedule, in float64."""
        self.config = config
        survival = torch.cumprod(1.0 - _betas(config), 0)
        self._snr = survival / (1.0 - survival)
        """(T,) float64: before it is scaled."""
        scale = 1.0 if config.snr_scale is None else config.snr_scale
        self.survival = survival if scale == 1.0 else scale * self._snr / (1.0 + scale * self._snr)
        """(T,) float64: a_t^2."""
        # Rounded before they move: not every device knows float64.
        self._signal, self._noise = self.survival.sqrt().float(), (1.0 - self.survival).sqrt().float()

    @property
    def timesteps(self) -> int:
        """T."""
        return len(self.survival)

    def signal_and_noise(self, times: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """``a_t`` and ``s_t`` (B, 1, 1, 1, 1) float32, on the device of ``times``, of times (B,) int64."""
        shape, device = (-1, 1, 1, 1, 1), times.device
        return self._signal.to(device)[times].reshape(shape), self._noise.to(device)[times].reshape(shape)

    def noised(self, clean: torch.Tensor, noise: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        """``x_t`` of volumes (B, C, D, H, W) at times (B,)."""
        a, s = self.signal_and_noise(times)
        return a * clean + s * noise

    def target(
        self, prediction: Prediction, clean: torch.Tensor, noise: torch.Tensor, times: torch.Tensor
    ) -> torch.Tensor:
        """What a network that predicts ``prediction`` should say."""
        check_choice("prediction", prediction, get_args(Prediction))
        if prediction == "epsilon":
            return noise
        if prediction == "x0":
            return clean
        a, s = self.signal_and_noise(times)
        return a * noise - s * clean

    def clean_of(
        self, prediction: Prediction, predicted: torch.Tensor, noisy: torch.Tensor, times: torch.Tensor
    ) -> torch.Tensor:
        """x0 of what the network said of ``noisy`` at ``times``; not clamped."""
        check_choice("prediction", prediction, get_args(Prediction))
        if prediction == "x0":
            return predicted
        a, s = self.signal_and_noise(times)
        return (noisy - s * predicted) / a if prediction == "epsilon" else a * noisy - s * predicted

    def loss_weights(self, prediction: Prediction, times: torch.Tensor, gamma: float) -> torch.Tensor:
        """Weights (B,) float32 of the squared error at ``times``: min-SNR (Hang et al. 2023,
        https://arxiv.org/abs/2303.09556, section 3.4): of x0's error ``min(SNR, gamma)``, and for the other predictions
        the weights that mean the same. The ratio is that before ``snr_scale``.

        Args:
            prediction: what the network predicts.
            times: (B,) int64.
            gamma: where the weight of nearly clean volumes is cut off; 0: all weights are 1.
        """
        check_range("gamma", gamma, minimum=0.0)
        if gamma == 0.0:
            return torch.ones(len(times), device=times.device)
        survival = self.survival[times.cpu()]
        snr, capped = survival / (1.0 - survival), self._snr[times.cpu()].clamp(max=gamma)
        weights = {"x0": capped, "epsilon": capped / snr, "v": capped / (snr + 1.0)}[prediction]
        return weights.float().to(times.device)


def _betas(config: NoiseScheduleConfig) -> torch.Tensor:
    """(T,) float64."""
    steps = config.timesteps
    if config.kind == "linear":
        return torch.linspace(config.beta_start, config.beta_end, steps, dtype=torch.float64)
    offset = 0.008
    at = torch.arange(steps + 1, dtype=torch.float64) / steps
    survival = torch.cos((at + offset) / (1.0 + offset) * math.pi / 2) ** 2
    return (1.0 - survival[1:] / survival[:-1]).clamp(1e-4, 0.9999)
