"""What an audit says of annotators: the consensus of their opinions and the models, and how well each of them knows it.

Nothing is relabelled: where the consensus is another class than the stored label, that is a finding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from components.errors import IntegrityError
from components.labels.crowdlab import Consensus, Opinions, find_consensus
from components.labels.findings import Finding

CONSENSUS_FILE = "consensus.parquet"
ANNOTATORS_FILE = "annotators.parquet"
OPINIONS = "opinions"
FEWEST_SHARED = 20
"""Opinions on images with another one, below which nothing is said of how good an annotator is."""
MOST_TOLD = 100


@dataclass(frozen=True, slots=True)
class Annotator:
    """One annotator. shared: opinions on images with another one. quality: 0..1 (Goh et al. 2022).

    agreement: share of all opinions that name the consensus. said, meant, times: the commonest way to differ from it.
    quality and agreement are None below FEWEST_SHARED.
    """

    name: str
    opinions: int
    shared: int
    quality: float | None
    agreement: float | None
    said: str | None
    meant: str | None
    times: int

    def as_json(self) -> dict[str, Any]:
        """Return what metrics.json says."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True, eq=False)
class Crowd:
    """The audited images that annotators gave opinions of, C in all, and the annotators, the least good first.

    image_ids: (C,). given: (C,) class indices of `classes`, as stored. votes: (C,) opinions that name the stored label.
    judged: (C,) bool, whether the models can judge the stored class. consensus is None, and why_not says why, where
    there is nothing to compare.
    """

    classes: Sequence[str]
    opinions: int
    image_ids: Sequence[str]
    given: NDArray[np.int64]
    votes: NDArray[np.int64]
    judged: NDArray[np.bool_]
    people: Sequence[Annotator]
    consensus: Consensus | None
    why_not: str | None

    def differs(self) -> NDArray[np.bool_]:
        """Return which images (C,) with two or more opinions have another consensus than their stored label."""
        if self.consensus is None:
            return np.zeros(len(self.given), bool)
        several = self.consensus.opinions > 1
        return np.asarray(several & self.judged & (self.consensus.label != self.given))

    def findings(self) -> Iterator[Finding]:
        """Yield the images whose consensus is another class than the stored label; severity: disbelief in that one."""
        for row in np.flatnonzero(self.differs()).tolist():
            assert self.consensus is not None  # noqa: S101  (else none differs)
            given, likely = (self.classes[label[row]] for label in (self.given, self.consensus.label))
            opinions = int(self.consensus.opinions[row])
            others = round(float(self.consensus.agreement[row]) * opinions)
            words = (
                f"{self.votes[row]} of {opinions} annotators say so, {others} say {likely}; weighed with the models, "
                f"{likely} has {100 * self.consensus.quality[row]:.0f} %"
            )
            severity = round(1 - float(self.consensus.given[row]), 5)
            yield Finding(self.image_ids[row], OPINIONS, severity, given, words, likely=likely)

    def report(self) -> dict[str, Any]:
        """Return what metrics.json says, of the annotators the first MOST_TOLD."""
        several = None if self.consensus is None else self.consensus.opinions > 1
        return {
            "annotators": len(self.people),
            "opinions": self.opinions,
            "images": len(self.image_ids),
            "shared": 0 if several is None else int(several.sum()),
            "agreement": None
            if self.consensus is None or several is None
            else round(float(self.consensus.agreement[several].mean()), 5),
            "differ": int(self.differs().sum()),
            "too_few": sum(one.quality is None for one in self.people),
            "fewest_shared": FEWEST_SHARED,
            "not_judged": self.why_not,
            "people": [one.as_json() for one in self.people[:MOST_TOLD]],
        }

    def write(self, folder: Path) -> None:
        """Write consensus.parquet, a row an image, and annotators.parquet; nothing where nobody is named."""
        if not self.people:
            return
        rows = [one.as_json() for one in self.people]
        pq.write_table(pa.Table.from_pylist(rows, _PEOPLE), folder / ANNOTATORS_FILE)
        if self.consensus is None:
            return
        names = np.array(self.classes, dtype=object)
        columns = {
            "image_id": pa.array(self.image_ids, pa.string()),
            "given": pa.array(names[self.given], pa.string()),
            "consensus": pa.array(names[self.consensus.label], pa.string()),
            "quality": pa.array(self.consensus.quality),
            "agreement": pa.array(self.consensus.agreement),
            "opinions": pa.array(self.consensus.opinions),
        }
        pq.write_table(pa.table(columns), folder / CONSENSUS_FILE)


_PEOPLE = pa.schema(
    [
        pa.field("name", pa.string(), False),
        pa.field("opinions", pa.int64(), False),
        pa.field("shared", pa.int64(), False),
        pa.field("quality", pa.float64()),
        pa.field("agreement", pa.float64()),
        pa.field("said", pa.string()),
        pa.field("meant", pa.string()),
        pa.field("times", pa.int64(), False),
    ]
)


def judge_annotators(
    annotations: pa.Table,
    image_ids: Sequence[str],
    given: NDArray[np.int64],
    classes: Sequence[str],
    probabilities: NDArray[np.floating[Any]],
    not_judged: NDArray[np.integer],
) -> Crowd:
    """Return the consensus of annotators and models on the N audited images, and the annotators' quality.

    annotations: image_id, annotator and label of each opinion; those about other images are passed over. given: (N,)
    class indices, as stored. probabilities: (N, K), out of fold. not_judged: classes the models cannot judge.
    Raises IntegrityError for an opinion that names no class.
    """
    rows = pc.index_in(annotations["image_id"], pa.array(image_ids, pa.string())).combine_chunks()
    here = annotations.filter(rows.is_valid())
    labels = pc.index_in(here["label"], pa.array(classes, pa.string())).combine_chunks()
    if labels.null_count:
        strange = here["label"].filter(labels.is_null())[0].as_py()
        raise IntegrityError(f"an annotator's opinion names {strange!r}, which is no class; restore the annotations")
    people = pc.dictionary_encode(here["annotator"].combine_chunks())
    looked_at, image = np.unique(rows.drop_null().to_numpy().astype(np.int64), return_inverse=True)
    opinions = Opinions(
        image, people.indices.to_numpy().astype(np.int64), labels.to_numpy(zero_copy_only=False).astype(np.int64)
    )
    names: list[str] = people.dictionary.to_pylist()
    stored = given[looked_at]
    several = int((np.bincount(image) > 1).sum())
    why_not = None if several else "no image has the opinions of two annotators"
    found = find_consensus(opinions, probabilities[looked_at], stored) if several else None
    return Crowd(
        classes=classes,
        opinions=len(image),
        image_ids=[image_ids[row] for row in looked_at.tolist()],
        given=stored,
        votes=np.bincount(image[opinions.label == stored[image]], minlength=len(stored)),
        judged=~np.isin(stored, not_judged),
        people=sorted(_people(names, opinions, found, classes), key=_worst_first),
        consensus=found,
        why_not=why_not if names else None,
    )


def _people(names: Sequence[str], opinions: Opinions, found: Consensus | None, classes: Sequence[str]) -> Iterator[Any]:
    given = np.bincount(opinions.annotator, minlength=len(names))
    if found is None:
        yield from (Annotator(name, int(given[who]), 0, None, None, None, None, 0) for who, name in enumerate(names))
        return
    most = _commonest_difference(opinions, found)
    for who, name in enumerate(names):
        shared = int(found.shared[who])
        enough = shared >= FEWEST_SHARED
        said, meant, times = most.get(who, (None, None, 0)) if enough else (None, None, 0)
        yield Annotator(
            name=name,
            opinions=int(given[who]),
            shared=shared,
            quality=round(float(found.annotator_quality[who]), 5) if enough else None,
            agreement=round(float(found.annotator_agreement[who]), 5) if enough else None,
            said=None if said is None else classes[said],
            meant=None if meant is None else classes[meant],
            times=times,
        )


def _commonest_difference(opinions: Opinions, found: Consensus) -> dict[int, tuple[int | None, int | None, int]]:
    """Return, by annotator, what they said most often where the consensus is another class, that class, how often."""
    meant = found.label[opinions.image]
    differ = opinions.label != meant
    triples, times = np.unique(
        np.stack([opinions.annotator[differ], opinions.label[differ], meant[differ]]), axis=1, return_counts=True
    )
    most: dict[int, tuple[int | None, int | None, int]] = {}
    for place in np.lexsort((triples[2], triples[1], -times, triples[0])).tolist():
        who, said, other = triples[:, place].tolist()
        most.setdefault(who, (said, other, int(times[place])))
    return most


def _worst_first(one: Annotator) -> tuple[Any, ...]:
    return (one.quality is None, one.quality or 0.0, -one.opinions, one.name)
