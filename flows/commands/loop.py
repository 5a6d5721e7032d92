"""Verbs of the running loop: score, monitor, serve, demo."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import click

from flows.commands.options import at_option, columns_option, emit, prepare_flows, services, table, verb, window_option


@click.command(epilog="Example: perennial score incoming/2026-10-05/ --at 2026-10-05T12:00:00Z")
@click.argument("source")
@click.option("--batch", "batch_id", default=None, metavar="KEY", help="Your own key. [default: a hash of the content]")
@columns_option
@verb
@at_option
def score(
    root: Path, as_json: bool, now: datetime, source: str, batch_id: str | None, columns: tuple[str, ...]
) -> None:
    """Score a batch of images with the champion and log every prediction exactly once.

    SOURCE: what `ingest` takes, without labels: a folder, an archive, a list (.csv, .parquet, .jsonl) with a column of
    paths, a built-in set, or any fsspec URL.
    """
    workspace = prepare_flows(root, source=source, columns=columns)
    from flows.score import score as flow

    result = flow(workspace, source, batch_id, now, list(columns))
    shown = ("batch", "model_version", "images", "new_rows", "needs_review", "set_aside")
    lines = [table(("", ""), [(key, result[key]) for key in shown])]
    if result["set_aside_items"]:
        rows = [(i["name"], i["reason"], i["detail"]) for i in result["set_aside_items"][:20]]
        lines += ["", "set aside:", table(("file", "reason", "detail"), rows)]
    emit(result, as_json, lines)


@click.command(epilog="Example: perennial monitor --window 2026-10 --json")
@verb
@at_option
@window_option
def monitor(root: Path, as_json: bool, now: datetime, window: str | None) -> None:
    """Estimate each class's accuracy, test drift, judge, alert, and perhaps request a retraining."""
    workspace = prepare_flows(root)
    from flows.monitor import monitor as flow

    segments = flow(workspace, window, now)
    emit(segments, as_json, [line for segment in segments for line in segment_lines(segment)] or "no predictions")


@click.command(epilog="Example: perennial explain-drift --window 2026-10")
@verb
@at_option
@window_option
def explain_drift(root: Path, as_json: bool, now: datetime, window: str | None) -> None:
    """Show what changed in a window's images, on a page with pictures and in words.

    They are compared with the images of the model's drift reference: which moved most, whether a known change of the
    look explains it, and whether there is a group that may be a new class. Nothing is decided by it.
    """
    from components.operations.monitoring.drift_explained import explain_window

    with services(root) as opened:
        result = explain_window(opened, window, now=now)
    emit(result, as_json, [line for found in result for line in explanation_lines(found)])


def explanation_lines(found: dict[str, Any]) -> list[str]:
    """Return what changed in one segment as a person reads it."""
    page = [f"page: {found['page']}"] if found["page"] else []
    return [
        f"window {found['window']}, model {found['model_version']}: {found['headline']}",
        *(f"- {sentence}" for sentence in found["summary"] if sentence != found["headline"]),
        *page,
        "",
    ]


def segment_lines(segment: dict[str, Any]) -> list[str]:
    """Return one segment's findings as a person reads them."""
    decision = segment["decision"]
    rows = [
        (c["name"], c["predicted"], c["labels"], _interval(c["precision"]), _interval(c["recall"]), c["state"])
        for c in segment["classes"]
    ]
    cause = segment["prediction_drift"]
    elsewhere, late = segment["drawn_elsewhere"], segment["late"]
    notes = [f"{rows} of the predictions were drawn in {name} and are judged there" for name, rows in elsewhere.items()]
    if late:
        notes.append(f"{late} of the predictions came after the draw and count for drift alone")
    drifted = [f"{d['column']} (V {d['v']:.3f})" for d in segment["drift"] if d["drifted"]]
    return [
        f"window {segment['window']}, model {segment['model_version']}: "
        f"{segment['predictions']} predictions, {segment['labels']} labels",
        *notes,
        table(("class", "predicted", "labels", "precision", "recall", "state"), rows),
        *_beside(segment),
        f"drift: {', '.join(drifted) or 'none'}" + (f"; {cause['reason']}" if cause else ""),
        *([f"  {segment['drift_explained']['headline']}"] if segment["drift_explained"] else []),
        *([f"production against offline: {skew['state']}: {skew['reason']}"] if (skew := segment["skew"]) else []),
        f"decision: {decision['action']} {', '.join(decision['classes'])}: {decision['reason']}",
        "",
    ]


def _beside(segment: dict[str, Any]) -> list[str]:
    """Return what the model's earlier windows add: rates of classes too rare for this one, and what fell since."""
    pooled, since, lines = segment["pooled"], segment["since"], []
    rare = {c["name"] for c in segment["classes"] if c["state"] in ("insufficient", "not-measurable")}
    found = [c for c in pooled["classes"] if c["name"] in rare] if pooled else []
    if found:
        rows = [
            (c["name"], c["predicted"], c["labels"], _interval(c["precision"]), _interval(c["recall"])) for c in found
        ]
        lines += [
            f"too few labels in this window; over {', '.join(pooled['windows'])} together (decides nothing):",
            table(("class", "predicted", "labels", "precision", "recall"), rows),
        ]
    if since and since["fell"]:
        lines.append(f"lower than in {since['window']} (decides nothing): {'; '.join(since['fell'])}")
    return lines


def _interval(value: dict[str, float] | None) -> str:
    return f"{value['value']:.3f} [{value['low']:.3f}, {value['high']:.3f}]" if value else "n/a"


@click.command(epilog="Example: perennial serve")
@click.option("--port", default=4200, show_default=True, help="Port of Prefect's server, where none is given.")
@verb
def serve(root: Path, as_json: bool, port: int) -> None:
    """Run the scheduled deployments in one process: monthly retraining, daily monitoring, hourly scoring."""
    workspace = prepare_flows(root, own_server=False)
    from flows.deployments import serve_all

    serve_all(workspace, port=port, on_ready=lambda rows: emit(rows, as_json, table(("deployment", "cron"), rows)))


@click.command(epilog="Example: perennial demo --months 4 --json")
@click.option(
    "--scenario", type=click.Path(path_type=Path), default=None, help="A scenario file. [default: the built-in]"
)
@click.option("--months", type=click.IntRange(1, 60), default=None, help="Only the first so many months.")
@click.option("--quick", is_flag=True, help="The small digits world: mechanics in about two minutes, no verdict.")
@click.option("--seed", type=int, default=None, help="Another seed than the scenario's.")
@click.option("--directory", type=click.Path(path_type=Path), default=Path(".demo"), show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a month and a summary.")
def demo(
    scenario: Path | None, months: int | None, quick: bool, seed: int | None, directory: Path, as_json: bool
) -> None:
    """Run the whole loop on real images. Drift and annotators are simulated, and the truth is printed beside."""
    from flows.demo import run_demo

    run_demo(scenario_path=scenario, months=months, quick=quick, seed=seed, directory=directory, as_json=as_json)


VERBS = (score, monitor, explain_drift, serve, demo)
