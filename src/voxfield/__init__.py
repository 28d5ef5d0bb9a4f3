"""Voxfield: radiance fields, voxel datasets and sparse volumes, on any device.

The public calls are attributes of this package and load on first use, so that ``import voxfield`` stays quick:

    run = voxfield.train("grid-ngp", "path/to/capture")
    run.evaluate()
    run.render_path("orbit")
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from voxfield.api import Run as Run
    from voxfield.api import convert_capture as convert_capture
    from voxfield.api import download_eyefultower as download_eyefultower
    from voxfield.api import make_multiscale as make_multiscale
    from voxfield.api import open as open  # noqa: A004  (the public name reads voxfield.open)
    from voxfield.api import process_photos as process_photos
    from voxfield.api import train as train

__version__ = "0.1.0"

_PUBLIC = ("Run", "convert_capture", "download_eyefultower", "make_multiscale", "open", "process_photos", "train")

__all__ = [
    "Run",
    "__version__",
    "convert_capture",
    "download_eyefultower",
    "make_multiscale",
    "open",
    "process_photos",
    "train",
]


def __getattr__(name: str) -> Any:
    """Load a public call from ``voxfield.api`` on first use (PEP 562)."""
    if name in _PUBLIC:
        # import_module: a plain "from voxfield import api" would come back here while api is still loading.
        import importlib

        return getattr(importlib.import_module("voxfield.api"), name)
    raise AttributeError(f"module 'voxfield' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
