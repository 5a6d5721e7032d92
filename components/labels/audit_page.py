"""The audit as a page: what to look at first, with pictures; one file, no scripts, readable without a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.labels.annotators import OPINIONS
from components.labels.findings import CONFLICT, LABEL, Finding
from components.labels.image_issues import IMAGE_ISSUES

PAGE_FILE = "audit.html"
MOST_SHOWN = 240
MOST_CLASSES = 40
MOST_ANNOTATORS = 40
MOST_CONFUSIONS = 12
KINDS = {
    LABEL: "label",
    OPINIONS: "annotators",
    CONFLICT: "near-duplicates",
    **{kind: kind.replace("_", " ") for kind in IMAGE_ISSUES},
}


@dataclass(frozen=True, slots=True)
class Shown:
    """What a page shows of an image: its picture as a data URI, its name and its source."""

    picture: str
    name: str
    source: str


def write_audit_page(
    metrics: Mapping[str, Any], findings: Sequence[Finding], show: Callable[[str], Shown], path: Path
) -> None:
    """Write the page of an audit to `path`, in the place of an older one. The same arguments give the same bytes.

    metrics: the audit's metrics.json. findings: all of them, ranked; MOST_SHOWN are shown. show: asked once for each
    image that is.
    """
    from components.pages.page import page_environment, write_page

    shown = findings[:MOST_SHOWN]
    pictures = {name: show(name) for name in dict.fromkeys(_pictured(shown))}
    classes = sorted(metrics["classes"], key=lambda row: (-row["suspects"], -row["images"], row["name"]))
    context = {
        "metrics": metrics,
        "shown": shown,
        "further": len(findings) - len(shown),
        "pictures": pictures,
        "kinds": KINDS,
        "meanings": IMAGE_ISSUES,
        "classes": classes[:MOST_CLASSES],
        "further_classes": len(classes) - len(classes[:MOST_CLASSES]),
        "confusions": metrics.get("noise", {}).get("confusions", ())[:MOST_CONFUSIONS],  # audits of before have none
        "crowd": metrics.get("annotators"),
        "most_annotators": MOST_ANNOTATORS,
        "label": LABEL,
        "of_labels": (LABEL, OPINIONS),
        "conflict": CONFLICT,
    }
    write_page(page_environment("components.labels").get_template("audit.html").render(context), path)


def _pictured(findings: Sequence[Finding]) -> list[str]:
    return [name for finding in findings for name in (finding.image_id, finding.beside) if name is not None]
