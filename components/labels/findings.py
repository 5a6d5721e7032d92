"""Everything an audit doubts, in one list, worst first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from components.labels.conflicts import Conflicts
from components.labels.image_issues import IMAGE_ISSUES, ImageIssues
from components.labels.issues import LabelIssues

FINDINGS_FILE = "findings.parquet"
LABEL = "label"
CONFLICT = "near-duplicates"

_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), False),
        pa.field("kind", pa.string(), False),
        pa.field("severity", pa.float64(), False),
        pa.field("given", pa.string(), False),
        pa.field("likely", pa.string()),
        pa.field("beside", pa.string()),
        pa.field("words", pa.string(), False),
    ]
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One doubt about one image.

    kind: LABEL, CONFLICT (near-duplicates with different labels) or one of IMAGE_ISSUES. severity: 0..1; of a label,
    1 - the probability of the given one. likely: the class it looks like, where the label is doubted. beside: the id
    of the image it is in conflict with.
    """

    image_id: str
    kind: str
    severity: float
    given: str
    words: str
    likely: str | None = None
    beside: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Audited:
    """What findings are about. image_ids: (N,). labels: (N,) class indices of `classes`."""

    image_ids: Sequence[str]
    labels: NDArray[np.int64]
    classes: Sequence[str]

    def of_labels(self, issues: LabelIssues) -> Iterator[Finding]:
        """Yield the labels that are suspect."""
        for row in np.flatnonzero(issues.suspect).tolist():
            belief = float(issues.score[row])
            likely = self.classes[issues.likely[row]]
            yield self._finding(row, LABEL, 1 - belief, f"believed with {100 * belief:.1f}\u00a0%", likely=likely)

    def of_images(self, looks: ImageIssues) -> Iterator[Finding]:
        """Yield the images that look wrong."""
        for issue in looks.issues:
            yield self._finding(issue.row, issue.kind, issue.severity, IMAGE_ISSUES[issue.kind])

    def of_conflicts(self, conflicts: Conflicts) -> Iterator[Finding]:
        """Yield the near-duplicates with different labels, each pair once."""
        pairs = zip(conflicts.first.tolist(), conflicts.second.tolist(), conflicts.likeness.tolist(), strict=True)
        for row, other, likeness in pairs:
            words = f"its near-duplicate is given as {self.classes[self.labels[other]]}"
            yield self._finding(row, CONFLICT, 0.5 + likeness / 2, words, beside=self.image_ids[other])

    def _finding(self, row: int, kind: str, severity: float, words: str, **more: str) -> Finding:
        given = self.classes[self.labels[row]]
        return Finding(self.image_ids[row], kind, round(severity, 5), given, words, **more)

    def class_rows(self, issues: LabelIssues, not_judged: NDArray[np.integer]) -> list[dict[str, Any]]:
        """Return what metrics.json says of every class with images.

        threshold: the mean belief in the class's own labels, from which on confident learning counts an image as one
        of it. likely: what the most of its suspect images look like.
        """
        number = len(self.classes)
        images = np.bincount(self.labels, minlength=number)
        doubted = np.bincount(self.labels[issues.suspect], minlength=number)
        belief = np.bincount(self.labels, issues.score, number)
        pairs, counts = np.unique(
            np.stack([self.labels[issues.suspect], issues.likely[issues.suspect]]), axis=1, return_counts=True
        )
        order = np.lexsort((pairs[1], -counts, pairs[0]))
        most: dict[int, int] = {}
        for given, likely in pairs[:, order].T.tolist():
            most.setdefault(given, likely)
        return [
            {
                "name": self.classes[k],
                "images": int(images[k]),
                "suspects": int(doubted[k]),
                "judged": k not in not_judged,
                "threshold": round(float(belief[k] / images[k]), 5),
                "likely": self.classes[most[k]] if k in most else None,
            }
            for k in np.flatnonzero(images).tolist()
        ]


def ranked(findings: Iterable[Finding]) -> list[Finding]:
    """Return the findings, worst first; of equal severity, in an order that never changes."""
    return sorted(findings, key=lambda finding: (-finding.severity, finding.image_id, finding.kind))


def write_findings(folder: Path, findings: Sequence[Finding]) -> None:
    """Write findings.parquet, in their order."""
    pq.write_table(pa.Table.from_pylist([asdict(finding) for finding in findings], _SCHEMA), folder / FINDINGS_FILE)


def read_findings(folder: Path, limit: int) -> list[dict[str, Any]]:
    """Return the first `limit` findings of the audit in `folder`."""
    rows: list[dict[str, Any]] = pq.read_table(folder / FINDINGS_FILE).slice(0, limit).to_pylist()
    return rows
