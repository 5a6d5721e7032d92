"""One file as a source gives it, before anything is believed about it."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePosixPath

# Folder names of the shapes train/CLASS/FILE and test/CLASS/FILE; we make our own splits, so they carry no meaning.
_SPLIT_FOLDERS = frozenset({"train", "training", "val", "valid", "validation", "dev", "test", "testing"})
_IGNORED = frozenset({"__macosx", "thumbs.db", "desktop.ini"})


@dataclass(frozen=True, slots=True)
class SourceItem:
    """One file of a source. `problem` is a rule that set it aside unread: `content` is then empty.

    name: relative, with "/" between parts, printable. label: as given, or None. group: the source's own group.
    label_origin: given | consensus | corrected. window and model_version: of the prediction that people labelled.
    problem: unsafe-path | missing-file | symlink | too-many-bytes | unreadable.
    """

    name: str
    content: bytes
    label: str | None = None
    group: str | None = None
    captured_at: datetime | None = None
    label_origin: str = "given"
    labelled_by: str | None = None
    window: str | None = None
    model_version: int | None = None
    problem: str | None = None


def printable(text: str) -> str:
    """Return `text` with control characters and undecodable bytes written as escapes: databases refuse them."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def unsafe_path(name: str) -> bool:
    """Return whether a relative file name could leave its folder, or hide what it is: absolute, "..", NUL, drive."""
    parts = name.replace("\\", "/").split("/")
    drive = len(parts[0]) == 2 and parts[0].endswith(":")
    return not name or "\x00" in name or drive or parts[0] in ("", "~") or ".." in parts


def ignored(name: str) -> bool:
    """Return whether a file belongs to a desktop or a version control system: hidden files and the like."""
    return any(
        (part.startswith(".") and part not in (".", "..")) or part.lower() in _IGNORED for part in name.split("/")
    )


class Layout:
    """The label each file of a folder or an archive gets from its place.

    The label is the first folder in the name; a file that lies in no folder has none. Folders named train, val, test
    (all of the outermost ones, with folders inside) are passed over; so is, where `unwrap`, a single folder around
    everything, as archives often have.
    """

    def __init__(self, names: list[str], *, unwrap: bool = False) -> None:
        folders = {PurePosixPath(name).parts[:-1] for name in names}
        self._skip = 0
        if unwrap and self._nested(folders, 0) and len({parts[0] for parts in folders}) == 1:
            self._skip = 1
        outermost = {parts[self._skip].lower() for parts in folders if len(parts) > self._skip}
        if self._nested(folders, self._skip) and outermost <= _SPLIT_FOLDERS:
            self._skip += 1

    def label(self, name: str) -> str | None:
        """Return the label of the file called `name`, normalised to Unicode NFC."""
        parts = PurePosixPath(name).parts
        return unicodedata.normalize("NFC", parts[self._skip]) if len(parts) > self._skip + 1 else None

    @staticmethod
    def _nested(folders: set[tuple[str, ...]], depth: int) -> bool:
        """Return whether every file lies in a folder at `depth`, in a further one at that."""
        return bool(folders) and all(len(parts) > depth + 1 for parts in folders)
