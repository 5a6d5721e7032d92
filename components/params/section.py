"""A section of params.yaml: typed, checked when loaded. A misspelt key is an error that names the nearest known one."""

from __future__ import annotations

import difflib
from typing import Annotated, Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from components.errors import ConfigurationError

M = TypeVar("M", bound=BaseModel)
Share = Annotated[float, Field(ge=0, le=1)]
OpenShare = Annotated[float, Field(gt=0, lt=1)]
Positive = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A section that forbids unknown keys and never changes after loading."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def parse_strictly(model: type[M], content: object, where: str) -> M:
    """Return `content` as a `model`. Raises ConfigurationError naming file, key, value and the nearest known key."""
    if not isinstance(content, dict):
        raise ConfigurationError(f"{where}: expected a mapping of keys, got {type(content).__name__}")
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise ConfigurationError(f"{where}: " + "; ".join(_explain(model, e) for e in error.errors())) from error


def _explain(model: type[BaseModel], error: Any) -> str:
    keys = [str(part) for part in error["loc"]]
    name = ".".join(keys) or "the file"
    if error["type"] == "extra_forbidden":
        known = _known_keys(model, keys[:-1])
        near = difflib.get_close_matches(keys[-1], known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
        return f"unknown key {name!r}; {hint}"
    message = error["msg"].removeprefix("Value error, ")
    given = error.get("input")
    shown = f" (got {given!r})" if isinstance(given, str | int | float | bool) else ""
    return f"{name}: {message}{shown}"


def _known_keys(model: type[BaseModel], path: list[str]) -> list[str]:
    current: Any = model
    for key in path:
        if key.isdigit():  # a place in a list: its elements' model is already found
            continue
        field = current.model_fields.get(key) if hasattr(current, "model_fields") else None
        current = _model_in(field.annotation) if field is not None else None
    return sorted(current.model_fields) if hasattr(current, "model_fields") else []


def _model_in(annotation: Any) -> Any:
    """Return the model in an annotation such as `tuple[Month, ...]`, or None."""
    if hasattr(annotation, "model_fields"):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_in(part)) is not None), None)
