"""The errors Voxfield raises on purpose.

Each is also the built-in a caller would expect, so ``except ValueError`` keeps working. A message says what was
expected, what came (name, shape, path) and what to do. The command line prints them without a traceback and exits 2.
"""


class VoxfieldError(Exception):
    """Base of every error raised on purpose: catching it catches all of them."""


class InputError(VoxfieldError, ValueError):
    """A value given by the caller does not fit the contract of the function, option or tensor."""


class FormatError(VoxfieldError, ValueError):
    """A file exists but does not hold what its format promises."""


class VolumeFormatError(FormatError):
    """A volume's file (OpenVDB and what is built on it) is cut short, damaged, of another kind or version."""


class MissingFileError(VoxfieldError, FileNotFoundError):
    """A file or folder that was named does not exist."""

    def __str__(self) -> str:
        # FileNotFoundError prints errno fields when given several arguments; the message alone is wanted here.
        return str(self.args[0]) if self.args else ""


class DiskFullError(VoxfieldError, OSError):
    """There is no room to write a file; what was there before stays."""

    def __str__(self) -> str:
        # As MissingFileError: the message alone is wanted.
        return str(self.args[0]) if self.args else ""


class MissingExtraError(VoxfieldError, ImportError):
    """An optional dependency is needed: the message names the extra that installs it."""


class UnavailableError(VoxfieldError, RuntimeError):
    """A device, kernel or precision was asked for that this machine cannot run."""


class TrainingDivergedError(VoxfieldError, ArithmeticError):
    """The loss became NaN or infinite; the last good checkpoint was kept."""


class LostRankError(VoxfieldError, ConnectionError):
    """Another process of a training on several is gone, or never came."""

    def __str__(self) -> str:
        # As MissingFileError: the message alone is wanted.
        return str(self.args[0]) if self.args else ""


class TransferError(VoxfieldError, OSError):
    """A remote source cannot be reached, or refuses: nothing could be listed or fetched."""

    def __str__(self) -> str:
        # As MissingFileError: the message alone is wanted.
        return str(self.args[0]) if self.args else ""
