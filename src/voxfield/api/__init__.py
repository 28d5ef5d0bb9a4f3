"""The public calls: train a field, open a run, measure, render and report on it. The command line calls only these."""

from voxfield.api.captures import convert_capture, download_eyefultower, make_multiscale, process_photos
from voxfield.api.runs import Run, machine, open  # noqa: A004  (the public name reads voxfield.open)
from voxfield.api.training import train

__all__ = [
    "Run",
    "convert_capture",
    "download_eyefultower",
    "machine",
    "make_multiscale",
    "open",
    "process_photos",
    "train",
]
