"""How options are read and shown: places that may be URLs, and options that may be left out."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tyro.conf import arg
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

if TYPE_CHECKING:
    LocalPath = Path
else:
    # The class of paths on this system, which Path itself stands in for.
    LocalPath = type(Path())


class Address(LocalPath):
    """A URL in the place of a path: as text it keeps the ``//`` that a path would lose."""

    def __str__(self) -> str:
        return super().__str__().replace(":/", "://", 1)


def optional(metavar: str) -> Any:
    """Metadata of an option that may be left out: its metavar, and no default, as "None" would say nothing."""
    return arg(metavar=metavar, help_behavior_hint="")


def places() -> ConstructorRegistry:
    """What makes paths of words, and addresses of URLs."""
    registry = ConstructorRegistry()

    @registry.primitive_rule
    def place(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Path] | None:
        if info.type is not Path:
            return None
        return PrimitiveConstructorSpec(
            nargs=1,
            metavar="PATH",
            instance_from_str=lambda words: Address(words[0]) if "://" in words[0] else Path(words[0]),
            is_instance=lambda value: isinstance(value, Path),
            str_from_instance=lambda value: [str(value)],
        )

    return registry
