"""A silent change of meaning on real images: from one window on the darker eights are threes.

Labels from before contradict those from then on; the stages are to find them and let them count nowhere.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.datasets import load_digits

from components.data.ingestion.ingest import ingest
from components.data.manifest import Manifest
from components.data.png import encode_png
from components.data.sources.item import SourceItem
from components.labels.stale import read_meanings, read_stale, read_successors
from components.operations.retraining.comparison import held_out
from components.params import Params, SuspectedChange, parse_strictly
from components.stages import STAGES

pytestmark = pytest.mark.xdist_group("stale")  # one worker makes what the module's tests share

DIGITS = load_digits()
PIXELS = (DIGITS.images * 15.9).astype(np.uint8)
INK = DIGITS.images.mean(axis=(1, 2))
EIGHT, THREE = 8, 3
DARK = np.median(INK[DIGITS.target == EIGHT])
BEFORE = range(1200)
SINCE = "2026-10"
PARAMS = parse_strictly(
    Params,
    {
        "data": {"near_distance": 0},  # the copies below stand for further eights, each free to lie in any split
        "preprocess": {"size": 8},
        "audit": {"folds": 2, "epochs": 8},
        "train": {"seed": 8, "epochs": 10, "batch_size": 32, "precision": "fp32"},
        "evaluate": {"bootstrap": 100},
    },
    "test",
)


def meaning(number: int) -> int:
    digit = int(DIGITS.target[number])
    return THREE if digit == EIGHT and INK[number] >= DARK else digit


def before() -> Iterator[SourceItem]:
    for number in BEFORE:
        yield SourceItem(f"{number}.png", encode_png(PIXELS[number]), str(DIGITS.target[number]))


def since() -> Iterator[SourceItem]:
    """What people labelled since: mostly eights, each photographed four times."""
    rng = np.random.default_rng(5)
    for number in range(len(BEFORE), len(PIXELS)):
        eight = DIGITS.target[number] == EIGHT
        for copy in range(5 if eight else 1):
            noise = rng.integers(-6, 7, PIXELS[number].shape)
            pixels = np.clip(PIXELS[number].astype(np.int64) + noise, 0, 255).astype(np.uint8)
            yield SourceItem(
                f"p{number}-{copy}.png", encode_png(pixels), str(meaning(number)), label_origin="consensus",
                window=SINCE, model_version=1,
            )  # fmt: skip


@pytest.fixture(scope="module")
def changed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace whose stages were told that eights fell in 2026-10."""
    root = tmp_path_factory.mktemp("workspace")
    ingest(before(), root=root, params=PARAMS, source="digits")
    ingest(since(), root=root, params=PARAMS, source="production", production=True)
    told = PARAMS.model_copy(update={"changes": (SuspectedChange(since=SINCE, classes=(str(EIGHT),)),)})
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        for name in ("audit", "train", "evaluate"):
            STAGES[name](told)
    return root


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def truth_of(root: Path) -> dict[str, tuple[bool, str]]:
    """Return by image id whether its label is out of date, and its split."""
    table = Manifest.read(root / "data/manifest.parquet").select()
    names, ids, windows, splits = (table[c].to_pylist() for c in ("name", "image_id", "window", "split"))
    return {
        image_id: (window is None and str(meaning(int(name.split(".")[0]))) != str(label), split)
        for name, image_id, window, split, label in zip(
            names, ids, windows, splits, table["label"].to_pylist(), strict=True
        )
        if window is None
    }


def test_the_contradicted_labels_are_found_in_every_split_and_hardly_any_other(changed: Path) -> None:
    truth = truth_of(changed)
    wanted = {image_id for image_id, (outdated, _) in truth.items() if outdated}
    found = read_stale(changed / "artifacts/audit")
    assert len(found & wanted) >= 0.8 * len(wanted)
    assert len(found - wanted) <= 0.35 * len(found)
    assert found <= truth.keys()  # never a label from since then
    assert {truth[image_id][1] for image_id in found} >= {"train", "validation"}
    table = pq.read_table(changed / "artifacts/audit/stale.parquet")
    assert set(table["label"].to_pylist()) == {"8"}
    assert set(table["means"].to_pylist()) == {"3"}


def test_the_audit_says_what_changed_and_how_it_was_told(changed: Path) -> None:
    report = read_json(changed / "artifacts/audit/metrics.json")["stale"]
    (change,) = report["changes"]
    assert (change["from"], change["to"], change["since"]) == ("8", "3", SINCE)
    assert change["recent_share"] > 0.3 > change["old_share"]
    assert "statistics" in change["told_by"]  # ink tells
    assert report["labels"] == change["labels"]
    assert change["words"].startswith("of what was called 8, people say 3 in ")


def test_recent_labels_take_over_the_weight_of_those_they_replace(changed: Path) -> None:
    factors = read_successors(changed / "artifacts/audit")
    table = Manifest.read(changed / "data/manifest.parquet").select("train")
    labels = dict(zip(table["image_id"].to_pylist(), table["label"].to_pylist(), strict=True))
    windows = dict(zip(table["image_id"].to_pylist(), table["window"].to_pylist(), strict=True))
    assert {labels[name] for name in factors} == {"3", "8"}
    assert {windows[name] for name in factors} == {SINCE}
    (factor,) = set(factors.values())
    sure = read_meanings(changed / "artifacts/audit").keys()
    lost = len((read_stale(changed / "artifacts/audit") - sure) & labels.keys())
    assert factor == pytest.approx(min(4, 1 + lost / (PARAMS.train.production_weight * len(factors))))
    assert read_json(changed / "artifacts/model/metrics.json")["took_over"] == len(factors)


def test_clear_ones_are_learnt_under_the_class_they_mean_now_and_in_training_alone(changed: Path) -> None:
    found, truth = read_stale(changed / "artifacts/audit"), truth_of(changed)
    meanings = read_meanings(changed / "artifacts/audit")
    assert 20 < len(meanings) < len(found)
    assert meanings.keys() < found
    assert {means for means, _ in meanings.values()} == {"3"}
    assert min(probability for _, probability in meanings.values()) >= 0.9
    trained = read_json(changed / "artifacts/model/metrics.json")
    assert trained["relearnt"] == sum(truth[image_id][1] == "train" for image_id in meanings) < len(meanings)


def test_the_others_count_nowhere_and_none_in_evaluation_and_gate(changed: Path) -> None:
    found, truth = read_stale(changed / "artifacts/audit"), truth_of(changed)
    trained = read_json(changed / "artifacts/model/metrics.json")
    manifest = Manifest.read(changed / "data/manifest.parquet")
    in_split = {split: sum(truth[image_id][1] == split for image_id in found) for split in ("train", "validation")}
    assert trained["out_of_date"] == sum(in_split.values())
    assert trained["images"] == len(manifest.select("train")) - in_split["train"] + trained["relearnt"]
    assert trained["validation_images"] == len(manifest.select("validation")) - in_split["validation"]
    parts = read_json(changed / "artifacts/evaluation/metrics.json")["parts"]
    assert parts["validation"]["images"] == trained["validation_images"]
    gate = held_out(manifest, 6, found)
    assert not found & set(gate.rows["image_id"].to_pylist())
    assert len(gate.labels) == len(gate.golden) == len(held_out(manifest, 6).labels) - in_split["validation"]


def test_without_a_suspected_change_no_label_is_out_of_date(changed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(changed)
    found = read_stale(changed / "artifacts/audit")
    audit = changed / "artifacts/audit"
    kept = {path: path.read_bytes() for path in audit.iterdir()}
    STAGES["audit"](PARAMS)
    assert found
    assert read_stale(audit) == frozenset()
    assert read_json(audit / "metrics.json")["stale"] == {"labels": 0, "changes": []}
    for path, content in kept.items():
        path.write_bytes(content)
