"""Answers: stored once each, for ever; unknown tasks parked; the verdicts follow."""

from __future__ import annotations

import difflib
import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, text
from sqlalchemy.dialects.postgresql import insert

from components.errors import DataError
from components.labels import several
from components.labels.consensus import Settled
from components.records import Answer, LabelAnswer, require_utc
from components.store.class_lists import class_lists
from components.store.database import Database
from components.store.tables import label
from components.store.values import clean_text

Settle = Callable[[Sequence[tuple[str, str]]], Settled | None]

RESERVED = tuple(answer.value for answer in Answer)
_ROWS_A_STATEMENT = 1000

_ADOPT = text(
    """
UPDATE label l SET task_id = t.id
FROM label_task t JOIN class_list c ON c.id = t.class_list_id
WHERE l.task_id IS NULL AND t.id = l.task_number AND NOT c.several
    AND (l.answer = ANY(c.classes) OR l.answer = ANY(CAST(:reserved AS text[])))
RETURNING t.id
"""
)
# Sets of labels are read in Python: a parked one is as it was written.
_PARKED = text(
    """
SELECT l.id, l.answer, c.classes FROM label l
JOIN label_task t ON t.id = l.task_number JOIN class_list c ON c.id = t.class_list_id
WHERE l.task_id IS NULL AND c.several
"""
)
_ADOPT_SETS = text(
    "UPDATE label SET task_id = task_number WHERE id = ANY(CAST(:ids AS bigint[])) AND task_id IS NULL"
    " RETURNING task_id"
)
# Locked in one order, so that two deliveries about the same tasks wait for each other and never deadlock.
_LOCK = text(
    """
SELECT t.id, t.class_list_id, t.state, t.settled_answer,
    t.state = 'withdrawn' AND EXISTS (SELECT 1 FROM recalled_image r WHERE r.image_id = t.image_id) AS recalled
FROM label_task t
WHERE t.id = ANY(CAST(:ids AS bigint[]))
ORDER BY t.id FOR UPDATE OF t
"""
)
# A person's last answer counts. One dated in the future, by a clock that is wrong, is as old as its arrival: else it
# could never be corrected.
_GIVEN = text(
    """
SELECT task_id, annotator, answer FROM label WHERE task_id = ANY(CAST(:ids AS bigint[]))
ORDER BY least(answered_at, received_at), received_at, answered_at, id
"""
)
# A verdict that changes after its export is exported again: that is how a correction reaches the training data.
_SET = text(
    """
UPDATE label_task t SET state = v.state, settled_answer = v.answer, exported_in = NULL,
    settled_at = CASE WHEN v.state = 'settled' THEN CAST(:now AS timestamptz) END
FROM unnest(CAST(:ids AS bigint[]), CAST(:states AS text[]), CAST(:answers AS text[])) v (id, state, answer)
WHERE t.id = v.id AND (t.state, t.settled_answer) IS DISTINCT FROM (v.state, v.answer)
"""
)


def record_answers(db: Database, answers: Sequence[LabelAnswer], now: datetime, settle: Settle) -> dict[str, int]:
    """Store answers, all or none, and settle their tasks; return counts by what became of them.

    Keys: `new`, `repeated` (the same key from the same person before), `parked` (no such task yet), `adopted` (parked
    before, task known now), and, of tasks, `settled` and `adjudication`, those whose verdict changed.
    settle: given (annotator, answer) pairs, oldest first, returns the verdict, or None while too few answered. Where
    images carry several labels, answers are sets, stored as JSON, and each label is settled as a question of its own.
    Raises DataError, naming task and answer, for an answer that is not in the task's class list.
    """
    done: Counter[str] = Counter(dict.fromkeys(("new", "repeated", "parked", "adopted", "settled", "adjudication"), 0))
    with db.transaction() as connection:
        asked = sorted({answer.task_id for answer in answers})
        known = {row.id: row for row in connection.execute(_LOCK, {"ids": asked})}
        lists = class_lists(connection, (row.class_list_id for row in known.values()))
        allowed = {number: frozenset((*found.classes, *RESERVED)) for number, found in lists.items()}

        def checked(answer: LabelAnswer) -> LabelAnswer:
            task = known.get(answer.task_id)
            if task is None:  # not known yet: it is stored as it is
                return answer
            if lists[task.class_list_id].several:
                return _as_set(answer, lists[task.class_list_id].classes)
            if answer.answer not in allowed[task.class_list_id]:
                raise _not_allowed(answer, lists[task.class_list_id].classes)
            return answer

        answers = [checked(answer) for answer in answers]
        touched = _store(connection, answers, known, now, done)
        adopted = [*connection.scalars(_ADOPT, {"reserved": list(RESERVED)}), *_adopted_sets(connection)]
        done["adopted"] = len(adopted)
        _settle(connection, sorted(touched | set(adopted)), settle, now, done)
    return dict(done)


def _as_set(answer: LabelAnswer, classes: Sequence[str]) -> LabelAnswer:
    """Return an answer of several labels as it is stored."""
    try:
        return replace(answer, answer=several.parse(answer.answer, classes), key=_given_key(answer))
    except DataError as error:
        raise DataError(f"task {answer.task_id}, by {answer.annotator!r}: {error}") from error


def _adopted_sets(connection: Connection) -> list[int]:
    """Give parked sets of labels their tasks, where they can be read, and return the tasks."""
    readable = []
    for number, answer, classes in connection.execute(_PARKED).all():
        try:
            several.parse(answer, classes)
        except DataError:
            continue
        readable.append(number)
    return list(connection.scalars(_ADOPT_SETS, {"ids": readable})) if readable else []


def _not_allowed(answer: LabelAnswer, classes: Sequence[str]) -> DataError:
    near = difflib.get_close_matches(answer.answer, (*classes, *RESERVED), n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"use a class of the task or one of {', '.join(RESERVED)}"
    return DataError(f"task {answer.task_id}: answer {answer.answer!r} by {answer.annotator!r} is not allowed; {hint}")


def _store(
    connection: Connection, answers: Iterable[LabelAnswer], known: dict[int, Any], now: datetime, done: Counter[str]
) -> set[int]:
    """Insert the answers whose keys are new and return the tasks they belong to."""
    rows = {_stored_key(answer): _row(answer, answer.task_id in known, now) for answer in answers}
    waiting = list(rows.values())
    touched: set[int] = set()
    for start in range(0, len(waiting), _ROWS_A_STATEMENT):
        part = waiting[start : start + _ROWS_A_STATEMENT]
        added = insert(label).values(part).on_conflict_do_nothing().returning(label.c.task_id)
        for task_id in connection.scalars(added):
            done["parked" if task_id is None else "new"] += 1
            if task_id is not None:
                touched.add(task_id)
    done["repeated"] = len(list(answers)) - done["new"] - done["parked"]
    return touched


def _row(answer: LabelAnswer, is_known: bool, now: datetime) -> dict[str, Any]:
    return {
        "task_number": answer.task_id,
        "task_id": answer.task_id if is_known else None,
        "answer": clean_text(answer.answer),
        "annotator": clean_text(answer.annotator),
        "answered_at": require_utc(answer.answered_at),
        "received_at": require_utc(now),
        "seconds": answer.seconds,
        "key": _stored_key(answer),
    }


def _stored_key(answer: LabelAnswer) -> str:
    # The caller's key counts within task and person only: a page that numbers from 1 must not lose other people's work.
    whole = f"{answer.task_id}\0{answer.annotator}\0{_given_key(answer)}"
    return hashlib.sha256(whole.encode("utf-8", "backslashreplace")).hexdigest()


def _given_key(answer: LabelAnswer) -> str:
    return answer.key if answer.key is not None else f"{require_utc(answer.answered_at).isoformat()} {answer.answer}"


def _settle(connection: Connection, task_ids: list[int], settle: Settle, now: datetime, done: Counter[str]) -> None:
    if not task_ids:
        return
    given: dict[int, list[tuple[str, str]]] = defaultdict(list)
    locked = connection.execute(_LOCK, {"ids": task_ids}).all()
    # About a recalled image: the answer, given on an older list, is kept and settles nothing.
    # One that the audit no longer asks about was handed out before: people's work counts.
    found = [row for row in locked if not row.recalled]
    lists = class_lists(connection, (row.class_list_id for row in found))
    for task_id, annotator, answer in connection.execute(_GIVEN, {"ids": task_ids}):
        given[task_id].append((annotator, answer))
    changed = []
    for row in found:
        answers = given[row.id]
        task_list = lists[row.class_list_id]
        verdict = several.settle_labels(answers, task_list.classes, settle) if task_list.several else settle(answers)
        state, answer = ("open", None) if verdict is None else (verdict.outcome, verdict.answer)
        if (state, answer) != (row.state, row.settled_answer):
            changed.append((row.id, state, answer))
            done[state] += state != "open"
    ids, states, verdicts = (list(column) for column in zip(*changed, strict=True)) if changed else ([], [], [])
    connection.execute(_SET, {"ids": ids, "states": states, "answers": verdicts, "now": require_utc(now)})
