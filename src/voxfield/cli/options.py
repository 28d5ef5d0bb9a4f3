"""How an option that may be left out looks in the help."""

from typing import Any

from tyro.conf import arg


def optional(metavar: str) -> Any:
    """Metadata of an option that may be left out: its metavar, and no default, as "None" would say nothing."""
    return arg(metavar=metavar, help_behavior_hint="")
