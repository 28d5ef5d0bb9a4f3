"""What the readers of photographs are held to."""

import pytest
import torch

from voxfield.data.capture import CaptureOptions
from voxfield.data.capture_reading import read_capture
from voxfield.errors import FormatError, VoxfieldError

AS_WRITTEN = {"orientation": "none", "centre": "none", "auto_scale": False}


@pytest.fixture
def read():
    """Read a split; the world keeps the capture's coordinates unless told otherwise."""

    def call(path, split="train", **options):
        return read_capture(path, split=split, options=CaptureOptions(**{**AS_WRITTEN, **options}))

    return call


@pytest.fixture
def message():
    """The message of the error that reading must end in: of one or two lines."""

    def call(path, error=FormatError, **options):
        with pytest.raises(error) as caught:
            read_capture(path, options=CaptureOptions(**options))
        assert isinstance(caught.value, VoxfieldError)
        said = str(caught.value)
        assert said.count("\n") <= 1
        return said

    return call


@pytest.fixture
def same_rays():
    """Compare the rays of read cameras with those of the cameras at ``indices`` that a capture was written from."""

    def check(came, truth, indices, atol=2e-5):
        truth = truth[torch.tensor(indices)]
        assert len(came) == len(truth)
        which = torch.arange(len(truth)).repeat_interleave(4)
        corners = torch.tensor([[0.5, 0.5], [40.0, 3.0], [24.0, 16.0], [2.25, 30.5]]).repeat(len(truth), 1)
        ours, theirs = came.rays(which, corners), truth.rays(which, corners)
        torch.testing.assert_close(ours.origins, theirs.origins, atol=atol, rtol=0)
        torch.testing.assert_close(ours.directions, theirs.directions, atol=atol, rtol=0)

    return check
