"""dvc.yaml, STAGES and the parameters agree. What a stage really reads is watched in integration/test_stages.py."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from components.params import Params, load_params
from components.stages import STAGES

ROOT = Path(__file__).parents[2]
GRAPH: dict[str, Any] = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
OUTS = {"audit": "audit", "train": "model", "evaluate": "evaluation", "export": "export"}


def test_graph_and_code_have_the_same_stages_in_the_same_order():
    assert list(GRAPH) == list(STAGES) == ["audit", "train", "evaluate", "export"]


@pytest.mark.parametrize("name", STAGES)
def test_every_stage_is_run_by_its_name(name):
    assert GRAPH[name]["cmd"] == f"python -m components.stages {name}"


@pytest.mark.parametrize("name", STAGES)
def test_every_stage_writes_one_folder_of_its_own(name):
    assert GRAPH[name]["outs"] == [f"${{paths.{OUTS[name]}}}"]


@pytest.mark.parametrize("name", STAGES)
def test_every_stage_depends_on_code_and_data(name):
    assert {"${paths.code_lock}", "${paths.images}", "${paths.manifest}"} <= set(GRAPH[name]["deps"])


def test_stages_depend_only_on_what_earlier_ones_write():
    known = {"${paths.code_lock}", "${paths.images}", "${paths.manifest}"}
    for stage in GRAPH.values():
        assert set(stage["deps"]) <= known
        known |= set(stage["outs"])


@pytest.mark.parametrize("name", STAGES)
def test_every_named_parameter_exists(name):
    for key in GRAPH[name]["params"]:
        value: Any = Params()
        for part in key.split("."):
            assert hasattr(value, part), f"dvc.yaml {name}: {key}"
            value = getattr(value, part)


def test_every_path_of_the_graph_is_a_parameter():
    paths = {key for stage in GRAPH.values() for key in stage["deps"] + stage["outs"]}
    assert paths == {f"${{paths.{name}}}" for name in type(Params().paths).model_fields}


def test_the_shipped_parameters_are_the_defaults():
    assert load_params(ROOT / "params.yaml") == Params()
