"""The command line's promises: every verb explains itself, takes the same options, and help costs nothing."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from flows.cli import cli

PERENNIAL = Path(sys.executable).parent / "perennial"
HEAVY = {"torch", "mlflow", "prefect", "sqlalchemy", "pandas", "numpy", "pyarrow", "sklearn", "scipy", "onnxruntime"}
HEAVIEST = {
    "torch",
    "timm",
    "lightning",
    "mlflow",
    "pandas",
    "sklearn",
    "onnxruntime",
    "cleanlab",
    "cleanvision",
    "evidently",
}
DESIGNED = {
    "init", "doctor", "up", "down", "ingest", "audit", "retrain", "promote", "reject", "rollback",
    "reproduce", "history",
    "label draw", "label queue", "label import", "label export", "plan-labels", "reference show", "reference reset",
    "score", "monitor", "serve", "demo", "backtest", "explain-drift", "advise", "lineage", "recall",
    "classes add", "classes rename", "classes merge", "classes split", "classes display",
    "quarantine release", "quarantine show",
}  # fmt: skip
# These make their workspace: it is their argument, or lies in their --directory.
MAKE_A_WORKSPACE = {"init", "demo"}


def _verbs(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from _verbs(command, (*path, name))
        else:
            yield (*path, name), command


VERBS = {" ".join(path): command for path, command in _verbs(cli)}


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(PERENNIAL), *arguments],
        env={**os.environ, **environment}, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


def options(command: click.Command) -> set[str]:
    return {spelling for parameter in command.params for spelling in parameter.opts}


def test_every_designed_verb_is_there() -> None:
    assert set(VERBS) >= DESIGNED


@pytest.mark.parametrize("name", VERBS)
def test_a_verbs_help_says_what_it_does_and_gives_an_example(name: str) -> None:
    from click.testing import CliRunner

    shown = CliRunner().invoke(cli, [*name.split(), "--help"], prog_name="perennial")
    assert shown.exit_code == 0
    assert f"Usage: perennial {name} " in shown.output
    example = next(line for line in shown.output.splitlines() if "Example: " in line)
    assert f"Example: perennial {name}" in example
    assert VERBS[name].get_short_help_str(200).strip()


@pytest.mark.parametrize("name", VERBS)
def test_an_example_is_a_command_line_that_its_verb_takes(name: str) -> None:
    import shlex

    words = shlex.split((VERBS[name].epilog or "").removeprefix("Example: perennial "))
    for option in (word.partition("=")[0] for word in words if word.startswith("-")):
        assert option in options(VERBS[name])


@pytest.mark.parametrize("name", sorted(set(VERBS) - MAKE_A_WORKSPACE))
def test_a_verb_takes_the_workspace_and_json(name: str) -> None:
    assert {"--workspace", "-w", "--json"} <= options(VERBS[name])


@pytest.mark.parametrize("name", sorted(MAKE_A_WORKSPACE))
def test_a_verb_that_makes_its_workspace_takes_json(name: str) -> None:
    assert "--json" in options(VERBS[name])


@pytest.mark.parametrize("arguments", [("--help",), ("retrain", "--help"), ("--version",)], ids=" ".join)
def test_help_imports_nothing_heavy(arguments: tuple[str, ...]) -> None:
    shown = run(*arguments, PYTHONPROFILEIMPORTTIME="1")
    assert shown.returncode == 0
    lines = [line for line in shown.stderr.splitlines() if line.startswith("import time:")]
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in lines}
    assert "click" in imported
    assert not imported & HEAVY


def test_flows_load_pytorch_and_its_like_only_where_they_use_them() -> None:
    flows = ("ingest", "retrain", "score", "label", "monitor", "rollback", "reproduce", "demo", "deployments")
    program = f"import sys, {', '.join(f'flows.{name}' for name in flows)}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    # A server's flows would hold hundreds of megabytes all month for what they need an hour.
    assert not {name.partition(".")[0] for name in done.stdout.split()} & HEAVIEST


def test_help_answers_in_under_half_a_second() -> None:
    # Of computing: other tests run on the other core, and waiting for it would measure them.
    taken = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert run("--help").returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        taken.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(taken) < 0.5


@pytest.mark.parametrize(
    "arguments",
    [
        ("no-such-verb",),
        ("label", "no-such-verb"),
        ("score",),
        ("retrain", "--no-such-option"),
        ("retrain", "--scheduled", "--force", "--reason", "x"),
        ("history", "--limit", "x"),
        ("lineage",),
        ("recall",),
        ("recall", "3f9ac02be81d", "--apply"),
        ("recall", "3f9ac02be81d", "--purge"),
        ("recall", "3f9ac02be81d", "--apply", "--reason", "x", "--purge-history"),
        ("recall", "3f9ac02be81d", "--apply", "--reason", "x", "--purge", "--purge-history"),
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_is_told_with_exit_code_two(arguments: tuple[str, ...]) -> None:
    refused = run(*arguments)
    assert refused.returncode == 2
    assert refused.stdout == ""
    assert "Error: " in refused.stderr
    assert "Traceback" not in refused.stderr


def test_an_override_without_a_reason_is_a_usage_error() -> None:
    for arguments in (("retrain", "--force"), ("promote", "3", "--override")):
        refused = run(*arguments)
        assert refused.returncode == 2
        assert "needs --reason" in refused.stderr


def test_a_reader_that_leaves_early_is_no_failure() -> None:
    done = subprocess.run(
        ["/bin/sh", "-c", f"'{PERENNIAL}' --help | head -n 1; exit 0"],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.stdout.startswith("Usage: perennial")
    assert done.stderr == ""
