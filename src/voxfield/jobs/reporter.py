"""What a long job tells the person who waits for it. `voxfield.training.progress.Progress` is a reporter."""

from contextlib import AbstractContextManager
from typing import Protocol


class Stage(Protocol):
    """Work made of like pieces."""

    def advance(self, count: int = 1, note: str = "") -> None:
        """Say that ``count`` more pieces are done; ``note`` is shown beside them."""


class Reporter(Protocol):
    """Shows lines and stages."""

    def say(self, message: str) -> None:
        """Write a line that stays."""

    def stage(self, description: str, total: int, unit: str = "") -> AbstractContextManager[Stage]:
        """Show work made of ``total`` pieces."""
