"""Compressed volumes: grids within a stated error of what they were, many times smaller than in OpenVDB files."""

from voxfield.storage.compressed.layout import is_compressed
from voxfield.storage.compressed.reader import CompressedFile, CompressedGrid, CompressedHeader, read_compressed
from voxfield.storage.compressed.settings import CompressionConfig
from voxfield.storage.compressed.writer import CompressedGridReport, write_compressed

__all__ = [
    "CompressedFile",
    "CompressedGrid",
    "CompressedGridReport",
    "CompressedHeader",
    "CompressionConfig",
    "is_compressed",
    "read_compressed",
    "write_compressed",
]
