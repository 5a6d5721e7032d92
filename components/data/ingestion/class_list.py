"""The class list: which names may be classes, and what happens to a label that is not on it."""

from __future__ import annotations

import difflib
import unicodedata
from collections import Counter
from collections.abc import Sequence

from components.data.sources.item import printable
from components.errors import ConfigurationError
from components.records import Answer

MOST_CHARACTERS = 200

_RESERVED = frozenset(answer.value for answer in Answer)
_JOINERS = "\u200c\u200d"  # invisible, and part of ordinary words in Persian, Hindi and others


def checked_class_name(name: str, where: str) -> str:
    """Return a class name in Unicode NFC. Raises ConfigurationError, starting with `where`, for an unusable one."""
    normal = unicodedata.normalize("NFC", name)
    shown = repr(printable(normal)[:MOST_CHARACTERS])
    if not normal or normal != normal.strip():
        raise ConfigurationError(f"{where}: class name {shown} is empty or starts or ends with a space; rename it")
    if len(normal) > MOST_CHARACTERS:
        raise ConfigurationError(f"{where}: class name {shown} has more than {MOST_CHARACTERS} characters; shorten it")
    if not all(c.isprintable() or c in _JOINERS for c in normal):
        raise ConfigurationError(f"{where}: class name {shown} holds control characters; rename it")
    if normal.casefold() in _RESERVED:
        raise ConfigurationError(
            f"{where}: class name {shown} is an answer people give instead of a class "
            f"({', '.join(sorted(_RESERVED))}); rename it"
        )
    return normal


def agreed_classes(stored: Sequence[str], declared: Sequence[str], added: Sequence[str]) -> tuple[str, ...]:
    """Return the class list: stored names keep their places, then declared and added ones that are new, in their order.

    declared: data.classes of params.yaml, or nothing. Raises ConfigurationError for an unusable or repeated name, or
    if `declared` leaves out a stored class: its images would lose their meaning.
    """
    names = [checked_class_name(name, "data.classes") for name in declared]
    for name, times in Counter(names).items():
        if times > 1:
            raise ConfigurationError(f"data.classes names {name!r} twice; remove one")
    declared_names = set(names)
    lost = [name for name in stored if names and name not in declared_names]
    if lost:
        raise ConfigurationError(f"data.classes leaves out {', '.join(map(repr, lost))}, which has images; put it back")
    new = [*names, *(checked_class_name(name, "--add-class") for name in added)]
    return tuple(dict.fromkeys([*stored, *new]))


def unknown_class(name: str, classes: Sequence[str]) -> ConfigurationError:
    """Return the error for a class that is asked for and is not in `classes`."""
    near = difflib.get_close_matches(name, classes, n=1)
    known = f"the nearest is {near[0]!r}" if near else "`perennial classes` lists them"
    return ConfigurationError(f"there is no class {printable(name)[:MOST_CHARACTERS]!r}; {known}")


def unknown_label(label: str, classes: Sequence[str], where: str) -> ConfigurationError:
    """Return the error for a label that is not in `classes`, with the nearest class and the way to add it."""
    near = difflib.get_close_matches(label, classes, n=1)
    hint = f"nearest is {near[0]!r}" if near else f"known are {', '.join(classes[:20])}"
    return ConfigurationError(
        f"{where}: label {label!r} is not in the class list ({hint}); correct it, or add it with --add-class {label!r}"
    )
