"""Verbs about the class list: classes, and its changes."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flows.commands.options import at_option, emit, person, services, table, verb

if TYPE_CHECKING:
    from components.operations.classes import AskedChange

SPLITS = ("train", "validation", "test", "frozen_test", "golden")
SHOWN = 50

Command = Callable[..., Any]


def _changing(function: Command) -> Command:
    applied = click.option("--apply", is_flag=True, help="Do it. Without, only what would change is told.")
    return applied(verb(at_option(function)))


@click.group(invoke_without_command=True, epilog="Example: perennial classes --json")
@verb
@click.pass_context
def classes(context: click.Context, root: Path, as_json: bool) -> None:
    """Show the class list, or change it: add, rename, merge, split; display names.

    A change is told first and done with --apply: a new dataset version with every label carried over.
    """
    if context.invoked_subcommand is not None:
        if as_json:
            raise click.UsageError(f"--json belongs to {context.invoked_subcommand}; put it at the end")
        context.find_root().obj = {"workspace": str(root)}  # given here, it holds for what follows
        return
    from components.operations.classes import list_classes

    with services(root) as opened:
        result = list_classes(opened)
    emit(result, as_json, _listed(result))


@classes.command(epilog="Example: perennial classes add heron --apply")
@click.argument("name")
@_changing
def add(root: Path, as_json: bool, now: datetime, apply: bool, name: str) -> None:
    """Add a class at the end of the list."""
    from components.data.ingestion.class_changes import Add

    _change(root, as_json, now, lambda _: Add(name), apply=apply)


@classes.command(epilog='Example: perennial classes rename boot "ankle boot" --apply')
@click.argument("old")
@click.argument("new")
@_changing
def rename(root: Path, as_json: bool, now: datetime, apply: bool, old: str, new: str) -> None:
    """Call a class otherwise; it keeps its place, its images and what people answered."""
    from components.data.ingestion.class_changes import Rename

    _change(root, as_json, now, lambda _: Rename(old, new), apply=apply)


@classes.command(epilog="Example: perennial classes merge sneaker trainer --into sneaker --apply")
@click.argument("names", nargs=-1, required=True)
@click.option("--into", required=True, metavar="NAME", help="One of them, another class, or a new name.")
@_changing
def merge(root: Path, as_json: bool, now: datetime, apply: bool, names: tuple[str, ...], into: str) -> None:
    """Make one class of several; it has the place of INTO, or of the first of them where INTO is new."""
    from components.data.ingestion.class_changes import merge_of

    _change(root, as_json, now, lambda manifest: merge_of(names, into, manifest.classes), apply=apply)


@classes.command(epilog="Example: perennial classes split bird --by birds.csv --rest other-bird --apply")
@click.argument("name")
@click.option(
    "--by", "file", required=True, type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="CSV with the columns image (its id, or the file name it came under) and class.",
)  # fmt: skip
@click.option("--rest", default=None, metavar="NEW", help="The class of images not in it. [default: they keep NAME]")
@_changing
def split(root: Path, as_json: bool, now: datetime, apply: bool, name: str, file: Path, rest: str | None) -> None:
    """Make several classes of one, image by image. The list must hold every image of the frozen test set."""
    from components.data.ingestion.split_list import read_split_list, split_by

    listed = read_split_list(file)
    _change(root, as_json, now, lambda manifest: split_by(manifest, name, listed, rest), apply=apply)


@classes.command(epilog='Example: perennial classes display n02084071 "Dog" --apply')
@click.argument("name")
@click.argument("text")
@_changing
def display(root: Path, as_json: bool, now: datetime, apply: bool, name: str, text: str) -> None:
    """Show a class to people as TEXT ("" takes that back). Its name stays what identifies it."""
    from components.operations.classes import set_display_name

    with services(root) as opened:
        result = set_display_name(opened, name, text, apply=apply, actor=person(), now=now)
    before, after = (result[key] or name for key in ("before", "after"))
    done = "shown" if apply else "would be shown (--apply does it)"
    emit(result, as_json, f"{name}: {done} as {after}, before as {before}")


def _change(root: Path, as_json: bool, now: datetime, asked: AskedChange, *, apply: bool) -> None:
    from components.operations.classes import change_classes

    with services(root) as opened:
        result = change_classes(opened, asked, apply=apply, actor=person(), now=now)
    emit(result, as_json, _told(result))


def _told(result: dict[str, Any]) -> list[str]:
    count, images, answers = result["class_count"], result["images"], result["answers"]
    done = result["dataset_version"] or "nothing is changed yet; --apply does it"
    lines = [f"{result['change']}: {done}", f"classes: {count['before']} before, {count['after']} after"]
    for when in ("before", "after"):
        if images[when]:
            lines += ["", f"images {when}:", _images(images[when])]
    if result["listed_elsewhere"]:
        lines.append(f"listed and not in the dataset: {result['listed_elsewhere']} images")
    if result["opinions_lost"]:
        lines.append(
            f"opinions of the split class about images the list does not have, which go: {result['opinions_lost']}"
        )
    lines += [""]
    lines += [
        f"{task['queue']} queue: {task['open']} open tasks offer what changes, {task['waiting']} answers name it; "
        "they stay as they were asked, and their answers are carried over"
        for task in result["tasks"]
    ]
    lines.append(
        f"answers waiting for the next retraining: {answers['waiting']}, {answers['renamed']} of them under another "
        f"name then, {answers['held']} held"
    )
    champion = result["champion"]
    if champion is not None:
        lines.append(f"champion: version {champion['version']} goes on answering its own {champion['classes']} classes")
    return [*lines, f"the next retraining {result['next']}"]


def _images(of_class: dict[str, dict[str, int]]) -> str:
    rows = [(name, *(counts.get(split, 0) for split in SPLITS)) for name, counts in of_class.items()]
    folded = [(f"and {len(rows) - SHOWN} more", *[""] * len(SPLITS))] if len(rows) > SHOWN else []
    return table(("class", *SPLITS), [*rows[:SHOWN], *folded])


def _listed(result: dict[str, Any]) -> list[str]:
    rows = [
        (c["index"], c["name"], c["display"] or "", *(c["images"].get(split, 0) for split in SPLITS))
        for c in result["classes"]
    ]
    champion = result["champion"]
    lines = [f"{result['dataset_version']}: {len(rows)} classes", table(("", "class", "shown as", *SPLITS), rows)]
    lines += [f"{one['at']} {one['by']}: {one['change']}" for one in result["changes"]]
    if champion is not None and not champion["same"]:
        lines.append(f"champion {champion['version']} answers an older list: {champion['words'] or 'other classes'}")
    return lines


VERBS = (classes,)
