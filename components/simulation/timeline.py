"""The chart of a whole run: accuracy over the months, and below it what the world, the alarms and the models did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

from components.simulation.charts import (
    Month,
    described,
    draw_grid,
    draw_months,
    draw_points,
    overall_points,
    shown_values,
)
from components.simulation.svg import Drawing, ShareAxis, Steps, shortened
from components.simulation.words import Change, long_window

MARK = 6.0
LANE = 22.0
GAP = 10.0
BASELINE = 4.5  # from the middle of a line of text to its baseline


@dataclass(frozen=True, slots=True)
class Layout:
    """How the chart fits a screen. left: the room for the lanes' names; name_height: of a name above its lane, or 0."""

    width: float
    left: float
    right: float
    plot: float
    font: float
    bar: float
    name_height: float


WIDE = Layout(width=1040, left=116, right=14, plot=250, font=13, bar=30, name_height=0)
NARROW = Layout(width=350, left=42, right=10, plot=200, font=11.5, bar=16, name_height=16)


@dataclass(frozen=True, slots=True)
class _Lanes:
    """Where the lanes lie: the middle of each, the first change's first."""

    changes: tuple[float, ...]
    alarm: float
    model: float

    @classmethod
    def below(cls, top: float, changes: int, layout: Layout) -> _Lanes:
        first = top + layout.name_height + LANE / 2
        rows = tuple(first + number * (LANE + 4) for number in range(max(changes, 1)))
        alarm = rows[-1] + LANE + GAP + layout.name_height
        return cls(rows, alarm, alarm + LANE + GAP + layout.name_height)


def accuracy_chart(months: Sequence[Month], changes: Sequence[Change], layout: Layout) -> Drawing:
    """Return true and estimated overall accuracy over the months with changes, alarms and models in lanes below."""
    points = overall_points(months)
    steps = Steps(layout.left, layout.width - layout.right, len(months))
    axis = ShareAxis.showing(shown_values(points), 12, 12 + layout.plot)
    lanes = _Lanes.below(axis.bottom + 38, len(changes), layout)
    drawing = Drawing(layout.width, lanes.model + LANE / 2 + 4, described("Overall accuracy", months, points))
    draw_grid(drawing, axis, steps)
    draw_months(drawing, months, steps, axis.bottom + 20, layout.font)
    _draw_threads(drawing, months, steps, axis, lanes)
    draw_points(drawing, points, axis, steps, bar=min(layout.bar, 0.6 * steps.width), dot=4.5)
    for name, middle in (("The world", lanes.changes[0]), ("Alarms", lanes.alarm), ("Model", lanes.model)):
        y = middle - LANE / 2 - 5 if layout.name_height else middle + BASELINE
        drawing.text((0, y), name, "lane")
    _draw_changes(drawing, changes, steps, lanes, layout)
    _draw_alarms(drawing, months, steps, lanes, layout)
    _draw_models(drawing, months, steps, lanes, layout)
    return drawing


def _draw_threads(drawing: Drawing, months: Sequence[Month], steps: Steps, axis: ShareAxis, lanes: _Lanes) -> None:
    """Draw the dotted lines that lead from the marks of alarms and renewals up into the plot."""
    for place, month in enumerate(months):
        if month["alarmed"]:
            x = steps.centre(place)
            drawing.line((x, axis.top), (x, axis.bottom), "thread alarm")
            drawing.line((x, axis.bottom + 28), (x, lanes.alarm), "thread alarm")
        if month["renewal"] and month["renewal"]["promoted"]:
            x = steps.edge(place + 1)
            drawing.line((x, axis.top), (x, lanes.model), "thread renewal")


def _draw_changes(drawing: Drawing, changes: Sequence[Change], steps: Steps, lanes: _Lanes, layout: Layout) -> None:
    if not changes:
        drawing.text((steps.left + 4, lanes.changes[0] + BASELINE), "nothing changes", "tick")
    for change, middle in zip(changes, lanes.changes, strict=False):
        left, right = steps.edge(change.first) + 2, steps.edge(change.last + 1) - 2
        drawing.box((left, middle - LANE / 2), (right - left, LANE), "planted", round_by=4, tip=change.sentence)
        words = shortened(change.short, right - left - 12, layout.font)
        drawing.text((left + 8, middle + BASELINE), words, "on-planted")


def _draw_alarms(drawing: Drawing, months: Sequence[Month], steps: Steps, lanes: _Lanes, layout: Layout) -> None:
    raised = [place for place, month in enumerate(months) if month["alarmed"]]
    if not raised:
        drawing.text((steps.left + 4, lanes.alarm + BASELINE), "none", "tick")
    for place, following in pairwise([*raised, len(months)]):
        x, names = steps.centre(place), ", ".join(months[place]["alarmed"])
        end = steps.right if following == len(months) else steps.centre(following) - MARK
        tip = f"{long_window(months[place]['window'])}: alarm for {names}"
        drawing.triangle((x, lanes.alarm), MARK, "alarm", tip=tip)
        drawing.text((x + 11, lanes.alarm + BASELINE), shortened(names, end - x - 14, layout.font), "alarm")


def _draw_models(drawing: Drawing, months: Sequence[Month], steps: Steps, lanes: _Lanes, layout: Layout) -> None:
    for version, run in groupby(range(len(months)), key=lambda place: months[place]["model_version"]):
        places = list(run)
        left, right = steps.edge(places[0]) + 2, steps.edge(places[-1] + 1) - 2
        drawing.box((left, lanes.model - LANE / 2), (right - left, LANE), "model", round_by=4)
        words = shortened(f"version {version}", right - left - 20, layout.font)
        drawing.text((left + 12, lanes.model + BASELINE), words, "on-model")
    for place, month in enumerate(months):
        renewal = month["renewal"]
        if renewal:
            outcome, kind = ("promoted", "renewal") if renewal["promoted"] else ("refused by its gate", "refused")
            tip = f"version {renewal['version']} {outcome}"
            drawing.diamond((steps.edge(place + 1), lanes.model), MARK + 1, kind, tip=tip)
