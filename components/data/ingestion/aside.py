"""Files of an ingest that were set aside: counted, listed, kept where they are worth it, and noted in the register."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime

from components.data.ingestion.arrivals import Arrival
from components.data.quarantine.kept_bytes import Keeper
from components.data.quarantine.register import RegisterRows
from components.data.sources.item import Origin, SourceItem, looks_like_image, printable
from components.records import SetAside

MOST_LISTED = 1000


@dataclass(slots=True)
class Aside:
    """What could not be used (quarantined) or contradicts what is stored (held), so far.

    origin: of files that do not say their own. keeper: of the bytes of quarantined files. at: when this is, for the
    register. rows: every file, for the register. listed: the first thousand. reasons: how many there are of each kind.
    """

    origin: Origin
    keeper: Keeper
    at: datetime | None
    rows: RegisterRows = field(default_factory=RegisterRows)
    listed: list[SetAside] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)
    quarantined: int = 0
    held: int = 0

    def quarantine(
        self,
        item_no: int,
        item: SourceItem,
        reason: str,
        detail: str,
        *,
        image_id: str | None = None,
        label: str | None = None,
    ) -> None:
        """Set a file aside that cannot be used. image_id: of its bytes, None where there are none."""
        self.quarantined += 1
        self._list(item_no, item.name, reason, detail)
        worth_it = image_id is not None and (reason != "no-label" or looks_like_image(item.name))
        kept = self.keeper.keep(image_id, item.content) if image_id is not None and worth_it else 0
        given = label or (None if item.label is None else printable(item.label))
        self._note(
            item, image_id, "quarantined", reason, detail, label=given, group=item.group or image_id, kept=kept
        )  # fmt: skip

    def unlabelled(self, item_no: int, item: SourceItem) -> None:
        """Set a file aside that has no label."""
        image_id = item.image_id or (hashlib.sha256(item.content).hexdigest() if item.content else None)
        self.quarantine(item_no, item, "no-label", "an ingested image needs a label", image_id=image_id)

    def quarantine_again(self, item_no: int, item: SourceItem, reason: str) -> None:
        """Count a file whose bytes were quarantined earlier in this ingest, under another name."""
        self.quarantined += 1
        self._list(item_no, item.name, reason, "the same bytes came before")

    def hold(
        self,
        item_no: int,
        file: SourceItem | Arrival,
        reason: str,
        detail: str,
        *,
        image_id: str,
        label: str,
        group: str | None,
    ) -> None:
        """Set a file aside that contradicts what is stored. label, group: what it was given with."""
        self.held += 1
        self._list(item_no, file.name, reason, detail)
        self._note(file, image_id, "held", reason, detail, label=label, group=group)

    def refuse(self, item_no: int, item: SourceItem) -> None:
        """Count a file whose image was recalled: nothing of it is kept."""
        self.held += 1
        self._list(item_no, item.name, "recalled", "this image was recalled; it does not come back")

    def _list(self, item_no: int, name: str, reason: str, detail: str) -> None:
        self.reasons[reason] += 1
        if len(self.listed) < MOST_LISTED:
            self.listed.append(SetAside(item_no, name, reason, detail))

    def _note(
        self,
        file: SourceItem | Arrival,
        image_id: str | None,
        state: str,
        reason: str,
        detail: str,
        *,
        label: str | None,
        group: str | None,
        kept: int = 0,
    ) -> None:
        row = {
            "image_id": image_id,
            "name": file.name,
            "state": state,
            "reason": reason,
            "detail": detail,
            "label": label,
            "group_id": None if group == image_id else group,
            "also_in": json.dumps(list(file.also_in if isinstance(file, Arrival) else ())),
            "captured_at": file.captured_at,
            "label_origin": file.label_origin,
            "labelled_by": file.labelled_by,
            "window": file.window,
            "model_version": file.model_version,
            "kept": kept,
            "at": self.at,
        }
        self.rows.add(row, file.origin or self.origin)
