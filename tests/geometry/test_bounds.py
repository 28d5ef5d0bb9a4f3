import json

import pytest
import torch

from voxfield.errors import InputError
from voxfield.geometry.bounds import Bounds


def test_a_cube_knows_its_size_and_middle():
    box = Bounds.from_cube(1.5, centre=(1.0, 0.0, -1.0))
    assert box.minimum == (-0.5, -1.5, -2.5)
    assert box.size == (3.0, 3.0, 3.0)
    assert box.centre == (1.0, 0.0, -1.0)
    assert box.scaled(2.0) == Bounds.from_cube(3.0, centre=(1.0, 0.0, -1.0))
    assert box.tensor().tolist() == [[-0.5, -1.5, -2.5], [2.5, 1.5, 0.5]]


def test_containment_is_half_open():
    box = Bounds.from_cube(1.0)
    points = torch.tensor([[-1.0, -1.0, -1.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.99]])
    assert box.contains(points).tolist() == [True, False, True]


def test_a_box_around_points_and_its_corners():
    box = Bounds.from_points(torch.tensor([[0.0, 1.0, 2.0], [4.0, 3.0, 5.0]]), margin=1.0)
    assert box == Bounds(minimum=(-1.0, 0.0, 1.0), maximum=(5.0, 4.0, 6.0))
    corners = box.corners()
    assert corners.shape == (8, 3)
    assert Bounds.from_points(corners) == box
    assert corners[1].tolist() == [5.0, 0.0, 1.0]


def test_a_box_survives_json():
    box = Bounds(minimum=(-1.0, 0.1, 1.0), maximum=(5.0, 4.0, 6.3))
    assert Bounds.from_dict(json.loads(json.dumps(box.to_dict()))) == box


@pytest.mark.parametrize(
    "corners",
    [((0, 0, 0), (1, 1, 0)), ((0, 0, 0), (1, 1, float("nan"))), ((0, 0), (1, 1)), ((0, 0, 0), (1, 1, float("inf")))],
)
def test_boxes_without_volume_are_refused(corners):
    with pytest.raises(InputError, match="minimum < maximum"):
        Bounds(minimum=corners[0], maximum=corners[1])


def test_no_points_have_no_box():
    with pytest.raises(InputError, match="points"):
        Bounds.from_points(torch.zeros(0, 3))
