"""Verbs about people's answers: label draw, label queue, label import, label export."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import click

from flows.commands.options import at_option, emit, prepare_flows, services, table, verb, window_option


@click.group()
def label() -> None:
    """The accuracy sample and the training queue: draw, show, hand out and take in."""


@label.command(epilog="Example: perennial label draw --window 2026-10")
@verb
@at_option
@window_option
def draw(root: Path, as_json: bool, now: datetime, window: str | None) -> None:
    """Close a window and draw its accuracy sample; drawing again gives the same tasks."""
    workspace = prepare_flows(root)
    from flows.label import label as flow

    result = flow(workspace, window, now)
    rows = [(d["model_version"], d["kind"], d["predictions"], d["tasks"]) for d in result["draws"]]
    emit(result, as_json, [f"window {result['window']}", table(("model", "draw", "predictions", "tasks"), rows)])


@label.command(epilog="Example: perennial label queue --queue training")
@click.option("--queue", default="accuracy", type=click.Choice(["accuracy", "training"]), show_default=True)
@click.option("--limit", default=20, show_default=True)
@verb
def queue(root: Path, as_json: bool, queue: str, limit: int) -> None:
    """Show open tasks. The model's answer is never among what is shown."""
    from components.operations.labelling import open_tasks

    with services(root) as opened:
        result = open_tasks(opened, queue, limit)
    rows = [(t["task_id"], t["window"], t["image_id"][:16]) for t in result["tasks"]]
    emit(result, as_json, [f"{result['open']} open", table(("task", "window", "image"), rows)])


@label.command(name="export", epilog="Example: perennial label export tasks.json --format label-studio")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--queue", default="accuracy", type=click.Choice(["accuracy", "training"]), show_default=True)
@click.option(
    "--format", "form", default=None, type=click.Choice(["csv", "label-studio"]), help="[default: by FILE's name]"
)
@click.option("--images", type=click.Path(path_type=Path), default=None, help="Also write the images into this folder.")
@verb
def export_tasks(root: Path, as_json: bool, file: Path, queue: str, form: str | None, images: Path | None) -> None:
    """Write open tasks to FILE (CSV, or Label Studio JSON), with the images beside if asked."""
    from components.operations.labelling import export_tasks as act

    chosen = form or ("csv" if file.suffix == ".csv" else "label-studio")
    with services(root) as opened:
        result = act(opened, file, queue=queue, form=chosen, images=images)
    emit(result, as_json, f"{result['tasks']} tasks in {file}")


@label.command(name="import", epilog="Example: perennial label import answers.csv")
@click.argument("file", type=click.Path(path_type=Path, exists=True))
@verb
@at_option
def import_answers(root: Path, as_json: bool, now: datetime, file: Path) -> None:
    """Take in answers (CSV with task_id, answer, annotator, answered_at; or Label Studio JSON). Twice is once."""
    from components.operations.labelling import import_answers as act

    with services(root) as opened:
        result = act(opened, file, now=now)
    emit(result, as_json, ", ".join(f"{name}: {count}" for name, count in result.items()))


VERBS = (label,)
