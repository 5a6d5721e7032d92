"""Files that were set aside and are let in because a person says so: judged anew, by the rules of every ingest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from components.data.decoding.decode import ImageLimits
from components.data.decoding.isolation import IsolatedDecoder
from components.data.ingestion.class_list import agreed_classes
from components.data.ingestion.ingest import IngestReport, ingest
from components.data.label_sets import decode
from components.data.manifest import Manifest, Row, find_rows
from components.data.quarantine.kept_bytes import KeptBytes
from components.data.quarantine.reading import Entry, read_files
from components.data.quarantine.register import CONTRADICTIONS, Register
from components.data.shards import ShardReader
from components.data.sources.item import Origin, SourceItem
from components.params import Params

_LIMITS = {
    "too-many-pixels": "data.max_pixels",
    "too-many-bytes": "data.max_file_bytes",
    "too-small": "data.min_side",
    "too-slow": "data.decode_seconds",
    "too-much-memory": "data.decode_bytes",
}
_ADVICE = {
    "frozen-group": "the frozen test set takes nobody in, and what belongs to it is never trained on: leave it, or "
    "take it out of the list with `perennial recall`",
    "group-conflict": "it would tie groups of two splits together: recall the image you do not want, or, if they only "
    "look alike, lower data.near_distance in params.yaml and push that",
    "frozen-test": "the frozen test set is never changed: keep the stored label with --label, or take the image out "
    "with `perennial recall`",
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one file. outcome: released | settled (the stored label stays) | refused: `detail` says why."""

    image_id: str | None
    name: str
    reason: str
    outcome: str
    label: str | None
    stored: str | None
    detail: str = ""


@dataclass(slots=True)
class Released:
    """What a release did to a checkout. noted: whether the register of what was set aside differs."""

    report: IngestReport
    noted: bool = False
    verdicts: list[Verdict] = field(default_factory=list)

    @property
    def refused(self) -> list[Verdict]:
        """Return those that stay where they are."""
        return [verdict for verdict in self.verdicts if verdict.outcome == "refused"]


@dataclass(slots=True)
class _Sent:
    """One file on its way through the ingest, under the label it is to have."""

    entry: Entry
    label: str
    image_id: str


class _Release:
    def __init__(
        self, root: Path, params: Params, kept: KeptBytes, cache: Path, label: str | None, person: str
    ) -> None:
        self._params = params
        self._kept = kept
        self._cache = cache
        self._label = label
        self._person = person
        self._manifest = root / params.paths.manifest
        self._reader = ShardReader(root / params.paths.images)
        stored = Manifest.classes_at(self._manifest)
        self._classes = agreed_classes(stored, params.data.classes, ()) if stored or params.data.classes else None
        self.sent: list[_Sent] = []
        self.refused: list[tuple[Entry, str]] = []

    def items(self, entries: Sequence[Entry], rows: dict[str, Row]) -> Iterator[SourceItem]:
        """Yield every file that can be judged, as a source would give it; others are noted as refused."""
        able = [entry for entry in _one_each(entries) if self._labelled(entry, entries)]
        for entry in able:
            if entry["reason"] in CONTRADICTIONS:
                yield self._item(entry, b"", entry["image_id"], None)
            elif entry["state"] == "held":
                row = rows[entry["image_id"]]
                content = self._reader.read_verified(row["shard"], row["row"], row["image_id"])
                for group in (row["group_id"], *json.loads(entry["also_in"])):  # as it came, once in each of its groups
                    yield self._item(entry, content, row["image_id"], group)
        limits = ImageLimits.of(self._params.data)
        unread = [entry for entry in able if entry["state"] == "quarantined"]
        several = self._params.data.several
        files = read_files(
            unread, self._kept, limits=limits, cache=self._cache, refuse=self._refuse, several=several
        )  # fmt: skip
        for entry, content in files:
            image_id = hashlib.sha256(content).hexdigest()
            group = rows[image_id]["group_id"] if image_id in rows else entry["group_id"]
            yield self._item(entry, content, image_id, group)

    def held(self, entries: Iterable[Entry]) -> set[str]:
        """Return the images that have a place in a shard and are judged anew."""
        return {e["image_id"] for e in entries if e["state"] == "held" and e["reason"] not in CONTRADICTIONS}

    def _labelled(self, entry: Entry, entries: Sequence[Entry]) -> bool:
        """Return whether the file has a label that is a class; else it is refused."""
        label = self._label or entry["label"]
        others = {e["label"] for e in entries if e["image_id"] == entry["image_id"]} if entry["image_id"] else {label}
        if entry["reason"] == "group-conflict" and entry["at"] is None:
            self._refuse(entry, "which groups it belongs to was not noted when it was held: leave it")
        elif self._label is None and len(others) > 1:
            self._refuse(entry, f"it came as {' and '.join(sorted(map(repr, others)))}: say which with --label")
        elif label is None:
            self._refuse(entry, "it has no label: say one with --label")
        elif (unknown := self._unknown(label)) is not None:
            add = f"`perennial classes add {unknown!r} --apply`"
            self._refuse(entry, f"its label {unknown!r} is no class: say another with --label, or {add}")
        else:
            return True
        return False

    def _unknown(self, label: str) -> str | None:
        """Return a name in a label that is no class, if there is one."""
        if self._classes is None:
            return None
        names = decode(label) if self._params.data.several else (label,)
        return next((name for name in names if name not in self._classes), None)

    def _refuse(self, entry: Entry, why: str) -> None:
        self.refused.append((entry, why))

    def _item(self, entry: Entry, content: bytes, image_id: str, group: str | None) -> SourceItem:
        decided = self._label is not None or entry["reason"] in CONTRADICTIONS
        label = self._label or entry["label"]
        self.sent.append(_Sent(entry, label, image_id))
        return SourceItem(
            name=entry["name"],
            content=content,
            label=label,
            group=None if group == image_id else group,
            captured_at=entry["captured_at"],
            label_origin="corrected" if decided else entry["label_origin"] or "given",
            labelled_by=self._person if decided else entry["labelled_by"],
            window=entry["window"],
            model_version=entry["model_version"],
            image_id=None if content else image_id,
            origin=Origin(entry["source"], entry["spec"], tuple(json.loads(entry["columns"]))),
        )


def release(
    entries: Sequence[Entry],
    *,
    root: Path,
    params: Params,
    kept: KeptBytes,
    cache: Path,
    label: str | None,
    person: str,
    at: datetime,
    decoder: IsolatedDecoder | None = None,
) -> Released:
    """Let files that were set aside into the data below `root`, as far as every rule of an ingest allows.

    entries: of `Register.open`. label: the class of all of them, as `person` decides; None: what each came with, which
    `person` decides too where it contradicts a stored label. Held images keep their place in their shard; groups and
    the frozen test set are respected as ever. What is refused stays set aside.
    """
    path = root / params.paths.manifest
    rows = find_rows(path, {e["image_id"] for e in entries} - {None}) if path.exists() else {}
    work = _Release(root, params, kept, cache, label, person)
    report = ingest(
        work.items(entries, rows), root=root, params=params, source="release", kept=kept,
        reopened=work.held(entries), at=at, decoder=decoder,
    )  # fmt: skip
    done = Released(report)
    done.verdicts += [_verdict(entry, None, "refused", entry["label"], why) for entry, why in work.refused]
    now = find_rows(path, {sent.image_id for sent in work.sent}) if path.exists() else {}
    said = {aside.item_no: (aside.reason, aside.detail) for aside in report.set_aside}
    firsts = {sent.image_id: number for number, sent in reversed(list(enumerate(work.sent)))}
    for number, sent in enumerate(work.sent):
        if firsts[sent.image_id] != number:
            continue
        row = now.get(sent.image_id)
        contradicting = sent.entry["reason"] in CONTRADICTIONS
        if row is not None and row["label"] == sent.label and (contradicting or row["state"] == "active"):
            outcome = "settled" if contradicting and sent.label == sent.entry["stored"] else "released"
            done.verdicts.append(_verdict(sent.entry, sent.image_id, outcome, sent.label, ""))
        else:
            reason, detail = said.get(number, (sent.entry["reason"], sent.entry["detail"]))
            done.verdicts.append(
                _verdict(sent.entry, sent.image_id, "refused", sent.label, f"{reason}: {detail}; {_advice(reason)}")
            )
    done.noted = _settle(path, work.sent, done.verdicts, person) or report.noted
    return done


def _settle(manifest: Path, sent: Sequence[_Sent], verdicts: Sequence[Verdict], person: str) -> bool:
    """Take what was decided out of the register, contradictions and files read at last; return whether any."""
    register = Register.read(manifest)
    decided = {v.image_id for v in verdicts if v.outcome != "refused" and v.reason in CONTRADICTIONS and v.image_id}
    read = {(s.entry["source"], s.entry["name"]) for s in sent if s.entry["image_id"] is None}
    after = register.settled(decided, person).without_unread(read)
    if after.table.equals(register.table):
        return False
    after.write(manifest)
    return True


def _verdict(entry: Entry, image_id: str | None, outcome: str, label: str | None, detail: str) -> Verdict:
    return Verdict(
        image_id or entry["image_id"], entry["name"], entry["reason"], outcome, label, entry["stored"], detail
    )


def _one_each(entries: Sequence[Entry]) -> list[Entry]:
    """Return the entries, of those about one image the first."""
    found: dict[Any, Entry] = {}
    for number, entry in enumerate(entries):
        found.setdefault(entry["image_id"] or number, entry)
    return list(found.values())


def _advice(reason: str) -> str:
    if reason in _LIMITS:
        return f"raise {_LIMITS[reason]} in params.yaml, commit and push it, and release it again"
    return _ADVICE.get(reason, "mend the file and ingest it again")
