"""Each file of an ingest, judged: new, known, corrected, or set aside by a stated rule."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from components.data import label_sets
from components.data.decoding.isolation import Checked
from components.data.ingestion.arrivals import Arrival, GroupLinks
from components.data.ingestion.aside import Aside
from components.data.ingestion.checking import CheckedItem
from components.data.ingestion.class_list import checked_class_name, unknown_label
from components.data.ingestion.opinions import OPINIONS, UNCONFIRMED, Merged, Opinions, majority
from components.data.ingestion.shard_buffer import ShardBuffer
from components.data.manifest import Manifest, RowIndex
from components.data.sources.item import Origin, SourceItem
from components.errors import ConfigurationError
from components.records import require_utc

_JUDGED_BY = ("state", "label", "label_origin", "split", "group_id")

_CHECKED_BY_PEOPLE = frozenset({"consensus", "corrected"})
_NO_CLASS = "no-class"


@dataclass(slots=True)
class Intake:
    """What has been learnt so far. Only labels and names are kept in memory; bytes go to the buffer.

    classes: the class list, or None while the first ingest is still finding it. production: labels of images that
    were scored, which correct stored ones. corrections: amended rows of the stored manifest, by their number.
    replaced: rows of images that were quarantined or held and are judged anew, by image id. reopened: the ids of those
    that were held. aside: every file that was set aside. opinions: what named annotators said; tied,
    frozen: images of which as many say otherwise, or most do and the frozen test set keeps its label.
    """

    manifest: Manifest
    classes: Sequence[str] | None
    buffer: ShardBuffer
    origin: Origin
    production: bool
    aside: Aside
    reopened: Collection[str] = ()
    arrivals: dict[str, Arrival] = field(default_factory=dict)
    links: GroupLinks = field(default_factory=GroupLinks)
    corrections: dict[int, dict[str, Any]] = field(default_factory=dict)
    replaced: dict[str, int] = field(default_factory=dict)
    opinions: Opinions = field(default_factory=Opinions)
    tied: int = 0
    frozen: int = 0
    duplicates: int = 0
    relabelled: int = 0
    _labels: dict[str, str] = field(default_factory=dict)
    _stored: RowIndex = field(init=False)
    _columns: dict[str, list[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._stored = RowIndex(self.manifest.table)

    def is_new(self, image_id: str) -> bool:
        """Return whether bytes of this hash are nowhere yet, or where they are, are doubted: they are to be decoded."""
        number = self._stored.row(image_id)
        if image_id in self.arrivals:
            return False
        return number is None or self._cell("state", number) == "quarantined" or image_id in self.reopened

    def take(self, file: CheckedItem) -> None:
        """Judge one file. Raises ConfigurationError for a label that is no class."""
        item_no, item, image_id = file.number, file.item, file.image_id
        if item.problem is not None:
            self.aside.quarantine(item_no, item, item.problem, "the source could not give it")
            return
        if item.no_class:
            self._withhold(item_no, item, item.image_id or "")
            return
        if item.label is None:
            self.aside.unlabelled(item_no, item)
            return
        label = self._class_of(item, item.label)
        arrival, number = self.arrivals.get(image_id), self._stored.row(image_id)
        if arrival is not None:
            self._again(item_no, item, label, arrival)
        elif file.checked is not None:
            self._new(item_no, item, label, image_id, file.checked, number)
        elif number is not None:
            self._known(item_no, item, label, image_id, number)

    def settle(self, opinions: Merged) -> None:
        """Give every image whose label its annotators decide the majority of their opinions, of all ingests together.

        A label that came without a name, or was confirmed or corrected by people, stays; so does the frozen test set's.
        """
        for image_id, said in opinions.changed.items():
            arrival, number = self.arrivals.get(image_id), self._stored.row(image_id)
            if arrival is not None and arrival.label_origin == OPINIONS:
                verdict = majority(image_id, said.values())
                arrival.label = verdict.label
                self.tied += verdict.tied
            elif arrival is None and number is not None:
                row = self.corrections.get(number) or self._judged_by(number)
                if row["label_origin"] == OPINIONS:
                    verdict = majority(image_id, said.values(), row["label"])
                    self.tied += verdict.tied
                    if verdict.label != row["label"] and row["split"] == "frozen_test":
                        self.frozen += 1
                    elif verdict.label != row["label"]:
                        self.relabelled += 1
                        self.corrections[number] = {
                            **(self.corrections.get(number) or self._row(number)),
                            "label": verdict.label,
                        }

    def hold(self, arrival: Arrival, reason: str, detail: str) -> None:
        """Set a new image aside that contradicts what is stored."""
        self.aside.hold(
            arrival.item_no, arrival, reason, detail,
            image_id=arrival.image_id, label=arrival.label, group=arrival.group_id,
        )  # fmt: skip

    def stored_splits(self) -> dict[str, set[str]]:
        """Return the splits that the groups met in this ingest already have images in, by group id."""
        if not self.manifest.table.num_rows:
            return {}
        wanted = {arrival.group_id for arrival in self.arrivals.values()} | set(self.links.linked())
        table = self.manifest.table.select(["group_id", "split"])
        table = table.filter(pc.is_in(table["group_id"], pa.array(sorted(wanted), pa.string())))
        splits: dict[str, set[str]] = {}
        for group_id, split in zip(table["group_id"].to_pylist(), table["split"].to_pylist(), strict=True):
            if split is not None:
                splits.setdefault(group_id, set()).add(split)
        return splits

    def unchanged(self, arrival: Arrival) -> bool:
        """Return whether the manifest already says all of this: the image was, and is, quarantined for one reason."""
        number = self.replaced.get(arrival.image_id)
        return number is not None and arrival.reason is not None and arrival.reason == self._cell("reason", number)

    def usable_labels(self) -> set[str]:
        """Return the labels of the new images that can be used, and all that their annotators gave."""
        given = {arrival.label for arrival in self.arrivals.values() if arrival.state != "quarantined"}
        if self.manifest.several:
            return {name for label in given for name in label_sets.decode(label)}
        return given | self.opinions.labels()

    def _new(
        self, item_no: int, item: SourceItem, label: str, image_id: str, checked: Checked, number: int | None
    ) -> None:
        arrival = Arrival(
            image_id=image_id,
            item_no=item_no,
            name=item.name,
            label=label,
            group_id=item.group or image_id,
            label_origin=item.label_origin if item.annotator is None else OPINIONS,
            origin=self._origin_of(item),
            labelled_by=item.labelled_by,
            captured_at=None if item.captured_at is None else require_utc(item.captured_at),
            window=item.window,
            model_version=item.model_version,
        )
        if checked.reason is not None:
            arrival.state, arrival.reason = "quarantined", checked.reason
            self.aside.quarantine(item_no, item, checked.reason, checked.detail, image_id=image_id, label=label)
        elif number is not None and self._cell("shard", number) is not None:
            arrival.shard, arrival.row = self.buffer.stored(self._cell("shard", number), self._cell("row", number))
        else:
            arrival.shard, arrival.row = self.buffer.add(image_id, item.content, checked)
        if checked.reason is None:
            self._note(image_id, item, label)
        self.arrivals[image_id] = arrival
        if number is not None:
            self.replaced[image_id] = number

    def _again(self, item_no: int, item: SourceItem, label: str, arrival: Arrival) -> None:
        """Judge a file whose bytes came earlier in this ingest."""
        if arrival.state == "quarantined":
            self.aside.quarantine_again(item_no, item, arrival.reason or "")
            return
        if item.group:
            self.links.join(item.group, arrival.group_id)
            if item.group not in (arrival.group_id, *arrival.also_in):
                arrival.also_in = (*arrival.also_in, item.group)
        if item.annotator is not None:
            self._note(arrival.image_id, item, label)
        elif arrival.label_origin == OPINIONS:  # a label of the source itself stands above its annotators'
            arrival.label, arrival.label_origin, arrival.labelled_by = label, item.label_origin, item.labelled_by
        elif label == arrival.label:
            self.duplicates += 1
        elif self._corrects(item):
            self.relabelled += 1
            arrival.label, arrival.label_origin, arrival.labelled_by = label, item.label_origin, item.labelled_by
        else:
            detail = f"the same image came as {arrival.label!r} in {arrival.name}, now as {label!r}"
            self._contradict(item_no, item, arrival.image_id, label, "label-conflict", detail)

    def _known(self, item_no: int, item: SourceItem, label: str, image_id: str, number: int) -> None:
        """Judge a file whose bytes are in the manifest, in row `number`."""
        row = self.corrections.get(number) or self._judged_by(number)
        if row["state"] == "recalled":
            self.aside.refuse(item_no, item)
            return
        if item.group:
            self.links.join(item.group, row["group_id"])
        if item.annotator is not None:
            self._note(image_id, item, label)
            return
        confirms = label == row["label"] and row["label_origin"] in UNCONFIRMED and self._corrects(item)
        if label == row["label"] and not confirms:
            self.duplicates += 1
        elif not self._corrects(item):
            detail = f"stored as {row['label']!r}, now given as {label!r}; the stored label stays"
            self._contradict(item_no, item, image_id, label, "label-conflict", detail)
        elif row["split"] == "frozen_test":
            if confirms:
                self.duplicates += 1
            else:
                detail = f"stored as {row['label']!r}, people say {label!r}; the frozen test set is never changed"
                self._contradict(item_no, item, image_id, label, "frozen-test", detail)
        else:
            self.duplicates += confirms
            self.relabelled += not confirms
            stored = self.corrections.get(number) or self._row(number)
            amended = {"label": label, "label_origin": self._origin(item), "labelled_by": item.labelled_by}
            if (stored["reason"] or "").startswith(_NO_CLASS):  # they think otherwise now
                amended |= {"state": "active", "reason": None}
            self.corrections[number] = {**stored, **amended}

    def _withhold(self, item_no: int, item: SourceItem, image_id: str) -> None:
        """Hold a stored image that people say shows none of the classes; never one of the frozen test set."""
        number = self._stored.row(image_id)
        row = None if number is None else self.corrections.get(number) or self._row(number)
        if number is None or row is None or row["state"] != "active" or row["split"] == "frozen_test":
            return
        detail = f"given as {row['label']!r}, people say it shows none of the classes"
        named = replace(item, name=row["name"] or item.name)
        self.aside.hold(
            item_no, named, _NO_CLASS, detail, image_id=image_id, label=row["label"], group=row["group_id"]
        )  # fmt: skip
        held = {"state": "held", "reason": f"{_NO_CLASS}: {detail}", "labelled_by": item.labelled_by}
        self.corrections[number] = {**row, **held}

    def _contradict(self, item_no: int, item: SourceItem, image_id: str, label: str, reason: str, detail: str) -> None:
        """Hold a file whose image is stored, under another label than `label`."""
        self.aside.hold(item_no, item, reason, detail, image_id=image_id, label=label, group=item.group or image_id)

    def _note(self, image_id: str, item: SourceItem, label: str) -> None:
        if item.annotator is not None:
            self.opinions.note(image_id, item.annotator, label)

    def _judged_by(self, number: int) -> dict[str, Any]:
        return {column: self._cell(column, number) for column in _JUDGED_BY}

    def _row(self, number: int) -> dict[str, Any]:
        row: dict[str, Any] = self.manifest.table.slice(number, 1).to_pylist()[0]
        return row

    def _corrects(self, item: SourceItem) -> bool:
        return self.production or item.label_origin in _CHECKED_BY_PEOPLE

    @staticmethod
    def _origin(item: SourceItem) -> str:
        return item.label_origin if item.label_origin in _CHECKED_BY_PEOPLE else "corrected"

    def _class_of(self, item: SourceItem, label: str) -> str:
        """Return a label as it is stored: one class's name, or a set of them."""
        where = f"{self._origin_of(item).source}: {item.name}"
        if not self.manifest.several:
            return self._class_named(label, where)
        if item.annotator is not None:
            raise ConfigurationError(
                f"{where}: opinions of annotators are not taken where images carry several labels; map "
                "`--column annotator=` and give each image once"
            )
        return label_sets.encode(self._class_named(name, where) for name in label_sets.decode(label))

    def _class_named(self, label: str, where: str) -> str:
        known = self._labels.get(label)
        if known is None:
            known = checked_class_name(label, where)
            if self.classes is not None and known not in self.classes:
                raise unknown_label(known, self.classes, where)
            self._labels[label] = known
        return known

    def _cell(self, column: str, number: int) -> Any:
        """Return one cell of the stored manifest; a column's equal values are one object, so a list of it is small."""
        values = self._columns.get(column)
        if values is None:
            encoded = pc.dictionary_encode(self.manifest.table[column].combine_chunks(), null_encoding="encode")
            distinct = encoded.dictionary.to_pylist()
            values = self._columns[column] = [distinct[index] for index in encoded.indices.to_pylist()]
        return values[number]

    def _origin_of(self, item: SourceItem | Arrival) -> Origin:
        return item.origin or self.origin
