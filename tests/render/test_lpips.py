"""LPIPS from random weights against a second, independent writing of it; the published ST-LPIPS values on real weights.

No weights are in the repository. The slow test reads them from the folder named by VOXFIELD_TEST_DATA, or from
``../shared/data`` beside the repository.
"""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from voxfield.errors import FormatError, InputError, MissingFileError
from voxfield.render.lpips import load_lpips

CHANNELS = {"alex": (64, 192, 384, 256, 256), "vgg": (64, 128, 256, 512, 512)}
ALEX = {0: (64, 3, 11), 3: (192, 64, 5), 6: (384, 192, 3), 8: (256, 384, 3), 10: (256, 256, 3)}
SHIFT_TOLERANT = dict(zip(("slice1.0", "slice2.5", "slice3.9", "slice4.11", "slice5.13"), ALEX.values(), strict=True))
VGG = {
    0: (64, 3), 2: (64, 64), 5: (128, 64), 7: (128, 128), 10: (256, 128), 12: (256, 256), 14: (256, 256),
    17: (512, 256), 19: (512, 512), 21: (512, 512), 24: (512, 512), 26: (512, 512), 28: (512, 512),
}  # fmt: skip


def random_weights(*shape, seed):
    fan_in = int(np.prod(shape[1:])) or 1
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * (2.0 / fan_in) ** 0.5


def convolutions(layers, prefix):
    state = {}
    for name, (out, into, *size) in layers.items():
        side = size[0] if size else 3
        state[f"{prefix}{name}.weight"] = random_weights(out, into, side, side, seed=len(state))
        state[f"{prefix}{name}.bias"] = random_weights(out, 1, seed=len(state)).flatten() * 0.1
    return state


def heads(network):
    return {
        f"lin{k}.model.1.weight": random_weights(1, c, 1, 1, seed=100 + k).abs()
        for k, c in enumerate(CHANNELS[network])
    }


def shift_tolerant():
    blur = torch.outer(torch.tensor([0.25, 0.5, 0.25]), torch.tensor([0.25, 0.5, 0.25]))
    filters = {
        f"net.{name}.filt": blur.repeat(count, 1, 1, 1)
        for name, count in (("slice1.1", 64), ("slice2.4", 64), ("slice3.8", 192))
    }
    return {**convolutions(SHIFT_TOLERANT, "net."), **filters, **heads("alex")}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    contents = {
        "alexnet.pth": {**convolutions(ALEX, "features."), "classifier.1.weight": torch.zeros(4, 4)},
        "alex.pth": heads("alex"),
        "vgg16.pth": convolutions(VGG, "features."),
        "vgg.pth": heads("vgg"),
        "st.pth": shift_tolerant(),
    }
    for name, state in contents.items():
        torch.save(state, folder / name)
    return folder


@pytest.fixture
def pictures():
    generator = torch.Generator().manual_seed(3)
    truth = torch.rand(48, 40, 3, generator=generator)
    return (truth + 0.2 * torch.randn(truth.shape, generator=generator)).clamp(0, 1), truth


def features_by_hand(network, state, image):
    """The networks once more, as plain calls in the order of their papers."""
    mean, spread = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    x = ((image * 2 - 1 - mean) / spread).permute(2, 0, 1)[None]

    def conv(x, name, **options):
        return F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], **options)

    taps = []
    if network == "vgg":
        for group in ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28)):
            x = F.max_pool2d(x, 2) if taps else x
            for layer in group:
                x = F.relu(conv(x, f"features.{layer}", padding=1))
            taps.append(x)
    elif network == "alex":
        for layer, options in ((0, {"stride": 4, "padding": 2}), (3, {"padding": 2}), (6, {"padding": 1}),
                               (8, {"padding": 1}), (10, {"padding": 1})):  # fmt: skip
            x = F.max_pool2d(x, 3, 2) if layer in (3, 6) else x
            x = F.relu(conv(x, f"features.{layer}", **options))
            taps.append(x)
    else:

        def blurred(x):
            kernel = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16
            padded = F.pad(x, (2, 2, 2, 2), mode="reflect")
            return F.conv2d(padded.transpose(0, 1), kernel[None, None])[:, :, ::2, ::2].transpose(0, 1)

        x = F.relu(blurred(conv(x, "net.slice1.0", padding=2)))
        taps.append(x)
        for name, pad in (("slice2.5", 2), ("slice3.9", 1), ("slice4.11", 1), ("slice5.13", 1)):
            x = blurred(F.max_pool2d(x, 3, 1)) if name in ("slice2.5", "slice3.9") else x
            x = F.relu(conv(x, f"net.{name}", padding=pad))
            taps.append(x)
    return taps


def distance_by_hand(network, trunk, head, prediction, truth):
    total = 0.0
    pairs = zip(features_by_hand(network, trunk, prediction), features_by_hand(network, trunk, truth), strict=True)
    for k, (a, b) in enumerate(pairs):
        difference = (F.normalize(a, dim=1, eps=1e-10) - F.normalize(b, dim=1, eps=1e-10)) ** 2
        total += (difference[0] * head[f"lin{k}.model.1.weight"][0]).sum(dim=0).mean().item()
    return total


@pytest.mark.parametrize(
    ("network", "paths", "name"),
    [
        ("alex", ("alexnet.pth", "alex.pth"), "LPIPS (alex)"),
        ("vgg", ("vgg16.pth", "vgg.pth"), "LPIPS (vgg)"),
        ("st", ("st.pth",), "ST-LPIPS (alex)"),
    ],
)
def test_equals_an_independent_writing(files, pictures, network, paths, name):
    metric = load_lpips([files / path for path in paths])
    trunk, head = (torch.load(files / path, weights_only=True) for path in (paths[0], paths[-1]))
    assert metric.name == name
    assert set(metric.files) == set(paths)
    value = metric(*pictures).item()
    assert value == pytest.approx(distance_by_hand(network, trunk, head, *pictures), rel=1e-4)
    assert value > 0
    assert metric(pictures[1], pictures[1]).item() == 0.0
    assert metric(pictures[1], pictures[0]).item() == pytest.approx(value, rel=1e-5)


def test_ways_to_name_files(files, pictures, tmp_path):
    expected = load_lpips([files / "alexnet.pth", files / "alex.pth"])(*pictures)
    assert load_lpips(f"{files / 'alexnet.pth'},{files / 'alex.pth'}")(*pictures) == expected
    assert load_lpips(f"{files / 'alex.pth'}, {files / 'alexnet.pth'}")(*pictures) == expected
    for name in ("alexnet.pth", "alex.pth"):
        os.link(files / name, tmp_path / name)
    (tmp_path / "notes.txt").write_text("other files are not read")
    torch.save({"layer.weight": torch.zeros(2)}, tmp_path / "stranger.pth")
    assert load_lpips(tmp_path)(*pictures) == expected
    assert load_lpips(str(tmp_path))(*pictures) == expected


def test_one_file_with_trunk_and_heads(files, pictures, tmp_path):
    """What saving a whole LPIPS module gives: its layers keep the numbers of torchvision's."""
    slices = {0: 1, 3: 2, 6: 3, 8: 4, 10: 5}
    state = {}
    for key, tensor in torch.load(files / "alexnet.pth", weights_only=True).items():
        if key.startswith("features."):
            layer = key.split(".")[1]
            state[f"net.slice{slices[int(layer)]}.{key.removeprefix('features.')}"] = tensor
    torch.save({**state, **heads("alex")}, tmp_path / "whole.pth")
    metric = load_lpips(tmp_path / "whole.pth")
    assert metric.name == "LPIPS (alex)"
    assert metric(*pictures) == load_lpips([files / "alexnet.pth", files / "alex.pth"])(*pictures)


def test_gradient_reaches_the_picture_and_not_the_weights(files, pictures):
    metric = load_lpips(files / "st.pth")
    guess = pictures[0].clone().requires_grad_()
    metric(guess, pictures[1]).backward()
    assert torch.isfinite(guess.grad).all()
    assert guess.grad.abs().sum() > 0
    assert not any(parameter.requires_grad for parameter in metric.parameters())


def test_black_pictures_are_finite(files):
    black = torch.zeros(32, 32, 3)
    metric = load_lpips(files / "st.pth")
    assert metric(black, black).item() == 0.0
    assert torch.isfinite(metric(black, torch.ones(32, 32, 3)))


def test_files_that_do_not_make_a_network(files, tmp_path):
    with pytest.raises(InputError, match=r"alex\.pth: holds the alex heads but not the network under them\. Add torch"):
        load_lpips(files / "alex.pth")
    with pytest.raises(InputError, match=r"vgg16\.pth: holds the vgg network but not its LPIPS heads\. Add vgg\.pth"):
        load_lpips(files / "vgg16.pth")
    with pytest.raises(InputError, match=r"but not the network under them"):
        load_lpips([files / "vgg16.pth", files / "alex.pth"])
    with pytest.raises(InputError, match="these files make 3 networks"):
        load_lpips(files)
    with pytest.raises(InputError, match="at least one file"):
        load_lpips([])
    with pytest.raises(MissingFileError, match=r"none\.pth: expected a file of LPIPS weights"):
        load_lpips(tmp_path / "none.pth")
    with pytest.raises(MissingFileError, match="found none in it"):
        load_lpips(tmp_path)


class Payload:
    """Not a tensor: loading it would run the file's code."""


def test_files_that_cannot_be_weights(files, tmp_path):
    (tmp_path / "text.pth").write_text("not weights")
    (tmp_path / "empty.pth").write_bytes(b"")
    (tmp_path / "cut.pth").write_bytes((files / "st.pth").read_bytes()[:5000])
    torch.save({"features.0.weight": Payload()}, tmp_path / "code.pth")
    for name in ("text", "empty", "cut", "code"):
        with pytest.raises(FormatError, match=rf"{name}\.pth: expected a PyTorch state dict, but it cannot be read"):
            load_lpips(tmp_path / f"{name}.pth")
    torch.save([torch.zeros(3)], tmp_path / "list.pth")
    with pytest.raises(FormatError, match=r"list\.pth: expected a PyTorch state dict .*got list"):
        load_lpips(tmp_path / "list.pth")


def test_weights_of_other_networks(tmp_path):
    def refused(state, match):
        torch.save(state, tmp_path / "w.pth")
        with pytest.raises(FormatError, match=match):
            load_lpips(tmp_path / "w.pth")

    refused({"layer.weight": torch.zeros(3)}, "no weights of AlexNet, VGG16 or their LPIPS heads")
    refused({"features.0.weight": torch.zeros(64, 3, 7, 7)}, "no weights of AlexNet")
    seven = {f"lin{k}.model.1.weight": torch.zeros(1, 64, 1, 1) for k in range(7)}
    refused(seven, "SqueezeNet is not supported")
    broken = heads("alex")
    broken["lin2.model.1.weight"][0, 5] = float("nan")
    refused(broken, "head2 holds NaN or infinite weights")
    partial = shift_tolerant()
    del partial["net.slice4.11.bias"]
    refused(partial, r"expected 11\.bias of shape \(256,\) for st-alex, got nothing")
    wrong = shift_tolerant()
    wrong["net.slice5.13.weight"] = torch.zeros(256, 256, 1, 1)
    refused(wrong, r"expected 13\.weight of shape \(256, 256, 3, 3\) for st-alex, got \(256, 256, 1, 1\)")


def test_bad_pictures(files):
    metric = load_lpips(files / "st.pth")
    with pytest.raises(InputError, match="lpips: expected at least 32x32 pixels, got 40x31"):
        metric(torch.zeros(31, 40, 3), torch.zeros(31, 40, 3))
    with pytest.raises(InputError, match="truth: expected shape"):
        metric(torch.zeros(32, 40, 3), torch.zeros(40, 32, 3))


def real_weights():
    root = os.environ.get("VOXFIELD_TEST_DATA")
    folder = Path(root) if root else Path(__file__).resolve().parents[3] / "shared" / "data"
    return folder / "lpips_weights"


@pytest.mark.slow
@pytest.mark.parametrize(("name", "expected"), [("ex_p0", 0.7777555), ("ex_p1", 0.1320215)])
def test_published_shift_tolerant_values(name, expected):
    from PIL import Image

    folder = real_weights()
    if not folder.is_dir():
        pytest.skip(f"needs LPIPS weights in {folder} (or set VOXFIELD_TEST_DATA)")
    metric = load_lpips(folder / "stlpips_vST0.0")
    images = [
        torch.from_numpy(np.array(Image.open(folder / "example_images" / f"{n}.png").convert("RGB"))).float() / 255
        for n in (name, "ex_ref")
    ]
    assert metric.name == "ST-LPIPS (alex)"
    assert metric(*images).item() == pytest.approx(expected, abs=1e-5)
