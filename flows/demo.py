"""The demo: the product's own flows, driven through simulated months. Images, services and models are real."""

from __future__ import annotations

import json
import logging
import os
import resource
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from components.errors import ConfigurationError, ServiceError
from components.operations.services import discard_services
from components.operations.workspace import STATE, init_workspace
from components.settings import Settings, switch_telemetry_off
from components.simulation.scenario import Scenario, load_scenario
from flows.commands.options import emit
from flows.servers import prepare_client

logger = logging.getLogger(__name__)

MARKER = ".perennial-demo"
Tell = Callable[[str], None]


def run_demo(
    *, scenario_path: Path | None, months: int | None, quick: bool, seed: int | None, directory: Path, as_json: bool
) -> None:
    """Run the scenario from an empty workspace in `directory`, print what happened, and write report.html there.

    Raises ConfigurationError for a folder that is not a demo's: only a demo's own folder is emptied.
    """
    started = time.monotonic()
    switch_telemetry_off()
    directory = directory.resolve()
    for name in Settings.variables():
        if os.environ.pop(name, None):  # a simulated world must not end up in somebody's real service
            _tell(f"{name} is ignored; the demo uses services of its own")
    settings = Settings()
    given = load_scenario(scenario_path) if scenario_path else None  # first: a wrong one must not cost the old demo
    _clear(directory, settings)
    scenario, note = (given, "") if given else _built_in_scenario(quick, directory)
    scenario = _adjusted(scenario, months, seed)
    workspace = init_workspace(directory / "workspace", settings, _overrides(scenario))
    prepare_client(workspace.state, settings.prefect_api_url)
    _tell(f"{note}workspace {workspace.root}; services start, this takes a moment the first time")
    from flows.demo_months import DemoRun

    run = DemoRun(scenario, workspace.root, directory / "incoming", _tell)
    observed = []
    for month in run.months():
        observed.append(month)
        if as_json:
            click.echo(json.dumps(month, default=str, ensure_ascii=False))
    summary = run.summary(observed) | {"note": note.strip(), "seconds": round(time.monotonic() - started), **_peak()}
    _write_report(directory, observed, summary)
    if as_json:
        click.echo(json.dumps({"summary": summary}, default=str, ensure_ascii=False))
    else:
        emit(None, False, _closing_lines(observed, summary))


def _tell(text: str) -> None:
    click.echo(f"demo: {text}", err=True)


def _clear(directory: Path, settings: Settings) -> None:
    if directory.exists() and any(directory.iterdir()) and not (directory / MARKER).is_file():
        raise ConfigurationError(f"{directory} is not empty and not a demo's folder; choose another with --directory")
    workspace = directory / "workspace"
    if (workspace / STATE / "complete").is_file():
        discard_services(workspace, settings)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / MARKER).touch()
    for path in directory.iterdir():  # what was fetched stays: the second run needs no network
        if path.is_dir() and not path.is_symlink() and path.name != "cache":
            shutil.rmtree(path)
        elif path.is_file() and path.name != MARKER:
            path.unlink()


def _built_in_scenario(quick: bool, directory: Path) -> tuple[Scenario, str]:
    built_in = Path(__file__).resolve().parents[1] / "components" / "simulation" / "scenarios"
    mechanics = "this world is too small for a verdict, it shows the mechanics; "
    if quick:
        return load_scenario(built_in / "digits.yaml"), mechanics
    from components.data.sources.fashion_mnist import load_fashion_mnist

    try:
        load_fashion_mnist(directory / "cache")
    except ServiceError as error:
        return load_scenario(built_in / "digits.yaml"), f"{error}; {mechanics}"
    return load_scenario(built_in / "fashion.yaml"), ""


def _adjusted(scenario: Scenario, months: int | None, seed: int | None) -> Scenario:
    changes: dict[str, Any] = {}
    if months is not None:
        changes["months"] = scenario.months[:months]
    if seed is not None:
        changes["seed"] = seed
    return scenario.model_copy(update=changes)


def _overrides(scenario: Scenario) -> dict[str, Any]:
    """Return the parameters that fit the scenario's images and its people."""
    return {
        "preprocess": {"size": 28, "channels": 1},
        "train": {"seed": scenario.seed},
        "data": {"seed": scenario.seed},
        "labelling": {"share": scenario.label_share},
    }


def _peak() -> dict[str, float]:
    kilobytes = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return {"peak_memory_gb": round(kilobytes / 1e6, 2)}


def _write_report(directory: Path, months: list[dict[str, Any]], summary: dict[str, Any]) -> None:
    from components.simulation.report import write_report

    (directory / "result.json").write_text(
        json.dumps({"months": months, "summary": summary}, default=str, indent=1), encoding="utf-8"
    )
    write_report(months, summary, directory / "report.html")
    summary["report"] = str(directory / "report.html")


def _estimate(value: dict[str, float] | None) -> str:
    return f"{value['value']:.3f} [{value['low']:.3f}, {value['high']:.3f}]" if value else "n/a"


def _closing_lines(months: list[dict[str, Any]], summary: dict[str, Any]) -> list[str]:
    from flows.commands.options import table

    rows = [
        (
            m["window"], m["model_version"], m["predictions"], m["labels"], f"{m['true_accuracy']:.3f}",
            _estimate(m["overall"]),
            ", ".join(m["alarmed"]) or "-",
            f"version {m['renewal']['version']} " + ("promoted" if m["renewal"]["promoted"] else "refused")
            if m["renewal"] else "-",
        )
        for m in months
    ]  # fmt: skip
    header = ("month", "model", "predictions", "labels", "true accuracy", "estimated", "alarm", "renewal")
    lines = ["", table(header, rows), ""]
    lines += [f"{'yes' if ok else 'NO '}  {text}" for text, ok in summary["verdicts"]]
    lines += ["", f"{summary['seconds']} s, largest process {summary['peak_memory_gb']} GB"]
    lines += [
        f"report: {summary['report']}",
        f"workspace: {summary['workspace']}",
        f"try: perennial history -w {summary['workspace']}",
    ]
    return lines
