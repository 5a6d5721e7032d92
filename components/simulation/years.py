"""Simulated years under several sets of rules: the same weather for each, the truth known, the trigger the real one.

Every year is a service of its own: a quiet window that sets the reference level, then a year of windows. Rules see only
what a service sees, the answers to the tasks they ask for. Years are independent, so their spread tells how sure the
means are; rules are compared year by year.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.monitoring.backtests.backtest import Attempt, Replay, Segment, Step
from components.monitoring.backtests.rules import IN_FORCE, Rules
from components.monitoring.retraining import Outcome
from components.records import StratumCounts, Window, WindowLength
from components.simulation.counted_world import Climate, CountedWorld, Drop, SimulatedWindow, Weather

BEGIN = "2001-01-01"
# Each use has a stream of random numbers of its own.
_WEATHER, _GATES, _WINDOWS = range(3)

LIMITS = (
    "all of this is simulated: worlds, events, answers and gates; only the trigger, the samples and the cooldown are "
    "the service's own code",
    "every task is answered, rightly, on the last day the rules wait for answers (labelling.judge_after_days)",
    "a retraining serves from the first window that begins after its start; if its gate passes, it knows every drop "
    "whose window had closed before",
    "a retraining costs the answers of its training queue (labelling.training_queue), counted among the labels",
    "a retraining makes nothing worse, however needless; always-fire measures nothing and asks for no sample",
    "retrainings by schedule or by hand are left out",
    "no column drifts: in the service, new drift raises a draw as a suspect does",
)

FloatArray = NDArray[np.float64]


@dataclass(slots=True)
class _Year:
    """What one year was under one set of rules. accuracy, retrainings: per window, the reference window first."""

    accuracy: list[float] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    retrainings: list[int] = field(default_factory=list)
    true_alarms: int = 0
    false_alarms: int = 0
    needless: int = 0
    helped: int = 0
    delays: list[int] = field(default_factory=list)
    missed: int = 0


def simulate(
    counts: StratumCounts, rules: Sequence[Rules], climate: Climate, *, years: int, seed: int, length: WindowLength
) -> dict[str, Any]:
    """Return what each of `rules` comes to in `years` simulated years of windows like `counts`.

    Deterministic in the seed; a set of rules comes to the same whatever it is compared with.
    """
    world = CountedWorld(counts)
    windows = year_of_windows(length)
    found: list[list[_Year]] = [[] for _ in rules]
    for year in range(years):
        weather = world.weather(_rng(seed, year, _WEATHER), climate, len(windows), len(windows) - 1)
        gates = _rng(seed, year, _GATES).random(len(windows) + 12)
        simulated = _windows(world, weather, len(windows), seed, year)
        for one, so_far in zip(rules, found, strict=True):
            so_far.append(_live(world, one, climate, weather, windows, simulated, gates))
    plain = [_accuracies(so_far) for so_far in found]
    basis = next((p for r, p in zip(rules, plain, strict=True) if r.name == IN_FORCE), None)
    return {
        "mode": "simulated",
        "years": years,
        "seed": seed,
        "window": length,
        "windows_a_year": len(windows) - 1,
        "world": {
            "classes": len(world.classes),
            "predictions": world.predictions,
            "accuracy": world.truth((), ()).accuracy,
            "quiet_share": climate.quiet_share(len(windows) - 1),
            **climate.model_dump(mode="json"),
        },
        "rules": [
            _told(one, so_far, accuracy, basis) for one, so_far, accuracy in zip(rules, found, plain, strict=True)
        ],
        "limits": list(LIMITS),
    }


def year_of_windows(length: WindowLength) -> list[Window]:
    """Return the reference window and those of the year after it: 12 months, 52 weeks or 365 days."""
    window = Window.containing(datetime.fromisoformat(f"{BEGIN}T12:00:00+00:00"), length)
    windows = [window]
    for _ in range({"month": 12, "week": 52, "day": 365}[length]):
        window = window.following()
        windows.append(window)
    return windows


def _windows(world: CountedWorld, weather: Weather, many: int, seed: int, year: int) -> list[SimulatedWindow]:
    return [
        # Drops leave a model's answers as they are: what is predicted, and how surely, does not depend on them.
        SimulatedWindow(
            world,
            world.truth((), [c for c in weather.mix_changes if c.window <= number]).strata,
            _rng(seed, year, _WINDOWS, number),
        )
        for number in range(many)
    ]


def _live(
    world: CountedWorld,
    rules: Rules,
    climate: Climate,
    weather: Weather,
    windows: Sequence[Window],
    simulated: Sequence[SimulatedWindow],
    gates: FloatArray,
) -> _Year:
    """Live one year under one set of rules."""

    def gate(_: str, started_at: datetime) -> Outcome:
        month = next((n for n, window in enumerate(windows) if started_at < window.end), len(windows))
        return "done" if gates[min(month, len(gates) - 1)] < climate.repair_chance else "unhelpful"

    replay = Replay(rules, outcome=gate)
    year = _Year()
    first_alarm: dict[Drop, int] = {}
    for number, (window, drawn) in enumerate(zip(windows, simulated, strict=True)):
        replay.advance(window.start)
        in_force = [d for d in weather.drops if d.window <= number and not _repaired(d, windows, replay, window.start)]
        truth = world.truth(in_force, [c for c in weather.mix_changes if c.window <= number])
        drawn_at = window.closes_at(rules.monitor.close_after_hours)
        wait = timedelta(days=rules.labelling.judge_after_days)
        step = replay.step(
            Segment(
                window=window,
                model_version=1,
                counts=drawn.counts(),
                answered=partial(drawn.answered, truth),
                drawn_at=drawn_at,
                first_at=drawn_at + wait,
                topped_up_at=drawn_at + 2 * wait,
            )
        )
        year.accuracy.append(truth.accuracy)
        year.labels.append(step.labels)
        _count_alarm(year, step, in_force, world.classes, number, first_alarm)
    replay.advance(windows[-1].end)
    _count_retrainings(year, weather, windows, replay)
    year.delays = [1 + first_alarm[drop] - drop.window for drop in weather.drops if drop in first_alarm]
    year.missed = len(weather.drops) - len(year.delays)
    return year


def _repaired(drop: Drop, windows: Sequence[Window], replay: Replay, at: datetime) -> bool:
    """Return whether a retraining that had begun by `at` helped, and could know of the drop."""
    learnt = windows[drop.window].end
    return any(a.outcome == "done" and learnt <= a.started_at <= at for a in replay.attempts)


def _count_alarm(
    year: _Year, step: Step, in_force: Sequence[Drop], classes: Sequence[str], number: int, first_alarm: dict[Drop, int]
) -> None:
    """Note a true or false alarm, and the drops that it is the first to show.

    An alarm is true where it names a class and a rate that a drop in force lowered by FALL; a baseline's, which names
    none, where any drop is in force.
    """
    if not step.fired:
        return
    place = {name: k for k, name in enumerate(classes)}
    named = {(place[name], rule) for name, rules in step.alarmed for rule in rules}
    shown = [drop for drop in in_force if not named or named & drop.touched]
    year.true_alarms += bool(shown)
    year.false_alarms += not shown
    for drop in shown:
        first_alarm.setdefault(drop, number)


def _count_retrainings(year: _Year, weather: Weather, windows: Sequence[Window], replay: Replay) -> None:
    """Count the retrainings of the windows they began in; one is needless where no drop was there to be learnt."""
    year.retrainings = [0] * len(windows)
    for place, attempt in enumerate(replay.attempts):
        month = next((n for n, window in enumerate(windows) if attempt.started_at < window.end), None)
        if month is None:
            continue
        year.retrainings[month] += 1
        year.helped += attempt.outcome == "done"
        year.needless += not any(_open(drop, windows, replay.attempts[:place], attempt) for drop in weather.drops)


def _open(drop: Drop, windows: Sequence[Window], before: Sequence[Attempt], attempt: Attempt) -> bool:
    learnt = windows[drop.window].end
    repaired = any(a.outcome == "done" and learnt <= a.started_at for a in before)
    return learnt <= attempt.started_at and not repaired


def _accuracies(years: Sequence[_Year]) -> FloatArray:
    """Return mean true accuracy of every year (years,), without its reference window."""
    return np.array([np.mean(year.accuracy[1:]) for year in years])


def _told(rules: Rules, years: Sequence[_Year], accuracy: FloatArray, basis: FloatArray | None) -> dict[str, Any]:
    many = len(years)
    delays = [delay for year in years for delay in year.delays]
    drops = len(delays) + sum(year.missed for year in years)
    # A baseline asks nothing in its reference window; what judging rules ask there comes once in a service's life.
    return {
        "name": rules.name,
        "changed": {key: {"in_force": old, "here": new} for key, old, new in rules.changed},
        "without_effect": list(rules.without_effect),
        "drops": drops,
        "found": len(delays),
        "windows_to_alarm": float(np.mean(delays)) if delays else None,
        "found_at_once": sum(delay == 1 for delay in delays),
        "true_alarms": sum(year.true_alarms for year in years),
        "false_alarms": sum(year.false_alarms for year in years),
        "years_with_false_alarm": sum(year.false_alarms > 0 for year in years),
        "retrainings_a_year": sum(sum(year.retrainings) for year in years) / many,
        "needless_a_year": sum(year.needless for year in years) / many,
        "helped_a_year": sum(year.helped for year in years) / many,
        "labels_a_year": float(np.mean([sum(year.labels[1:]) for year in years])),
        "labels_for_reference": float(np.mean([year.labels[0] for year in years])),
        "accuracy": _mean(accuracy),
        "accuracy_against_in_force": None if basis is None or rules.name == IN_FORCE else _mean(accuracy - basis),
        "accuracy_by_window": np.mean([year.accuracy for year in years], axis=0).tolist(),
        "retrainings_by_window": np.mean([year.retrainings for year in years], axis=0).tolist(),
    }


def _mean(values: FloatArray) -> dict[str, float | None]:
    """Return a mean over years and its standard error, None for a single year."""
    spread = float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None
    return {"mean": float(values.mean()), "standard_error": spread}


def _rng(*stream: int) -> np.random.Generator:
    return np.random.default_rng(stream)
