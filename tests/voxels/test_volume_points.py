import numpy as np
import pytest

from voxfield.errors import InputError
from voxfield.voxels.volume_points import points_of


def test_points_fill_voxels_by_their_values() -> None:
    volume = np.zeros((4, 6, 8), np.float32)
    volume[1, 2, 3], volume[3, 5, 7] = 1.0, 0.25
    points = points_of(volume, 5000, threshold=0.1)
    cells, counts = np.unique(np.floor(points).astype(int), axis=0, return_counts=True)
    assert cells.tolist() == [[3, 2, 1], [7, 5, 3]]
    assert counts[0] / counts[1] == pytest.approx(4.0, rel=0.15)
    alike = np.floor(points_of(volume, 5000, threshold=0.1, weighted=False))
    assert (alike[:, 0] == 3).mean() == pytest.approx(0.5, abs=0.05)
    assert len(points_of(volume, 10, threshold=2.0)) == 0


def test_bad_volumes_are_refused() -> None:
    for volume in (np.zeros((4, 4)), np.full((2, 2, 2), np.nan), np.full((2, 2, 2), -1.0)):
        with pytest.raises(InputError, match="at least 0"):
            points_of(volume, 5)
    with pytest.raises(InputError, match="count"):
        points_of(np.ones((2, 2, 2)), 0)
