"""Counting the six directions' votes, 64 voxels at a time, for arrays and tensors alike."""

from typing import Any


def count_vote(vote: Any, ones: Any, twos: Any, fours: Any) -> None:
    """Add a vote of every bit to its voxel's counter, three words of bits: the highest is set from four votes on."""
    carry = ones & vote
    ones ^= vote
    fours |= twos & carry
    twos ^= carry
