"""Which label a file gets from the folder it lies in."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

# Folder names of the shapes train/CLASS/FILE and test/CLASS/FILE; we make our own splits, so they carry no meaning.
_SPLIT_FOLDERS = frozenset({"train", "training", "val", "valid", "validation", "dev", "test", "testing"})

Folder = tuple[str, ...]


def folder_of(name: str) -> Folder:
    """Return the folders that the file called `name` lies in, outermost first, without "." and empty parts."""
    inside, slash, _ = name.rpartition("/")
    return tuple(part for part in inside.split("/") if part not in ("", ".")) if slash else ()


class Layout:
    """The label that the files of each folder get from its place.

    The label is the first folder; a file that lies in no folder has none. Folders named train, val, test (all of the
    outermost ones, with folders inside) are passed over; so is, where `unwrap`, a single folder around everything, as
    archives often have, and in any case one around nothing but train, val, test.
    """

    def __init__(self, folders: Iterable[Folder], *, unwrap: bool = False) -> None:
        known = set(folders)
        wrapped = _nested(known, 0) and len({folder[0] for folder in known}) == 1
        self.wrapper = known and next(iter(known))[0] if wrapped and (unwrap or _splits(known, 1)) else None
        self.skip = 1 if self.wrapper else 0
        self.split_folders = _split_names(known, self.skip)
        self.skip += _splits(known, self.skip)

    def label(self, folder: Folder) -> str | None:
        """Return the label of the files in `folder`, normalised to Unicode NFC."""
        return unicodedata.normalize("NFC", folder[self.skip]) if len(folder) > self.skip else None

    def holds_lists(self, folder: Folder) -> bool:
        """Return whether a list of images in `folder` speaks for it: the outermost one, or a split's."""
        top = folder[1:] if self.wrapper and folder[:1] == (self.wrapper,) else folder
        return not top or (len(top) == 1 and top[0] in self.split_folders)


def _nested(folders: set[Folder], depth: int) -> bool:
    """Return whether every file lies in a folder at `depth`, in a further one at that."""
    return bool(folders) and all(len(folder) > depth + 1 for folder in folders)


def _split_names(folders: set[Folder], depth: int) -> frozenset[str]:
    """Return the folders at `depth` if all of them are named like splits, else none."""
    names = frozenset(folder[depth] for folder in folders if len(folder) > depth)
    return names if {name.lower() for name in names} <= _SPLIT_FOLDERS else frozenset()


def _splits(folders: set[Folder], depth: int) -> bool:
    return _nested(folders, depth) and bool(_split_names(folders, depth))
