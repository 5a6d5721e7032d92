"""Verbs about data: ingest, audit, card."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import click

from components.data.sources.item import printable
from flows.commands.options import at_option, columns_option, emit, prepare_flows, table, verb

_SHOWN = 20
_COUNTED = ("added", "duplicates", "near_duplicates", "near_conflicts", "corrected", "quarantined", "held")


@click.command(epilog="Example: perennial ingest list.csv --column path=filename --column label=species --dry-run")
@click.argument("source")
@click.option("--add-class", "add_classes", multiple=True, metavar="NAME", help="A class the list does not have yet.")
@columns_option
@click.option("--dry-run", is_flag=True, help="Show what would come in, and change nothing.")
@verb
@at_option
def ingest(
    root: Path, as_json: bool, now: datetime, source: str, add_classes: tuple[str, ...], columns: tuple[str, ...],
    dry_run: bool,
) -> None:  # fmt: skip
    """Bring labelled images in and version them.

    SOURCE: a folder of class folders, an archive of one (.zip, .tar, .tar.gz, .tar.bz2, .tar.xz, .tar.zst), a list
    (.csv, .parquet, .jsonl) of paths and labels, a folder with a metadata.jsonl or metadata.csv, `fashion-mnist`,
    `digits`, `torchvision:NAME`, or any fsspec URL of those.
    """
    if dry_run:
        _preview(root, as_json, source, add_classes, columns)
        return
    workspace = prepare_flows(root, source=source, columns=columns)
    from flows.ingest import ingest as flow

    result = flow(workspace, source, list(add_classes), now, list(columns))
    rows = [(key, result[key]) for key in _COUNTED]
    lines = [
        f"{result['dataset_version'] or 'nothing changed'}: {len(result['classes'])} classes",
        table(("", ""), rows),
    ]
    lines += _opinion_lines(result["opinions"])
    if result["set_aside"]:
        shown = [(item["name"], item["reason"], item["detail"]) for item in result["set_aside"][:20]]
        lines += ["", "set aside:", table(("file", "reason", "detail"), shown)]
        lines.append("`perennial quarantine` lists what awaits a decision, `perennial quarantine release` lets it in")
    lines += ["", *result["advice"]] if result["advice"] else []
    emit(result, as_json, lines)


def _opinion_lines(told: dict[str, int]) -> list[str]:
    if not told:
        return []
    lines = [
        f"{told['given']} opinions of {told['annotators']} annotators about {told['images']} images: "
        f"{told['new']} new, {told['revised']} instead of earlier ones"
    ]
    if told["ties"]:
        lines.append(f"ties: {told['ties']} images; the stored label stays, of a new image a hash decides")
    if told["contradicted"]:
        lines.append(f"contradictions: {told['contradicted']} rows; the last row of one person about one image counts")
    if told["frozen"]:
        lines.append(f"outvoted in the frozen test set, whose labels stay: {told['frozen']} images")
    return lines


def _preview(root: Path, as_json: bool, source: str, add_classes: tuple[str, ...], columns: tuple[str, ...]) -> None:
    from components.operations.ingest_preview import preview_source
    from components.operations.workspace import open_workspace
    from components.settings import Settings

    workspace = open_workspace(root, Settings.from_environment())
    found = preview_source(workspace, source, add_classes=add_classes, columns=columns)
    emit(found, as_json, _preview_lines(found))


def _preview_lines(found: dict[str, Any]) -> list[str]:
    unknown = {entry["label"]: entry["nearest"] or "-" for entry in found["unknown"] or ()}
    size = f"{found['bytes'] / 1e6:.1f} MB" + (" and what is not known yet" if found["unknown_sizes"] else "")
    lines = [f"{found['usable']} of {found['files']} files would come in, {size}; nothing was changed"]
    if found["opinions"]:
        lines.append(f"their labels are {found['opinions']} opinions of {found['annotators']} annotators")
    if found["refused"]:
        lines.append(f"the ingest would be refused: {found['refused']}")
    shown = list(found["classes"].items())[:_SHOWN]
    rows = [
        (printable(label), files, f"unknown, nearest {unknown[label]}" if label in unknown else "")
        for label, files in shown
    ]
    lines += ["", table(("label", "files", ""), rows)]
    if found["labels"] > len(shown):
        lines.append(f"and {found['labels'] - len(shown)} labels more")
    if found["reasons"]:
        lines += ["", "would be set aside:", table(("reason", "files"), list(found["reasons"].items()))]
        lines += ["", table(("file", "reason"), [(a["name"], a["reason"]) for a in found["set_aside"][:_SHOWN]])]
    if found["sample"]:
        sample = [(s["name"], s["label"], s["problem"] or f"{s['width']} x {s['height']}") for s in found["sample"]]
        lines += ["", "the first files:", table(("file", "label", "pixels"), sample)]
    return lines


@click.command(epilog="Example: perennial audit --html audit.html")
@click.option("--limit", default=20, show_default=True, help="How many findings to show, worst first.")
@click.option(
    "--html", "page", type=click.Path(dir_okay=False, path_type=Path), help="Where to put them with pictures."
)
@verb
@at_option
def audit(root: Path, as_json: bool, now: datetime, limit: int, page: Path | None) -> None:
    """Find labels that are hard to believe and images that look wrong in the current dataset version.

    Labels are held against models that did not see their image (cleanlab), images against what is usual (cleanvision),
    near-duplicates against each other's labels. The worst suspects go to people, as many as labelling.audit_queue says.
    """
    workspace = prepare_flows(root)
    from flows.ingest import audit as flow

    result = flow(workspace, limit, now, None if page is None else str(page.absolute()))
    from components.data.ingestion.class_history import shown_name

    display = result["display"]
    rows = [
        (
            f["image_id"][:12],
            f["kind"],
            shown_name(f["given"], display),
            shown_name(f["likely"] or "", display),
            f["words"],
        )
        for f in result["findings"]
    ]
    emit(
        result,
        as_json,
        [
            _headline(result),
            table(("image", "finding", "given", "likely", ""), rows),
            *_asked(result["queue"]),
            *([str(page)] if page else []),
        ],
    )


def _asked(queue: dict[str, int]) -> list[str]:
    how = "perennial label export tasks.csv --queue audit --images tasks"
    return [f"people are asked about {queue['open']} of the suspects: {how}"] if queue["open"] else []


def _headline(result: dict[str, Any]) -> str:
    metrics = result["metrics"]
    return (
        f"{metrics['suspects']} suspects in {metrics['images']} images of {result['dataset_version']}, "
        f"{metrics['findings']} findings in all"
    )


@click.command(epilog="Example: perennial card --html card.html")
@click.option("--html", "page", type=click.Path(dir_okay=False, path_type=Path), help="A page with pictures of it.")
@verb
def card(root: Path, as_json: bool, page: Path | None) -> None:
    """Show what the dataset holds: classes, splits, sources, sizes, licence, known issues, and what it lacks."""
    from components.operations.dataset_card import dataset_card
    from components.operations.workspace import open_workspace
    from components.settings import Settings

    facts = dataset_card(open_workspace(root, Settings.from_environment()), page)
    splits = list(facts["splits"])
    shown = sorted(facts["classes"], key=lambda row: -sum(row[split] for split in splits))[:_SHOWN]
    lines = [
        f"{facts['version'] or 'no version'}: {facts['images']} images of {len(facts['classes'])} classes",
        table(("class", *splits), [(printable(row["name"]), *(row[split] for split in splits)) for row in shown]),
    ]
    if len(facts["classes"]) > len(shown):
        lines.append(f"and {len(facts['classes']) - len(shown)} classes more")
    lines += ["", *facts["advice"]] if facts["advice"] else []
    emit(facts, as_json, [*lines, *([str(page)] if page else [])])


VERBS = (ingest, audit, card)
