"""Versioned class lists: every model, task and reference names one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, select, text
from sqlalchemy.dialects.postgresql import insert

from components.errors import DataError
from components.store.database import Database
from components.store.tables import class_list

_TASKS_NAMING = text(
    """
SELECT t.queue, count(*) FILTER (WHERE t.state <> 'settled') AS open,
    count(*) FILTER (WHERE t.state = 'settled' AND t.exported_in IS NULL AND t.settled_answer = ANY(:names)) AS waiting
FROM label_task t
WHERE t.class_list_id IN (SELECT c.id FROM class_list c WHERE c.classes && CAST(:names AS text[]) AND NOT c.several)
GROUP BY t.queue ORDER BY t.queue
"""
)


class ClassList(NamedTuple):
    """A stored list; several: an image carries any number of its classes, instead of exactly one."""

    classes: tuple[str, ...]
    several: bool


def class_list_id(connection: Connection, classes: Sequence[str], now: datetime, *, several: bool = False) -> int:
    """Return the number of the class list with exactly these names in this order, stored if it is new.

    several: an image carries any number of them; that is another list than one of the same names of which it is one.
    Raises DataError for an empty list and for a name that is there twice.
    """
    names = list(classes)
    if not names or len(set(names)) != len(names):
        raise DataError(f"class list {names!r} is empty or names a class twice")
    digest = hashlib.sha256(json.dumps({"several": names} if several else names).encode()).hexdigest()
    row = {"classes": names, "digest": digest, "created_at": now, "several": several}
    connection.execute(insert(class_list).values(row).on_conflict_do_nothing())
    return int(connection.scalars(select(class_list.c.id).where(class_list.c.digest == digest)).one())


def classes_of(connection: Connection, number: int) -> tuple[str, ...]:
    """Return the class names of a stored list, in their order."""
    return tuple(connection.scalars(select(class_list.c.classes).where(class_list.c.id == number)).one())


def is_several(connection: Connection, number: int) -> bool:
    """Return whether an image carries any number of the classes of a stored list, instead of exactly one."""
    return bool(connection.scalars(select(class_list.c.several).where(class_list.c.id == number)).one())


def class_lists(connection: Connection, numbers: Iterable[int]) -> dict[int, ClassList]:
    """Return the stored lists of these numbers: once each, since a list of a thousand is not fetched with every row."""
    asked = select(class_list.c.id, class_list.c.classes, class_list.c.several)
    found = connection.execute(asked.where(class_list.c.id.in_(set(numbers))))
    return {row.id: ClassList(tuple(row.classes), row.several) for row in found}


def tasks_naming(db: Database, names: Sequence[str]) -> list[dict[str, Any]]:
    """Return, by queue, how many tasks offer one of these classes: open ones, and those answered with one of them.

    Answered ones are those that no dataset version has yet.
    """
    with db.transaction() as connection:
        rows = connection.execute(_TASKS_NAMING, {"names": list(names)}).mappings().all()
    return [dict(row) for row in rows if row["open"] or row["waiting"]]
