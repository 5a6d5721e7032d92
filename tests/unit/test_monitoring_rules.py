from pathlib import Path

import pytest

from components.errors import ConfigurationError
from components.monitoring.backtests.rules import compared, load_rules
from components.params import Labelling, Monitor, Params

PARAMS = Params(monitor=Monitor(alpha_precision=0.02), labelling=Labelling(share=0.1))


def written(folder: Path, text: str, name: str = "strict.yaml") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_what_a_file_does_not_say_is_as_in_force(tmp_path: Path):
    path = written(tmp_path, "monitor: {floor: 0.8, tolerance: 0.05}\nretrain: {candidates: 1}\n")
    rules = load_rules(path, "strict", PARAMS)
    assert rules.monitor == PARAMS.monitor.model_copy(update={"floor": 0.8})
    assert rules.labelling == PARAMS.labelling
    assert rules.changed == (("monitor.floor", 0.9, 0.8), ("retrain.candidates", 2, 1))
    assert rules.without_effect == ("retrain.candidates",)


@pytest.mark.parametrize("text", ["", "{}", "monitor: {}"])
def test_an_empty_file_changes_nothing(tmp_path: Path, text: str):
    rules = load_rules(written(tmp_path, text), "same", PARAMS)
    assert (rules.monitor, rules.labelling, rules.retrain, rules.changed) == (
        PARAMS.monitor, PARAMS.labelling, PARAMS.retrain, (),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("monitor: {flor: 0.9}", "unknown key 'monitor.flor'; did you mean 'floor'?"),
        ("monitr: {}", "unknown key 'monitr'; did you mean 'monitor'?"),
        ("train: {epochs: 3}", "unknown key 'train'"),
        ("monitor: {floor: 1.2}", "monitor.floor"),
        ("monitor: {window: week}", "monitor.window is 'week', the service's is 'month'"),
        ("- 1", "expected a mapping"),
        ("a: [", "not readable YAML"),
    ],
)
def test_a_wrong_file_is_told_in_one_line_that_names_it(tmp_path: Path, text: str, said: str):
    path = written(tmp_path, text)
    with pytest.raises(ConfigurationError) as told:
        load_rules(path, "x", PARAMS)
    assert said in str(told.value)
    assert str(path) in str(told.value)
    assert "\n" not in str(told.value)


def test_a_missing_file_is_told(tmp_path: Path):
    with pytest.raises(ConfigurationError, match="does not exist"):
        load_rules(tmp_path / "none.yaml", "x", PARAMS)


def test_files_stand_between_the_rules_in_force_and_the_baselines_under_names_that_differ(tmp_path: Path):
    one, two = written(tmp_path, "", "a/strict.yaml"), written(tmp_path, "", "b/strict.yaml")
    lax, ours = written(tmp_path, "", "lax.yaml"), written(tmp_path, "", "always-fire.yaml")
    found = compared(PARAMS, [one, two, lax, ours, lax])
    assert [rules.name for rules in found] == [
        "in force", str(one), str(two), "lax", str(ours), "always-fire", "never-fire",
    ]  # fmt: skip
    assert [rules.fires for rules in found] == ["judged"] * 5 + ["always", "never"]
