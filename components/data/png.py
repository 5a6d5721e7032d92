"""A PNG writer whose bytes depend on the pixels alone, not on the version of any compression library."""

from __future__ import annotations

import struct
import zlib

import numpy as np
from numpy.typing import NDArray

from components.errors import DataError

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_STORED_BLOCK = 65_535


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """Return pixels, (H, W) grey or (H, W, 3) RGB uint8, as an uncompressed PNG.

    The bytes identify the image (by their SHA-256), so they may not change with a zlib release; stored blocks cannot.
    Raises DataError for another shape or type.
    """
    if pixels.dtype != np.uint8 or not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)):
        raise DataError(f"pixels of shape {pixels.shape} and type {pixels.dtype}; expected uint8 (H, W) or (H, W, 3)")
    height, width = pixels.shape[:2]
    rows = np.zeros((height, 1 + pixels[0].size if height else 1), np.uint8)  # each row starts with filter type 0
    rows[:, 1:] = pixels.reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 8, 2 if pixels.ndim == 3 else 0, 0, 0, 0)
    return b"".join(
        (_SIGNATURE, _chunk(b"IHDR", header), _chunk(b"IDAT", _stored(rows.tobytes())), _chunk(b"IEND", b""))
    )


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(body, zlib.crc32(kind)))


def _stored(content: bytes) -> bytes:
    """Return a zlib stream (RFC 1950, 1951) of stored blocks."""
    parts = [b"\x78\x01"]
    for start in range(0, len(content), _STORED_BLOCK):
        block = content[start : start + _STORED_BLOCK]
        last = start + _STORED_BLOCK >= len(content)
        parts += [struct.pack("<BHH", last, len(block), len(block) ^ 0xFFFF), block]
    parts.append(struct.pack(">I", zlib.adler32(content)))
    return b"".join(parts)
