"""What a person decides about a compressed volume."""

from dataclasses import dataclass
from typing import Literal

from voxfield.checks import check_choice, check_range
from voxfield.errors import InputError

Codec = Literal["quantised", "neural"]
Nodes = Literal["leaf", "lower"]


@dataclass(frozen=True, kw_only=True)
class CompressionConfig:
    """How volumes are compressed. One of ``max_error`` and ``relative_error`` is given."""

    codec: Codec = "quantised"
    """``quantised``: levels predicted from the voxels before; seconds. ``neural``: predicted by a network; minutes."""
    max_error: float | None = None
    """At most this far is an active value, in any channel, from what it was. At least 0; 0 keeps every bit."""
    relative_error: float | None = None
    """The same as a share of each grid's range of active values (of its widest channel), 0 to 1."""
    nodes: Nodes = "leaf"
    """Neural only. Which nodes of the tree a network stands for: the ``leaf`` nodes' voxels, or also which leaves the
    ``lower`` nodes have; [Hash, 5, 4, NN(3)] and [Hash, 5, NN(4), NN(3)] in the paper's words."""
    steps: int = 1000
    """Neural only. Updates of a network's training, 1 to 1,000,000; a quarter of them where it starts from another."""
    seed: int = 0
    """Neural only. Of the training."""

    def __post_init__(self) -> None:
        check_choice("codec", self.codec, ("quantised", "neural"))
        check_choice("nodes", self.nodes, ("leaf", "lower"))
        check_range("steps", self.steps, minimum=1, maximum=1_000_000)
        if self.max_error is None and self.relative_error is None:
            raise InputError(
                "error: how far may values be from what they were? Set relative_error=0.01 (--relative-error 0.01: "
                "1% of each grid's range of values) or max_error (--max-error, in the values' own unit)."
            )
        if self.max_error is not None and self.relative_error is not None:
            raise InputError(
                f"error: expected one of max_error (--max-error) and relative_error (--relative-error), "
                f"got {self.max_error} and {self.relative_error}. Leave one out."
            )
        if self.max_error is not None:
            check_range("max_error", self.max_error, minimum=0.0, maximum=1e300)
        if self.relative_error is not None:
            check_range("relative_error", self.relative_error, minimum=0.0, maximum=1.0)
