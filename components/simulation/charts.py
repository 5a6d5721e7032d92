"""The charts of the demo's report. A bar is an estimate's interval; the dot, the truth, should lie inside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import ceil
from typing import Any, Literal

from components.simulation.svg import Drawing, ShareAxis, Steps
from components.simulation.words import interval, long_window, percent, short_window

Month = Mapping[str, Any]
Metric = Literal["precision", "recall"]
METRICS: tuple[Metric, ...] = ("precision", "recall")

FONT = 13.0
SMALL_FONT = 9.5
MONTH_LETTERS = 2.1  # the room that `Mar` takes, in font sizes


@dataclass(frozen=True, slots=True)
class Point:
    """What one month shows of one measure: the estimate or None, the truth or None, and whether it raised an alarm."""

    estimate: Mapping[str, float] | None
    truth: float | None
    alarm: bool
    tip: str


def overall_points(months: Sequence[Month]) -> list[Point]:
    """Return what each month shows of overall accuracy."""
    return [
        Point(m["overall"], m["true_accuracy"], bool(m["alarmed"]), _tip(m, m["overall"], m["true_accuracy"]))
        for m in months
    ]


def class_points(months: Sequence[Month], name: str, metric: Metric) -> list[Point]:
    """Return what each month shows of one class's precision or recall; nothing where its model lacked it."""
    points = []
    for month in months:
        found = next((c for c in month["classes"] if c["name"] == name), None)
        if found is None:
            points.append(Point(None, None, alarm=False, tip=f"{long_window(month['window'])}: no such class"))
            continue
        estimate, truth = found[metric], found[f"true_{metric}"]
        alarm = name in month["alarmed"] and _condemned(found, metric)
        points.append(Point(estimate, truth, alarm, _tip(month, estimate, truth)))
    return points


def _condemned(found: Mapping[str, Any], metric: Metric) -> bool:
    """Return whether the alarm of this class names `metric`; an alarm whose reasons name neither counts for both."""
    named = [word for word in METRICS if any(reason.startswith(word) for reason in found["reasons"])]
    return metric in named or not named


def _tip(month: Month, estimate: Mapping[str, float] | None, truth: float | None) -> str:
    return f"{long_window(month['window'])}: estimated {interval(estimate)}, in truth {percent(truth)}"


def shown_values(points: Sequence[Point]) -> list[float]:
    """Return the values a chart of `points` must have room for below: truths and lower bounds."""
    truths = [point.truth for point in points if point.truth is not None]
    return truths + [point.estimate["low"] for point in points if point.estimate]


def described(what: str, months: Sequence[Month], points: Sequence[Point]) -> str:
    """Return a chart of `points` in words."""
    alarms = [long_window(month["window"]) for month, point in zip(months, points, strict=True) if point.alarm]
    return f"{what}. {'; '.join(point.tip for point in points)}. Alarm: {', '.join(alarms) or 'none'}."


def class_chart(months: Sequence[Month], name: str, metric: Metric, lowest: float) -> Drawing:
    """Return one class's precision or recall over the months, on an axis that shows `lowest`."""
    points = class_points(months, name, metric)
    drawing = Drawing(160, 104, described(f"{name}, {metric}", months, points))
    axis = ShareAxis.showing([lowest], 8, 84)
    steps = Steps(34, 159, len(months))
    for place, point in enumerate(points):
        if point.alarm:
            drawing.box((steps.edge(place), axis.top), (steps.width, axis.bottom - axis.top), "alarm-month")
    draw_grid(drawing, axis, steps)
    draw_months(drawing, months, steps, axis.bottom + 15, SMALL_FONT)
    draw_points(drawing, points, axis, steps, bar=min(11.0, 0.6 * steps.width), dot=2.4)
    for place, point in enumerate(points):
        if point.alarm:
            # In the half of the column where the dot is not.
            low = point.truth is not None and axis.y(point.truth) > (axis.top + axis.bottom) / 2
            y = axis.top + 8 if low else axis.bottom - 8
            drawing.triangle(
                (steps.centre(place), y), 5, "alarm", tip=f"alarm in {long_window(months[place]['window'])}"
            )
    return drawing


def lowest_class_value(months: Sequence[Month], names: Sequence[str]) -> float:
    """Return the lowest truth or lower bound of these classes in any month, for the axis that they share."""
    charts = [class_points(months, name, metric) for name in names for metric in METRICS]
    return min((value for points in charts for value in shown_values(points)), default=0.0)


def labels_chart(months: Sequence[Month]) -> Drawing:
    """Return a bar a month: labels, and below it which share of the predictions that is."""
    facts = "; ".join(f"{long_window(m['window'])} {m['labels']:,} of {m['predictions']:,}" for m in months)
    drawing = Drawing(420, 210, f"Labels per month, of so many predictions. {facts}")
    steps, bottom, top = Steps(4, 416, len(months)), 166.0, 22.0
    most = max((month["labels"] for month in months), default=0) or 1
    width = min(44.0, 0.62 * steps.width)
    for place, month in enumerate(months):
        x, height = steps.centre(place), (bottom - top) * month["labels"] / most
        tip = f"{long_window(month['window'])}: {month['labels']:,} labels"
        drawing.box((x - width / 2, bottom - height), (width, height), "labels", tip=tip)
        if steps.width >= 3 * FONT:  # else the numbers would run into each other; the table has them
            share = month["labels"] / month["predictions"] if month["predictions"] else None
            drawing.text((x, bottom - height - 7), f"{month['labels']:,}", "value", anchor="middle")
            drawing.text((x, bottom + 35), percent(share, 0) if share is not None else "–", "tick", anchor="middle")
    drawing.line((steps.left, bottom), (steps.right, bottom), "axis")
    draw_months(drawing, months, steps, bottom + 18, FONT)
    return drawing


def draw_grid(drawing: Drawing, axis: ShareAxis, steps: Steps) -> None:
    """Draw a line a tick and write its share to the left."""
    digits = 0 if axis.tick >= 0.01 else 1
    for place, tick in enumerate(axis.ticks()):
        drawing.line((steps.left, axis.y(tick)), (steps.right, axis.y(tick)), "axis" if place == 0 else "grid")
        drawing.text((steps.left - 6, axis.y(tick) + 3.5), percent(tick, digits), "tick", anchor="end")


def draw_months(drawing: Drawing, months: Sequence[Month], steps: Steps, y: float, font: float) -> None:
    """Write the names of the months on one line, only every second or third where they would not fit."""
    longest = max(len(short_window(month["window"])) for month in months)
    every = ceil(MONTH_LETTERS * font * longest / 3 / steps.width)
    for place in range(0, len(months), every):
        drawing.text((steps.centre(place), y), short_window(months[place]["window"]), "month", anchor="middle")


def draw_points(
    drawing: Drawing, points: Sequence[Point], axis: ShareAxis, steps: Steps, *, bar: float, dot: float
) -> None:
    """Draw the intervals as bars with a notch at the estimate, then the truths as joined dots."""
    for place, point in enumerate(points):
        if point.estimate is None:
            continue
        left, top = steps.centre(place) - bar / 2, axis.y(point.estimate["high"])
        height = max(axis.y(point.estimate["low"]) - top, 1.0)
        drawing.box((left, top), (bar, height), "interval", round_by=2, tip=point.tip)
        middle = axis.y(point.estimate["value"])
        drawing.line((left, middle), (left + bar, middle), "estimate")
    placed = [None if p.truth is None else (steps.centre(i), axis.y(p.truth)) for i, p in enumerate(points)]
    for known, run in groupby(placed, key=lambda place: place is not None):
        if known:
            drawing.polyline([place for place in run if place], "truth")
    for spot, point in zip(placed, points, strict=True):
        if spot:
            drawing.dot(spot, dot, "truth", tip=point.tip)
