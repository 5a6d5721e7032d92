"""Room for the pixels of many images: memory, or a file where they would take too much of it."""

from __future__ import annotations

import math
import os
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from components.data.files import naming_a_full_disk

SHARE = 0.25
"""Of the free memory that one set of images may take; a training holds two or three sets at a time."""

ROWS_AT_ONCE = 4096

UInt8Array = NDArray[np.uint8]


def room_for(number: int, size: int, channels: int) -> UInt8Array:
    """Return an array (number, size, size, channels) uint8 to be filled.

    One that would take more than a quarter of the free memory lies in a file of the working folder, which has no name
    and is gone with the array or the process; the system keeps in memory what there is memory for. Raises NoSpaceError
    where the disk has no room for it either.
    """
    import psutil  # here: scorers never need it

    shape = (number, size, size, channels)
    if math.prod(shape) <= SHARE * psutil.virtual_memory().available:
        return np.empty(shape, np.uint8)
    folder = Path.cwd()
    with naming_a_full_disk(folder), tempfile.TemporaryFile(dir=folder) as file:
        os.posix_fallocate(file.fileno(), 0, math.prod(shape))  # else a full disk would kill the process later
        return np.memmap(file, np.uint8, "r+", shape=shape)


def some_of(images: UInt8Array, rows: NDArray[np.int64] | NDArray[np.bool_]) -> UInt8Array:
    """Return the images (N, size, size, channels) of some rows, by index or by mask. Raises as `room_for`."""
    if not isinstance(images, np.memmap):
        return images[rows]
    places = np.flatnonzero(rows) if rows.dtype == np.bool_ else rows
    found = room_for(len(places), images.shape[1], images.shape[3])
    for start in range(0, len(places), ROWS_AT_ONCE):
        some = places[start : start + ROWS_AT_ONCE]
        found[start : start + len(some)] = images[some]
    return found
