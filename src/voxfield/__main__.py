"""``python -m voxfield``: the ``voxfield`` command, for launchers that start modules, as ``torchrun`` does."""

from voxfield.cli.__main__ import run

if __name__ == "__main__":
    run()
