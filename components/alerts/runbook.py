"""The runbook as a page beside the reports, so that an alert's link reaches the section that helps."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

from components.data.files import publish, unpublished

# What an alert's key begins with, and the heading of the runbook that is about it.
SECTIONS = {
    "accuracy": "Accuracy fell in a window",
    "drift": "Drift in a window",
    "skew": "Serving does not do what training did",
    "retraining-refused": "Retraining was refused",
    "champion-age": "A version is past its age and is not renewed",
    "kept-champion": "A version was not promoted",
    "failed": "Retraining failed",
}
_STYLE = (
    "body{max-width:46rem;margin:2rem auto;padding:0 1rem;font:1rem/1.55 system-ui,sans-serif;color:#17201b}"
    "code{background:#eef2ef;padding:.1em .3em;border-radius:3px;overflow-wrap:anywhere}"
    "h2{margin-top:2.2rem;border-top:1px solid #d5ddd8;padding-top:1rem}h2:target{background:#fff4d6}"
    "table{border-collapse:collapse;display:block;overflow-x:auto}"
    "td,th{border:1px solid #d5ddd8;padding:.4rem .6rem;text-align:left;vertical-align:top}"
)


def section_of(key: str) -> str | None:
    """Return the anchor of the runbook's section about the alert with `key`; None where there is nothing to do."""
    heading = SECTIONS.get(key.split("/", 1)[0])
    return None if heading is None else anchor(heading)


def anchor(heading: str) -> str:
    """Return the anchor of a heading: its words in small letters, without what stands in brackets."""
    return "-".join(re.findall(r"[a-z0-9]+", re.sub(r"\(.*?\)", "", heading).lower()))


def write_runbook(source: Path, target: Path) -> Path:
    """Write the Markdown file `source` as the page `target`, unless that is newer, and return `target`."""
    if target.is_file() and target.stat().st_mtime_ns >= source.stat().st_mtime_ns:
        return target
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = parser.parse(source.read_text(encoding="utf-8"))
    for opened, content in pairwise(tokens):
        if opened.type == "heading_open":
            opened.attrSet("id", anchor(content.content))
    body = parser.renderer.render(tokens, parser.options, {})
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Runbook</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head>'
        f"<body>{body}</body></html>\n"
    )
    with unpublished(target.parent) as (file, temporary):
        file.write(page.encode())
        publish(file, temporary, target)
    return target
