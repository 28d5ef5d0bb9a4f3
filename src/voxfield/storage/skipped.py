"""What was left out of something larger, and why."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """A picture or file that was left out."""

    path: str
    """The picture as the capture names it, or the file as its source does."""
    reason: str
    """Why, in words that say what to do where something can be done."""
