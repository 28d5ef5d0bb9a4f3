"""The public calls: train a field, open a run, measure, render and report on it. The command line calls only these."""

from voxfield.api.captures import convert_capture, download_eyefultower, process_photos
from voxfield.api.runs import Run, machine, open  # noqa: A004  (the public name reads voxfield.open)
from voxfield.api.shapes import build_shapes, convert_shapes, split_shapes, trace_shapes, verify_shapes
from voxfield.api.training import train

__all__ = [
    "Run",
    "build_shapes",
    "convert_capture",
    "convert_shapes",
    "download_eyefultower",
    "machine",
    "open",
    "process_photos",
    "split_shapes",
    "trace_shapes",
    "train",
    "verify_shapes",
]
