"""When answers settle a task."""

import pytest

from components.errors import ConfigurationError
from components.labels.consensus import Settled, settle


def votes(*answers: str) -> list[tuple[str, str]]:
    return [(f"person {n}", answer) for n, answer in enumerate(answers)]


def test_too_few_answers_settle_nothing() -> None:
    assert settle([], 1) is None
    assert settle(votes("cat"), 2) is None


def test_one_answer_is_enough_where_one_is_wanted() -> None:
    assert settle([("ann", "cat")], 1) == Settled("settled", "cat", 1, ("ann",))


@pytest.mark.parametrize("answer", ["unsure", "bad-image"])
def test_an_answer_that_names_no_class_asks_for_adjudication(answer: str) -> None:
    assert settle(votes(answer), 1) == Settled("adjudication", None, 1, ("person 0",))
    assert settle(votes(answer, answer, "cat"), 3).outcome == "adjudication"


def test_other_is_an_answer_like_a_class() -> None:
    assert settle(votes("other", "other", "cat"), 3) == Settled(
        "settled", "other", 2, ("person 0", "person 1", "person 2")
    )


@pytest.mark.parametrize(
    ("answers", "settled"),
    [
        (("cat", "cat"), "cat"),
        (("cat", "dog"), None),
        (("cat", "unsure"), None),
        (("cat", "cat", "unsure"), "cat"),
        (("cat", "cat", "dog", "bee"), None),
        (("cat", "cat", "cat", "dog", "bee"), "cat"),
        (("cat", "dog", "bee"), None),
    ],
)
def test_more_than_half_must_agree(answers: tuple[str, ...], settled: str | None) -> None:
    verdict = settle(votes(*answers), 2)

    assert verdict.answer == settled
    assert verdict.outcome == ("settled" if settled else "adjudication")


def test_the_last_answer_of_a_person_counts_and_counts_once() -> None:
    assert settle([("ann", "dog"), ("ann", "cat")], 2) is None
    assert settle([("ann", "dog"), ("bob", "cat"), ("ann", "cat")], 2) == Settled("settled", "cat", 2, ("ann", "bob"))


def test_wanting_no_answer_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match="answers_per_task"):
        settle([], 0)
