"""When the answers to one task settle it. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from components.errors import ConfigurationError
from components.records import Answer

_NO_VERDICT = frozenset({Answer.UNSURE.value, Answer.BAD_IMAGE.value})


@dataclass(frozen=True, slots=True)
class Settled:
    """What a task's answers come to.

    outcome: "settled" with the `answer` (a class or `other`), or "adjudication" with None: a person has to decide.
    votes: how many annotators gave the answer; annotators: everyone who answered, by name.
    """

    outcome: Literal["settled", "adjudication"]
    answer: str | None
    votes: int
    annotators: tuple[str, ...]


def settle(answers: Sequence[tuple[str, str]], wanted: int) -> Settled | None:
    """Return the verdict on one task from its (annotator, answer) pairs, oldest first; None while fewer than `wanted`.

    The last answer of an annotator replaces that person's earlier ones. An answer given by more than half of the
    annotators settles the task; no such answer, or `unsure` or `bad-image` as that answer, asks for adjudication.
    Raises ConfigurationError if `wanted` is below 1.
    """
    if wanted < 1:
        raise ConfigurationError(f"{wanted} answers per task are wanted; labelling.answers_per_task must be 1 or more")
    last = dict(answers)
    if len(last) < wanted:
        return None
    annotators = tuple(sorted(last))
    answer, votes = min(Counter(last.values()).items(), key=lambda item: (-item[1], item[0]))
    if answer in _NO_VERDICT or votes * 2 <= len(last):
        return Settled("adjudication", None, votes, annotators)
    return Settled("settled", answer, votes, annotators)
