"""Ingest: from a stream of files to shards and a new manifest, or to nothing at all."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from components.data.annotations import read_annotations, write_with_annotations
from components.data.decoding.decode import ImageLimits
from components.data.decoding.isolation import IsolatedDecoder
from components.data.files import TEMPORARY_SUFFIX
from components.data.ingestion.arrivals import Arrival, SplitRules, assign_splits
from components.data.ingestion.aside import Aside
from components.data.ingestion.checking import check_items
from components.data.ingestion.class_list import agreed_classes
from components.data.ingestion.intake import Intake
from components.data.ingestion.opinions import Merged
from components.data.ingestion.resemblance import NearDuplicates, link_near_duplicates
from components.data.ingestion.shard_buffer import ShardBuffer
from components.data.manifest import MANIFEST_SCHEMA, Manifest, by_id
from components.data.quarantine.kept_bytes import Keeper, KeptBytes
from components.data.quarantine.register import Register
from components.data.shards import SHARD_SUFFIX
from components.data.sources.item import Origin, SourceItem
from components.data.sources.seen import SeenFiles
from components.errors import ConfigurationError
from components.params import Params
from components.records import SetAside

_TABLE_ROWS = 16_384
_KEPT_COLUMNS = [name for name in MANIFEST_SCHEMA.names if name not in ("shard", "source")]


@dataclass(frozen=True, slots=True)
class IngestReport:
    """What an ingest did.

    added: new images that may be used. duplicates: bytes already there, with the same label. corrected: stored labels
    changed. quarantined: files that cannot be used. held: files left out because they contradict what is stored.
    set_aside: the first thousand of the latter two; reasons: how many there are of each kind. manifest_digest: of the
    manifest as it now is; changed: whether it differs from before. near_duplicates: added images that look the same as
    another one, which is in their group now; near_conflicts: how many of them have another label than it. noted:
    whether the register of files that were set aside differs from before. opinions: of named annotators, how many were
    given, by how many, about how many images, and what became of them; or nothing.
    """

    added: int
    duplicates: int
    corrected: int
    quarantined: int
    held: int
    classes: tuple[str, ...]
    manifest_digest: str
    set_aside: tuple[SetAside, ...]
    changed: bool
    reasons: Mapping[str, int] = field(default_factory=dict)
    near_duplicates: int = 0
    near_conflicts: int = 0
    noted: bool = False
    opinions: Mapping[str, int] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return the report for the command line and the ledger."""
        return {
            "added": self.added,
            "duplicates": self.duplicates,
            "corrected": self.corrected,
            "quarantined": self.quarantined,
            "held": self.held,
            "classes": list(self.classes),
            "manifest_digest": self.manifest_digest,
            "changed": self.changed,
            "reasons": dict(self.reasons),
            "near_duplicates": self.near_duplicates,
            "near_conflicts": self.near_conflicts,
            "opinions": dict(self.opinions),
            "set_aside": [asdict(entry) for entry in self.set_aside],
        }


def ingest(
    items: Iterable[SourceItem],
    *,
    root: Path,
    params: Params,
    source: str | Origin,
    alarmed_classes: Collection[str] = (),
    add_classes: Sequence[str] = (),
    production: bool = False,
    decoder: IsolatedDecoder | None = None,
    seen: SeenFiles | None = None,
    kept: KeptBytes | None = None,
    reopened: Collection[str] | None = None,
    at: datetime | None = None,
) -> IngestReport:
    """Add the files of a source to the data below `root`, and return what happened to them.

    Every image is decoded once to check it; it is known by the SHA-256 of its bytes. Labels from people (production,
    consensus, corrected) replace stored ones, except in the frozen test set, and confirm equal ones. A group's stored
    split always wins. What named annotators say of one image is no conflict: it is kept beside the manifest, and what
    most of them say is the image's label. The manifest is replaced last and at once: a crash before leaves the old one
    in force, and the same ingest again ends with the same bytes. decoder: of several ingests in a row; without, one is
    started for this. seen: told which file held which image; saving it is the caller's. kept: where the bytes of
    quarantined files go. reopened: the held images that are judged anew, where `items` are a choice of files and not a
    whole source. at: when this is, for the register of files that were set aside. Raises ConfigurationError, with
    nothing written, for a label that is not in the class list, an unusable class name, or production labels before
    there is any other data.
    """
    images, path = root / params.paths.images, root / params.paths.manifest
    manifest = _agreed(Manifest.read(path) if path.exists() else Manifest.empty(), params, path)
    first = manifest.table["split"].null_count == manifest.table.num_rows
    if first and production:
        raise ConfigurationError(f"{path} has no images yet; ingest the first labelled images before production labels")
    classes = agreed_classes(manifest.classes, params.data.classes, add_classes)
    finding = not manifest.classes and not params.data.classes  # the first labels make the list
    buffer = ShardBuffer(images, params.data.shard_bytes)
    register = Register.read(path)
    origin = source if isinstance(source, Origin) else Origin(source)
    with ExitStack() as undo:
        undo.callback(buffer.discard)
        aside = Aside(origin, Keeper(kept, params.data.quarantine_bytes, register), at)
        intake = Intake(manifest, None if finding else classes, buffer, origin, production, aside, reopened or ())
        _take_all(intake, items, decoder or IsolatedDecoder.of(params.data), seen, close=decoder is None)
        buffer.flush()
        opinions = intake.opinions.merged_into(read_annotations(manifest, path))
        intake.settle(opinions)
        near = link_near_duplicates(intake, images, ImageLimits.of(params.data), params.data.near_distance)
        if finding:
            classes = tuple(sorted({*classes, *intake.usable_labels()}))
        kind = "first" if first else "production" if production else "later"
        _split(intake, SplitRules(kind, params.data, frozenset(alarmed_classes)))
        updated = _updated(intake, classes)
        changed = updated is not manifest or bool(opinions.changed)
        noted = register.after(aside.rows.table(), updated, origin.source if reopened is None else None)
        if noted is not register:
            noted.write(path)
        if changed:
            updated = write_with_annotations(updated, opinions.table, path)
        undo.pop_all()
    _remove_orphans(images, path, updated)
    return _report(intake, updated, near, opinions, changed=changed, noted=noted is not register)


def _agreed(manifest: Manifest, params: Params, path: Path) -> Manifest:
    """Return the manifest, an empty one as `data.several` says. Raises ConfigurationError where it has other images."""
    several = params.data.several
    if manifest.several == several:
        return manifest
    if manifest.table.num_rows:
        stored = "any number of labels each" if manifest.several else "one label each"
        raise ConfigurationError(
            f"data.several is {str(several).lower()}, but the images of {path} carry {stored}; set it back, or bring "
            "these images into a workspace of their own (`perennial init DIR`)"
        )
    return replace(manifest, several=several)


def _take_all(
    intake: Intake, items: Iterable[SourceItem], decoder: IsolatedDecoder, seen: SeenFiles | None, *, close: bool
) -> None:
    try:
        for file in check_items(items, decoder, intake.is_new):
            intake.take(file)
            if seen is not None and file.item.stamp is not None and file.image_id:
                seen.note(file.item.stamp, file.image_id)
    finally:
        if close:
            decoder.close()


def _split(intake: Intake, rules: SplitRules) -> None:
    arrivals = intake.arrivals.values()
    assign_splits(arrivals, intake.links, intake.stored_splits(), rules)
    for arrival in arrivals:
        if arrival.state == "held":
            reason, _, where = (arrival.reason or "").partition(": ")
            intake.hold(arrival, reason, f"its group lies in {where or 'the frozen test set'}")


def _updated(intake: Intake, classes: tuple[str, ...]) -> Manifest:
    """Return the manifest after this ingest: the stored one itself if nothing in it would change."""
    manifest = intake.manifest
    arrivals = [arrival for arrival in intake.arrivals.values() if not intake.unchanged(arrival)]
    arrivals.sort(key=lambda arrival: arrival.image_id)  # the table of a first ingest is then in order, and not copied
    rows = manifest.table.num_rows
    if not arrivals and not intake.corrections and (classes == manifest.classes or not rows):
        return manifest
    keep = np.ones(rows, np.bool_)
    keep[[*intake.corrections]] = False
    keep[[intake.replaced[arrival.image_id] for arrival in arrivals if arrival.image_id in intake.replaced]] = False
    tables = [manifest.table if keep.all() else manifest.table.filter(pa.array(keep))]  # not copied for newcomers
    tables.append(pa.Table.from_pylist(list(intake.corrections.values()), MANIFEST_SCHEMA))
    tables.extend(_table(part, intake.buffer) for part in _parts(arrivals))
    return replace(manifest, table=by_id(pa.concat_tables(tables)), classes=classes)


def _parts(arrivals: list[Arrival]) -> Iterator[list[Arrival]]:
    for start in range(0, len(arrivals), _TABLE_ROWS):
        yield arrivals[start : start + _TABLE_ROWS]


def _table(arrivals: list[Arrival], buffer: ShardBuffer) -> pa.Table:
    columns = {name: [getattr(arrival, name) for arrival in arrivals] for name in _KEPT_COLUMNS}
    columns["shard"] = [None if arrival.shard is None else buffer.shard(arrival.shard) for arrival in arrivals]
    columns["source"] = [arrival.origin.source for arrival in arrivals]
    return pa.table(columns, MANIFEST_SCHEMA)


def _report(
    intake: Intake, manifest: Manifest, near: NearDuplicates, opinions: Merged, *, changed: bool, noted: bool
) -> IngestReport:
    return IngestReport(
        added=sum(arrival.state == "active" for arrival in intake.arrivals.values()),
        duplicates=intake.duplicates,
        corrected=intake.relabelled,
        quarantined=intake.aside.quarantined,
        held=intake.aside.held,
        classes=manifest.classes,
        manifest_digest=manifest.digest(),
        set_aside=tuple(intake.aside.listed),
        changed=changed,
        reasons=dict(sorted(intake.aside.reasons.items())),
        near_duplicates=near.images,
        near_conflicts=near.conflicts,
        noted=noted,
        opinions=_told(intake, opinions),
    )


def _told(intake: Intake, opinions: Merged) -> dict[str, int]:
    """Return what the report says of opinions."""
    given = intake.opinions
    if not given.rows:
        return {}
    return {
        "given": given.rows,
        "images": len(given.said),
        "annotators": len({who for said in given.said.values() for who in said}),
        "new": opinions.added,
        "revised": opinions.revised,
        "contradicted": given.contradicted,
        "ties": intake.tied,
        "frozen": intake.frozen,
    }


def _remove_orphans(images: Path, beside: Path, manifest: Manifest) -> None:
    """Remove what a crashed ingest left: unfinished files, and shards that no row names."""
    if not manifest.table.num_rows:
        return
    named = set(manifest.table["shard"].unique().to_pylist())
    orphans = [path for path in images.glob(f"*{SHARD_SUFFIX}") if path.name not in named]
    for folder in {images, beside.parent}:
        orphans.extend(folder.glob(f".*{TEMPORARY_SUFFIX}"))
    for path in orphans:
        path.unlink(missing_ok=True)
