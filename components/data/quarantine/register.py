"""The register of files that ingests set aside, beside the manifest and versioned with it: what, why, and from where.

The manifest has a row for an image that is quarantined or held, and none for a file that was never read or whose label
contradicts a stored image. The register tells of all of them, and what a row has no room for.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from components.data.files import publish, unpublished
from components.data.manifest import Manifest
from components.data.sources.item import Origin
from components.errors import IntegrityError

REGISTER_FILE = "quarantine.parquet"
REGISTER_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string()),  # null where the file was not read
        pa.field("name", pa.string(), False),
        pa.field("source", pa.string()),
        pa.field("spec", pa.string()),  # what opens the source again, absolute; null where nothing does
        pa.field("columns", pa.string(), False),  # JSON: what its list calls its columns, as in ["label=species"]
        pa.field("state", pa.string(), False),  # quarantined | held
        pa.field("reason", pa.string(), False),
        pa.field("detail", pa.string(), False),
        pa.field("label", pa.string()),  # as given, under its name of today
        pa.field("group_id", pa.string()),  # the source's own
        pa.field("also_in", pa.string(), False),  # JSON: further groups that the source put the same bytes in
        pa.field("captured_at", pa.timestamp("us", tz="UTC")),
        pa.field("label_origin", pa.string()),
        pa.field("labelled_by", pa.string()),
        pa.field("window", pa.string()),
        pa.field("model_version", pa.int32()),
        pa.field("kept", pa.int64(), False),  # bytes that are kept of it
        pa.field("at", pa.timestamp("us", tz="UTC")),
        pa.field("settled_by", pa.string()),  # who decided that the stored label stays
    ]
)
CONTRADICTIONS = ("label-conflict", "frozen-test")
"""Reasons of files whose image is stored, under another label than theirs."""

LEAST_COUNTED = 4096
"""What a kept file counts at least, in bytes: a block of a disk."""

_SEPARATOR = "\x1f"
_ORDER = [(name, "ascending") for name in ("source", "name", "image_id", "label", "reason")]
_PART_ROWS = 16_384


class RegisterRows:
    """Rows on their way into the register, a bounded number of them as Python objects."""

    def __init__(self) -> None:
        self._parts: list[pa.Table] = []
        self._rows: list[dict[str, Any]] = []

    def add(self, row: dict[str, Any], origin: Origin) -> None:
        """Take one file; `row` lacks the cells that `origin` gives."""
        self._rows.append(
            {**row, "source": origin.source, "spec": origin.spec, "columns": json.dumps(list(origin.columns))}
        )
        if len(self._rows) >= _PART_ROWS:
            self._flush()

    def table(self) -> pa.Table:
        """Return all of them."""
        self._flush()
        return pa.concat_tables([REGISTER_SCHEMA.empty_table(), *self._parts])

    def _flush(self) -> None:
        if self._rows:
            self._parts.append(pa.Table.from_pylist(self._rows, REGISTER_SCHEMA))
            self._rows = []


@dataclass(frozen=True)
class Register:
    """All entries: of each image one for a reason (and label it came with), and one for each file that was not read."""

    table: pa.Table

    @classmethod
    def read(cls, manifest: Path) -> Register:
        """Return the register beside the manifest at `manifest`, an empty one where nothing was ever set aside.

        Raises IntegrityError if it is damaged.
        """
        path = register_path(manifest)
        try:
            table = pq.read_table(path)
        except FileNotFoundError:
            return cls(REGISTER_SCHEMA.empty_table())
        except (pa.ArrowException, OSError) as error:
            said = " ".join(str(error).split())
            raise IntegrityError(f"{path} cannot be read ({said}); restore it with `dvc checkout`") from error
        if not table.schema.remove_metadata().equals(REGISTER_SCHEMA):
            raise IntegrityError(f"{path} has columns {', '.join(table.schema.names)}; restore it with `dvc checkout`")
        return cls(table.replace_schema_metadata(None))

    def write(self, manifest: Path) -> None:
        """Store the register beside the manifest, whole or not at all; the same content gives the same bytes."""
        table = self.table.sort_by(_ORDER).combine_chunks()
        with unpublished(manifest.parent) as (file, temporary):
            pq.write_table(table, file, compression="zstd", version="2.6")
            publish(file, temporary, register_path(manifest))

    def after(self, met: pa.Table, manifest: Manifest, whole_source: str | None = None) -> Register:
        """Return the register after an ingest that set `met` aside and left `manifest`; self if it is as before.

        Entries that say the same as before, and settled ones, stay as they were, their time too; those whose image came
        in, was recalled or is set aside for another reason now are gone. whole_source: a source that was read to its
        end; its unread files of before are gone unless they were met again.
        """
        if not met.num_rows and not self.table.num_rows:
            return self
        met = met.take(_firsts(_keys(met)))
        if whole_source is None:
            met = self._as_they_came(met)
        known, keys = _keys(self.table), _keys(met)
        before = pc.index_in(keys, value_set=known)
        says = _digest(self.table).take(before)
        settled = pc.fill_null(pc.is_valid(self.table["settled_by"]).combine_chunks().take(before), False)
        same = pc.or_(pc.fill_null(pc.equal(_digest(met), says), False), settled)
        replaced = pc.is_in(known, value_set=keys.filter(pc.invert(same)))
        forgotten = pc.and_(
            pc.and_(
                pc.is_null(self.table["image_id"]), pc.equal(self.table["source"], pa.scalar(whole_source, pa.string()))
            ),
            pc.invert(pc.is_in(known, value_set=keys)),
        )
        gone = pc.or_(replaced, pc.fill_null(forgotten, False))
        kept = self.table.filter(pc.invert(gone))
        table = pa.concat_tables([kept, met.filter(pc.invert(same))])
        table = table.filter(_open(table, manifest))
        return self if table.sort_by(_ORDER).equals(self.table.sort_by(_ORDER)) else Register(table)

    def _as_they_came(self, met: pa.Table) -> pa.Table:
        """Return files that a release refused, under the labels they came with, not those it would have given them."""
        contradicted = self.table["image_id"].filter(_contradicting(self.table)).combine_chunks()
        again = pc.and_(_contradicting(met), pc.is_in(met["image_id"], value_set=contradicted))
        met = met.filter(pc.invert(again))
        before = pc.index_in(_keys(met), value_set=_keys(self.table))
        for name in ("label", "label_origin", "labelled_by"):
            cells = pc.if_else(pc.is_valid(before), self.table[name].take(before), met[name])
            met = met.set_column(REGISTER_SCHEMA.get_field_index(name), name, cells)
        return met

    def settled(self, image_ids: Collection[str], by: str) -> Register:
        """Return the register with the contradictions about these images settled: their stored labels stay."""
        ours = pc.is_in(self.table["image_id"], pa.array(sorted(image_ids), pa.string()))
        wanted = pc.and_(ours, _contradicting(self.table))
        column = pc.if_else(wanted, pa.scalar(by), self.table["settled_by"])
        return Register(self.table.set_column(REGISTER_SCHEMA.get_field_index("settled_by"), "settled_by", column))

    def without_unread(self, files: Collection[tuple[str, str]]) -> Register:
        """Return the register without the unread files called so: (source, name)."""
        names = zip(self.table["source"].to_pylist(), self.table["name"].to_pylist(), strict=True)
        unread = pc.is_null(self.table["image_id"]).to_pylist()
        keep = [not (no_id and name in files) for no_id, name in zip(unread, names, strict=True)]
        return Register(self.table.filter(pa.array(keep, pa.bool_())))

    def kept(self) -> dict[str, int]:
        """Return the sizes in bytes of the files that are kept, by image id."""
        some = self.table.filter(pc.greater(self.table["kept"], 0)).select(["image_id", "kept"])
        return dict(zip(some["image_id"].to_pylist(), some["kept"].to_pylist(), strict=True))

    def open(self, manifest: Manifest) -> pa.Table:
        """Return what awaits a decision, by state, reason, source and name.

        The register's columns, and `stored`: the label that a contradicted image is stored under. Images that the
        manifest alone knows, of before there was a register, come without details.
        """
        table = self.table.filter(pc.and_(_open(self.table, manifest), pc.is_null(self.table["settled_by"])))
        aside = manifest.table.filter(pc.is_in(manifest.table["state"], pa.array(["quarantined", "held"])))
        place = pc.index_in(table["image_id"].combine_chunks(), value_set=aside["image_id"].combine_chunks())
        contradicting = _contradicting(table)
        rows = manifest.table.select(["image_id", "label"])
        labels = rows["label"].take(pc.index_in(table["image_id"], value_set=rows["image_id"].combine_chunks()))
        stored = pc.if_else(contradicting, labels, pa.scalar(None, pa.string()))
        label = pc.if_else(contradicting, table["label"], pc.coalesce(aside["label"].take(place), table["label"]))
        table = table.set_column(table.schema.get_field_index("label"), "label", label).append_column("stored", stored)
        told = table["image_id"].filter(pc.invert(contradicting))
        untold = aside.filter(pc.invert(pc.is_in(aside["image_id"], value_set=told.combine_chunks())))
        return pa.concat_tables([table, _from_manifest(untold)]).sort_by(
            [(name, "ascending") for name in ("state", "reason", "source", "name", "image_id", "label")]
        )


def register_path(manifest: Path) -> Path:
    """Return where the register lies: beside the manifest."""
    return manifest.with_name(REGISTER_FILE)


def plain_reason(reason: str | None) -> str:
    """Return a row's reason without what follows it, as `group-conflict` of "group-conflict: test and train"."""
    return (reason or "").partition(": ")[0]


def _open(table: pa.Table, manifest: Manifest) -> pa.ChunkedArray:
    """Return for each entry whether the manifest leaves it undecided."""
    rows = manifest.table.select(["image_id", "state", "label", "reason"])
    at = rows.take(pc.index_in(table["image_id"], value_set=rows["image_id"].combine_chunks()))
    other_label = pc.fill_null(pc.not_equal(table["label"], at["label"]), True)
    contradicts = pc.and_(_contradicting(table), other_label)
    because = pc.replace_substring_regex(at["reason"], ": .*", "")
    aside = pc.and_(
        pc.is_in(at["state"], pa.array(["quarantined", "held"])),
        pc.fill_null(pc.equal(table["reason"], because), False),
    )
    recalled = pc.fill_null(pc.equal(at["state"], "recalled"), False)
    return pc.or_(pc.is_null(at["state"]), pc.and_(pc.or_(contradicts, aside), pc.invert(recalled)))


def _from_manifest(rows: pa.Table) -> pa.Table:
    columns: dict[str, Any] = {name: rows[name] for name in REGISTER_SCHEMA.names if name in rows.schema.names}
    number = rows.num_rows
    columns["reason"] = pc.replace_substring_regex(pc.fill_null(rows["reason"], "no-reason-noted"), ": .*", "")
    columns["name"] = pc.fill_null(rows["name"], "")
    columns["detail"] = pc.fill_null(rows["reason"], "")
    columns["columns"] = columns["also_in"] = ["[]"] * number
    columns["kept"] = np.zeros(number, np.int64)
    absent = {name: pa.nulls(number, REGISTER_SCHEMA.field(name).type) for name in ("spec", "at", "settled_by")}
    table = pa.table({**columns, **absent}).select(REGISTER_SCHEMA.names).cast(REGISTER_SCHEMA)
    return table.append_column("stored", pa.nulls(number, pa.string()))


def _keys(table: pa.Table) -> pa.Array:
    """Return what tells entries apart: image and reason, a contradiction's label too; of unread files their name."""
    read = pc.if_else(
        _contradicting(table), _joined(table, ("image_id", "reason", "label")), _joined(table, ("image_id", "reason"))
    )
    return pc.if_else(pc.is_null(table["image_id"]), _joined(table, ("source", "name")), read).combine_chunks()


def _contradicting(table: pa.Table) -> pa.ChunkedArray:
    return pc.is_in(table["reason"], pa.array(CONTRADICTIONS))


def _digest(table: pa.Table) -> pa.Array:
    """Return what entries say but for when."""
    return _joined(table, [name for name in REGISTER_SCHEMA.names if name not in ("at", "settled_by")]).combine_chunks()


def _joined(table: pa.Table, names: Sequence[str]) -> pa.ChunkedArray:
    cells = [pc.fill_null(table[name].cast(pa.string()), "") for name in names]
    return pc.binary_join_element_wise(*cells, _SEPARATOR)


def _firsts(keys: pa.Array) -> pa.Array:
    """Return the places of the first of equal keys."""
    table = pa.table({"key": keys, "place": np.arange(len(keys))})
    return table.group_by("key").aggregate([("place", "min")]).sort_by("place_min")["place_min"].combine_chunks()
