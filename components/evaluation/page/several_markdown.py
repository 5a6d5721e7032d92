"""What a person reads of an evaluation of several labels an image: report.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from components.evaluation.page.section import escaped
from components.evaluation.page.several_sections import further, headline, labels


def several_markdown(metrics: Mapping[str, Any]) -> str:
    """Return the report of an evaluation's metrics, as the evaluate stage makes them, in Markdown."""
    calibration = metrics["calibration"]
    lines = [
        "# Evaluation",
        "",
        f"Backbone `{escaped(metrics['backbone'])}`, {len(metrics['class_names'])} labels, any number of them an "
        f"image. Each label's probability and threshold were fitted on {calibration['fitted_on']} validation images.",
    ]
    for section in (headline(metrics), labels(metrics), *further(metrics)):
        lines += section.markdown()
    return "\n".join(lines) + "\n"
