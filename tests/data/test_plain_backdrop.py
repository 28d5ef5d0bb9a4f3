"""Pictures before one plain colour, and those that only seem so."""

from pathlib import Path

import pytest
import torch

from voxfield.data.image_store import ImageStore, Picture
from voxfield.data.plain_backdrop import plain_backdrop
from voxfield.render.image import colour_from_name


def pictures(edge: int, *, channels: int = 3, count: int = 3, mask: torch.Tensor | None = None) -> ImageStore:
    """Grey pictures, 20 pixels wide, with a margin of value ``edge``."""
    image = torch.full((16, 20, channels), edge, dtype=torch.uint8)
    image[3:-3, 3:-3] = 90
    return ImageStore.from_tensors([image] * count, masks=[mask] * count)


@pytest.mark.parametrize(
    ("edge", "expected"),
    [(255, "white"), (250, "white"), (249, "#f9f9f9"), (63, "#3f3f3f"), (6, "#060606"), (5, "black"), (0, "black")],
)
def test_the_colour_of_the_edges(edge, expected):
    assert plain_backdrop(pictures(edge)) == expected


def test_what_is_photographed_may_reach_beyond_one_edge():
    image = torch.full((16, 16, 3), 255, dtype=torch.uint8)
    image[-1] = 20
    assert plain_backdrop(ImageStore.from_tensors([image])) == "white"
    image[:10, -1] = 20
    assert plain_backdrop(ImageStore.from_tensors([image])) is None


def test_any_colour_that_is_the_same_all_around_and_in_every_picture():
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(-4, 5, (3, 16, 16, 3), generator=generator)
    images = (torch.tensor([30, 180, 90]) + noise).to(torch.uint8)
    found = plain_backdrop(ImageStore.from_tensors(list(images)))
    assert found is not None
    assert (torch.tensor(colour_from_name(found)) * 255 - torch.tensor([30.0, 180, 90])).abs().max() < 1.5
    darker = [image - 12 * number for number, image in enumerate(images)]
    assert plain_backdrop(ImageStore.from_tensors(darker)) is None
    shaded = torch.arange(60, 220, 10, dtype=torch.uint8)[:, None, None].expand(16, 16, 3)
    assert plain_backdrop(ImageStore.from_tensors([shaded])) is None


def test_what_is_shaded_alike_in_every_picture_is_not_of_the_scene():
    """As on a turntable before a fixed camera and a soft light."""
    shaded = torch.arange(60, 220, 10, dtype=torch.uint8)[:, None, None].expand(16, 16, 3).clone()
    shaded[..., 2] = 40
    subjects = [shaded.clone() for _ in range(3)]
    for number, picture in enumerate(subjects):
        picture[4:12, 2 + 2 * number : 8 + 2 * number] = 250
    assert plain_backdrop(ImageStore.from_tensors(subjects)) == "#828228"
    subjects[1] = subjects[1].flip(0)
    subjects[2] = subjects[2].transpose(0, 1).contiguous()
    assert plain_backdrop(ImageStore.from_tensors(subjects)) is None
    sizes = [shaded, shaded[:, :-1].contiguous(), shaded]
    assert plain_backdrop(ImageStore.from_tensors(sizes)) is None
    assert plain_backdrop(ImageStore.from_tensors([shaded] * 2)) is None
    mask = torch.zeros(16, 16, dtype=torch.bool)
    mask[:4] = True
    assert plain_backdrop(ImageStore.from_tensors([shaded] * 3, masks=[mask, mask, mask])) is not None
    assert plain_backdrop(ImageStore.from_tensors([shaded] * 3, masks=[mask, mask, ~mask])) is None


def test_alpha_and_linear_light_speak_for_themselves():
    assert plain_backdrop(pictures(255, channels=4)) is None
    assert plain_backdrop(ImageStore.from_tensors([torch.ones(8, 8, 3)], dtype=torch.float32)) is None


def test_masked_edges_do_not_count():
    mask = torch.ones(16, 20, dtype=torch.bool)
    mask[0] = mask[-1] = False
    mask[:, 0] = mask[:, -1] = False
    assert plain_backdrop(pictures(255, mask=mask)) is None
    mask[0] = True
    assert plain_backdrop(pictures(255, mask=mask)) == "white"


def test_pictures_that_cannot_be_read_are_passed_by(tmp_path: Path):
    broken = tmp_path / "a.png"
    broken.write_bytes(b"no picture")
    entry = Picture(name="a.png", path=broken, mask_path=None, size=(8, 8), full_size=(8, 8))
    store = ImageStore([entry], channels=3, cache_bytes=1 << 20)
    assert plain_backdrop(store) is None
    assert [item.path for item in store.failures] == ["a.png"]
