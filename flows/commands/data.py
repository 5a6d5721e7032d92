"""Verbs about data: ingest, audit."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import click

from flows.commands.options import at_option, emit, prepare_flows, table, verb


@click.command(epilog="Example: perennial ingest photos/ --add-class heron")
@click.argument("source")
@click.option("--add-class", "add_classes", multiple=True, metavar="NAME", help="A class the list does not have yet.")
@verb
@at_option
def ingest(root: Path, as_json: bool, now: datetime, source: str, add_classes: tuple[str, ...]) -> None:
    """Bring labelled images in and version them.

    SOURCE: a folder of class folders, a .zip or .tar of one, a .csv or .parquet with columns path and label,
    `fashion-mnist`, `digits`, `torchvision:NAME`, or any fsspec URL of those.
    """
    workspace = prepare_flows(root, source=source)
    from flows.ingest import ingest as flow

    result = flow(workspace, source, list(add_classes), now)
    rows = [(key, result[key]) for key in ("added", "duplicates", "corrected", "quarantined", "held")]
    lines = [
        f"{result['dataset_version'] or 'nothing changed'}: {len(result['classes'])} classes",
        table(("", ""), rows),
    ]
    if result["set_aside"]:
        shown = [(item["name"], item["reason"], item["detail"]) for item in result["set_aside"][:20]]
        lines += ["", "set aside:", table(("file", "reason", "detail"), shown)]
    emit(result, as_json, lines)


@click.command(epilog="Example: perennial audit --json")
@click.option("--limit", default=20, show_default=True, help="How many suspects to show, worst first.")
@verb
@at_option
def audit(root: Path, as_json: bool, now: datetime, limit: int) -> None:
    """Find label issues of the current dataset version with cleanlab, from out-of-fold probabilities."""
    workspace = prepare_flows(root)
    from flows.ingest import audit as flow

    result = flow(workspace, limit, now)
    from components.data.ingestion.class_history import shown_name

    named = [[shown_name(s[side], result["display"]) for side in ("given", "likely")] for s in result["suspects"]]
    rows = [(s["image_id"][:12], *n, f"{s['score']:.3f}") for s, n in zip(result["suspects"], named, strict=True)]
    emit(
        result,
        as_json,
        [_headline(result),
         table(("image", "given", "likely", "score"), rows)],
    )  # fmt: skip


def _headline(result: dict[str, Any]) -> str:
    metrics = result["metrics"]
    return f"{metrics['suspects']} suspects in {metrics['images']} images of {result['dataset_version']}"


VERBS = (ingest, audit)
