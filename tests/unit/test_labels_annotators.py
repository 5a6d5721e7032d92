"""What an audit says of annotators, and what it does not: too few opinions, nothing shared, classes nobody meets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.data.annotations import ANNOTATIONS_SCHEMA
from components.errors import IntegrityError
from components.labels.annotators import FEWEST_SHARED, MOST_TOLD, OPINIONS, Crowd, judge_annotators

CLASSES = ("cat", "dog", "nobody was ever given this", "owl")
IDS = [f"{n:064x}" for n in range(400)]
PEOPLE = ("ada", "bob", "<b>cyd</b>")
SKILL = (0.97, 0.9, 0.55)
NOBODY = np.array([], np.int64)


def table(rows: list[tuple[str, str, str]]) -> pa.Table:
    columns = zip(*rows, strict=True) if rows else ((), (), ())
    return pa.table([pa.array(list(column), pa.string()) for column in columns], schema=ANNOTATIONS_SCHEMA)


def world() -> tuple[np.ndarray, np.ndarray, list[tuple[str, str, str]]]:
    """Truth, a model's probabilities, and what three simulated annotators say of every image."""
    rng = np.random.default_rng(3)
    truth = rng.choice([0, 1, 3], len(IDS))
    scores = rng.normal(size=(len(IDS), 4))
    scores[np.arange(len(IDS)), truth] += 3
    scores[:, 2] -= 9
    probabilities = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    rows = []
    for image, meant in enumerate(truth.tolist()):
        for name, skill in zip(PEOPLE, SKILL, strict=True):
            said = meant if rng.random() < skill else int(rng.choice([k for k in (0, 1, 3) if k != meant]))
            rows.append((IDS[image], name, CLASSES[said]))
    return truth, probabilities.astype(np.float32), rows


def judged(rows: list[tuple[str, str, str]], given: Any = None, not_judged: Any = NOBODY) -> Crowd:
    truth, probabilities, _ = world()
    return judge_annotators(table(rows), IDS, truth if given is None else given, CLASSES, probabilities, not_judged)


def test_annotators_are_told_least_good_first_with_what_they_mistake() -> None:
    _, _, rows = world()
    rows = [(image, who, "dog" if who == PEOPLE[2] and said == "owl" else said) for image, who, said in rows]
    told = judged(rows).report()

    assert [one["name"] for one in told["people"]] == ["<b>cyd</b>", "bob", "ada"]
    assert (told["opinions"], told["images"], told["shared"], told["annotators"]) == (1200, 400, 400, 3)
    assert (told["people"][0]["said"], told["people"][0]["meant"]) == ("dog", "owl")
    assert told["people"][2]["agreement"] > 0.95
    assert (told["too_few"], told["not_judged"]) == (0, None)


def test_images_whose_consensus_is_another_class_are_found_and_nothing_else(tmp_path: Path) -> None:
    truth, _, rows = world()
    given = truth.copy()
    given[:20] = np.where(truth[:20] == 0, 1, 0)
    crowd = judged(rows, given)
    found = list(crowd.findings())
    crowd.write(tmp_path)

    assert {finding.image_id for finding in found} >= set(IDS[:20])
    assert len(found) < 30
    assert {finding.kind for finding in found} == {OPINIONS}
    first = next(finding for finding in found if finding.image_id == IDS[0])
    assert (first.given, first.likely) == (CLASSES[given[0]], CLASSES[truth[0]])
    assert 0.5 < first.severity <= 1
    assert "of 3 annotators say so" in first.words
    stored = pq.read_table(tmp_path / "consensus.parquet").to_pylist()
    assert [row["image_id"] for row in stored] == IDS
    assert sum(row["given"] != row["consensus"] for row in stored) == len(found) == crowd.report()["differ"]
    unjudged = judged(rows, given, np.array([0]))
    assert {finding.given for finding in unjudged.findings()} == {finding.given for finding in found} - {"cat"}


def test_an_image_with_one_opinion_is_no_finding_and_too_few_opinions_judge_nobody(tmp_path: Path) -> None:
    truth, _, rows = world()
    alone = [row for row in rows if row[1] == "ada" or row[0] in IDS[: FEWEST_SHARED - 1]]
    crowd = judged(alone, np.where(truth == 0, 1, 0))
    of = {one["name"]: one for one in crowd.report()["people"]}

    assert {finding.image_id for finding in crowd.findings()} <= set(IDS[: FEWEST_SHARED - 1])
    assert (of["ada"]["opinions"], of["ada"]["shared"]) == (400, FEWEST_SHARED - 1)
    assert {one["quality"] for one in of.values()} == {None}
    assert crowd.report()["too_few"] == 3
    several = judged([row for row in rows if row[1] == "ada" or row[0] in IDS[:FEWEST_SHARED]])
    assert several.report()["too_few"] == 0


@pytest.mark.parametrize("people", [("ada",), ()])
def test_without_two_opinions_nobody_is_judged(tmp_path: Path, people: tuple[str, ...]) -> None:
    crowd = judged([row for row in world()[2] if row[1] in people])
    crowd.write(tmp_path)

    assert not list(crowd.findings())
    assert crowd.report()["not_judged"] == ("no image has the opinions of two annotators" if people else None)
    assert [path.name for path in tmp_path.iterdir()] == (["annotators.parquet"] if people else [])


def test_opinions_on_other_images_are_passed_over_and_what_is_told_is_bounded() -> None:
    rows = world()[2] + [("e" * 64, "eve", "dog"), *((IDS[n], f"worker {n:03}", "cat") for n in range(MOST_TOLD + 50))]
    crowd = judged(rows)

    assert crowd.report()["annotators"] == 3 + MOST_TOLD + 50
    assert len(crowd.report()["people"]) == MOST_TOLD
    assert crowd.opinions == len(rows) - 1
    with pytest.raises(IntegrityError, match="names 'wolf'"):
        judged([(IDS[0], "ada", "wolf")])
