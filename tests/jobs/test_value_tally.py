import json

import numpy as np
import pytest

from voxfield.jobs.value_tally import ValueTally


def test_suggests_what_loses_a_thousandth():
    rng = np.random.default_rng(0)
    # A third of the voxels hold next to nothing.
    values = np.where(rng.random(70_000) < 1 / 3, 1e-5, rng.uniform(0.25, 1, 70_000)).astype(np.float32)
    values[::2] = 0
    tally = ValueTally()
    tally.count(values)
    assert tally.share_not_zero == pytest.approx(0.5)
    threshold, left = tally.suggested_threshold()
    assert 1e-5 < threshold <= 0.25
    assert values[values < threshold].sum() <= 1e-3 * values.sum()
    assert left == pytest.approx(0.5 * 2 / 3, abs=0.01)


def test_nothing_to_suggest():
    tally = ValueTally()
    assert tally.suggested_threshold() == (0.0, 0.0)
    tally.count(np.zeros(10, np.float32))
    assert tally.suggested_threshold() == (0.0, 0.0)
    assert tally.share_kept == 0


def test_adds_up_and_survives_json():
    values = np.random.default_rng(1).random(1400, np.float32) * 1e6
    whole, parts = ValueTally(), ValueTally()
    whole.count(values)
    for part in values.reshape(2, 700):
        one = ValueTally(kept=3, worst_error=0.5)
        one.count(part)
        parts.add(ValueTally.from_plain(json.loads(json.dumps(one.plain()))))
    assert parts.counts.tolist() == whole.counts.tolist()
    assert parts.mass == pytest.approx(whole.mass)
    assert (parts.kept, parts.worst_error, parts.voxels) == (6, 0.5, 1400)
    with pytest.raises(ValueError, match="bins"):
        ValueTally.from_plain({**whole.plain(), "counts": [1]})
