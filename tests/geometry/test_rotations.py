import pytest
import torch
from scipy.spatial.transform import Rotation, Slerp

from voxfield.errors import InputError
from voxfield.geometry.rotations import quaternions_from_rotations, rotations_from_quaternions, slerp


def test_quaternions_agree_with_scipy():
    oracle = Rotation.random(50, random_state=1)
    ours = quaternions_from_rotations(torch.tensor(oracle.as_matrix()))
    theirs = torch.tensor(oracle.as_quat(canonical=True))[:, [3, 0, 1, 2]]
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)
    torch.testing.assert_close(rotations_from_quaternions(ours), torch.tensor(oracle.as_matrix()))


def test_half_turns_survive():
    half_turns = torch.diag_embed(torch.tensor([[1.0, -1, -1], [-1, 1, -1], [-1, -1, 1], [1, 1, 1]]).double())
    torch.testing.assert_close(rotations_from_quaternions(quaternions_from_rotations(half_turns)), half_turns)


def test_slerp_agrees_with_scipy():
    ends = Rotation.random(2, random_state=5)
    fractions = torch.linspace(0, 1, 11, dtype=torch.float64)
    quaternions = quaternions_from_rotations(torch.tensor(ends.as_matrix()))
    ours = slerp(quaternions[:1].expand(11, 4), quaternions[1:].expand(11, 4), fractions)
    theirs = Slerp([0, 1], ends)(fractions.numpy()).as_matrix()
    torch.testing.assert_close(rotations_from_quaternions(ours), torch.tensor(theirs))


def test_slerp_between_equal_rotations_stays():
    q = torch.tensor([[1.0, 0.0, 0.0, 0.0]])
    torch.testing.assert_close(slerp(q, -q, torch.tensor([0.3])).abs(), q)


def test_wrong_shapes_are_named():
    with pytest.raises(InputError, match="quaternions"):
        rotations_from_quaternions(torch.zeros(2, 3))
