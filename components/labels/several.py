"""Answers that are sets: which of several labels an image carries, how people write it, and when it is settled. Pure.

Stored as JSON in the order of the class list: `["rain","road"]`, and `[]` where an image carries none of them. In a
spreadsheet labels stand beside each other, `rain | road`; one with a bar in its name may be written as JSON does,
`"a | b" | c`, and the whole answer as JSON, too. An empty cell is no answer: an image without any label is
`none of them` or `[]`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence

from components.errors import DataError
from components.labels.consensus import Settled
from components.records import Answer

NONE_OF_THEM = "none of them"
WORDS = (Answer.UNSURE.value, Answer.BAD_IMAGE.value)
"""Answers about the image as a whole; `other` is none: a set says nothing of what is not in the list."""
BAR = " | "
PRESENT, ABSENT = "present", "absent"

Settle = Callable[[Sequence[tuple[str, str]]], Settled | None]


def canonical(labels: Collection[str], classes: Sequence[str]) -> str:
    """Return the set as it is stored: JSON, in the order of the class list."""
    return json.dumps([name for name in classes if name in labels], ensure_ascii=False, separators=(",", ":"))


def parse(answer: str, classes: Sequence[str]) -> str:
    """Return what a person wrote as it is stored: a set in JSON, or one of WORDS.

    Raises DataError where the answer names what is no label, joins a set with a word about the image, or can be read in
    two ways; the message says how to write it.
    """
    readings = _readings(answer.strip(), classes)
    if len(readings) == 1:
        return readings.pop()
    if readings:
        told = " or ".join(sorted(readings))
        raise DataError(
            f"answer {_shown(answer)} can be read as {told}; write the labels as JSON, as in {min(readings)}"
        )
    raise DataError(f"answer {_shown(answer)} is not allowed: {_complaint(answer, classes)}")


def choices(classes: Sequence[str]) -> list[str]:
    """Return what an annotator may choose: any number of the labels, or one of the words after them."""
    return [*classes, NONE_OF_THEM, *WORDS]


def join_choices(chosen: Sequence[str]) -> str:
    """Return the choices of one Label Studio annotation as an answer: a word alone, or a set as JSON.

    Raises DataError for a word among labels, and for no choice at all: whether that means "none" is not known.
    """
    words = [one for one in chosen if one in (*WORDS, NONE_OF_THEM)]
    if not chosen:
        raise DataError(f"nothing is chosen; choose {NONE_OF_THEM!r} where the image carries none of the labels")
    if words and len(set(chosen)) > 1:
        raise DataError(f"{words[0]!r} is chosen beside {_others(chosen, words[0])}; it stands alone")
    if words:
        return "[]" if words[0] == NONE_OF_THEM else words[0]
    return json.dumps(list(chosen), ensure_ascii=False, separators=(",", ":"))


def ambiguous_labels(classes: Sequence[str]) -> list[str]:
    """Return the labels that are called as the words beside them are: where only names are chosen, they are one."""
    return [name for name in classes if name in (NONE_OF_THEM, *WORDS)]


def settle_labels(answers: Sequence[tuple[str, str]], classes: Sequence[str], settle: Settle) -> Settled | None:
    """Return the verdict on one image from its (annotator, answer) pairs, oldest first; None while too few answered.

    Each label is settled by `settle` as a question of its own, whether it is there: the majority decides, and where one
    label has none, or most are unsure of the image, the image asks for adjudication.
    """
    given = [(annotator, _as_stored(answer, classes)) for annotator, answer in answers]
    verdicts = []
    for name in classes:
        verdict = settle([(annotator, _about(name, answer)) for annotator, answer in given])
        if verdict is None or verdict.answer is None:
            return verdict
        verdicts.append(verdict)
    present = {name for name, verdict in zip(classes, verdicts, strict=True) if verdict.answer == PRESENT}
    fewest = min(verdicts, key=lambda verdict: verdict.votes)
    return Settled("settled", canonical(present, classes), fewest.votes, fewest.annotators)


def _as_stored(answer: str, classes: Sequence[str]) -> str | frozenset[str]:
    # What is stored has one meaning, even where a person who writes the same could have meant a label called so.
    if answer in WORDS:
        return answer
    whole = _from_json(answer)
    if whole is None or not set(whole) <= set(classes):  # it waited for its task as it was written
        stored = parse(answer, classes)
        return stored if stored in WORDS else frozenset(json.loads(stored))
    return frozenset(whole)


def _about(name: str, answer: str | frozenset[str]) -> str:
    if isinstance(answer, str):
        return answer
    return PRESENT if name in answer else ABSENT


def _readings(answer: str, classes: Sequence[str]) -> set[str]:
    """Return every way to read the answer, as it would be stored; no more than two of them."""
    found = {word for word in WORDS if answer == word}
    if answer == NONE_OF_THEM:
        found.add("[]")
    whole = _from_json(answer)
    if whole is not None and set(whole) <= set(classes):
        found.add(canonical(whole, classes))
    found |= {canonical(labels, classes) for labels in _listed(answer, classes)}
    return found


def _listed(answer: str, classes: Sequence[str]) -> set[frozenset[str]]:
    """Return the sets that `a | b` may mean, a label plain or as JSON writes it."""
    forms: dict[str, set[str]] = {}
    for name in classes:
        for form in (name, json.dumps(name), json.dumps(name, ensure_ascii=False)):
            forms.setdefault(" ".join(form.split()), set()).add(name)
    pieces = [" ".join(piece.split()) for piece in answer.split("|")]
    # From the end: what the pieces from here on may mean. A label with bars in its name takes several pieces.
    means: list[set[frozenset[str]]] = [set() for _ in pieces] + [{frozenset()}]
    longest = max((form.count("|") for form in forms), default=0) + 1
    for start in reversed(range(len(pieces))):
        for end in range(start + 1, min(start + longest, len(pieces)) + 1):
            for name in _named(pieces[start:end], forms):
                means[start] |= {frozenset({name, *rest}) for rest in means[end]}
        means[start] = set(sorted(means[start], key=sorted)[:3])
    return means[0]


def _named(pieces: Sequence[str], forms: dict[str, set[str]]) -> set[str]:
    wanted = "|".join(pieces)
    if len(pieces) == 1:
        return forms.get(wanted, set())
    return {
        name for form, names in forms.items() if "|".join(part.strip() for part in form.split("|")) == wanted
        for name in names
    }  # fmt: skip


def _from_json(answer: str) -> list[str] | None:
    if not answer.startswith("["):
        return None
    try:
        content = json.loads(answer)
    except (ValueError, RecursionError):
        return None
    whole = isinstance(content, list) and all(isinstance(name, str) for name in content)
    return content if whole else None


def _complaint(answer: str, classes: Sequence[str]) -> str:
    pieces = [piece.strip() for piece in answer.split("|")]
    alone = [piece for piece in pieces if piece in (*WORDS, NONE_OF_THEM)]
    if alone and len(pieces) > 1:
        return f"{alone[0]!r} stands alone, without labels beside it"
    named = _from_json(answer.strip())
    unknown = [name for name in (named if named is not None else pieces) if name not in classes]
    told = f"{unknown[0]!r} is no label of the task; " if unknown else ""
    words = f"{NONE_OF_THEM!r}, {WORDS[0]!r} or {WORDS[1]!r}"
    return f"{told}write any number of its labels with {BAR!r} between them, {words}"


def _others(chosen: Sequence[str], word: str) -> str:
    return ", ".join(repr(one) for one in chosen if one != word)


def _shown(answer: str) -> str:
    return repr(answer)[:200]
