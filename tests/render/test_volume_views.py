import pytest
import torch

from voxfield.errors import InputError
from voxfield.render.volume_views import contact_sheet, view_volume


def covered(picture: torch.Tensor) -> torch.Tensor:
    return (picture != 255).any(2)


def test_a_block_is_seen_where_it_is() -> None:
    volume = torch.zeros((16, 16, 16))
    volume[12:, 12:, 12:] = 1.0  # up, at +y and +x
    from_x = covered(view_volume(volume, azimuth=0.0, elevation=0.0, size=32))
    rows, columns = from_x.nonzero().float().mean(0).tolist()
    assert rows < 15.5 < columns
    from_behind = covered(view_volume(volume, azimuth=180.0, elevation=0.0, size=32))
    assert torch.equal(from_behind, from_x.flip(1))
    share = float(from_x.float().mean())
    assert share == pytest.approx((0.5 / 3.2) ** 2, rel=0.4)


def test_tops_are_lit_more_than_sides() -> None:
    volume = torch.zeros((16, 16, 16))
    volume[4:12, 4:12, 4:12] = 1.0
    above = view_volume(volume, elevation=90.0, size=32)[16, 16].sum()
    beside = view_volume(volume, azimuth=90.0, elevation=0.0, size=32)[16, 16].sum()
    assert above > beside


def test_nothing_is_seen_of_nothing_and_bad_volumes_are_refused() -> None:
    assert not covered(view_volume(torch.zeros((4, 4, 4)), size=16)).any()
    with pytest.raises(InputError):
        view_volume(torch.zeros((4, 4)))
    with pytest.raises(InputError, match="size"):
        view_volume(torch.zeros((4, 4, 4)), size=2)


def test_sheets_have_a_place_for_every_picture() -> None:
    pictures = [torch.full((4, 4, 3), value, dtype=torch.uint8) for value in (10, 20, 30)]
    sheet = contact_sheet(pictures, columns=2, gap=1)
    assert sheet.shape == (9, 9, 3)
    assert [int(sheet[0, 0, 0]), int(sheet[0, 5, 0]), int(sheet[5, 0, 0]), int(sheet[5, 5, 0])] == [10, 20, 30, 255]
    with pytest.raises(InputError):
        contact_sheet([])
