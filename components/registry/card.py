"""The model card: what a version is for, what it was made from, how good it is, and where it fails."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from components.errors import ConfigurationError
from components.model.artifact import ModelSpec

TEMPLATE = "model_card.md.j2"
WEAKEST_SHOWN = 10

_MARKDOWN = re.compile(r"([\\`*_{}\[\]|~])")
_WHITESPACE = re.compile(r"\s+")


def model_card(
    spec: ModelSpec,
    evaluation: Mapping[str, Any],
    *,
    facts: Mapping[str, str],
    verdict: Mapping[str, Any] | None,
    display: Mapping[str, str] | None = None,
) -> str:
    """Return the model card as Markdown, from mlflow/model_card.md.j2. Names from outside are escaped: they stay text.

    evaluation: the evaluate stage's metrics.json. facts: what the version was made from, such as dataset_version.
    verdict: a `GateVerdict` as JSON, or None while the gate has not judged. display: what classes are shown as, by
    name; the name that identifies them stands beside. Raises ConfigurationError if the template
    is not where the installation puts it.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_template_folder()),
        autoescape=True,  # Markdown may hold HTML, and MLflow's pages show it
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(text=_text, figure=_figure, shown=partial(_shown, display or {}))
    measured_on = evaluation["calibration"]["measured_on"]
    report = evaluation["parts"][measured_on]
    return environment.get_template(TEMPLATE).render(
        spec=spec,
        facts=facts,
        verdict=verdict,
        calibration=evaluation["calibration"],
        parts=evaluation["parts"],
        measured_on=measured_on,
        out_of_date=evaluation.get("out_of_date", 0),
        report=report,
        weakest=sorted(report["classes"], key=_weakness)[:WEAKEST_SHOWN],
    )


def _template_folder() -> Path:
    beside_the_source = Path(__file__).resolve().parents[2] / "mlflow"
    installed = Path(sys.prefix) / "share" / "perennial" / "mlflow"
    for folder in (beside_the_source, installed):
        if (folder / TEMPLATE).is_file():
            return folder
    raise ConfigurationError(
        f"{TEMPLATE} is neither in {beside_the_source} nor in {installed}; install Perennial again"
    )


def _weakness(row: Mapping[str, Any]) -> float:
    """Return the smaller of a class's precision and recall; 1 where neither is known, so that it comes last."""
    return min((row[part]["value"] for part in ("precision", "recall") if row[part] is not None), default=1.0)


def _text(value: object) -> str:
    """Return a value as one line of Markdown that shows it literally."""
    return _MARKDOWN.sub(r"\\\1", _WHITESPACE.sub(" ", str(value)))


def _shown(display: Mapping[str, str], name: str) -> str:
    return f"{display[name]} ({name})" if name in display else name


def _figure(value: Mapping[str, float] | float | None) -> str:
    """Return a number, with its interval where it has one."""
    if value is None:
        return "not measurable"
    if isinstance(value, Mapping):
        return f"{value['value']:.3f} ({value['low']:.3f} to {value['high']:.3f})"
    return f"{value:.3g}"
