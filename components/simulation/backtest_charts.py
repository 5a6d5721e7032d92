"""The charts of a backtest: accuracy over the windows, and below it, a lane for each set of rules, what they did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any

from components.simulation.charts import Point, draw_grid, draw_points
from components.simulation.svg import Drawing, ShareAxis, Steps, shortened
from components.simulation.timeline import BASELINE, Layout
from components.simulation.words import interval, long_window, percent

LANE = 26.0
GAP = 9.0
MARK = 6.0
AS_BASELINE = ("always-fire", "never-fire")
COLOURS = 5
MOST_DOTS = 60
LETTERS = 0.62  # the width of a letter, in font sizes

Told = Mapping[str, Any]


def line_kind(rules: Sequence[Told], place: int) -> str:
    """Return the style of one set of rules: a baseline's own, or the next colour."""
    name = rules[place]["name"]
    if name in AS_BASELINE:
        return f"rule {name}"
    return f"rule rule-{sum(r['name'] not in AS_BASELINE for r in rules[:place]) % COLOURS}"


def years_chart(result: Mapping[str, Any], layout: Layout) -> Drawing:
    """Return mean true accuracy in every window of the simulated years under each set of rules, and retrainings."""
    rules = result["rules"]
    windows = result["windows_a_year"] + 1
    steps = Steps(layout.left, layout.width - layout.right, windows)
    axis = ShareAxis.around([v for r in rules for v in r["accuracy_by_window"]], 12, 12 + layout.plot)
    lanes = _lane_tops(axis.bottom + 36, len(rules), layout)
    drawing = Drawing(layout.width, lanes[-1] + LANE + 4, _years_in_words(result))
    draw_grid(drawing, axis, steps)
    _draw_names(drawing, [str(n) for n in range(windows)], steps, axis.bottom + 18, layout.font)
    for place, told in enumerate(rules):
        kind = line_kind(rules, place)
        spots = [(steps.centre(n), axis.y(v)) for n, v in enumerate(told["accuracy_by_window"])]
        drawing.polyline(spots, kind)
        for n, spot in enumerate(spots if windows <= MOST_DOTS else []):
            drawing.dot(spot, 2.6, kind, tip=f"{told['name']}, {result['window']} {n}: "
                        f"{percent(told['accuracy_by_window'][n])}")  # fmt: skip
    most = full_bar(result)
    for place, (told, top) in enumerate(zip(rules, lanes, strict=True)):
        _draw_lane_name(drawing, told["name"], top, layout)
        drawing.line((steps.left, top + LANE), (steps.right, top + LANE), "grid")
        for n, share in enumerate(told["retrainings_by_window"]):
            height = LANE * share / most
            tip = f"{told['name']}, {result['window']} {n}: {share:.2f} retrainings a year"
            width = 0.62 * steps.width
            corner = (steps.centre(n) - width / 2, top + LANE - height)
            if height > 0:
                drawing.box(corner, (width, height), line_kind(rules, place), tip=tip)
    return drawing


def full_bar(result: Mapping[str, Any]) -> float:
    """Return how many retrainings a window the tallest bar of `years_chart` stands for: at least one."""
    return max([1.0, *(float(v) for told in result["rules"] for v in told["retrainings_by_window"])])


def history_chart(result: Mapping[str, Any], layout: Layout) -> Drawing:
    """Return the estimated accuracy of every stored segment, and the alarms and retrainings of each set of rules."""
    segments, rules = result["windows"], [result["recorded"], *result["rules"]]
    points = [
        Point(s["overall"], None, alarm=False, tip=f"{long_window(s['window'])}: {interval(s['overall'])}")
        for s in segments
    ]
    bounds = [point.estimate[key] for point in points if point.estimate for key in ("low", "high")]
    steps = Steps(layout.left, layout.width - layout.right, len(segments))
    axis = ShareAxis.around(bounds, 12, 12 + layout.plot)
    lanes = _lane_tops(axis.bottom + 36, len(rules), layout)
    drawing = Drawing(layout.width, lanes[-1] + LANE + 4, _history_in_words(result))
    draw_grid(drawing, axis, steps)
    _draw_names(drawing, [s["window"] for s in segments], steps, axis.bottom + 18, layout.font)
    draw_points(drawing, points, axis, steps, bar=min(layout.bar, 0.6 * steps.width), dot=0)
    for told, top in zip(rules, lanes, strict=True):
        _draw_lane_name(drawing, told["name"], top, layout)
        drawing.line((steps.left, top + LANE), (steps.right, top + LANE), "grid")
        _draw_marks(drawing, told, steps, top + LANE / 2)
    return drawing


def _draw_marks(drawing: Drawing, told: Told, steps: Steps, middle: float) -> None:
    radius = min(MARK, 0.22 * steps.width)
    for place, window in enumerate(told["windows"]):
        x, name = steps.centre(place), long_window(window["window"])
        if window["action"] == "retrain":
            who = ", ".join(window["classes"]) or "no class in particular"
            drawing.triangle((x - 1.2 * radius, middle), radius, "alarm", tip=f"{name}: alarm for {who}")
        if window["retrained_at"]:
            day = window["retrained_at"][:10]
            drawing.diamond((x + 1.4 * radius, middle), radius, "renewal", tip=f"{name}: retraining begins {day}")


def _lane_tops(top: float, count: int, layout: Layout) -> list[float]:
    height = LANE + GAP + layout.name_height
    return [top + layout.name_height + place * height for place in range(count)]


def _draw_lane_name(drawing: Drawing, name: str, top: float, layout: Layout) -> None:
    if layout.name_height:
        drawing.text((0, top - 4), shortened(name, layout.width, layout.font), "lane")
    else:
        drawing.text((0, top + LANE / 2 + BASELINE), shortened(name, layout.left - 44, layout.font), "lane")


def _draw_names(drawing: Drawing, names: Sequence[str], steps: Steps, y: float, font: float) -> None:
    """Write the columns' names on one line, only every second or third where they would not fit."""
    room = (max(map(len, names)) + 1) * LETTERS * font
    for place in range(0, len(names), ceil(room / steps.width)):
        drawing.text((steps.centre(place), y), names[place], "month", anchor="middle")


def _years_in_words(result: Mapping[str, Any]) -> str:
    parts = [
        f"{r['name']}: from {percent(r['accuracy_by_window'][0])} to {percent(r['accuracy_by_window'][-1])}, "
        f"{r['retrainings_a_year']:.1f} retrainings a year"
        for r in result["rules"]
    ]
    return f"Mean true accuracy by {result['window']} of the simulated year. {'; '.join(parts)}."


def _history_in_words(result: Mapping[str, Any]) -> str:
    facts = "; ".join(f"{s['window']} {interval(s['overall'])}" for s in result["windows"])
    parts = [
        f"{told['name']}: alarms in "
        f"{', '.join(w['window'] for w in told['windows'] if w['action'] == 'retrain') or 'no window'}"
        for told in (result["recorded"], *result["rules"])
    ]
    return f"Estimated accuracy. {facts}. {'; '.join(parts)}."
