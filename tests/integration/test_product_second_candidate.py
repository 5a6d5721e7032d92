"""A retraining whose first candidate fell in one class only trains a second one; both start from the champion here."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from components.errors import ConfigurationError

pytestmark = [pytest.mark.xdist_group("workspace"), pytest.mark.timeout(1800), pytest.mark.slow]

# Real trainings, a real registry and real judgements; only their results are replaced, by two refusals.
REFUSED_TWICE = """
import json, sys
from pathlib import Path
from flows.commands.options import prepare_flows
workspace = prepare_flows(Path(sys.argv[1]))
from components.operations.retraining import candidates
from flows.retrain import retrain
judge = candidates.judge
def refuse(*arguments):
    verdict = judge(*arguments)
    for check in verdict["checks"]:
        check["passed"] = check["name"] != "every class"
    return verdict | {"passed": False, "reason": "every class: 4 recall -9.0 points"}
candidates.judge = refuse
result = retrain(workspace, reason="to see", actor="test", force=True)
print(json.dumps(result, default=str))
"""


@pytest.fixture
def starting_from_the_champion(product: Any, git: Callable[..., str]) -> Iterator[None]:
    import yaml

    path = product.root / "params.yaml"

    def change(pretrained: str) -> None:
        git(product.root, "pull", "--quiet", "--rebase")
        params = yaml.safe_load(path.read_text(encoding="utf-8"))
        params["train"]["pretrained"] = pretrained
        path.write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
        git(product.root, "commit", "--quiet", "--all", "--message", f"Start from {pretrained}")
        git(product.root, "push", "--quiet")

    change("champion")
    yield
    change("none")


@pytest.mark.usefixtures("starting_from_the_champion")
def test_a_candidate_that_fell_in_one_class_is_followed_by_another_and_no_third(
    product: Any,
    services: Any,
    perennial: Callable[..., Any],
    git: Callable[..., str],
    environment: Callable[..., dict[str, str]],
) -> None:
    import yaml

    from components.store import champions

    before = champions.champion(services.database)
    done = subprocess.run(
        [sys.executable, "-c", REFUSED_TWICE, str(product.root)],
        env=environment(), capture_output=True, text=True, check=False, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert not result["promoted"]
    assert champions.champion(services.database) == before

    second = champions.model(services.database, result["version"])
    first = champions.model(services.database, result["version"] - 1)
    assert first.dataset_version == second.dataset_version
    assert first.artifact_sha256 != second.artifact_sha256
    assert first.run_id != second.run_id
    uses = [services.registry.tags(model.version)["frozen_test_uses"] for model in (first, second)]
    measured = [model for model in champions.models(services.database) if model.version < first.version]
    assert uses == [str(len(measured) + 1), str(len(measured) + 2)]
    starts = [yaml.safe_load(git(product.root, "show", f"{m.git_commit}:params.yaml")) for m in (first, second)]
    assert [params.get("restart", {"number": 0})["number"] for params in starts] == [0, 1]
    assert before is not None
    assert {(p["start"]["version"], p["start"]["commit"]) for p in starts} == {(before.version, before.git_commit)}
    again = perennial("reproduce", str(second.version), "--json", "--workspace", str(product.root))
    assert again.code == 0, again.err
    assert json.loads(again.out)["outcome"] == "identical"
    audits = [yaml.safe_load(git(product.root, "show", f"{m.git_commit}:dvc.lock")) for m in (first, second)]
    assert audits[0]["stages"]["audit"] == audits[1]["stages"]["audit"]  # labels were not audited twice

    noted = perennial("history", "--kind", "gate", "--limit", "2", "--json", "--workspace", str(product.root)).json
    assert [(entry["action"], entry["model_version"]) for entry in noted] == [
        ("kept", second.version),
        ("another", first.version),
    ]
    advice = perennial("history", "--kind", "advice", "--limit", "5", "--json", "--workspace", str(product.root)).json
    (advised,) = [entry for entry in advice if entry["model_version"] == second.version]
    assert advised["actor"] == "retrain"
    told = (product.state / "alerts.jsonl").read_text(encoding="utf-8").splitlines()
    (alert,) = [a for a in map(json.loads, told) if a["key"] == f"kept-champion/{second.version}"]
    assert f"what would help: {advised['reason']}" in alert["body"]


def test_a_champion_of_another_kind_is_refused_before_any_stage_runs(
    product: Any, services: Any, tmp_path: Path
) -> None:
    import yaml

    from components.operations.retraining.start import choose_start

    params = yaml.safe_load((product.root / "params.yaml").read_text(encoding="utf-8"))
    params["train"] |= {"pretrained": "champion", "head": "mlp"}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    with pytest.raises(ConfigurationError, match=r"the champion is small_cnn with a linear head .* with a mlp head"):
        choose_start(services, tmp_path)
