"""The sections of params.yaml that a retraining writes itself, each committed with the run it was written for."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import yaml

from components.data.ingestion.class_changes import ClassChange, Split, carried, outcomes
from components.params import Mix, Start, SuspectedChange, load_params
from components.records import Window

SAME_CHANGE = timedelta(days=183)
"""Within so long of an alarm, another one of the same class is taken for the same change, not yet mended."""


def set_restart(path: Path, number: int) -> None:
    """Write `restart.number` into a params.yaml, leaving every other line as it is."""
    if load_params(path).restart.number != number:
        _write_section(path, "restart", {"number": number})


def note_change(path: Path, since: str, classes: Collection[str]) -> None:
    """Write into a params.yaml that `classes` fell in the window `since`; what is noted already stays as it is."""
    known = list(load_params(path).changes)
    start = Window.parse(since).start
    for place, change in enumerate(known):
        age = start - Window.parse(change.since).start
        if timedelta(0) <= age <= SAME_CHANGE and set(change.classes) & set(classes):
            known[place] = change.model_copy(update={"classes": tuple(sorted({*change.classes, *classes}))})
            break
    else:
        known.append(SuspectedChange(since=since, classes=tuple(sorted(classes))))
    if tuple(known) != load_params(path).changes:
        _write_section(path, "changes", [change.model_dump(mode="json") for change in known])


def note_mix(path: Path, window: str, shares: Mapping[str, float]) -> None:
    """Write into a params.yaml how often every class came in a window; no shares take what was written out again."""
    wanted = Mix(window=window, shares=dict(shares))
    if load_params(path).mix != wanted:
        _write_section(path, "mix", wanted.model_dump(mode="json"))


def note_start(path: Path, start: Start) -> None:
    """Write into a params.yaml whose weights training starts from."""
    if load_params(path).start != start:
        _write_section(path, "start", start.model_dump(mode="json"))


def carry_classes(path: Path, change: ClassChange, classes: Sequence[str]) -> None:
    """Write a changed class list into a params.yaml, where it names classes: `data.classes` and `changes`.

    classes: the list after `change`. A fallen class that is split becomes all its parts.
    """
    params = load_params(path)
    if params.data.classes:
        _write_declared(path, classes)
    noted = [one.model_copy(update={"classes": _carried(one.classes, change)}) for one in params.changes]
    if tuple(noted) != params.changes:
        _write_section(path, "changes", [one.model_dump(mode="json") for one in noted])


def _carried(names: Sequence[str], change: ClassChange) -> tuple[str, ...]:
    now: set[str] = set()
    for name in names:
        found = carried(name, [change]).name
        if found is not None:
            now.add(found)
        elif isinstance(change, Split):
            now.update(outcomes(change.parts, change.rest))
    return tuple(sorted(now))


def _write_declared(path: Path, classes: Sequence[str]) -> None:
    text = path.read_text(encoding="utf-8")
    data = dict(_children(yaml.compose(text, Loader=yaml.SafeLoader)))["data"]
    declared = dict(_children(data))["classes"]
    start, end, written = declared.start_mark.index, declared.end_mark.index, _flow(classes)
    if not declared.flow_style:  # it ends before the next key, comments included, and may be indented no deeper than it
        end, written = declared.value[-1].end_mark.index, f"  {written}"
    path.write_text(text[:start] + written + text[end:], encoding="utf-8")


def _flow(names: Sequence[str]) -> str:
    return str(yaml.safe_dump(list(names), allow_unicode=True, default_flow_style=True, width=2**20)).strip()


def _children(node: Any) -> Iterator[tuple[str, Any]]:
    return ((key.value, value) for key, value in node.value)


def _write_section(path: Path, name: str, content: Any) -> None:
    section = re.compile(rf"^{name}:.*\n(?:[ \t]+.*\n|- .*\n|\n(?=[ \t]))*", re.MULTILINE)
    kept = section.sub("", path.read_text(encoding="utf-8") + "\n").rstrip("\n")
    written = yaml.safe_dump({name: content}, allow_unicode=True, sort_keys=False)
    path.write_text(f"{kept}\n\n{written}", encoding="utf-8")
