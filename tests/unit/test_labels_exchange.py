"""Tasks out, answers in: nothing is lost, run or guessed on the way."""

import csv
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from components.errors import ConfigurationError, DataError
from components.labels.exchange import export_csv, export_label_studio, read_answers
from components.records import LabelAnswer, LabelTask

NOON = datetime(2026, 10, 5, 12, tzinfo=UTC)
TASKS = [
    LabelTask(1, "accuracy", "a" * 64, ("cat", "dog"), "2026-10"),
    LabelTask(2, "training", "b" * 64, ("-cat", "dog, big"), "2026-10"),
]


def url(task: LabelTask) -> str:
    return f"http://localhost/images/{task.task_id}"


def write_csv(path: Path, *rows: tuple[str, ...], header: tuple[str, ...] | None = None) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header or ("task_id", "answer", "annotator", "answered_at"), *rows])
    return path


def studio(task_id: Any = 7, **changes: Any) -> dict[str, Any]:
    result = [{"from_name": "answer", "to_name": "image", "type": "choices", "value": {"choices": ["cat"]}}]
    annotation = {
        "id": 11,
        "completed_by": {"id": 3, "email": "ann@example.org"},
        "result": result,
        "was_cancelled": False,
        "created_at": "2026-10-05T11:00:00.000000Z",
        "updated_at": "2026-10-05T12:00:00.000000Z",
        "lead_time": 2.5,
        **changes,
    }
    return {"id": 99, "data": {"task_id": task_id, "image": "http://x"}, "annotations": [annotation]}


def write_json(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_a_csv_file_gives_its_answers(tmp_path: Path) -> None:
    path = write_csv(
        tmp_path / "a.csv",
        ("4", "ann", "7", "2026-10-05T14:00:00+02:00", " dog, big "),
        ("", "bob", "8", "2026-10-05", "unsure"),
        header=("seconds", "annotator", "task_id", "answered_at", "answer"),
    )
    first, second = read_answers(path)

    assert (first.task_id, first.answer, first.annotator, first.answered_at) == (7, "dog, big", "ann", NOON)
    assert (first.seconds, second.seconds) == (4.0, None)
    assert second.answered_at == datetime(2026, 10, 5, tzinfo=UTC)


def test_a_label_studio_export_gives_its_answers(tmp_path: Path) -> None:
    exported = [
        studio(),
        studio(8, completed_by=3),
        studio(9, was_cancelled=True, result=[]),
        {"data": {"task_id": 10}, "annotations": []},
    ]
    first, second = read_answers(write_json(tmp_path / "export.txt", exported))

    assert first == LabelAnswer(7, "cat", "ann@example.org", NOON, 2.5, first.key)
    assert (second.task_id, second.annotator) == (8, "3")


def test_the_same_answer_has_the_same_key_in_either_file_and_another_answer_has_another(tmp_path: Path) -> None:
    from_json = read_answers(write_json(tmp_path / "a", [studio(), studio(updated_at="2026-10-05T13:00:00Z")]))
    from_csv = read_answers(write_csv(tmp_path / "b", ("7", "cat", "ann@example.org", "2026-10-05T12:00:00Z")))

    assert from_csv[0].key == from_json[0].key
    assert from_json[0].key != from_json[1].key


def test_exported_tasks_come_back_once_people_filled_them_in(tmp_path: Path) -> None:
    export_csv(TASKS, tmp_path / "tasks.csv", url)
    assert read_answers(tmp_path / "tasks.csv") == []

    with (tmp_path / "tasks.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert rows[1][rows[0].index("image")] == "http://localhost/images/1"
    assert rows[1][rows[0].index("choices")] == "cat | dog | other | unsure | bad-image"
    rows[2][1:4] = ["'-cat", "ann", "2026-10-05T12:00:00Z"]
    write_csv(tmp_path / "tasks.csv", *map(tuple, rows[1:]), header=tuple(rows[0]))
    answers = read_answers(tmp_path / "tasks.csv")

    assert [(answer.task_id, answer.answer) for answer in answers] == [(2, "-cat")]


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "'"])
def test_a_cell_that_a_spreadsheet_would_run_is_written_as_text(tmp_path: Path, start: str) -> None:
    formula = start + 'HYPERLINK("http://evil")'
    export_csv([LabelTask(1, formula, "a", (formula,), "w")], tmp_path / "tasks.csv", lambda _: formula)

    with (tmp_path / "tasks.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.reader(file):
            assert not any(cell.startswith(("=", "+", "-", "@", "\t", "\r")) for cell in row)
            assert formula not in row


def test_label_studio_tasks_carry_their_own_choices(tmp_path: Path) -> None:
    export_label_studio(TASKS, tmp_path / "tasks.json", url)
    entries = json.loads((tmp_path / "tasks.json").read_text(encoding="utf-8"))

    assert entries[1]["data"]["task_id"] == 2
    assert [choice["value"] for choice in entries[0]["data"]["choices"]] == [
        "cat",
        "dog",
        "other",
        "unsure",
        "bad-image",
    ]
    assert "predicted" not in json.dumps(entries)


def test_display_names_are_what_annotators_read_and_names_are_what_comes_back(tmp_path: Path) -> None:
    hostile = '<img src=x onerror="alert(1)"> & dog'
    export_label_studio(TASKS[:1], tmp_path / "tasks.json", url, {"dog": hostile, "-cat": "of another task"})
    (task,) = json.loads((tmp_path / "tasks.json").read_text(encoding="utf-8"))
    cat, dog, *others = task["data"]["choices"]
    assert cat == {"value": "cat"}
    assert dog == {"value": "dog", "html": "&lt;img src=x onerror=&quot;alert(1)&quot;&gt; &amp; dog"}
    assert [choice["value"] for choice in others] == ["other", "unsure", "bad-image"]


def test_tasks_may_not_be_called_what_their_interface_is_called(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"call the file of tasks tasks\.json"):
        export_label_studio(TASKS, tmp_path / "tasks.xml", url)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("x", "cat", "ann", "2026-10-05"), r"a.csv:2: task_id 'x' is not a whole number"),
        (("-1", "cat", "ann", "2026-10-05"), "task_id '-1' is not a whole number"),
        (("٣", "cat", "ann", "2026-10-05"), "is not a whole number"),
        (("9" * 19, "cat", "ann", "2026-10-05"), "is too large"),
        (("1", "", "ann", "2026-10-05"), "answer '' cannot be used; give one class"),
        (("1", "c\x00t", "ann", "2026-10-05"), "answer .* cannot be used"),
        (("1", "cat", "", "2026-10-05"), "annotator '' cannot be used; name the person"),
        (("1", "cat", "x" * 501, "2026-10-05"), "annotator .* cannot be used"),
        (("1", "cat", "ann", ""), "answered_at '' is not a time with a zone"),
        (("1", "cat", "ann", "2026-10-05T12:00:00"), "is not a time with a zone; write 2026-10-05T12:00:00Z"),
        (("1", "cat", "ann", "0001-01-01T00:00:00+14:00"), "is not a time with a zone"),
        (("1", "cat", "ann"), "3 cells under 4 columns"),
        (("1", "cat, big", "ann", "2026-10-05", "x"), "5 cells under 4 columns"),
    ],
)
def test_a_wrong_row_is_named_with_its_value_and_a_remedy(tmp_path: Path, row: tuple[str, ...], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_answers(write_csv(tmp_path / "a.csv", row))


@pytest.mark.parametrize("seconds", ["-1", "nan", "inf", "soon"])
def test_wrong_seconds_are_named(tmp_path: Path, seconds: str) -> None:
    header = ("task_id", "answer", "annotator", "answered_at", "seconds")
    with pytest.raises(DataError, match=f"a.csv:2: seconds '{seconds}' is not a number of seconds"):
        read_answers(write_csv(tmp_path / "a.csv", ("1", "cat", "ann", "2026-10-05", seconds), header=header))


def test_the_first_five_wrong_rows_are_named_and_the_rest_counted(tmp_path: Path) -> None:
    rows = [("x", "cat", "ann", "2026-10-05")] * 8
    with pytest.raises(DataError) as caught:
        read_answers(write_csv(tmp_path / "a.csv", ("1", "cat", "ann", "2026-10-05"), *rows))

    assert str(caught.value).count("is not a whole number") == 5
    assert ":7:" in str(caught.value)
    assert str(caught.value).endswith("and 3 more")


@pytest.mark.parametrize("header", [("task_id", "answer"), ("task_id", "answer", "annotator", "answered_at", "extra")])
def test_wrong_columns_are_named(tmp_path: Path, header: tuple[str, ...]) -> None:
    with pytest.raises(DataError, match=r"a.csv:1: columns are .* needed are task_id, answer, annotator, answered_at"):
        read_answers(write_csv(tmp_path / "a.csv", header=header))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"tasks": []}, "expected a list of tasks"),
        (["x"], "task 1: no data.task_id"),
        ([{"task_id": 7, "answer": "cat", "annotator": 1}], "export with type JSON"),
        ([{"data": {"task_id": 1}, "annotations": ["x"]}], "annotation 'x' is not an object"),
        ([studio("seven")], "task 1: task_id 'seven' is not a whole number"),
        ([studio(True)], "task_id True is not a whole number"),
        ([studio(result=[])], r"answer \[\] cannot be used; give one class"),
        ([studio(result=[{"value": {"choices": ["cat", "dog"]}}])], r"answer \['cat', 'dog'\] cannot be used"),
        ([studio(result="cat")], r"answer \[\] cannot be used"),
        ([studio(completed_by=None)], "annotator None cannot be used"),
        ([studio(updated_at=None, created_at=None)], "answered_at None is not a time"),
        ([studio(lead_time=-3)], "seconds -3 is not"),
    ],
)
def test_a_wrong_label_studio_task_is_named(tmp_path: Path, content: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_answers(write_json(tmp_path / "a.json", content))


@pytest.mark.parametrize("content", [b"[1,", b"[" * 100_000, b"\xff\xfe", b'task_id,answer,annotator,answered_at\n"1'])
def test_a_file_that_is_neither_is_an_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.csv").write_bytes(content)

    with pytest.raises(DataError, match=r"a.csv.*(not valid JSON|not UTF-8|not readable as CSV)"):
        read_answers(tmp_path / "a.csv")


def test_a_missing_file_or_a_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        read_answers(tmp_path / "none.csv")
    with pytest.raises(DataError, match="cannot be read"):
        read_answers(tmp_path)
