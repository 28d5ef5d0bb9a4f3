"""Python values as the types JSON has, for logs and results that must always be writable."""

import math
import os
from collections.abc import Mapping
from typing import Any


def json_values(value: Any) -> Any:
    """``value`` in the types JSON has. Never raises for content: a log line must not stop a run.

    Mappings become dictionaries with text keys, sequences become lists, tensors and numpy values become numbers or
    lists, paths become text, NaN and infinities become None (JSON has none), anything else becomes its text.
    """
    if isinstance(value, Mapping):
        return {str(key): json_values(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [json_values(item) for item in value]
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):  # tensors and numpy values of any shape
        return json_values(value.tolist())
    return str(value)
