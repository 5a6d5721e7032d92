"""Files that were brought in before, known again without reading them: by path, size, and when they last changed.

What git does with its index. The time of change (ctime) is set by the system and by nobody else, so a file that was
written to since, even one whose time was set back, is read again.
"""

from __future__ import annotations

import hashlib
import logging
import os
import struct
import time
from pathlib import Path

import numpy as np

from components.data.files import publish, unpublished

STAMP_BYTES = 16
RACY_NS = 2_000_000_000
"""A file that changed so recently could change again without its times telling."""

_SEEN = np.dtype([("stamp", f"S{STAMP_BYTES}"), ("image_id", "u1", 32)])
_STATUS = struct.Struct("<QqqQQ")

logger = logging.getLogger(__name__)


def stamp(name: str, status: os.stat_result) -> bytes | None:
    """Return what tells this state of a file from any other, STAMP_BYTES long; None where its times cannot."""
    if time.time_ns() - max(status.st_ctime_ns, status.st_mtime_ns) < RACY_NS:
        return None
    packed = _STATUS.pack(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev)
    return hashlib.blake2b(packed + name.encode("utf-8", "surrogateescape"), digest_size=STAMP_BYTES).digest()


def stamp_within(outer: bytes, name: str) -> bytes:
    """Return the stamp of a file within an archive, from the archive's own."""
    return hashlib.blake2b(outer + name.encode("utf-8", "surrogateescape"), digest_size=STAMP_BYTES).digest()


class SeenFiles:
    """The image ids of files met before, by stamp: 48 bytes a file. Kept in one file, which may be deleted any time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = _read(path)
        self._met: dict[bytes, bytes] = {}

    def find(self, stamp: bytes) -> str | None:
        """Return the id of the image that the file with this stamp held, or None where it has to be read."""
        place = int(self._seen["stamp"].searchsorted(stamp))
        if place < len(self._seen) and self._seen["stamp"][place] == stamp.rstrip(b"\0"):
            held: bytes = self._seen["image_id"][place].tobytes()
            return held.hex()
        return None

    def note(self, stamp: bytes, image_id: str) -> None:
        """Remember which image a file held."""
        self._met[stamp] = bytes.fromhex(image_id)

    def save(self) -> None:
        """Write what was met this time, and nothing else: what is gone from the source is forgotten."""
        if not self._met and not len(self._seen):
            return
        seen = np.zeros(len(self._met), _SEEN)
        seen["stamp"] = list(self._met)
        seen["image_id"] = np.frombuffer(b"".join(self._met.values()), np.uint8).reshape(-1, 32)
        with unpublished(self._path.parent) as (file, temporary):
            np.save(file, seen[np.argsort(seen["stamp"])], allow_pickle=False)
            publish(file, temporary, self._path)


def seen_path(cache: Path, spec: str) -> Path:
    """Return where the files of the source called `spec` are remembered."""
    if "://" not in spec:
        spec = str(Path(spec).expanduser().resolve())
    return cache / "seen" / f"{hashlib.sha256(spec.encode()).hexdigest()[:32]}.npy"


def _read(path: Path) -> np.ndarray:
    try:
        seen = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        return np.zeros(0, _SEEN)
    except (OSError, ValueError, EOFError) as error:
        logger.warning("%s is damaged (%s); every file of the source is read again", path, error)
        return np.zeros(0, _SEEN)
    return seen if seen.dtype == _SEEN and seen.ndim == 1 else np.zeros(0, _SEEN)
