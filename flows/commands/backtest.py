"""The verb that asks what other rules would have done: backtest."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flows.commands.options import emit, services, table, verb, window_option

if TYPE_CHECKING:
    from components.operations.workspace import Workspace
    from components.records import StratumCounts

FILE = click.Path(path_type=Path, dir_okay=False)


@click.command(epilog="Example: perennial backtest --rules strict.yaml lax.yaml --years 50 --html backtest.html")
@click.argument("more", nargs=-1, type=FILE, metavar="[FILE]...")
@click.option(
    "--rules", multiple=True, type=FILE, metavar="FILE...",
    help="YAML with any of params.yaml's sections monitor, labelling, retrain; the rest is as in force.",
)  # fmt: skip
@click.option("--years", default=None, type=click.IntRange(1), help="Try the rules in so many simulated years instead.")
@click.option("--seed", default=7, show_default=True, type=click.IntRange(0), help="Of the simulated years.")
@click.option("--climate", default=None, type=FILE, help="YAML: how often what happens in the simulated years.")
@click.option("--default-world", is_flag=True, help="Simulate a stated default service; no database is looked at.")
@click.option("--html", default=None, type=FILE, metavar="FILE", help="Also write a page with the picture.")
@verb
@window_option
def backtest(
    root: Path,
    as_json: bool,
    more: tuple[Path, ...],
    rules: tuple[Path, ...],
    years: int | None,
    seed: int,
    climate: Path | None,
    default_world: bool,
    window: str | None,
    html: Path | None,
) -> None:
    """Say what these rules would have done, beside the rules in force, a retraining in every window, and none at all.

    Without --years every stored window is judged again. With it, simulated services live through drops and changes
    whose truth is known, modelled on the newest stored window without an alarm (or on --window).
    """
    simulated_only = {"--climate": climate, "--default-world": default_world, "--window": window}
    if years is None and any(simulated_only.values()):
        given = ", ".join(name for name, value in simulated_only.items() if value)
        raise click.UsageError(f"{given}: of simulated years; add --years 50")
    if default_world and window:
        raise click.UsageError("--default-world looks at no window; leave out one of --default-world and --window")
    files = (*rules, *more)
    if years is None:
        result = _stored(root, files)
    else:
        result = _simulated(root, files, years, seed, climate, window, default_world=default_world)
    if html is not None:
        from components.simulation.backtest_page import write_page

        write_page(result, html)
    result["page"] = str(html) if html else None
    emit(result, as_json, _years_lines(result) if years is not None else _stored_lines(result))


def _stored(root: Path, files: tuple[Path, ...]) -> dict[str, Any]:
    from components.monitoring.backtests.rules import compared
    from components.operations.monitoring.backtesting import replay_history

    rules = compared(_workspace(root).params, files)  # before anything is started
    with services(root) as opened:
        return replay_history(opened, rules)


def _simulated(
    root: Path,
    files: tuple[Path, ...],
    years: int,
    seed: int,
    climate: Path | None,
    window: str | None,
    *,
    default_world: bool,
) -> dict[str, Any]:
    from components.monitoring.backtests.rules import compared
    from components.simulation.counted_world import Climate, default_counts, load_climate
    from components.simulation.years import simulate

    workspace = _workspace(root)
    rules = compared(workspace.params, files)
    weather = load_climate(climate) if climate else Climate()
    found = None if default_world else _quiet_window(workspace, window)
    like, counts = found or ("the default service (no stored window was looked at or fits)", default_counts())
    result = simulate(
        counts, rules, weather, years=years, seed=seed, length=workspace.params.monitor.window
    )  # fmt: skip
    result["world"]["like"] = f"window {like}" if found else like
    return result


def _workspace(root: Path) -> Workspace:
    from components.operations.workspace import open_workspace
    from components.settings import Settings

    return open_workspace(root, Settings.from_environment())


def _quiet_window(workspace: Workspace, window: str | None) -> tuple[str, StratumCounts] | None:
    """Return the window that the simulated ones are to look like; None where no database was ever made."""
    from components.errors import RefusedError
    from components.operations.monitoring.backtesting import has_history, quiet_window

    if window is None and not has_history(workspace):
        return None
    with services(workspace.root) as opened:
        found = quiet_window(opened, window)
    if window and found is None:
        raise RefusedError(f"window {window} has no labelled sample to model years on; leave out --window")
    return found


def _stored_lines(result: dict[str, Any]) -> list[str]:
    recorded, agreement = result["recorded"], result["agreement"]
    first, last = result["windows"][0]["window"], result["windows"][-1]["window"]
    rows = [("recorded", recorded["alarms"], recorded["retrainings"], "", recorded["labels"], "", "as it happened")]
    rows += [
        (r["name"], r["alarms"], r["retrainings"], r["delayed"], r["labels"], r["missing"], _changed(r))
        for r in result["rules"]
    ]
    header = ("rules", "alarms", "retrainings", "held back", "labels", "missing", "changed")
    fired = [
        (w["window"], w["model_version"], r["name"], ", ".join(w["classes"]), _start(r, w),
         w["refused_before"] or "-")
        for r in result["rules"] for w in r["windows"] if w["action"] == "retrain" and w["classes"]
    ]  # fmt: skip
    lines = [f"{len(result['windows'])} judged segments, {first} to {last}", table(header, rows), ""]
    if fired:
        lines += [table(("window", "model", "rules", "alarm for", "retrained", "held back at first by"), fired), ""]
    lines.append(f"the rules in force decide as recorded in {agreement['same']} of {agreement['of']} segments")
    lines += [
        f"  {d['window']}, model {d['model_version']}: recorded: {d['recorded']}; replayed: {d['replayed']}"
        for d in agreement["differing"]
    ]
    if result["left_out"]:
        lines.append(f"not judged yet and left out: {', '.join(result['left_out'])}")
    return [*lines, *_closing(result)]


def _years_lines(result: dict[str, Any]) -> list[str]:
    world, unit = result["world"], result["window"]
    years = "1 year" if result["years"] == 1 else f"{result['years']} years"
    low, high = (100 * points for points in world["drop_points"])
    rows = [
        (r["name"], f"{r['found']} of {r['drops']}", _number(r["windows_to_alarm"]), r["true_alarms"],
         r["false_alarms"], f"{r['labels_a_year']:.0f}", f"{r['retrainings_a_year']:.1f}",
         f"{r['needless_a_year']:.1f}", _points(r["accuracy"], "{:.2f} %"),
         _points(r["accuracy_against_in_force"], "{:+.2f}"), _changed(r))
        for r in result["rules"]
    ]  # fmt: skip
    header = (
        "rules", "drops found", f"{unit}s to the alarm", "true alarms", "false", "labels a year", "retrainings a year",
        "needless", "true accuracy", "against in force", "changed",
    )  # fmt: skip
    return [
        f"simulated: {years}, seed {result['seed']}, {world['predictions']} predictions a {unit}, "
        f"{world['classes']} classes, {world['accuracy']:.1%} right when healthy, like {world['like']}",
        f"a year has {world['silent_drops']:g} silent drops, {world['low_confidence_drops']:g} at low confidence "
        f"({low:g} to {high:g} points), {world['mix_changes']:g} changes of the mix; {world['quiet_share']:.0%} of "
        f"{unit}s bring nothing new; a retraining passes its gate {world['repair_chance']:.0%} of the time",
        table(header, rows),
        *_closing(result),
    ]


def _closing(result: dict[str, Any]) -> list[str]:
    unused = [f"{r['name']}: {', '.join(r['without_effect'])}" for r in result["rules"] if r["without_effect"]]
    lines = [f"without effect in a backtest: {'; '.join(unused)}"] if unused else []
    lines += ["", "what this cannot know:", *(f"- {limit}" for limit in result["limits"])]
    return [*lines, f"page: {result['page']}"] if result["page"] else lines


def _start(rules: dict[str, Any], window: dict[str, Any]) -> str:
    """Return the day on which the alarm's retraining started, if it did or was asked for."""
    return (window["retrained_at"] or ("waits" if rules["waiting"] == window["window"] else "-"))[:10]


def _changed(rules: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value['here']}" for key, value in rules["changed"].items()) or "-"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _points(mean: dict[str, float | None] | None, form: str) -> str:
    if mean is None or mean["mean"] is None:
        return "-"
    error = mean["standard_error"]
    return form.format(round(100 * mean["mean"], 2) + 0.0) + ("" if error is None else f" ± {100 * error:.2f}")


VERBS = (backtest,)
