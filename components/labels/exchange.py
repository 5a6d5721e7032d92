"""Labelling tasks out to, and answers in from, spreadsheets (CSV) and Label Studio (JSON).

Where images carry several labels, an answer is a set: in a spreadsheet `rain | road`, `none of them` or JSON, in Label
Studio any number of choices. What it means the class list of its task tells, once it is stored.
"""

from __future__ import annotations

import csv
import hashlib
import html
import io
import json
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from components.data.files import publish, unpublished
from components.errors import ConfigurationError, DataError
from components.labels import several
from components.records import Answer, LabelAnswer, LabelTask, parse_time

LABEL_STUDIO_CONFIG = """<View>
  <Image name="image" value="$image"/>
  <Choices name="answer" toName="image" value="$choices" choice="single" showInLine="true"/>
</View>
"""
"""The labelling interface to paste into a Label Studio project: the choices come with each task."""

LABEL_STUDIO_CONFIG_OF_SETS = LABEL_STUDIO_CONFIG.replace('choice="single"', 'choice="multiple"')

_ANSWER_COLUMNS = ("task_id", "answer", "annotator", "answered_at", "seconds")
_TASK_COLUMNS = ("queue", "window", "image_id", "image", "choices")
_NEEDED = _ANSWER_COLUMNS[:4]
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet would run such a cell
_LARGEST_TASK = 2**63 - 1
_MOST_ERRORS = 5
_MOST_CHARACTERS = 500
_MOST_OF_A_SET = 50_000

ImageUrl = Callable[[LabelTask], str]


def export_csv(tasks: Sequence[LabelTask], path: Path, image_url: ImageUrl) -> None:
    """Write tasks as a CSV file with empty answers, to be filled in and read by `read_answers`.

    image_url: where an annotator sees a task's image. A cell that a spreadsheet would run as a formula starts with an
    apostrophe, which `read_answers` takes off again.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow((*_ANSWER_COLUMNS, *_TASK_COLUMNS))
    for task in tasks:
        choices = " | ".join(_choices(task))
        cells = (str(task.task_id), "", "", "", "", task.queue, task.window, task.image_id, image_url(task), choices)
        writer.writerow([_safe(cell) for cell in cells])
    _store(text.getvalue(), path)


def export_label_studio(
    tasks: Sequence[LabelTask], path: Path, image_url: ImageUrl, display: Mapping[str, str] | None = None
) -> None:
    """Write tasks as Label Studio's import JSON, and the labelling interface they need beside, as `.xml`.

    display: what annotators read instead of a class's name. It goes into a choice's `html`, escaped; the answer that
    comes back is the choice's `value`, the class.
    Raises ConfigurationError where the tasks' own file is to be called that, where some tasks ask for one class and
    others for several labels, and where a label cannot be told from a word beside it.
    """
    if path.suffix == ".xml":
        raise ConfigurationError(
            f"{path} is where the labelling interface goes; call the file of tasks {path.stem}.json"
        )
    sets = _asks_for_sets(tasks)
    entries = [
        {
            "data": {
                "task_id": task.task_id,
                "image": image_url(task),
                "choices": [_choice(choice, display or {}) for choice in _choices(task)],
                "queue": task.queue,
                "window": task.window,
                **({"several": True} if sets else {}),
            }
        }
        for task in tasks
    ]
    _store(json.dumps(entries, ensure_ascii=False, indent=1) + "\n", path)
    _store(LABEL_STUDIO_CONFIG_OF_SETS if sets else LABEL_STUDIO_CONFIG, path.with_suffix(".xml"))


def read_answers(path: Path) -> list[LabelAnswer]:
    """Return the answers in a CSV file or a Label Studio JSON export; which of the two, its content says.

    CSV columns: task_id, answer, annotator, answered_at (with a zone) and perhaps seconds, in any order, beside those
    that `export_csv` writes; rows nobody filled in are passed over, as are annotations that were skipped. Every
    answer gets a key made from its content, so that reading a file twice is harmless. Raises DataError, naming file,
    row, value and remedy for each of the first wrong rows: then no answer is returned.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist; name the file with the answers") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); name a readable file") from error
    entries = _json_entries(text, path) if text.lstrip()[:1] in ("[", "{") else _csv_entries(text, path)
    answers: list[LabelAnswer] = []
    errors: list[str] = []
    for where, entry in entries:
        try:
            answers.append(_answer(entry))
        except DataError as error:
            errors.append(f"{where}: {error}")
    if errors:
        more = f"; and {len(errors) - _MOST_ERRORS} more" if len(errors) > _MOST_ERRORS else ""
        raise DataError("; ".join(errors[:_MOST_ERRORS]) + more)
    return answers


def _asks_for_sets(tasks: Sequence[LabelTask]) -> bool:
    """Return whether the tasks ask for several labels: one interface cannot ask for both."""
    if len({task.several for task in tasks}) > 1:
        raise ConfigurationError(
            "some tasks ask for one class and others for several labels, and a Label Studio project has one interface; "
            "export CSV"
        )
    for task in tasks:
        if task.several and (taken := several.ambiguous_labels(task.classes)):
            raise ConfigurationError(
                f"task {task.task_id}: the label {taken[0]!r} is called as an answer about the image is, and Label "
                "Studio tells them by name alone; export CSV"
            )
    return any(task.several for task in tasks)


def _choices(task: LabelTask) -> list[str]:
    if task.several:
        return several.choices(task.classes)
    return [*task.classes, *(answer.value for answer in Answer)]


def _choice(name: str, display: Mapping[str, str]) -> dict[str, str]:
    return {"value": name, "html": html.escape(display[name])} if name in display else {"value": name}


def _safe(cell: str) -> str:
    # A cell that starts with an apostrophe of its own gets one too, else reading would take that off.
    return f"'{cell}" if cell.startswith((*_FORMULA, "'")) else cell


def _store(text: str, path: Path) -> None:
    with unpublished(path.parent) as (file, temporary):
        file.write(text.encode())
        publish(file, temporary, path)


def _csv_entries(text: str, path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [cell.strip() for cell in next(reader, [])]
        missing = [column for column in _NEEDED if column not in header]
        unknown = [column for column in header if column not in (*_ANSWER_COLUMNS, *_TASK_COLUMNS)]
        if missing or unknown or len(set(header)) < len(header):
            raise DataError(
                f"{path}:1: columns are {header}; needed are {', '.join(_NEEDED)}, possible seconds and "
                f"{', '.join(_TASK_COLUMNS)}, once each"
            )
        for cells in reader:
            where = f"{path}:{reader.line_num}"
            if not any(cells):
                continue
            if len(cells) != len(header):
                raise DataError(
                    f"{where}: {len(cells)} cells under {len(header)} columns; quote cells that hold commas"
                )
            entry = {column: _plain(cell) for column, cell in zip(header, cells, strict=True)}
            if any(entry[column] for column in _NEEDED[1:]):
                yield where, entry
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: not readable as CSV ({error}); save it again as CSV") from error


def _plain(cell: str) -> str:
    return (cell[1:] if cell.startswith("'") else cell).strip()


def _json_entries(text: str, path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        tasks = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not valid JSON ({error}); export it from Label Studio again") from error
    if not isinstance(tasks, list):
        raise DataError(f"{path}: expected a list of tasks, as Label Studio's export type JSON writes it")
    for number, task in enumerate(tasks, start=1):
        where = f"{path}:task {number}"
        annotations = task.get("annotations") if isinstance(task, dict) else None
        data = task.get("data") if isinstance(task, dict) else None
        if not isinstance(annotations, list) or not isinstance(data, dict) or "task_id" not in data:
            raise DataError(
                f"{where}: no data.task_id or annotations; export with type JSON (not JSON-MIN) a project of ours"
            )
        for annotation in annotations:
            if not isinstance(annotation, dict):
                raise DataError(f"{where}: annotation {_shown(annotation)} is not an object; export it again")
            if not annotation.get("was_cancelled"):
                yield where, {**_flattened(data["task_id"], annotation), "several": data.get("several") is True}


def _flattened(task_id: Any, annotation: Mapping[str, Any]) -> dict[str, Any]:
    """Return one Label Studio annotation as the columns of a CSV row."""
    person = annotation.get("completed_by")
    if isinstance(person, dict):
        person = person.get("email") or person.get("username") or person.get("id")
    results = annotation.get("result")
    choices: list[Any] = []
    for result in results if isinstance(results, list) else []:
        value = result.get("value") if isinstance(result, dict) else None
        if isinstance(value, dict) and isinstance(value.get("choices"), list):
            choices += value["choices"]
    return {
        "task_id": task_id,
        "answer": choices[0] if len(choices) == 1 else choices,
        "choices": choices,
        "annotator": person,
        "answered_at": annotation.get("updated_at") or annotation.get("created_at"),
        "seconds": annotation.get("lead_time"),
    }


def _answer(entry: Mapping[str, Any]) -> LabelAnswer:
    task_id = _task_id(entry["task_id"])
    given = _joined(entry["choices"]) if entry.get("several") else entry["answer"]
    answer = _text(given, "answer", "give one class, or other, unsure or bad-image", _longest(given))
    annotator = _text(entry["annotator"], "annotator", "name the person who answered")
    answered_at = _moment(entry["answered_at"])
    content = json.dumps([task_id, answer, annotator, answered_at.isoformat()]).encode()
    key = hashlib.sha256(content).hexdigest()[:32]
    return LabelAnswer(task_id, answer, annotator, answered_at, _seconds(entry.get("seconds")), key)


def _joined(choices: Sequence[Any]) -> str:
    if not all(isinstance(choice, str) for choice in choices):
        raise DataError(f"answer {_shown(choices)} cannot be used; choose among the names of the task")
    return several.join_choices([unicodedata.normalize("NFC", choice.strip()) for choice in choices])


def _longest(answer: Any) -> int:
    """Return how long an answer may be: one that may be a set of labels, longer than a name."""
    is_set = isinstance(answer, str) and ("|" in answer or answer.lstrip().startswith("["))
    return _MOST_OF_A_SET if is_set else _MOST_CHARACTERS


def _task_id(value: Any) -> int:
    digits = str(value)
    if isinstance(value, bool) or not (digits.isascii() and digits.isdigit()) or len(digits) > 19:
        raise DataError(f"task_id {_shown(value)} is not a whole number; copy it from the export")
    if int(digits) > _LARGEST_TASK:
        raise DataError(f"task_id {_shown(value)} is too large; copy it from the export")
    return int(digits)


def _text(value: Any, column: str, remedy: str, most: int = _MOST_CHARACTERS) -> str:
    plain = isinstance(value, str | int) and not isinstance(value, bool)
    text = unicodedata.normalize("NFC", str(value).strip()) if plain else ""
    visible = text.replace("\u200c", "").replace("\u200d", "")  # joiners are part of ordinary words in some scripts
    if not visible or len(text) > most or not visible.isprintable():
        raise DataError(f"{column} {_shown(value)} cannot be used; {remedy}")
    return text


def _moment(value: Any) -> datetime:
    try:
        return parse_time(value if isinstance(value, str) else "")
    except (ConfigurationError, OverflowError) as error:
        raise DataError(f"answered_at {_shown(value)} is not a time with a zone; write 2026-10-05T12:00:00Z") from error


def _seconds(value: Any) -> float | None:
    if value is None or value == "":
        return None
    try:
        seconds = float(value)
    except (TypeError, ValueError, OverflowError):
        seconds = -1.0
    if not 0 <= seconds < 10_000_000:
        raise DataError(f"seconds {_shown(value)} is not a number of seconds; write a number or leave it empty")
    return seconds


def _shown(value: Any) -> str:
    return repr(value)[:100]
