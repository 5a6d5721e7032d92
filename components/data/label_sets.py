"""Sets of labels, where an image carries any number of the classes: how people write them, how they are stored. Pure.

Stored in place of the one label: JSON, each name once, sorted, `["Bag","Coat"]`, and `[]` where none of the classes
applies. Equal sets are equal texts, so all that compares labels compares sets; and any class name can stand in one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.errors import DataError

BAR = "|"
"""What people write between labels."""


def encode(names: Iterable[str]) -> str:
    """Return a set of names as it is stored."""
    return json.dumps(sorted(set(names)), ensure_ascii=False, separators=(",", ":"))


@lru_cache(65_536)
def decode(label: str) -> tuple[str, ...]:
    """Return the names in a stored set, sorted. Another label, as a class folder gives it, is one name."""
    names = _from_json(label)
    return (label,) if names is None else tuple(sorted(set(names)))


def parse(text: str) -> str:
    """Return what a person wrote, `Bag | Coat`, one name, JSON, or nothing for none, as it is stored.

    Raises DataError where there is nothing between two bars.
    """
    text = text.strip()
    names = _from_json(text) if text else []
    if names is None:
        names = [piece.strip() for piece in text.split(BAR)]
    if not all(name.strip() for name in names):
        raise DataError(f"labels {text[:200]!r} hold an empty one; write them as in Bag | Coat")
    return encode(names)


def indicators(labels: Sequence[str], classes: Sequence[str]) -> NDArray[np.int64]:
    """Return which classes are in every stored set: (N, K) of 0 and 1. Raises DataError for a name that is no class."""
    place = {name: number for number, name in enumerate(classes)}
    found = np.zeros((len(labels), len(classes)), np.int64)
    for row, label in enumerate(labels):
        for name in decode(label):
            if name not in place:
                raise DataError(f"label {name!r} is not in the class list; correct it or add the class")
            found[row, place[name]] = 1
    return found


def _from_json(text: str) -> list[str] | None:
    if not text.startswith("["):
        return None
    try:
        content: Any = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, list) and all(isinstance(name, str) for name in content) else None
