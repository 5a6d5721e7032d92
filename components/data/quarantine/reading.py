"""The bytes of files that were set aside: as they were kept, else from the source they came from, if it has them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from components.data.decoding.decode import ImageLimits
from components.data.quarantine.kept_bytes import KeptBytes
from components.data.sources.columns import ColumnNames
from components.data.sources.opening import list_source
from components.errors import PerennialError

Entry = dict[str, Any]
Refuse = Callable[[Entry, str], None]


def read_files(
    entries: Sequence[Entry],
    kept: KeptBytes,
    *,
    limits: ImageLimits,
    cache: Path,
    refuse: Refuse,
    several: bool = False,
) -> Iterator[tuple[Entry, bytes]]:
    """Yield each of the register's entries with its bytes, one file in memory at a time.

    Bytes that were read once must be those of then, by their SHA-256. refuse: told of each file that is not to be had,
    and why. several: lists say sets of labels.
    """
    elsewhere: dict[tuple[str, str], list[Entry]] = {}
    for entry in entries:
        content = kept.get(entry["image_id"]) if entry["kept"] else None
        if content is not None:
            yield entry, content
        elif entry["spec"] is None:
            refuse(entry, "its bytes were not kept, and where it came from is not known; ingest it again")
        else:
            elsewhere.setdefault((entry["spec"], entry["columns"]), []).append(entry)
    for (spec, columns), wanted in elsewhere.items():
        yield from _from_source(spec, columns, wanted, limits, cache, refuse, several)


def _from_source(
    spec: str, columns: str, wanted: Sequence[Entry], limits: ImageLimits, cache: Path, refuse: Refuse, several: bool
) -> Iterator[tuple[Entry, bytes]]:
    missing: dict[str, list[Entry]] = {}
    for entry in wanted:
        missing.setdefault(entry["name"], []).append(entry)
    why: dict[str, str] = {}
    try:
        names = ColumnNames.parse(json.loads(columns), several=several)
        for listed in list_source(spec, limits=limits, cache=cache, columns=names, fetch=False):
            if listed.name not in missing:
                continue
            content, problem = listed.read() if listed.problem is None else (b"", listed.problem)
            if problem is not None:
                why[listed.name] = f"{spec} cannot give it ({problem}); mend that and ingest it again"
                continue
            image_id = hashlib.sha256(content).hexdigest()
            why[listed.name] = f"{spec} has another file of its name now; ingest it again"
            for entry in [e for e in missing[listed.name] if e["image_id"] in (None, image_id)]:
                missing[listed.name].remove(entry)
                yield entry, content
            if not missing[listed.name]:
                del missing[listed.name]
            if not missing:
                return
    except PerennialError as error:  # the source went away; its files cost no other source's
        why = dict.fromkeys(missing, f"its bytes were not kept, and its source cannot be read: {error}")
    for name, entries in missing.items():
        for entry in entries:
            refuse(entry, why.get(name, f"its bytes were not kept, and {spec} has it no more; ingest it again"))
