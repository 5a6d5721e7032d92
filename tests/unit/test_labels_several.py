"""Sets of labels as people write them: read in one way or refused in words, and settled label by label."""

import csv
import json
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.errors import ConfigurationError, DataError
from components.labels.consensus import settle
from components.labels.exchange import export_csv, export_label_studio, read_answers
from components.labels.several import canonical, choices, join_choices, parse, settle_labels
from components.records import LabelSetTask, LabelTask

CLASSES = ("car", "rain", "a | b", "a", "night sky")
NOON = datetime(2026, 10, 5, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("written", "stored"),
    [
        ("car", '["car"]'),
        ("rain | car", '["car","rain"]'),
        (" rain|car ", '["car","rain"]'),
        ("car | car", '["car"]'),
        ("night  sky | a", '["a","night sky"]'),
        ('"a | b" | car', '["car","a | b"]'),
        ('["rain", "a | b"]', '["rain","a | b"]'),
        ("[]", "[]"),
        ("none of them", "[]"),
        ("unsure", "unsure"),
        ("bad-image", "bad-image"),
        ("a | b", '["a | b"]'),  # there is no label b: it has one meaning
        ("a | b | a", '["a | b","a"]'),
    ],
)
def test_a_set_is_read_as_it_is_meant(written: str, stored: str) -> None:
    assert parse(written, CLASSES) == stored
    assert parse(stored, CLASSES) == stored


@pytest.mark.parametrize(
    ("written", "classes", "message"),
    [
        ("cow", CLASSES, "'cow' is no label of the task; write any number of its labels with ' | ' between them"),
        ("car | cow", CLASSES, "'cow' is no label"),
        ('["car", "cow"]', CLASSES, "'cow' is no label"),
        ("car | unsure", CLASSES, "'unsure' stands alone"),
        ("none of them | car", CLASSES, "'none of them' stands alone"),
        ("other", CLASSES, "'other' is no label"),
        ("car |", CLASSES, "'' is no label"),
        ("[1]", CLASSES, "is no label"),
        ("car, rain", CLASSES, "'car, rain' is no label"),
        (
            "a | b",
            ("a", "b", "a | b"),
            r'can be read as \["a \| b"\] or \["a","b"\]; write the labels as JSON, as in \[',
        ),
        ("unsure", ("unsure", "a"), r'can be read as \["unsure"\] or unsure'),
        ("none of them", ("none of them",), r'can be read as \["none of them"\] or \[\]'),
    ],
)
def test_what_is_wrong_or_ambiguous_is_refused_with_a_clear_word(
    written: str, classes: tuple[str, ...], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        parse(written, classes)


NAMES = st.lists(st.text(alphabet="ab |[]\"'\\é", min_size=1, max_size=6).map(str.strip).filter(bool), unique=True)


@given(NAMES, st.data())
def test_json_says_every_set_of_any_labels_and_a_bar_none_but_the_one_meant(names: list[str], data: Any) -> None:
    meant = data.draw(st.sets(st.sampled_from(names))) if names else set()
    stored = canonical(meant, names)
    assert json.loads(stored) == [name for name in names if name in meant]
    try:
        assert parse(stored, names) == stored
    except DataError as error:  # some label is called as this very text, or as a part of it between bars
        assert "can be read as" in str(error)
        assert any(set(name) & set('[]|"') for name in names)
    for written in (" | ".join(sorted(meant)), " | ".join(json.dumps(name) for name in sorted(meant))):
        try:
            assert not meant or parse(written, names) == stored
        except DataError as error:
            assert "can be read as" in str(error)


def settled(*answers: tuple[str, str], wanted: int = 1) -> Any:
    return settle_labels(answers, ("car", "rain"), partial(settle, wanted=wanted))


def test_each_label_is_settled_by_its_own_majority() -> None:
    one = settled(("ann", '["car"]'))
    assert (one.outcome, one.answer, one.votes) == ("settled", '["car"]', 1)
    three = settled(("ann", '["car","rain"]'), ("bob", '["car"]'), ("eve", '["rain"]'), wanted=3)
    assert (three.outcome, three.answer, three.votes) == ("settled", '["car","rain"]', 2)
    assert three.annotators == ("ann", "bob", "eve")
    nothing = settled(("ann", "[]"), ("bob", '["car"]'), ("eve", "[]"), wanted=3)
    assert nothing.answer == "[]"
    assert settled(("ann", '["car"]'), wanted=2) is None
    assert settled(("ann", '["rain"]'), ("ann", '["car"]')).answer == '["car"]'  # the last word counts


@pytest.mark.parametrize(
    "answers",
    [
        (("ann", '["car"]'), ("bob", "[]")),
        (("ann", "unsure"), ("bob", "unsure"), ("eve", '["car"]')),
        (("ann", "unsure"), ("bob", '["car"]')),
        (("ann", "bad-image"), ("bob", "bad-image")),
    ],
)
def test_a_tie_over_one_label_or_a_doubted_image_goes_to_adjudication(answers: tuple[tuple[str, str], ...]) -> None:
    verdict = settled(*answers, wanted=2)
    assert (verdict.outcome, verdict.answer) == ("adjudication", None)


def test_a_stored_word_stays_a_word_where_a_label_is_called_so() -> None:
    verdict = settle_labels([("ann", "unsure")], ("unsure", "car"), partial(settle, wanted=1))
    assert verdict is not None and verdict.outcome == "adjudication"
    label = settle_labels([("ann", '["unsure"]')], ("unsure", "car"), partial(settle, wanted=1))
    assert label is not None and label.answer == '["unsure"]'


TASK = LabelSetTask(1, "accuracy", "a" * 64, CLASSES, "2026-10")


def test_exported_sets_come_back_from_a_spreadsheet(tmp_path: Path) -> None:
    path = tmp_path / "tasks.csv"
    export_csv([TASK, LabelSetTask(2, "accuracy", "b" * 64, CLASSES, "2026-10")], path, lambda _: "x")
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert rows[1][rows[0].index("choices")].endswith(" | night sky | none of them | unsure | bad-image")
    assert "other" not in rows[1][rows[0].index("choices")].split(" | ")
    assert read_answers(path) == []  # an empty cell is no answer, and not "none of them"
    rows[1][1:4] = ['"a | b" | car', "ann", "2026-10-05T12:00:00Z"]
    rows[2][1:4] = ["none of them", "ann", "2026-10-05T12:00:00Z"]
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    assert [parse(answer.answer, CLASSES) for answer in read_answers(path)] == ['["car","a | b"]', "[]"]
    rows[2][1:4] = ["", "ann", "2026-10-05T12:00:00Z"]
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    with pytest.raises(DataError, match="answer '' cannot be used"):
        read_answers(path)


def test_a_set_of_many_labels_may_be_longer_than_a_name(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    labels = [f"label number {n}" for n in range(100)]
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(
            [("task_id", "answer", "annotator", "answered_at"), (1, " | ".join(labels), "ann", "2026-10-05")]
        )
    assert json.loads(parse(read_answers(path)[0].answer, labels)) == labels


def studio(path: Path, chosen: list[Any], several: bool = True) -> Path:
    result = [{"type": "choices", "value": {"choices": chosen}}] if chosen else []
    annotation = {"completed_by": 3, "result": result, "created_at": "2026-10-05T12:00:00Z"}
    data = {"task_id": 1, **({"several": True} if several else {})}
    path.write_text(json.dumps([{"data": data, "annotations": [annotation]}]), encoding="utf-8")
    return path


def test_label_studio_asks_for_any_number_of_choices_and_gives_the_set(tmp_path: Path) -> None:
    export_label_studio([TASK], tmp_path / "tasks.json", lambda _: "x")
    (entry,) = json.loads((tmp_path / "tasks.json").read_text(encoding="utf-8"))
    assert entry["data"]["several"] is True
    assert [one["value"] for one in entry["data"]["choices"]] == choices(CLASSES)
    assert 'choice="multiple"' in (tmp_path / "tasks.xml").read_text(encoding="utf-8")
    for chosen, stored in (
        (["rain", "a | b"], '["rain","a | b"]'),
        (["car"], '["car"]'),
        (["none of them"], "[]"),
        (["unsure"], "unsure"),
    ):
        (answer,) = read_answers(studio(tmp_path / "e.json", chosen))
        assert parse(answer.answer, CLASSES) == stored


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ([], "nothing is chosen; choose 'none of them'"),
        (["car", "unsure"], "'unsure' is chosen beside 'car'; it stands alone"),
        (["none of them", "car"], "stands alone"),
        ([7], "cannot be used; choose among the names"),
    ],
)
def test_contradicting_choices_are_refused(tmp_path: Path, chosen: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=f"task 1: .*{message}"):
        read_answers(studio(tmp_path / "e.json", chosen))


def test_one_label_studio_project_asks_one_kind_of_question(tmp_path: Path) -> None:
    single = LabelTask(2, "accuracy", "b" * 64, CLASSES, "2026-10")
    with pytest.raises(ConfigurationError, match="export CSV"):
        export_label_studio([TASK, single], tmp_path / "tasks.json", lambda _: "x")
    named = LabelSetTask(3, "accuracy", "c" * 64, ("car", "unsure"), "2026-10")
    with pytest.raises(ConfigurationError, match="the label 'unsure' is called as an answer about the image"):
        export_label_studio([named], tmp_path / "tasks.json", lambda _: "x")
    assert list(tmp_path.iterdir()) == []
    assert join_choices(["car"]) == '["car"]'
