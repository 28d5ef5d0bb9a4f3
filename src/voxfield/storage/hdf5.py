"""Reading HDF5 files of others: what is damaged is said in one way, and nothing leads to another file."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from voxfield.errors import FormatError, MissingFileError, VoxfieldError


@contextmanager
def hdf5_faults(name: object, advice: str) -> Iterator[None]:
    """Turn what the library raises inside into errors about ``name``, which end with ``advice``.

    Raises:
        MissingFileError: there is no such file.
        FormatError: it is damaged or cut short.
    """
    try:
        yield
    except VoxfieldError:
        raise
    except FileNotFoundError as error:
        raise MissingFileError(f"{name}: no such file.") from error
    except MemoryError as error:
        raise FormatError(f"{name}: needs more memory than there is; is it damaged?") from error
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError, OverflowError) as error:
        said = " ".join(str(error).split())[:150] or type(error).__name__
        raise FormatError(f"{name}: cannot be read ({said}): it is damaged or half-written. {advice}") from error


def item_inside(path: Path, file: Any, name: str) -> Any:
    """A dataset or group, if it lies in this file and nowhere else.

    Raises:
        FormatError: there is none of that name, or it leads to another file.
    """
    import h5py

    walked = file
    for part in name.strip("/").split("/"):
        if not isinstance(walked, h5py.Group) or part not in walked:
            raise FormatError(f"{path}: holds no {name!r}.")
        if isinstance(walked.get(part, getlink=True), h5py.ExternalLink):
            raise FormatError(f"{path}: {name!r} is a link to another file, which is not followed. Copy it in.")
        walked = walked[part]
    if isinstance(walked, h5py.Dataset) and (walked.external or walked.is_virtual):
        raise FormatError(f"{path}: {name!r} lies in other files, which are not read. Copy it in.")
    return walked
