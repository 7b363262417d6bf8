"""What ArviZ holds as the bytes of a NetCDF file, made in memory.

HDF5 writes a file in many pieces and ends the process where the disk is full, so that it is not given one.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

__all__ = ["netcdf_bytes"]


def netcdf_bytes(found: Any) -> bytes:
    """An InferenceData (ArviZ 0.x) or DataTree (1.x) as the bytes of a compressed NetCDF file."""
    try:
        from xarray import DataTree

        tree = found
        if not isinstance(found, DataTree):
            tree = DataTree.from_dict({group: found[group] for group in found.groups()})
            tree.attrs.update(found.attrs)
        # what numpy calls kinds: text cannot be compressed
        encoding = {
            node.path: {n: {"zlib": True} for n, v in node.data_vars.items() if v.dtype.kind in "biuf"}
            for node in tree.subtree
        }
        return bytes(tree.to_netcdf(encoding={path: each for path, each in encoding.items() if each}))
    except (ImportError, TypeError, NotImplementedError):  # xarray before it wrote to memory
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "draws.nc"
            found.to_netcdf(str(file))
            return file.read_bytes()
