"""One file as a source gives it, before anything is believed about it."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache

Content = tuple[bytes, str | None]
"""A file's bytes and None, or no bytes and the problem that set it aside."""

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".gif", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm")

LONGEST_ANNOTATOR = 200

_JOINERS = "\u200c\u200d"  # invisible, and part of ordinary words in Persian, Hindi and others
_IGNORED = frozenset({"__macosx", "thumbs.db", "desktop.ini"})


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a file came from. spec and columns: what opens its source again; None where nothing does."""

    source: str
    spec: str | None = None
    columns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SourceItem:
    """One file of a source. `problem` is a rule that set it aside unread: `content` is then empty.

    name: relative, with "/" between parts, printable. label: as given, or None. group: the source's own group.
    label_origin: given | consensus | corrected. window and model_version: of the prediction that people labelled.
    problem: unsafe-path | missing-file | symlink | too-many-bytes | unreadable | nested-archive, and of a list's row
    empty-path | bad-row | bad-label | bad-time | bad-annotator | no-annotator. stamp: what tells this state of the file
    from any other. image_id: of a file that was met before in this state and was therefore not read; `again` reads it.
    origin: where it came from, if not from the source that is being read. annotator: who gave the label, where the
    source tells; a file then comes once for each opinion about it. no_class: people say that the stored image
    `image_id` shows none of the classes; there is no label then.
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
    stamp: bytes | None = None
    image_id: str | None = None
    read: Callable[[], Content] | None = None
    origin: Origin | None = None
    annotator: str | None = None
    no_class: bool = False

    def again(self) -> SourceItem:
        """Return the file, read; only before the next one is taken from the source."""
        content, problem = self.read() if self.read is not None else (self.content, self.problem)
        return replace(self, content=content, problem=problem, image_id=None, read=None)


@dataclass(frozen=True, slots=True)
class SourceEntry:
    """One file of a source, listed and not read. size: in bytes, None where the listing does not tell.

    read: gives its content; good until the next entry is taken, or, where it is `apart`, any time and in any thread.
    look: tells (size, problem) without reading, for files that a list names and nobody has looked at yet. The other
    fields are those of SourceItem.
    """

    name: str
    read: Callable[[], Content]
    size: int | None = None
    label: str | None = None
    group: str | None = None
    captured_at: datetime | None = None
    problem: str | None = None
    look: Callable[[], tuple[int | None, str | None]] | None = None
    stamp: bytes | None = None
    annotator: str | None = None
    apart: bool = False

    def known(self, find: Callable[[bytes], str | None] | None) -> str | None:
        """Return the image that `find` knows a file with this stamp held, if any."""
        return find(self.stamp) if find is not None and self.stamp is not None and self.problem is None else None

    def item(self, find: Callable[[bytes], str | None] | None = None) -> SourceItem:
        """Return the file, read, unless `find` knows the image that a file with its stamp held."""
        image_id = self.known(find)
        if image_id is not None:
            content, problem, read = b"", None, self.read
        else:
            (content, problem), read = self.read() if self.problem is None else (b"", self.problem), None
        return SourceItem(
            self.name, content, self.label, self.group, self.captured_at,
            problem=problem, stamp=self.stamp, image_id=image_id, read=read, annotator=self.annotator,
        )  # fmt: skip


def nothing_to_read() -> Content:
    """Return what a file that was set aside unread has for content; its entry's `problem` says why."""
    return b"", "unreadable"


def printable(text: str) -> str:
    """Return `text` with control characters and undecodable bytes written as escapes: databases refuse them."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


@lru_cache(4096)
def annotator_name(text: str) -> str:
    """Return an annotator's name in Unicode NFC. Raises ValueError for an empty, long or unprintable one.

    HTML and quotes are text like any other; whoever shows a name escapes it.
    """
    normal = unicodedata.normalize("NFC", text.strip())
    if not normal or len(normal) > LONGEST_ANNOTATOR:
        raise ValueError(f"a name of {len(normal)} characters")
    if not all(c.isprintable() or c in _JOINERS for c in normal):
        raise ValueError("a name with control characters")
    return normal


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


def looks_like_image(name: str) -> bool:
    """Return whether a file's suffix is that of an image; what it really is, decoding tells."""
    return name.lower().endswith(IMAGE_SUFFIXES)
