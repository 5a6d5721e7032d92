"""Which of the files that were set aside a person means."""

from __future__ import annotations

import re
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from components.data.sources.item import printable
from components.errors import ConfigurationError

LEAST_DIGITS = 6
_DIGITS = re.compile(r"[0-9a-fA-F]{6,64}")


def filtered(table: pa.Table, *, reason: str | None = None, state: str | None = None) -> pa.Table:
    """Return the entries with this reason and this state; None: with any."""
    for column, wanted in (("reason", reason), ("state", state)):
        if wanted is not None:
            table = table.filter(pc.equal(table[column], wanted))
    return table


def called(table: pa.Table, text: str) -> list[dict[str, Any]]:
    """Return the entries about the one file that `text` names: its image id, six digits or more of it, or its name.

    Raises ConfigurationError where several files are meant; returns nothing where none is.
    """
    found = table.slice(0, 0)
    if _DIGITS.fullmatch(text):
        found = table.filter(pc.fill_null(pc.starts_with(table["image_id"], text.lower()), False))
    if not found.num_rows:
        found = table.filter(pc.equal(table["name"], text))
    entries: list[dict[str, Any]] = found.to_pylist()
    files = sorted({entry["image_id"] or f"one of {entry['source']}, not read" for entry in entries})
    if len(files) > 1:
        shown = ", ".join(files[:5]) + (f" and {len(files) - 5} more" if len(files) > 5 else "")
        raise ConfigurationError(f"{printable(text)!r} names {len(files)} files: {shown}; say more digits, or an id")
    return entries


def counts(table: pa.Table) -> list[dict[str, Any]]:
    """Return how many files there are of each state and reason, most first."""
    rows = table.group_by(["state", "reason"]).aggregate([([], "count_all")]).to_pylist()
    told = [{"state": row["state"], "reason": row["reason"], "files": row["count_all"]} for row in rows]
    return sorted(told, key=lambda row: (-row["files"], row["state"], row["reason"]))
