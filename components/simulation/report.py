"""The page that tells what happened in the simulated months: one file, no scripts, readable without a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment

from components.errors import DataError
from components.pages import page as pages
from components.simulation import story, words
from components.simulation.charts import labels_chart
from components.simulation.timeline import NARROW, WIDE, accuracy_chart


def write_report(months: Sequence[Mapping[str, Any]], summary: Mapping[str, Any], path: Path) -> None:
    """Write the page of a run to `path`, in the place of an older one.

    months: one object a month and summary: the closing one, both as `demo --json` prints them. The same arguments give
    the same bytes. Raises DataError for a run without a month.
    """
    if not months:
        raise DataError(f"{path}: there is no month to report; run the scenario for at least one")
    page = page_environment().get_template("demo_report.html").render(_context(months, summary))
    pages.write_page(page, path)


def page_environment() -> Environment:
    """Return the templates of this package with the filters that numbers and months are written by."""
    return pages.page_environment(
        "components.simulation",
        {
            "percent": words.percent,
            "interval": words.interval,
            "decimal": words.decimal,
            "p_value": words.p_value,
            "long_window": words.long_window,
            "short_window": words.short_window,
            "listed": words.listed,
            "capital": words.capital,
            "unbroken": words.unbroken,
            "column_name": words.column_name,
            "v_level": story.v_level,
            "check_numbers": story.check_numbers,
        },
    )


def _context(months: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]) -> dict[str, Any]:
    changes = words.planted_changes(summary.get("scenario", {}), len(months))
    classes = story.class_stories(months)
    return {
        "headline": story.headline(months, summary),
        "note": summary.get("note", ""),
        "verdicts": summary["verdicts"],
        "figures": story.key_figures(months, changes),
        "changes": changes,
        "scenario": summary.get("scenario", {}),
        "months": [(month, story.month_events(month, changes, place)) for place, month in enumerate(months)],
        "coverage": story.coverage(months),
        "annotators_note": months[-1].get("annotators", {}).get("note") if months else None,
        "accuracy_charts": {
            "wide": accuracy_chart(months, changes, WIDE),
            "narrow": accuracy_chart(months, changes, NARROW),
        },
        "classes": classes,
        "states": story.states_met(months),
        "refused": any(month["renewal"] and not month["renewal"]["promoted"] for month in months),
        "labels_chart": labels_chart(months),
        "drift": story.drift_table(months),
        "facts": story.run_facts(summary),
    }
