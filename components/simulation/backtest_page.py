"""A backtest as a page: one file, no scripts, readable without a network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from components.pages import page as pages
from components.simulation.backtest_charts import full_bar, history_chart, line_kind, years_chart
from components.simulation.report import page_environment
from components.simulation.timeline import NARROW, WIDE

PAGE_WIDE = replace(WIDE, left=176)
PAGE_NARROW = replace(NARROW, left=48)


def write_page(result: Mapping[str, Any], path: Path) -> None:
    """Write the page of a backtest's result, stored or simulated, as `backtest --json` prints it."""
    simulated = result["mode"] == "simulated"
    chart = years_chart if simulated else history_chart
    context = {
        "result": result,
        "simulated": simulated,
        "charts": {"wide": chart(result, PAGE_WIDE), "narrow": chart(result, PAGE_NARROW)},
        "full_bar": full_bar(result) if simulated else None,
        "kinds": [line_kind(result["rules"], place) for place in range(len(result["rules"]))],
    }
    page = page_environment().get_template("backtest.html").render(context)
    pages.write_page(page, path)
