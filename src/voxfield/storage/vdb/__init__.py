"""OpenVDB files: `read_vdb` and `write_vdb`, and `VdbFile` to look into one and load grids one by one."""

from voxfield.storage.vdb.grid import VdbGrid
from voxfield.storage.vdb.reader import VdbFile, VdbHeader, read_vdb
from voxfield.storage.vdb.writer import write_vdb, writing_vdb

__all__ = ["VdbFile", "VdbGrid", "VdbHeader", "read_vdb", "write_vdb", "writing_vdb"]
