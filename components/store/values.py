"""What PostgreSQL can hold: JSON without NaN, text without NUL."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any


def jsonable(value: object) -> Any:
    """Return `value` as plain JSON: NaN and infinities become null, times ISO 8601, arrays lists, keys text.

    Raises TypeError for an object that has no such form.
    """
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, str):
        return clean_text(value)
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, Mapping):
        return {clean_text(str(key)): jsonable(item) for key, item in value.items()}
    return _jsonable_object(value)


def _jsonable_object(value: object) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if hasattr(value, "tolist"):  # numpy arrays and scalars, without importing numpy here
        return jsonable(value.tolist())
    if isinstance(value, Iterable) and not isinstance(value, bytes):
        return [jsonable(item) for item in value]
    raise TypeError(f"{type(value).__name__} has no JSON form: {value!r}")


def clean_text(value: str) -> str:
    r"""Return `value` as PostgreSQL can store it: NUL and undecodable bytes of hostile file names written as `\x00`."""
    return value.replace("\x00", "\\x00").encode("utf-8", "backslashreplace").decode("utf-8")
