"""Labels of several annotators about one image: opinions, kept as they are, and the majority of them, its first label.

A person's last opinion of an image counts. Of classes that as many people name, the stored label stays; else a hash of
the image decides, so that no class gains by its name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from components.data.annotations import ANNOTATIONS_SCHEMA, without_images

OPINIONS = "opinions"
"""Label origin of an image whose label is the majority of its annotators' opinions."""
UNCONFIRMED = frozenset({"given", OPINIONS})
"""Label origins of images whose label nobody has confirmed or corrected."""


@dataclass(frozen=True, slots=True)
class Majority:
    """The label that most opinions name; tied: others were named as often."""

    label: str
    tied: bool


def majority(image_id: str, labels: Iterable[str], stored: str | None = None) -> Majority:
    """Return the majority of the opinions about one image, whatever their order. stored: the label that it has now."""
    counts = Counter(labels)
    most = max(counts.values())
    first = sorted(label for label, times in counts.items() if times == most)
    label = stored if stored in first else first[int(image_id, 16) % len(first)]
    return Majority(label, len(first) > 1)


@dataclass(slots=True)
class Opinions:
    """The opinions met in one ingest, the last of each annotator about each image.

    rows: how many were given. contradicted: those in which a person says of an image other than before in this ingest.
    """

    said: dict[str, dict[str, str]] = field(default_factory=dict)
    rows: int = 0
    contradicted: int = 0

    def note(self, image_id: str, annotator: str, label: str) -> None:
        """Note what one annotator said of one image."""
        of_image = self.said.setdefault(image_id, {})
        self.rows += 1
        self.contradicted += of_image.get(annotator, label) != label
        of_image[annotator] = label

    def labels(self) -> set[str]:
        """Return every label that somebody gave."""
        return {label for of_image in self.said.values() for label in of_image.values()}

    def merged_into(self, stored: pa.Table) -> Merged:
        """Return the stored annotations with these in the place of what the same people said of the same images."""
        here = pa.array(sorted(self.said), pa.string())
        before: dict[str, dict[str, str]] = {}
        met = stored.filter(pc.is_in(stored["image_id"], here))
        for image_id, annotator, label in zip(*(met[name].to_pylist() for name in met.schema.names), strict=True):
            before.setdefault(image_id, {})[annotator] = label
        now = {image_id: {**before.get(image_id, {}), **said} for image_id, said in self.said.items()}
        changed = {image_id: said for image_id, said in now.items() if said != before.get(image_id)}
        if not changed:
            return Merged(stored, {}, 0, 0)
        pairs = [(image_id, who) for image_id, said in changed.items() for who in said]
        ids, people = zip(*pairs, strict=True)
        labels = [changed[image_id][who] for image_id, who in pairs]
        columns = [pa.array(column, pa.string()) for column in (ids, people, labels)]
        added = sum(len(said) - len(before.get(image_id, ())) for image_id, said in changed.items())
        revised = sum(
            changed[image_id][who] != label
            for image_id, said in before.items() if image_id in changed
            for who, label in said.items()
        )  # fmt: skip
        table = pa.concat_tables([without_images(stored, changed), pa.table(columns, schema=ANNOTATIONS_SCHEMA)])
        return Merged(table, changed, added, revised)


@dataclass(frozen=True, slots=True, eq=False)
class Merged:
    """Annotations after an ingest. changed: all opinions about every image of which one is new, by annotator.

    added: how many are new. revised: how many replace another one by the same person.
    """

    table: pa.Table
    changed: Mapping[str, Mapping[str, str]]
    added: int
    revised: int
