"""Everything an audit doubts, in one list, worst first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

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
