"""The class list's past beside the manifest: every change in order, committed as JSON, and names for people to read.

The images that a split lists are many, so they lie in a Parquet file of their own that DVC versions with the data.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from components.data.files import publish, unpublished
from components.data.ingestion.class_changes import (
    Add,
    ClassChange,
    Merge,
    Rename,
    Split,
    name_in_use,
    outcomes,
)
from components.data.versioning.git import git
from components.errors import ConfigurationError, IntegrityError, ServiceError

HISTORY_FILE = "classes.json"
SPLITS_FILE = "class_splits.parquet"
LONGEST_DISPLAY_NAME = 100

_JOINERS = "\u200c\u200d"
_SPLITS = pa.schema(
    [
        pa.field("change", pa.int32(), False),
        pa.field("image_id", pa.string(), False),
        pa.field("class", pa.string(), False),
    ]
)


@dataclass(frozen=True, slots=True)
class ClassHistory:
    """Every change of the class list, oldest first, and the display names of classes that have one.

    log: of each change, when it was made and by whom.
    """

    changes: tuple[ClassChange, ...] = ()
    log: tuple[Mapping[str, str], ...] = ()
    display: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, manifest: Path, *, images: bool = True) -> ClassHistory:
        """Return the history beside the manifest at `manifest`, an empty one where nothing was ever changed.

        images: also the images that splits list; their file must be there. Raises IntegrityError if one is damaged.
        """
        path = manifest.with_name(HISTORY_FILE)
        try:
            return cls.parse(path.read_text(encoding="utf-8"), manifest.with_name(SPLITS_FILE) if images else None)
        except FileNotFoundError:
            return cls()
        except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
            raise IntegrityError(f"{path} or {SPLITS_FILE} beside it is damaged ({error!r}); restore it") from error

    @classmethod
    def parse(cls, text: str, splits: Path | None = None) -> ClassHistory:
        """Return the history that `write` wrote. splits: the file of the listed images, where they are wanted."""
        content = json.loads(text)
        entries = content["changes"]
        listed: dict[int, dict[str, str]] = {}
        if splits is not None and any(entry["kind"] == "split" for entry in entries):
            table = pq.read_table(splits)
            for number, image_id, name in zip(*(table[c].to_pylist() for c in _SPLITS.names), strict=True):
                listed.setdefault(number, {})[image_id] = name
        return cls(
            tuple(_change(entry, listed.get(number, {})) for number, entry in enumerate(entries)),
            tuple({"at": entry["at"], "by": entry["by"]} for entry in entries),
            dict(content["display"]),
        )

    def write(self, manifest: Path) -> None:
        """Store the history beside the manifest, the listed images only where a split lists any."""
        entries = [{**_entry(change), **log} for change, log in zip(self.changes, self.log, strict=True)]
        content = {"changes": entries, "display": dict(sorted(self.display.items()))}
        text = json.dumps(content, ensure_ascii=False, indent=1) + "\n"
        splits = [(number, change) for number, change in enumerate(self.changes) if isinstance(change, Split)]
        if splits:
            rows = [(number, *one) for number, change in splits for one in sorted(change.images.items())]
            columns = list(zip(*rows, strict=True)) or [(), (), ()]
            table = pa.table([pa.array(c, f.type) for c, f in zip(columns, _SPLITS, strict=True)], schema=_SPLITS)
            with unpublished(manifest.parent) as (file, temporary):
                pq.write_table(table, file, compression="zstd")
                publish(file, temporary, manifest.with_name(SPLITS_FILE))
        with unpublished(manifest.parent) as (file, temporary):
            file.write(text.encode())
            publish(file, temporary, manifest.with_name(HISTORY_FILE))

    def after(self, change: ClassChange, *, now: datetime, by: str) -> ClassHistory:
        """Return the history with one change more; display names go where their class went.

        Raises ConfigurationError for a name that meant something else before.
        """
        for name in _new_names(change):
            obstacle = name_in_use(name, change, self.changes)
            if obstacle is not None:
                raise ConfigurationError(obstacle)
        log = {"at": now.isoformat(timespec="seconds"), "by": by}
        return ClassHistory((*self.changes, change), (*self.log, log), _display_after(self.display, change))

    def displayed(self, name: str, shown: str) -> ClassHistory:
        """Return the history with `shown` as the display name of a class; "" takes it away.

        Raises ConfigurationError for one that is too long or holds control characters.
        """
        kept = {one: text for one, text in self.display.items() if one != name}
        return replace(self, display=kept | ({name: checked_display_name(shown)} if shown else {}))


def checked_display_name(shown: str) -> str:
    """Return a display name in Unicode NFC, which whoever shows it escapes. Raises ConfigurationError if unusable."""
    normal = unicodedata.normalize("NFC", shown.strip())
    if not normal or len(normal) > LONGEST_DISPLAY_NAME:
        raise ConfigurationError(
            f"display name of {len(normal)} characters: it needs one, and at most {LONGEST_DISPLAY_NAME}; shorten it"
        )
    if not all(c.isprintable() or c in _JOINERS for c in normal):
        raise ConfigurationError(f"display name {normal!a} holds control characters; leave them out")
    return normal


def shown_name(name: str, display: Mapping[str, str]) -> str:
    """Return a class as people read it: its display name with the name that identifies it, or that alone."""
    return f"{display[name]} ({name})" if name in display else name


def changes_at(root: Path, version: str, manifest: str) -> int | None:
    """Return how many changes the dataset version `version` of the repository at `root` knows, None if it is unknown.

    manifest: path of the manifest in the repository.
    """
    tag, path = f"refs/tags/{version}", Path(manifest).with_name(HISTORY_FILE).as_posix()
    try:
        git("rev-parse", "--verify", "--quiet", tag, cwd=root)
    except ServiceError:
        return None
    if not git("ls-tree", "--name-only", tag, path, cwd=root):
        return 0
    return len(ClassHistory.parse(git("show", f"{tag}:{path}", cwd=root)).changes)


def _new_names(change: ClassChange) -> tuple[str, ...]:
    match change:
        case Add(name):
            return (name,)
        case Rename(_, new):
            return (new,)
        case Merge(sources, into):
            return () if into in sources else (into,)
        case Split(name, parts, rest):
            return tuple(part for part in outcomes(parts, rest) if part != name)


def _display_after(display: Mapping[str, str], change: ClassChange) -> dict[str, str]:
    match change:
        case Rename(old, new):
            return {(new if name == old else name): shown for name, shown in display.items()}
        case Merge(sources, into):
            return {name: shown for name, shown in display.items() if name == into or name not in sources}
        case Split(name, parts, rest) if name not in outcomes(parts, rest):
            return {one: shown for one, shown in display.items() if one != name}
        case _:
            return dict(display)


def _entry(change: ClassChange) -> dict[str, Any]:
    match change:
        case Add(name):
            return {"kind": "add", "name": name}
        case Rename(old, new):
            return {"kind": "rename", "old": old, "new": new}
        case Merge(sources, into):
            return {"kind": "merge", "sources": list(sources), "into": into}
        case Split(name, parts, rest, images):
            return {"kind": "split", "name": name, "parts": list(parts), "rest": rest, "listed": len(images)}


def _change(entry: Mapping[str, Any], images: Mapping[str, str]) -> ClassChange:
    match entry["kind"]:
        case "add":
            return Add(entry["name"])
        case "rename":
            return Rename(entry["old"], entry["new"])
        case "merge":
            return Merge(tuple(entry["sources"]), entry["into"])
        case "split":
            return Split(entry["name"], tuple(entry["parts"]), entry["rest"], images)
        case kind:
            raise ValueError(f"change of kind {kind!r}")
