"""LPIPS: the distance of two pictures as a trained network sees them (Zhang et al. 2018, arXiv:1801.03924).

Both pictures go through the convolutions of a classifier. At five depths the channels of every pixel are scaled to
unit length, subtracted, squared, weighted by learned non-negative weights (the heads) and averaged over the pixels;
the five averages are summed. 0 means equal; lower is nearer.

Voxfield ships no weights: the user names files that exist already. Three networks are understood.

=================  ===========================================================================================
name               files
=================  ===========================================================================================
LPIPS (alex)       torchvision's AlexNet state dict and LPIPS' ``alex.pth`` (v0.1), or one file with both
LPIPS (vgg)        torchvision's VGG16 state dict and LPIPS' ``vgg.pth`` (v0.1), or one file with both
ST-LPIPS (alex)    one file, ``alex_shift_tolerant.pth`` (Ghildyal and Liu 2022, arXiv:2207.13686)
=================  ===========================================================================================

Numbers of different networks do not compare, so a result always carries the network's name.
"""

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from voxfield.checks import check_shape
from voxfield.errors import FormatError, InputError, MissingFileError

MINIMUM_SIDE = 32
"""Smallest height and width that all networks can take, pixels."""

Weights = Mapping[str, torch.Tensor]

# Mean and spread of the training pictures, for inputs in [-1, 1]: the constants every published network was made with.
_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)

_CHANNELS = {"alex": (64, 192, 384, 256, 256), "vgg": (64, 128, 256, 512, 512)}
_TRUNK_NAMES = {"alex": "torchvision's AlexNet (alexnet-owt-*.pth)", "vgg": "torchvision's VGG16 (vgg16-*.pth)"}

# Index in the file's layer list, and shape, of each convolution, grouped by the depths at which features are taken.
_VGG_CONVOLUTIONS = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
_ALEX_CONVOLUTIONS = (0, 3, 6, 8, 10)
_SHIFT_TOLERANT_CONVOLUTIONS = (0, 5, 9, 11, 13)
_SHIFT_TOLERANT_BLURS = (1, 4, 8)
_ALEX_KERNELS = ((64, 3, 11, 11), (192, 64, 5, 5), (384, 192, 3, 3), (256, 384, 3, 3), (256, 256, 3, 3))


class Lpips(nn.Module):
    """A loaded network, made by `load_lpips`. Frozen; gradients flow to the pictures.

    Attributes:
        name: what results must be reported as, e.g. ``"LPIPS (vgg)"``.
        files: name and first 16 hexadecimal digits of the SHA-256 of each weight file, for the protocol of a result.
    """

    def __init__(self, name: str, stages: Sequence[nn.Module], heads: Weights, files: Mapping[str, str]) -> None:
        super().__init__()
        self.name = name
        self.files = dict(files)
        self.stages = nn.ModuleList(stages)
        self.shift: torch.Tensor
        self.scale: torch.Tensor
        self.register_buffer("shift", torch.tensor(_SHIFT).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor(_SCALE).view(1, 3, 1, 1))
        for k in range(len(self.stages)):
            self.register_buffer(f"head{k}", heads[f"head{k}"])
        self.requires_grad_(False)

    def forward(self, prediction: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        """The distance of two pictures.

        Args:
            prediction: (H, W, 3) float in [0, 1], both sides at least ``MINIMUM_SIDE``, on the network's device.
            truth: the same shape.

        Returns:
            A scalar, at least 0.

        Raises:
            InputError: on other shapes or a picture that is too small.
        """
        check_shape("prediction", prediction, ("H", "W", 3))
        check_shape("truth", truth, tuple(prediction.shape))
        if min(prediction.shape[:2]) < MINIMUM_SIDE:
            height, width = prediction.shape[:2]
            raise InputError(f"lpips: expected at least {MINIMUM_SIDE}x{MINIMUM_SIDE} pixels, got {width}x{height}.")
        features = torch.stack([prediction, truth]).permute(0, 3, 1, 2).to(self.shift.dtype)
        features = (features * 2.0 - 1.0 - self.shift) / self.scale
        distance = features.new_zeros(())
        for k, stage in enumerate(self.stages):
            features = stage(features)
            # Where all channels are 0 the length is 0 and so are the unit features: the epsilon keeps 0 / 0 away.
            unit = features / (features.square().sum(dim=1, keepdim=True) + 1e-20).sqrt()
            difference = (unit[0] - unit[1]).square()
            distance = distance + F.conv2d(difference[None], self.get_buffer(f"head{k}")).mean()
        return distance


def load_lpips(paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> Lpips:
    """Load a perceptual metric from weight files.

    Args:
        paths: one file that holds all, ``"trunk.pth,heads.pth"`` (or a sequence of the two, in any order), or a folder
            whose ``.pth`` and ``.pt`` files make exactly one network.

    Returns:
        The network, on the CPU, in evaluation mode.

    Raises:
        MissingFileError: when a path does not exist or a folder holds no weight file.
        FormatError: when a file is damaged, is no state dict of tensors, or holds weights of an unknown network.
        InputError: when the files do not make one network; the message names what is missing.
    """
    files, named = _weight_files(paths)
    parts = _read_parts(files, named)
    where = ", ".join(str(file) for file in files)
    whole = [part for part in parts if part.trunk and part.heads]
    pairs = [
        (trunk, heads)
        for trunk in parts
        for heads in parts
        if trunk.trunk and not trunk.heads and heads.heads and not heads.trunk and trunk.network == heads.network
    ]
    candidates = [(part, part) for part in whole] + pairs
    if len(candidates) > 1:
        raise InputError(f"{where}: these files make {len(candidates)} networks. Name those of one of them.")
    if not candidates:
        raise InputError(_what_is_missing(where, parts))
    trunk, heads = candidates[0]
    stages = {"alex": _alex_stages, "vgg": _vgg_stages, "st-alex": _shift_tolerant_stages}[trunk.network](trunk)
    name = "ST-LPIPS (alex)" if trunk.network == "st-alex" else f"LPIPS ({trunk.network})"
    used = {part.path.name: part.digest for part in (trunk, heads)}
    return Lpips(name, stages, heads.heads, used).eval()


@dataclass(frozen=True, kw_only=True)
class _Part:
    """What one file holds: the convolutions of a trunk, the heads, or both."""

    path: Path
    network: str
    """``alex``, ``vgg`` or ``st-alex``."""
    trunk: Weights
    """``"<layer>.weight"`` and ``"<layer>.bias"`` (and ``"<layer>.filt"``), empty when there is no trunk."""
    heads: Weights
    """``"head0"`` to ``"head4"``, (1, C, 1, 1), empty when there are none."""
    digest: str

    def get(self, key: str, shape: tuple[int, ...]) -> torch.Tensor:
        tensor = self.trunk.get(key)
        if tensor is None or tuple(tensor.shape) != shape:
            came = "nothing" if tensor is None else str(tuple(tensor.shape))
            raise FormatError(f"{self.path}: expected {key} of shape {shape} for {self.network}, got {came}.")
        return tensor


def _weight_files(paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> tuple[list[Path], set[Path]]:
    """The files to read, and which of them were named one by one rather than found in a folder."""
    if isinstance(paths, str):
        # A file whose own name holds a comma is taken whole.
        names: list[str | os.PathLike[str]] = [paths] if Path(paths).exists() else [p for p in paths.split(",") if p]
    else:
        names = [paths] if isinstance(paths, os.PathLike) else list(paths)
    if not names:
        raise InputError("lpips weights: expected at least one file or folder, got none.")
    files: list[Path] = []
    named: set[Path] = set()
    for name in names:
        path = Path(name.strip() if isinstance(name, str) else name).expanduser()
        if path.is_dir():
            found = sorted(p for p in path.iterdir() if p.suffix in (".pth", ".pt") and p.is_file())
            if not found:
                raise MissingFileError(f"{path}: expected a folder with LPIPS weights (.pth), found none in it.")
            files += found
        elif path.is_file():
            files.append(path)
            named.add(path)
        else:
            raise MissingFileError(f"{path}: expected a file of LPIPS weights, but there is no such file.")
    return files, named


def _read_parts(files: Sequence[Path], named: set[Path]) -> list[_Part]:
    """Read all files; a stranger met in a folder is passed over unless nothing else is there."""
    parts: list[_Part] = []
    stranger: FormatError | None = None
    for file in files:
        try:
            parts.append(_read_part(file))
        except FormatError as error:
            if file in named:
                raise
            stranger = error
    if not parts and stranger is not None:
        raise stranger
    return parts


def _read_part(path: Path) -> _Part:
    """Read a file and name its tensors alike, whichever program wrote it."""
    try:
        # weights_only: the file came from somewhere else and must not be able to run code.
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001 - torch raises half a dozen kinds for a damaged file
        reason = str(error).strip().split("\n", 1)[0][:120] or type(error).__name__
        raise FormatError(f"{path}: expected a PyTorch state dict, but it cannot be read: {reason}") from None
    if not isinstance(content, Mapping) or not content:
        raise FormatError(f"{path}: expected a PyTorch state dict (names and tensors), got {type(content).__name__}.")
    trunk: dict[str, torch.Tensor] = {}
    heads: dict[str, torch.Tensor] = {}
    for key, tensor in content.items():
        if not isinstance(key, str) or not isinstance(tensor, torch.Tensor):
            continue
        # features.3.weight (torchvision) or net.slice2.3.weight (a whole LPIPS module); net's classifier is not used.
        if match := re.fullmatch(r"(?:features|net\.slice\d)\.(\d+)\.(weight|bias|filt)", key):
            trunk[f"{match[1]}.{match[2]}"] = tensor.float()
        elif match := re.fullmatch(r"lin(\d)\.(?:model\.)?\d\.weight", key):
            heads[f"head{match[1]}"] = tensor.float()
    bad = [key for key, tensor in {**trunk, **heads}.items() if not bool(tensor.isfinite().all())]
    if bad:
        raise FormatError(f"{path}: {bad[0]} holds NaN or infinite weights: the file is damaged, fetch it again.")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    return _Part(path=path, network=_network_of(path, trunk, heads), trunk=trunk, heads=heads, digest=digest)


def _network_of(path: Path, trunk: Weights, heads: Weights) -> str:
    """Tell the network by the shapes, which unlike file names cannot be wrong."""
    head_channels = tuple(heads[f"head{k}"].shape[1] if f"head{k}" in heads else 0 for k in range(len(heads)))
    if any(key.endswith(".filt") for key in trunk):
        network = "st-alex"
    elif trunk:
        first = trunk.get("0.weight")
        kernel = tuple(first.shape) if first is not None else ()
        network = "alex" if kernel == _ALEX_KERNELS[0] else "vgg" if kernel == (64, 3, 3, 3) else ""
    else:
        network = next((name for name, channels in _CHANNELS.items() if channels == head_channels), "")
    if network and (not heads or head_channels == _CHANNELS[network.removeprefix("st-")]):
        return network
    raise FormatError(
        f"{path}: holds no weights of AlexNet, VGG16 or their LPIPS heads (SqueezeNet is not supported). "
        "Expected e.g. alexnet-owt-*.pth and alex.pth, or alex_shift_tolerant.pth."
    )


def _what_is_missing(where: str, parts: Sequence[_Part]) -> str:
    for part in parts:
        if part.heads:
            return (
                f"{where}: holds the {part.network} heads but not the network under them. "
                f'Add {_TRUNK_NAMES[part.network]}: "TRUNK.pth,{part.path.name}".'
            )
    part = parts[0]
    wanted = part.network.removeprefix("st-")
    return (
        f'{where}: holds the {wanted} network but not its LPIPS heads. Add {wanted}.pth: "{part.path.name},HEADS.pth".'
    )


def _convolution(part: _Part, layer: int, kernel: tuple[int, ...], *, stride: int = 1, padding: int) -> nn.Conv2d:
    module = nn.Conv2d(kernel[1], kernel[0], kernel[2], stride=stride, padding=padding)
    with torch.no_grad():
        module.weight.copy_(part.get(f"{layer}.weight", kernel))
        module.bias.copy_(part.get(f"{layer}.bias", kernel[:1]))  # type: ignore[union-attr]
    return module


def _alex_stages(part: _Part) -> list[nn.Module]:
    """AlexNet as torchvision has it, cut after each of its five rectifiers."""
    padding = (2, 2, 1, 1, 1)
    layers = zip(_ALEX_CONVOLUTIONS, _ALEX_KERNELS, padding, strict=True)
    conv = [
        _convolution(part, layer, kernel, stride=4 if layer == 0 else 1, padding=pad) for layer, kernel, pad in layers
    ]
    return [
        nn.Sequential(conv[0], nn.ReLU()),
        nn.Sequential(nn.MaxPool2d(3, 2), conv[1], nn.ReLU()),
        nn.Sequential(nn.MaxPool2d(3, 2), conv[2], nn.ReLU()),
        nn.Sequential(conv[3], nn.ReLU()),
        nn.Sequential(conv[4], nn.ReLU()),
    ]


def _vgg_stages(part: _Part) -> list[nn.Module]:
    """VGG16 as torchvision has it, cut before each of its poolings."""
    stages: list[nn.Module] = []
    before = 3
    for channels, layers in zip(_CHANNELS["vgg"], _VGG_CONVOLUTIONS, strict=True):
        modules: list[nn.Module] = [nn.MaxPool2d(2, 2)] if stages else []
        for layer in layers:
            modules += [_convolution(part, layer, (channels, before, 3, 3), padding=1), nn.ReLU()]
            before = channels
        stages.append(nn.Sequential(*modules))
    return stages


def _shift_tolerant_stages(part: _Part) -> list[nn.Module]:
    """AlexNet that steps only in blurs, so that a shift of the picture by a pixel shifts the features smoothly.

    Against AlexNet: the first convolution has stride 1 followed by a blur of stride 2 (in front of the rectifier), and
    both poolings have stride 1 followed by a blur of stride 2.
    """
    padding = (2, 2, 1, 1, 1)
    layers = zip(_SHIFT_TOLERANT_CONVOLUTIONS, _ALEX_KERNELS, padding, strict=True)
    conv = [_convolution(part, layer, kernel, padding=pad) for layer, kernel, pad in layers]
    channels = (64, 64, 192)
    blur = [
        _Blur(part.get(f"{layer}.filt", (count, 1, 3, 3)))
        for layer, count in zip(_SHIFT_TOLERANT_BLURS, channels, strict=True)
    ]
    return [
        nn.Sequential(conv[0], blur[0], nn.ReLU()),
        nn.Sequential(nn.MaxPool2d(3, 1), blur[1], conv[1], nn.ReLU()),
        nn.Sequential(nn.MaxPool2d(3, 1), blur[2], conv[2], nn.ReLU()),
        nn.Sequential(conv[3], nn.ReLU()),
        nn.Sequential(conv[4], nn.ReLU()),
    ]


class _Blur(nn.Module):
    """Low-pass filter of 3x3 pixels, then every second pixel; the border is reflected over two pixels."""

    def __init__(self, kernel: torch.Tensor) -> None:
        super().__init__()
        self.kernel: torch.Tensor
        self.register_buffer("kernel", kernel)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        padded = F.pad(image, (2, 2, 2, 2), mode="reflect")
        return F.conv2d(padded, self.kernel, stride=2, groups=image.shape[1])
