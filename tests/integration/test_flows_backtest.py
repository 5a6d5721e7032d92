"""`perennial backtest` as a person types it, in a workspace whose database was never made."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from components.errors import ConfigurationError
from flows.cli import cli

Asked = Callable[..., Result]


@pytest.fixture
def ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Asked:
    """A function that runs `perennial backtest` in a workspace of its own."""
    monkeypatch.delenv("DATABASE_URL", raising=False)
    (tmp_path / ".perennial").mkdir()
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    (tmp_path / "params.yaml").write_text("labelling: {share: 0.02}\n")
    (tmp_path / "strict.yaml").write_text("monitor: {alpha_precision: 0.0001}\n")
    (tmp_path / "lax.yaml").write_text("monitor: {drift_bins: 30}\n")
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Result:
        result = CliRunner().invoke(cli, ["backtest", *arguments], prog_name="perennial")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


def test_simulated_years_need_no_database(ask: Asked, tmp_path: Path) -> None:
    shown = ask("--rules", "strict.yaml", "lax.yaml", "--years", "2", "--html", "page.html", "--json")
    result = json.loads(shown.stdout)
    assert [rules["name"] for rules in result["rules"]] == ["in force", "strict", "lax", "always-fire", "never-fire"]
    assert result["rules"][1]["changed"] == {"monitor.alpha_precision": {"in_force": 0.01, "here": 0.0001}}
    assert result["rules"][2]["without_effect"] == ["monitor.drift_bins"]
    assert (result["years"], result["seed"], result["mode"]) == (2, 7, "simulated")
    assert "default service" in result["world"]["like"]
    assert "simulated" in result["limits"][0]
    assert (tmp_path / "page.html").read_text().startswith("<!doctype html>")
    assert [path.name for path in (tmp_path / ".perennial").iterdir()] == []


def test_people_get_a_table_and_what_it_cannot_know(ask: Asked) -> None:
    shown = ask("--rules", "lax.yaml", "--rules", "strict.yaml", "--years", "1", "--default-world").output
    assert shown.startswith("simulated: 1 year, seed 7, 20000 predictions a month, 10 classes")
    rows = [line.split("  ")[0] for line in shown.splitlines()]
    assert rows[2:8] == ["rules", "in force", "lax", "strict", "always-fire", "never-fire"]
    assert "without effect in a backtest: lax: monitor.drift_bins" in shown
    assert "what this cannot know:" in shown


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--window", "2026-10"), "--window: of simulated years; add --years 50"),
        (("--default-world",), "--default-world: of simulated years"),
        (("--years", "1", "--default-world", "--window", "2026-10"), "leave out one of"),
        (("--years", "0"), "is not in the range"),
    ],
)
def test_options_that_contradict_each_other_are_a_usage_error(
    ask: Asked, arguments: tuple[str, ...], said: str
) -> None:
    refused = ask(*arguments)
    assert refused.exit_code == 2
    assert said in refused.output


@pytest.mark.parametrize("years", [(), ("--years", "3")])
def test_a_misspelt_rule_is_told_before_anything_is_started(ask: Asked, tmp_path: Path, years: tuple[str, ...]) -> None:
    (tmp_path / "typo.yaml").write_text("monitor: {alpha_precison: 0.001}\n")
    with pytest.raises(ConfigurationError, match="did you mean 'alpha_precision'"):
        ask("--rules", "typo.yaml", *years)
    assert list((tmp_path / ".perennial").iterdir()) == []
