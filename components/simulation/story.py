"""What a simulated run showed, as the report tells it: headline, months, classes, drift, renewals, run facts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from components.simulation.charts import METRICS, Metric, Month, class_chart, lowest_class_value
from components.simulation.svg import Drawing
from components.simulation.words import (
    Change,
    capital,
    column_name,
    counted,
    duration,
    listed,
    long_window,
    percent,
)

# State of a class in a month: the sign it is marked with, and what it means.
STATES: Mapping[str, tuple[str, str]] = {
    "ok": ("✓", "no fall shown"),
    "suspect": ("?", "suspected, not shown"),
    "alarm": ("▲", "alarm"),
    "insufficient": ("–", "too few labels for an alarm"),
    "no-reference": ("○", "nothing to compare with yet"),
    "not-measurable": ("∅", "not measurable"),
}
UNKNOWN_STATE = ("∅", "class unknown to this month's model")

# Cramér's V from which a cell of the drift table is shaded, one level a step.
V_LEVELS = (0.02, 0.05, 0.10, 0.20, 0.40)

CHARTED_CLASSES = 24


@dataclass(frozen=True, slots=True)
class ClassMonth:
    """One class in one month; `found` is None where that month's model did not know it."""

    window: str
    found: Mapping[str, Any] | None
    sign: str
    meaning: str


@dataclass(frozen=True, slots=True)
class ClassStory:
    """One class over all months. charts: precision, then recall; empty where too many classes would be drawn."""

    name: str
    months: list[ClassMonth]
    charts: list[tuple[Metric, Drawing]]
    alarms: list[tuple[str, str]]


def headline(months: Sequence[Month], summary: Mapping[str, Any]) -> str:
    """Return the run in one line, no stronger than its verdicts."""
    broken = sum(not holds for _, holds in summary["verdicts"])
    span = capital(counted(len(months), "simulated month"))
    if summary.get("note"):
        return f"{span} on a small world: the mechanics of the whole loop"
    if broken:
        return f"{span}, and {broken} of {len(summary['verdicts'])} claims {'does' if broken == 1 else 'do'} not hold"
    fallen = [long_window(m["window"]).split()[0] for m in months if m["alarmed"]]
    if fallen:
        return f"Accuracy fell in {listed(fallen)}. The service noticed, and renewed its model."
    return f"{span} without an alarm: one model served throughout"


def key_figures(months: Sequence[Month], changes: Sequence[Change]) -> list[tuple[str, str]]:
    """Return the figures at the top of the page, each with what it counts."""
    predictions, labels = sum(m["predictions"] for m in months), sum(m["labels"] for m in months)
    renewed = sum(bool(m["renewal"] and m["renewal"]["promoted"]) for m in months)
    return [
        (f"{predictions:,}", "images classified"),
        (
            f"{labels:,}",
            f"labels to measure with, {percent(labels / predictions, 0)} of them" if predictions else "labels",
        ),
        (str(len(changes)), "planted change of the world" if len(changes) == 1 else "planted changes of the world"),
        (str(sum(len(m["alarmed"]) for m in months)), "class alarms"),
        (str(renewed), "model renewed" if renewed == 1 else "models renewed"),
    ]


def month_events(month: Month, changes: Sequence[Change], place: int) -> list[tuple[str, str]]:
    """Return what happened in the month at `place`, in order: the kind (for its sign) and the sentence."""
    events = [("planted", f"{change.sentence}.") for change in changes if change.first == place]
    events += [("planted", f"{capital(change.short)}: over.") for change in changes if change.last + 1 == place]
    if month["alarmed"]:
        events.append(("alarm", f"Alarm for {listed(month['alarmed'])}."))
        events.append(_renewal_event(month["renewal"]))
    else:
        events.append(("quiet", f"{capital(month['decision']['reason'])}."))
    drifted = [column_name(finding["column"]) for finding in month["drift"] if finding["drifted"]]
    if drifted:
        events.append(("drift", f"Drift in {listed(drifted)}."))
    return events


def _renewal_event(renewal: Mapping[str, Any] | None) -> tuple[str, str]:
    if renewal is None:
        return "refused", "No retraining followed: it was not worth it, or not due."
    checks = renewal["verdict"]["checks"]
    passed = sum(bool(check["passed"]) for check in checks)
    if renewal["promoted"]:
        return (
            "renewal",
            f"Version {renewal['version']} is trained, passes {passed} of {len(checks)} checks and takes over.",
        )
    return (
        "refused",
        f"Version {renewal['version']} is trained, passes {passed} of {len(checks)} checks and is refused.",
    )


def coverage(months: Sequence[Month]) -> dict[str, tuple[int, int]]:
    """Return how often the truth lay inside the interval, of how often both are known: overall, and by class."""
    overall = [(m["overall"], m["true_accuracy"]) for m in months]
    classes = [(c[metric], c[f"true_{metric}"]) for m in months for c in m["classes"] for metric in METRICS]
    return {"overall": _inside(overall), "classes": _inside(classes)}


def _inside(pairs: Sequence[tuple[Mapping[str, float] | None, float | None]]) -> tuple[int, int]:
    known = [(estimate, truth) for estimate, truth in pairs if estimate is not None and truth is not None]
    return sum(estimate["low"] <= truth <= estimate["high"] for estimate, truth in known), len(known)


def class_stories(months: Sequence[Month]) -> list[ClassStory]:
    """Return every class of any month, alarmed ones first, then suspected ones, then the lowest in truth."""
    names = list(dict.fromkeys(c["name"] for m in months for c in m["classes"]))
    names.sort(key=lambda name: _badness(months, name))
    alarmed = {name for month in months for name in month["alarmed"]}
    lowest = {
        group: lowest_class_value(months, [n for n in names if (n in alarmed) == group]) for group in (True, False)
    }
    stories = []
    for rank, name in enumerate(names):
        metrics = METRICS if rank < CHARTED_CLASSES else ()
        charts = [(metric, class_chart(months, name, metric, lowest[name in alarmed])) for metric in metrics]
        stories.append(ClassStory(name, _class_months(months, name), charts, _class_alarms(months, name)))
    return stories


def _find(month: Month, name: str) -> Mapping[str, Any] | None:
    return next((c for c in month["classes"] if c["name"] == name), None)


def _badness(months: Sequence[Month], name: str) -> tuple[int, int, float]:
    found = [c for m in months if (c := _find(m, name))]
    truths = [c[f"true_{metric}"] for c in found for metric in METRICS if c[f"true_{metric}"] is not None]
    alarms = sum(name in m["alarmed"] for m in months)
    return -alarms, -sum(c["state"] == "suspect" for c in found), min(truths, default=1.0)


def _class_months(months: Sequence[Month], name: str) -> list[ClassMonth]:
    found = [(month["window"], _find(month, name)) for month in months]
    return [
        ClassMonth(window, c, *(STATES.get(c["state"], ("", c["state"])) if c else UNKNOWN_STATE))
        for window, c in found
    ]


def _class_alarms(months: Sequence[Month], name: str) -> list[tuple[str, str]]:
    """Return the months that raised an alarm for the class, each with its reasons."""
    raised = [(month["window"], _find(month, name)) for month in months if name in month["alarmed"]]
    return [(window, "; ".join(c["reasons"]) if c else "") for window, c in raised]


def states_met(months: Sequence[Month]) -> list[tuple[str, str, str]]:
    """Return the states that occur in these months, each with its sign and its meaning."""
    met = {c["state"] for month in months for c in month["classes"]}
    return [(state, sign, meaning) for state, (sign, meaning) in STATES.items() if state in met]


def drift_table(months: Sequence[Month]) -> list[tuple[str, list[Mapping[str, Any] | None]]]:
    """Return the columns watched for drift, each with its finding a month (None where it was not watched).

    Columns that were never tested, such as a constant one, come last.
    """
    columns = dict.fromkeys(finding["column"] for month in months for finding in month["drift"])
    by_month = [{finding["column"]: finding for finding in month["drift"]} for month in months]
    rows = [(column, [findings.get(column) for findings in by_month]) for column in columns]
    return sorted(rows, key=lambda row: all(finding is None or finding["v"] is None for finding in row[1]))


def v_level(v: float | None) -> int:
    """Return how dark the cell of a Cramér's V is: 0 to 5."""
    return 0 if v is None else sum(v >= bound for bound in V_LEVELS)


def run_facts(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return how the run was set up and what it took; what the summary does not hold is left out."""
    scenario = summary.get("scenario", {})
    people = scenario.get("annotators", {})
    facts = {
        "Images from": scenario.get("source"),
        "Seed": scenario.get("seed"),
        "Images to begin with": _number(scenario.get("initial_images")),
        "Wrong labels planted among them": _share(scenario.get("label_errors")),
        "Simulated annotators": people.get("count"),
        "Their answers that are wrong": _share(people.get("error_rate")),
        "Tasks they answer": _share(people.get("answer_rate")),
        "Predictions drawn for labels": _share(scenario.get("label_share")),
        "Time taken": duration(summary["seconds"]) if summary.get("seconds") is not None else None,
        "Largest process": f"{summary['peak_memory_gb']} GB" if summary.get("peak_memory_gb") is not None else None,
        "Workspace": summary.get("workspace"),
    }
    return [(name, str(value)) for name, value in facts.items() if value is not None]


def check_numbers(numbers: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Return the numbers of a gate check as name and text, nested ones with their path."""
    flat: list[tuple[str, str]] = []
    for name, value in numbers.items():
        path = f"{prefix}{name}"
        if isinstance(value, Mapping):
            flat += check_numbers(value, f"{path}, ")
        else:
            flat.append((path, _plain(value)))
    return flat


def _plain(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(_plain(item) for item in value)
    return f"{value:.4g}" if isinstance(value, float) else "–" if value is None else str(value)


def _share(value: float | None) -> str | None:
    return None if value is None else f"{100 * value:g}\N{NO-BREAK SPACE}%"


def _number(value: int | None) -> str | None:
    return None if value is None else f"{value:,}"
