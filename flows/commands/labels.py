"""Verbs about people's answers and what they are held against: label, plan-labels, reference."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import click

from flows.commands.options import at_option, emit, person, prepare_flows, services, table, verb, window_option

QUEUES = ["accuracy", "check", "training", "audit"]


@click.group()
def label() -> None:
    """The accuracy sample, its checks, the training queue and doubted labels: draw, show, hand out and take in."""


@label.command(epilog="Example: perennial label draw --window 2026-10")
@verb
@at_option
@window_option
def draw(root: Path, as_json: bool, now: datetime, window: str | None) -> None:
    """Close a window and draw its accuracy sample; drawing again gives the same tasks."""
    workspace = prepare_flows(root)
    from flows.label import label as flow

    result = flow(workspace, window, now)
    rows = [(d["model_version"], d["kind"], d["predictions"], d["tasks"], d["checks"]) for d in result["draws"]]
    header = ("model", "draw", "predictions", "tasks", "asked twice")
    raised = [
        f"model {d['model_version']}: {d['raised']['labels']} beyond the budget: {d['raised']['reason']}"
        for d in result["draws"]
        if d["raised"]
    ]
    emit(result, as_json, [f"window {result['window']}", table(header, rows), *raised])


@label.command(epilog="Example: perennial label queue --queue training")
@click.option("--queue", default="accuracy", type=click.Choice(QUEUES), show_default=True)
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
@click.option("--queue", default="accuracy", type=click.Choice(QUEUES), show_default=True)
@click.option(
    "--format", "form", default=None, type=click.Choice(["csv", "label-studio"]), help="[default: by FILE's name]"
)
@click.option("--images", type=click.Path(path_type=Path), default=None, help="Also write the images into this folder.")
@click.option(
    "--image-url", default=None, metavar="PREFIX",
    help="What the annotators' browsers find that folder under: https://…/tasks/, or /data/local-files/?d=tasks/ "
    "for files that Label Studio serves itself.",
)  # fmt: skip
@verb
def export_tasks(
    root: Path, as_json: bool, file: Path, queue: str, form: str | None, images: Path | None, image_url: str | None
) -> None:
    """Write open tasks to FILE (CSV, or Label Studio JSON), with the images beside if asked.

    Beside a Label Studio file lies the labelling interface to paste into the project's settings, as .xml.
    """
    from components.operations.labelling import export_tasks as act

    chosen = form or ("csv" if file.suffix == ".csv" else "label-studio")
    with services(root) as opened:
        result = act(opened, file, queue=queue, form=chosen, images=images, image_url=image_url)
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


@click.command(epilog="Example: perennial plan-labels --drop 10 --power 0.8 --picture plan.svg")
@click.option(
    "--drop", default=10.0, show_default=True, type=click.FloatRange(0, 100, min_open=True), help="Points of precision."
)
@click.option(
    "--power", default=0.8, show_default=True, type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="The share of windows with the drop that are to raise an alarm.",
)  # fmt: skip
@click.option("--trials", default=300, show_default=True, type=click.IntRange(20), help="Simulated windows a budget.")
@click.option("--picture", type=click.Path(path_type=Path, dir_okay=False), default=None, help="Also draw the curve.")
@verb
@at_option
@window_option
def plan_labels(
    root: Path,
    as_json: bool,
    now: datetime,
    window: str | None,
    drop: float,
    power: float,
    trials: int,
    picture: Path | None,
) -> None:
    """Say how many labels a month (or week, or day) it takes to see one class's precision drop.

    The trigger itself is tried on simulated windows that look like the given one: its classes, confidences and errors.
    """
    from components.operations.monitoring.planning import plan_labels as act

    with services(root) as opened:
        result = act(opened, window, drop=drop / 100, power=power, trials=trials, picture=picture, now=now)
    rows = [
        (b["labels"], f"{b['found']:.0%}", _windows(b["windows_to_alarm"]), f"{b['false_alarms_a_year']:.2f}",
         f"{b['further_labels']:.0f}")
        for b in result["curve"]
    ]  # fmt: skip
    length = result["length"]
    per = (f"labels a {length}", f"found in a {length}")
    header = (*per, f"{length}s to the alarm", "false alarms a year", "further labels")
    lines = [
        f"{length}s like {result['window']} (model {result['model_version']}: {result['predictions']} predictions, "
        f"{result['labelled']} labelled), {trials} simulated for every row",
        table(header, rows),
    ]
    if result["chosen"]:
        classes = [
            (c["name"], c["labels"], "n/a" if c["found"] is None else f"{c['found']:.0%}")
            for c in result["chosen"]["classes"]
        ]
        lines += ["", table(("class", *per), classes)]
    emit(result, as_json, [*lines, "", result["advice"]])


@click.group()
def reference() -> None:
    """The accuracy the service is held to: show it, or reset it with a reason."""


@reference.command(epilog="Example: perennial reference show")
@verb
def show(root: Path, as_json: bool) -> None:
    """Show the reference in force: which window set it, and each class's level."""
    from components.operations.monitoring.reference import describe_reference

    with services(root) as opened:
        result = describe_reference(opened)
    emit(result, as_json, _reference_lines(result) if result else "none yet: the first complete window sets it")


@reference.command(epilog='Example: perennial reference reset --window 2026-10 --reason "new scanner, checked by hand"')
@click.option("--window", required=True, metavar="WINDOW", help="A closed and labelled month, week or day.")
@click.option("--reason", required=True, help="Why; recorded in the ledger.")
@verb
@at_option
def reset(root: Path, as_json: bool, now: datetime, window: str, reason: str) -> None:
    """Hold the service to WINDOW's accuracy from now on. Judgements made before stay as they are."""
    from components.operations.monitoring.reference import reset_reference

    with services(root) as opened:
        result = reset_reference(opened, window, reason=reason, actor=person(), now=now)
    emit(result, as_json, _reference_lines(result))


def _reference_lines(result: dict[str, Any]) -> list[str]:
    rows = [
        (c["name"], *("n/a" if c[key] is None else f"{100 * c[key]:.1f} %" for key in ("precision", "recall")),
         "n/a" if c["independent_labels"] is None else f"{c['independent_labels']:.0f}")
        for c in result["classes"]
    ]  # fmt: skip
    header = ("class", "precision", "recall", "worth labels")
    return [
        f"window {result['window']}, model {result['model_version']}, {result['labels']} labels, set by "
        f"{result['actor']} at {result['set_at']:%Y-%m-%d %H:%M} UTC: {result['reason']}",
        table(header, rows),
    ]


def _windows(expected: float | None) -> str:
    return "never" if expected is None else f"{expected:.1f}"


VERBS = (label, plan_labels, reference)
