"""The four stages where images carry any number of labels: drawn shapes, each label a quarter of the image."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from components.data.ingestion.ingest import ingest
from components.data.label_sets import encode
from components.data.png import encode_png
from components.data.sources.item import SourceItem
from components.errors import ConfigurationError, DataError
from components.model.artifact import read_spec
from components.model.serving.predictor import Predictor, decisions
from components.params import Params, parse_strictly
from components.stages import STAGES
from components.stages.evaluate import run as evaluate

pytestmark = pytest.mark.xdist_group("stages-several")  # one worker makes what the module's tests share

NAMES = ("bar", "cross", "dot", "ring")
COMMON = (0.5, 0.4, 0.3, 0.06)
IMAGES = 700
WRONG = frozenset(range(20, 140, 6))  # images whose given set lacks "bar" or has it without showing it
SETTINGS = {
    "data": {"several": True, "near_distance": 0},
    "preprocess": {"size": 16},
    "audit": {"folds": 2, "epochs": 6},
    "train": {"epochs": 5, "batch_size": 32, "precision": "fp32", "augment": {"shift": 0.0}},
    "evaluate": {"bootstrap": 100},
    "export": {"parity_images": 8},
}
PARAMS = parse_strictly(Params, SETTINGS, "test")


def shown(number: int) -> tuple[np.ndarray, list[str]]:
    rng = np.random.default_rng(number)
    there = [name for name, share in zip(NAMES, COMMON, strict=True) if rng.random() < share]
    pixels = rng.integers(0, 90, (16, 16))
    for name in there:
        top, left = divmod(NAMES.index(name), 2)
        pixels[8 * top + 2 : 8 * top + 6, 8 * left + 2 : 8 * left + 6] += rng.integers(90, 160)
    return pixels.astype(np.uint8), there


def items() -> list[SourceItem]:
    found = []
    for number in range(IMAGES):
        pixels, there = shown(number)
        said = sorted({*there} ^ {"bar"}) if number in WRONG else there
        found.append(SourceItem(f"{number}.png", encode_png(pixels), encode(said)))
    return found


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("workspace")
    ingest(items(), root=root, params=PARAMS, source="shapes")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        for stage in STAGES.values():
            stage(PARAMS)
    return root


def read(root: Path, path: str) -> dict:
    return json.loads((root / path / "metrics.json").read_text())


def test_every_label_is_ranked_answered_and_told_from_none(finished: Path) -> None:
    trained = read(finished, PARAMS.paths.model)
    assert trained["validation_map"] > 0.95
    found = read(finished, PARAMS.paths.evaluation)
    part = found["parts"]["frozen_test"]
    assert part["map"]["value"] > 0.97
    assert part["map"]["low"] <= part["map"]["value"] <= part["map"]["high"]
    assert part["exact_match"]["value"] > 0.9
    assert part["without_labels"]["images"] > 5
    assert part["without_labels"]["answered_with_none"]["value"] > 0.8
    assert [row["name"] for row in part["classes"]] == list(NAMES)
    assert found["calibration"]["ece_after"] < 0.1
    tuned = {row["name"]: row["tuned"] for row in found["labels"]}
    assert tuned == {"bar": True, "cross": True, "dot": True, "ring": False}
    report = (finished / PARAMS.paths.evaluation / "report.md").read_text()
    assert "Mean average precision" in report and "threshold of their own, which is 0.5: ring" in report


def test_evaluation_leaves_a_page_with_curves_slices_and_the_surest_errors(finished: Path) -> None:
    found = read(finished, PARAMS.paths.evaluation)
    assert found["training"]["epochs"] == read(finished, PARAMS.paths.model)["epochs"]
    assert found["training"]["state"] in ("fine", "still improving")
    assert found["training"]["learnt"] > 0.85
    assert {row["by"] for row in found["slices"]} == {"brightness"}
    assert sum(row["images"] for row in found["slices"]) == found["parts"]["frozen_test"]["images"]
    page = (finished / PARAMS.paths.evaluation / "report.html").read_text()
    assert page.count("<polyline") == 4
    assert "missed" in page and page.count("data:image/png") > 1
    assert "ranking at random" in page


def test_the_exported_file_answers_each_label_by_its_threshold(finished: Path) -> None:
    folder = finished / PARAMS.paths.export
    spec = read_spec(folder)
    rows = read(finished, PARAMS.paths.evaluation)["labels"]
    assert spec.several
    assert spec.thresholds == tuple(row["threshold"] for row in rows)
    review = read(finished, PARAMS.paths.evaluation)["answering"]["review"]
    assert spec.review_below == review["threshold"]
    assert review["coverage"]["value"] > 0.5
    assert read(finished, PARAMS.paths.export)["passed"]
    pixels = np.stack([shown(10_000 + n)[0] for n in range(100)])[..., None]
    logits, probabilities = Predictor(folder).predict(pixels)
    wanted = 1 / (1 + np.exp(-(logits * np.array(spec.scales) + np.array(spec.offsets))))
    assert np.abs(probabilities - wanted).max() < 1e-5
    said, sure = decisions(probabilities, spec)
    truth = np.array([[name in shown(10_000 + n)[1] for name in NAMES] for n in range(100)])
    assert (said == truth).mean() > 0.97
    assert sure.min() >= 0.5 and sure.max() <= 1


def test_planted_errors_are_doubted_and_weighed_down(finished: Path) -> None:
    table = pq.read_table(finished / PARAMS.paths.audit / "suspects.parquet").to_pylist()
    by_name = {row["image_id"]: row["name"] for row in manifest_rows(finished)}
    suspect = {int(by_name[row["image_id"]][:-4]) for row in table if row["suspect"]}
    planted = {int(by_name[row["image_id"]][:-4]) for row in table} & WRONG
    assert len(suspect & planted) >= 0.6 * len(planted)
    assert len(suspect) < 0.1 * len(table)
    one = next(row for row in table if int(by_name[row["image_id"]][:-4]) in planted & suspect)
    assert set(json.loads(one["given"])) ^ set(json.loads(one["likely"])) >= {"bar"}
    found = read(finished, PARAMS.paths.audit)
    assert [row["name"] for row in found["classes"]] == list(NAMES)
    assert read(finished, PARAMS.paths.model)["weighted_down"] > 0
    assert "is believed with" in (finished / PARAMS.paths.audit / "audit.html").read_text()


def manifest_rows(root: Path) -> list[dict]:
    return pq.read_table(root / PARAMS.paths.manifest).to_pylist()


def test_a_backbone_as_second_judge_is_refused_in_words(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(finished)
    wanted = {**SETTINGS, "audit": {"folds": 2, "epochs": 1, "features": {"backbone": "tf_efficientnet_lite0"}}}
    with pytest.raises(ConfigurationError, match="judges images of one label each"):
        STAGES["audit"](parse_strictly(Params, wanted, "test"))


def test_a_model_of_one_label_each_is_not_measured_on_sets(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(finished)
    path = finished / PARAMS.paths.model / "model.json"
    before = path.read_text()
    content = {key: value for key, value in json.loads(before).items() if key not in ("several", "thresholds")}
    content = {key: value for key, value in content.items() if key not in ("scales", "offsets")}
    path.write_text(json.dumps(content))
    try:
        with pytest.raises(DataError, match="run the train stage again"):
            evaluate(PARAMS)
    finally:
        path.write_text(before)


@pytest.mark.parametrize("remedy", ["class-weights", "focal", "sampling"])
def test_each_remedy_for_rare_labels_trains(finished: Path, monkeypatch: pytest.MonkeyPatch, remedy: str) -> None:
    monkeypatch.chdir(finished)
    train = {**SETTINGS["train"], "epochs": 2, "imbalance": {"remedy": remedy}}
    params = parse_strictly(
        Params,
        {**SETTINGS, "train": train, "paths": {"model": f"m-{remedy}"}, "audit": {"policy": "soft-targets"}},
        "t",
    )
    STAGES["train"](params)
    told = read(finished, f"m-{remedy}")
    assert told["validation_map"] > 0.6
    assert told["imbalance"]["factors"]["ring"] > 2 * told["imbalance"]["factors"]["bar"]
