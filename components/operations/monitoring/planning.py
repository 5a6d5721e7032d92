"""How many labels a month, week or day this service needs to see a class get worse, from its own latest window."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

from components.errors import RefusedError
from components.monitoring.sampling.planner import Plan, PlannedBudget, plan
from components.operations.services import Services
from components.operations.windows import latest_closed
from components.records import Window
from components.store import labelling, predictions

SEED = 20_261_101


def plan_labels(
    services: Services,
    window_name: str | None,
    *,
    drop: float,
    power: float,
    trials: int,
    picture: Path | None,
    now: datetime,
) -> dict[str, Any]:
    """Return what budgets of labels buy in windows like the given one (default: the latest closed one).

    Its last segment is planned for: the model that serves now. picture: where to draw the curve, by the file's suffix.
    Raises RefusedError for a window without predictions, and for a model of several labels.
    """
    window = Window.parse(window_name) if window_name else latest_closed(services, now)
    segments = predictions.segments(services.database, window)
    if not segments:
        raise RefusedError(f"window {window.name} has no predictions; name another with --window, or score a batch")
    segment = segments[-1]
    if segment.several:
        raise RefusedError(
            f"window {window.name}: model {segment.model_version} predicts several labels an image, and labels are "
            "planned for models of one class an image only; try a labelling.share and look at the intervals"
        )
    counts = labelling.counts(services.database, window, segment.model_version)
    params = services.workspace.params
    planned = plan(
        counts, params.monitor, params.labelling, drop=drop, power=power, trials=trials, seed=SEED, length=window.length
    )
    if picture is not None:
        draw_curve(planned, picture)
    return {
        "window": window.name,
        "length": window.length,
        "model_version": segment.model_version,
        "predictions": segment.predictions,
        "labelled": int(counts.labelled.sum()),
        "drop": drop,
        "power": power,
        "trials": trials,
        "curve": [_as_json(budget, counts.classes) for budget in planned.curve],
        "chosen": _as_json(planned.chosen, counts.classes) if planned.chosen else None,
        "advice": _advice(planned, params.monitor.tolerance, segment.predictions),
        "picture": str(picture) if picture else None,
    }


def draw_curve(planned: Plan, path: Path) -> None:
    """Draw, over the labels a window, how often the drop is found in a window, and how often a quiet one alarms."""
    import matplotlib.figure
    import matplotlib.ticker

    figure = matplotlib.figure.Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    labels = [budget.labels for budget in planned.curve]
    points, length = f"{100 * planned.drop:g}-point drop", planned.length
    axes.plot(labels, [budget.found for budget in planned.curve], "o-", color="#1f5fa8", label=f"{points} found")
    quiet = [budget.false_alarms for budget in planned.curve]
    axes.plot(labels, quiet, "s--", color="#b3541e", label=f"false alarm in a quiet {length}")
    axes.axhline(planned.power, color="#777777", linewidth=0.8, label=f"wanted: {planned.power:.0%}")
    if planned.chosen:
        axes.axvline(planned.chosen.labels, color="#777777", linewidth=0.8, linestyle=":")
    axes.set(xscale="log", ylim=(0, 1.02), xlabel=f"labels a {length}", ylabel=f"share of simulated {length}s")
    ticks = _apart(labels)
    axes.set_xticks(ticks, [f"{count:,}" for count in ticks])
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1))
    axes.legend(frameon=False)
    figure.savefig(path)


def _apart(values: list[int]) -> list[int]:
    """Return those of the ascending values that leave room for a label beside the next, the last among them."""
    kept: list[int] = []
    for value in reversed(values):
        if not kept or kept[-1] >= 1.4 * value:
            kept.append(value)
    return kept[::-1]


def _as_json(budget: PlannedBudget, classes: tuple[str, ...]) -> dict[str, Any]:
    found = budget.found_by_class.tolist()
    return {
        "labels": budget.labels,
        "found": budget.found,
        "windows_to_alarm": budget.windows_to_alarm if budget.found > 0 else None,
        "months_to_alarm": budget.months_to_alarm if budget.found > 0 else None,
        "false_alarms_a_year": budget.false_alarms_a_year,
        "further_labels": budget.further,
        "classes": [
            {"name": name, "labels": int(budget.by_class[k]), "found": found[k] if found[k] == found[k] else None}
            for k, name in enumerate(classes)
        ],
    }


def _advice(planned: Plan, tolerance: float, population: int) -> str:
    points, length = f"a drop of {100 * planned.drop:g} points in one class's precision", planned.length
    if planned.chosen:
        share = planned.chosen.labels / population
        return (
            f"{points} is found in {planned.chosen.found:.0%} of {length}s with {planned.chosen.labels} labels a "
            f"{length}: labelling.share {share:.3g}"
        )
    most = planned.curve[-1]
    if planned.drop <= tolerance:
        return (
            f"{points} is not found however many labels there are: the trigger lets a class fall by monitor.tolerance, "
            f"{100 * tolerance:g} points; lower it, or plan for a larger drop"
        )
    return (
        f"{points} is found in {most.found:.0%} of {length}s at most, with {most.labels} labels: all that may be drawn "
        "(labelling.max_labels, or the window's predictions)"
    )
