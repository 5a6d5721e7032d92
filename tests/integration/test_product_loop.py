"""After the loop: versions that can be had again, a registry any MLflow client reads, and no work without a reason."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.xdist_group("workspace"), pytest.mark.timeout(1800), pytest.mark.slow]

MLFLOW_CLIENT = """
import json, sys
import mlflow.pyfunc, numpy
answers = mlflow.pyfunc.load_model("models:/perennial@champion").predict(numpy.load(sys.argv[1]))
numpy.save(sys.argv[2], answers["probabilities"])
print(json.dumps([name for name in sys.modules if name.split(".")[0] in ("components", "flows")]))
"""


def dvc(root: Path, *arguments: str) -> str:
    folder = str(Path(sys.executable).parent)
    environment = {**os.environ, "DVC_NO_ANALYTICS": "1", "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
    command = [sys.executable, "-m", "dvc", *arguments]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_loop_leaves_a_clean_folder_in_which_nothing_is_to_be_done(product: Any, git: Callable[..., str]) -> None:
    assert "up to date" in dvc(product.root, "status")
    repeated = dvc(product.root, "repro")
    assert "up to date" in repeated
    assert "Running stage" not in repeated
    assert git(product.root, "status", "--porcelain") == ""
    assert git(product.root, "rev-parse", "HEAD") == git(product.root, "rev-parse", "origin/main")


def test_every_dataset_version_is_a_published_tag_that_names_its_day(product: Any, git: Callable[..., str]) -> None:
    made = [product.first["dataset_version"], product.second["dataset_version"]]
    assert git(product.root, "tag", "--list", "data/*").split() == made
    published = git(product.root, "ls-remote", "--tags", "origin")
    for tag in made:
        assert re.fullmatch(r"data/\d{4}-\d\d-\d\d-\d+", tag)
        assert f"refs/tags/{tag}" in published
        versioned = git(product.root, "ls-tree", "-r", "--name-only", tag).split()
        assert {"data/images.dvc", "data/manifest.parquet.dvc"} <= set(versioned)
    assert product.renewal["dataset_version"] == made[-1]


def test_an_old_version_comes_back_byte_for_byte(product: Any, tmp_path: Path) -> None:
    from components.data.manifest import Manifest
    from components.data.shards import ShardReader
    from components.data.versioning.versions import restore_dataset

    manifest, images = tmp_path / "manifest.parquet", tmp_path / "images"
    targets = {"data/manifest.parquet": manifest, "data/images": images}
    restore_dataset(product.root, product.first["dataset_version"], targets)

    old = Manifest.read(manifest)
    assert old.digest() == product.first["manifest_digest"]
    assert Manifest.read(product.root / "data" / "manifest.parquet").digest() == product.second["manifest_digest"]
    reader = ShardReader(images)
    rows = old.table.select(["shard", "row", "image_id"]).to_pylist()
    assert len(rows) == product.first["added"] == 1797
    for row in rows:
        reader.read_verified(row["shard"], row["row"], row["image_id"])  # raises where a byte differs


def test_a_plain_mlflow_client_gets_the_champion_with_the_same_answers(
    product: Any, services: Any, perennial: Callable[..., Any], digits: list[Any], tmp_path: Path
) -> None:
    import numpy as np

    from components.model.images.preprocess import decode_and_resize
    from components.operations.models import load_predictor, require_champion

    uri = perennial("doctor", "--workspace", str(product.root), "--json").json["mlflow_tracking_uri"]
    predictor = load_predictor(services, require_champion(services))
    spec = predictor.spec.preprocess
    images = np.stack([decode_and_resize(item.content, spec, services.limits) for item in digits[:200]])
    np.save(tmp_path / "images.npy", images)

    # Nothing of ours: no package folder on the path, no setting but the address.
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "MLFLOW_TRACKING_URI": uri}
    files = [str(tmp_path / "images.npy"), str(tmp_path / "answers.npy")]
    client = subprocess.run(
        [sys.executable, "-c", MLFLOW_CLIENT, *files],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert client.returncode == 0, client.stderr
    assert json.loads(client.stdout) == []
    theirs, ours = np.load(tmp_path / "answers.npy"), predictor.predict(images)[1]
    np.testing.assert_array_equal(theirs, ours)
    right = [predictor.spec.classes[k] == item.label for k, item in zip(ours.argmax(1), digits, strict=False)]
    assert np.mean(right) > 0.9


def test_labels_are_planned_from_the_services_own_window(
    product: Any, perennial: Callable[..., Any], tmp_path: Path
) -> None:
    window = product.scored["scored_at"][:7]
    asked = ("plan-labels", "--workspace", str(product.root), "--json", "--drop", "30", "--power", "0.5")
    picture = tmp_path / "plan.svg"
    planned = perennial(*asked, "--trials", "20", "--window", window, "--picture", str(picture)).json
    assert planned["predictions"] >= product.scored["predictions"]
    assert [len(budget["classes"]) for budget in planned["curve"]] == [10] * len(planned["curve"])
    assert planned["chosen"]["found"] >= 0.5
    assert f"with {planned['chosen']['labels']} labels a month" in planned["advice"]
    assert "labels a month" in picture.read_text(encoding="utf-8")

    nothing = perennial(*asked, "--window", "2001-01")
    assert nothing.code == 3
    assert "window 2001-01 has no predictions" in nothing.err


def test_retraining_on_nothing_new_is_refused_at_once_with_a_reason_on_record(
    product: Any, perennial: Callable[..., Any]
) -> None:
    here = ("--workspace", str(product.root))
    refused = perennial("retrain", "--reason", "just because", *here, PYTHONPROFILEIMPORTTIME="1")
    lines = refused.err.splitlines()
    imported = {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")}
    assert refused.code == 3
    assert refused.seconds < 15  # about one on a quiet machine
    assert [line for line in lines if not line.startswith("import time:")] == [
        "perennial: not retrained: nothing new since the last training: no settled label, no new image"
    ]
    assert "components.operations.retraining.worth" in imported
    assert not imported & {"prefect", "mlflow", "torch", "dvc"}

    newest = perennial("history", "--limit", "1", "--json", *here).json[0]
    assert (newest["kind"], newest["action"]) == ("retrain", "refused")
    assert "nothing new" in newest["reason"]
    assert newest["evidence"]["asked"] == "just because"


def test_a_version_is_made_again_from_its_record_byte_for_byte(product: Any, perennial: Callable[..., Any]) -> None:
    version = product.renewal["version"]
    before = dvc(product.root, "status")
    made = perennial("--workspace", str(product.root), "reproduce", str(version), "--json")
    assert made.code == 0, made.err
    found = json.loads(made.out)
    assert (found["outcome"], found["agreement"], found["same_code"]) == ("identical", 1.0, True)
    assert found["dataset_version"] == product.renewal["dataset_version"]
    assert dvc(product.root, "status") == before
    unknown = perennial("--workspace", str(product.root), "reproduce", "999")
    assert unknown.code != 0
    assert "999" in unknown.err
