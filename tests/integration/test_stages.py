"""The four stages on real images: handwritten digits, with planted label errors and labels from production."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from sklearn.datasets import load_digits

from components.data.ingestion.ingest import ingest
from components.data.manifest import Manifest
from components.data.png import encode_png
from components.data.shards import ShardReader
from components.data.sources.item import SourceItem
from components.errors import DataError, IntegrityError, RefusedError
from components.model.serving.predictor import Predictor
from components.params import Mix, Params, Section, parse_strictly
from components.stages import STAGES
from components.stages.__main__ import main

pytestmark = pytest.mark.xdist_group("stages")  # one worker makes what the module's tests share

ROOT = Path(__file__).parents[2]
GRAPH = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
# Read besides what dvc.yaml names: where files lie, and size limits that no accepted image exceeds.
ALWAYS_READ = {"paths", "data"}

DIGITS = load_digits()
PIXELS = (DIGITS.images * 15.9).astype(np.uint8)
PRODUCTION = range(1500, 1600)  # drawn inverted: a new way of writing
PARAMS = parse_strictly(
    Params,
    {
        "preprocess": {"size": 8},
        "audit": {"folds": 3, "epochs": 4},
        "train": {"epochs": 10, "batch_size": 32, "precision": "fp32", "augment": {"shift": 0.1}},
        "evaluate": {"bootstrap": 100},
        "export": {"parity_images": 8},
    },
    "test",
)


class WatchedParams(Params):
    """Parameters that note which keys are read, `section` or `section.key`."""

    def __getattribute__(self, name: str) -> Any:
        value = super().__getattribute__(name)
        if name in Params.model_fields and not isinstance(value, Section):
            Watched.read.add(name)  # a list, read as a whole
        return Watched(name, value) if isinstance(value, Section) else value


class Watched:
    read: set[str] = set()  # noqa: RUF012 - one list for a test, emptied before it

    def __init__(self, section: str, content: Any) -> None:
        self._section, self._content = section, content

    def __getattr__(self, key: str) -> Any:
        Watched.read.add(f"{self._section}.{key}")
        return getattr(self._content, key)


def first_items() -> Iterator[SourceItem]:
    generator = np.random.default_rng(0)
    for number in range(1500):
        digit = int(DIGITS.target[number])
        given = (digit + 1 + int(generator.integers(9))) % 10 if generator.random() < 0.05 else digit
        yield SourceItem(f"{number}.png", encode_png(PIXELS[number]), str(given))


def production_items() -> Iterator[SourceItem]:
    for number in PRODUCTION:
        content = encode_png(255 - PIXELS[number])
        yield SourceItem(
            f"p{number}.png",
            content,
            str(DIGITS.target[number]),
            label_origin="consensus",
            window="2026-10",
            model_version=1,
        )


def said_by_several() -> Iterator[SourceItem]:
    """Digits that are there already as three simulated annotators name them; cyd is wrong in a third of them."""
    generator = np.random.default_rng(1)
    for number in range(600):
        for name, wrong in (("ada", 0.02), ("bob", 0.1), ("cyd", 0.35)):
            digit = int(DIGITS.target[number])
            said = (digit + 1 + int(generator.integers(9))) % 10 if generator.random() < wrong else digit
            yield SourceItem(f"{number}.png", encode_png(PIXELS[number]), str(said), annotator=name)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A workspace in which all four stages have run."""
    root = tmp_path_factory.mktemp("workspace")
    ingest(first_items(), root=root, params=PARAMS, source="digits")
    ingest(production_items(), root=root, params=PARAMS, source="production", production=True)
    ingest(said_by_several(), root=root, params=PARAMS, source="annotators")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        for stage in STAGES.values():
            stage(PARAMS)
    return root


@pytest.fixture
def workspace(finished, tmp_path, monkeypatch) -> Path:
    """A copy of it to spoil, as the working folder."""
    root = shutil.copytree(finished, tmp_path / "workspace")
    monkeypatch.chdir(root)
    return root


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_the_audit_weighs_annotators_and_names_the_stored_labels_they_contradict(workspace) -> None:
    audit = workspace / PARAMS.paths.audit
    crowd = read_json(audit / "metrics.json")["annotators"]
    wrong = {image_id for image_id, is_wrong in planted(workspace).items() if is_wrong}
    given = set(pq.read_table(audit / "consensus.parquet")["image_id"].to_pylist())
    found = pq.read_table(audit / "findings.parquet").to_pylist()
    differ = {row["image_id"] for row in found if row["kind"] == "opinions"}

    assert [one["name"] for one in crowd["people"]] == ["cyd", "bob", "ada"]
    assert (crowd["images"], crowd["opinions"], crowd["differ"]) == (len(given), 3 * len(given), len(differ))
    assert len(wrong & differ) > 0.9 * len(wrong & given) > 10
    assert len(differ - wrong) < 0.05 * len(given)
    assert "Most often differs" in (audit / "audit.html").read_text(encoding="utf-8")


def planted(root: Path) -> dict[str, bool]:
    """Image id to whether its label was planted wrong, for the first items."""
    rows = Manifest.read(root / PARAMS.paths.manifest).select("train", "validation").to_pylist()
    first = [row for row in rows if row["window"] is None]
    return {row["image_id"]: row["label"] != str(DIGITS.target[int(row["name"].removesuffix(".png"))]) for row in first}


def test_audit_finds_most_planted_errors_and_few_others(finished):
    table = pq.read_table(finished / "artifacts/audit/suspects.parquet").to_pylist()
    suspect = {row["image_id"]: row["suspect"] for row in table}
    wrong = planted(finished)
    found = [suspect[image_id] for image_id, is_wrong in wrong.items() if is_wrong]
    blamed = [suspect[image_id] for image_id, is_wrong in wrong.items() if not is_wrong]
    assert np.mean(found) > 0.75
    assert np.mean(blamed) < 0.01
    assert set(table[0]) == {"image_id", "given", "likely", "score", "suspect"}


def test_audit_keeps_every_probability(finished):
    table = pq.read_table(finished / "artifacts/audit/out_of_fold.parquet")
    sums = np.array(table["probabilities"].to_pylist()).sum(axis=1)
    assert sums == pytest.approx(1, abs=1e-4)
    assert set(table["fold"].to_pylist()) == {0, 1, 2}
    assert read_json(finished / "artifacts/audit/metrics.json")["images"] == len(table)


def test_train_writes_weights_without_pickled_code_and_its_metrics(finished):
    folder = finished / "artifacts/model"
    metrics = read_json(folder / "metrics.json")
    assert metrics["production_images"] > 50
    assert metrics["weighted_down"] > 20
    assert metrics["validation_macro_f1"] > 0.85
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert sum("validation_macro_f1" in line for line in lines) == metrics["epochs"]
    assert len(list((folder / "checkpoints").iterdir())) == 3


def test_evaluation_judges_the_frozen_test_set_and_the_golden_one(finished):
    metrics = read_json(finished / "artifacts/evaluation/metrics.json")
    assert list(metrics["parts"]) == ["frozen_test", "validation", "golden"]
    assert metrics["calibration"]["measured_on"] == "frozen_test"
    part = metrics["parts"]["frozen_test"]
    assert part["accuracy"]["value"] > 0.85
    assert part["baseline"]["accuracy"] < 0.2
    report = (finished / "artifacts/evaluation/report.md").read_text()
    assert "frozen_test" in report
    assert all((finished / "artifacts/evaluation" / name).is_file() for name in ("confusion.png", "reliability.png"))


def test_evaluation_leaves_a_page_with_pictures_slices_and_baselines(finished):
    metrics = read_json(finished / "artifacts/evaluation/metrics.json")
    part = metrics["parts"]["frozen_test"]
    assert part["roc_auc"]["value"] > 0.97
    assert part["baseline"]["accuracy"] < metrics["baselines"]["linear"]["accuracy"]["value"]
    assert {row["by"] for row in metrics["slices"]} == {"brightness"}
    assert metrics["training"]["epochs"] == read_json(finished / "artifacts/model/metrics.json")["epochs"]
    assert metrics["training"]["state"] in ("fine", "still improving")
    assert metrics["training"]["learnt"] > 0.85
    assert metrics["attacks"]["pgd"] <= metrics["attacks"]["fgsm"] < metrics["attacks"]["clean"]
    assert metrics["robustness"]["mean"] < metrics["robustness"]["clean"]["value"]
    assert metrics["five_looks"]["images"] == part["images"]
    assert [one["name"] for one in metrics["unfamiliar"]["sets"]] == ["handwritten digits", "uniform noise"]
    assert 0.85 < metrics["unfamiliar"]["kept"] <= 1
    assert metrics["folds"] is None
    page = (finished / "artifacts/evaluation/report.html").read_text(encoding="utf-8")
    assert page.count("<polyline") == 4
    assert page.count("data:image/png") > 10


def test_cross_validation_and_a_folder_of_other_things_come_on_request(workspace, tmp_path):
    others = tmp_path / "others"
    others.mkdir()
    for number in range(5):
        (others / f"{number}.png").write_bytes(encode_png(np.full((8, 8), 40 * number, np.uint8)))
    asked = PARAMS.evaluate.model_copy(update={"folds": 2, "ood": str(others)})
    quick = PARAMS.train.model_copy(update={"epochs": 3})
    STAGES["evaluate"](PARAMS.model_copy(update={"evaluate": asked, "train": quick}))
    metrics = read_json(workspace / "artifacts/evaluation/metrics.json")
    assert [one["images"] for one in metrics["unfamiliar"]["sets"]] == [5]
    assert len(metrics["folds"]["folds"]) == 2
    assert 0.6 < metrics["folds"]["accuracy"]["mean"] < 1
    assert "Cross-validation" in (workspace / "artifacts/evaluation/report.html").read_text(encoding="utf-8")


def test_exported_model_knows_what_people_labelled_in_production(finished):
    predictor = Predictor(finished / "artifacts/export", threads=1)
    fresh = range(1600, 1797)
    logits, _ = predictor.predict(255 - PIXELS[list(fresh)][..., None])
    right = np.array(predictor.spec.classes)[logits.argmax(axis=1)] == DIGITS.target[list(fresh)].astype(str)
    assert right.mean() > 0.6
    assert read_json(finished / "artifacts/export/metrics.json")["passed"]


def test_exported_specification_carries_temperature_thresholds_and_hash(finished):
    spec = Predictor(finished / "artifacts/export", threads=1).spec
    measured = read_json(finished / "artifacts/evaluation/metrics.json")
    assert spec.temperature == measured["calibration"]["temperature"]
    assert spec.review_below == measured["answering"]["review"]["threshold"]
    assert spec.unfamiliar_above == measured["answering"]["unfamiliar_above"]
    assert spec.classes == tuple("0123456789")


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_reads_no_parameter_that_dvc_does_not_watch(name, workspace):
    Watched.read = set()
    quick = {"train": PARAMS.train.model_copy(update={"epochs": 1})}
    quick["audit"] = PARAMS.audit.model_copy(update={"epochs": 1})
    STAGES[name](WatchedParams.model_construct(**{**dict(PARAMS), **quick}))
    watched = set(GRAPH[name]["params"])
    unwatched = {key for key in Watched.read if key not in watched and key.split(".")[0] not in watched | ALWAYS_READ}
    assert not unwatched


def test_same_data_gives_the_same_bytes(workspace):
    outputs = ["artifacts/audit/suspects.parquet", "artifacts/model/model.pt", "artifacts/export/model.onnx"]
    before = [(workspace / path).read_bytes() for path in outputs]
    for stage in STAGES.values():
        stage(PARAMS)
    assert [(workspace / path).read_bytes() for path in outputs] == before


def test_training_counts_every_class_as_often_as_the_noted_mix_says(workspace):
    seen = dict.fromkeys(map(str, range(10)), 0.08) | {"1": 0.28}
    STAGES["train"](PARAMS.model_copy(update={"mix": Mix(window="2026-10", shares=seen)}))
    weights = read_json(workspace / "artifacts/model/metrics.json")["class_weights"]
    assert max(weights, key=weights.get) == "1"
    assert 2 < weights["1"] <= 4
    assert all(0.5 < weights[name] < 1.1 for name in weights if name != "1")
    STAGES["train"](PARAMS.model_copy(update={"mix": Mix(window="2026-10", shares={"1": 1.0})}))
    assert read_json(workspace / "artifacts/model/metrics.json")["class_weights"] == {}


def test_tampered_image_stops_the_stage(workspace):
    row = Manifest.read(workspace / PARAMS.paths.manifest).select("frozen_test").to_pylist()[0]
    folder = workspace / PARAMS.paths.images
    content = bytearray((folder / row["shard"]).read_bytes())
    content[content.find(ShardReader(folder).read(row["shard"], row["row"])) + 60] ^= 1
    (folder / row["shard"]).write_bytes(content)
    with pytest.raises(IntegrityError, match="restore"):
        STAGES["evaluate"](PARAMS)


def test_audit_of_another_dataset_version_is_not_used(workspace):
    extra = [SourceItem(f"{n}.png", encode_png(PIXELS[n]), "3") for n in range(1700, 1720)]
    ingest(extra, root=workspace, params=PARAMS, source="more")
    with pytest.raises(DataError, match="another dataset version"):
        STAGES["train"](PARAMS)


def test_class_list_that_grew_needs_a_new_model(workspace):
    ingest([], root=workspace, params=PARAMS, source="more", add_classes=["ten"])
    with pytest.raises(DataError, match="another class list"):
        STAGES["evaluate"](PARAMS)


def test_export_that_answers_otherwise_is_refused(workspace):
    params = PARAMS.model_copy(update={"export": PARAMS.export.model_copy(update={"parity_tolerance": 1e-12})})
    with pytest.raises(RefusedError, match="parity_tolerance"):
        STAGES["export"](params)


def test_stages_out_of_order_say_which_to_run(workspace):
    shutil.rmtree(workspace / "artifacts")
    with pytest.raises(DataError, match="run the audit stage"):
        STAGES["train"](PARAMS)
    with pytest.raises(IntegrityError, match=r"model\.json"):
        STAGES["evaluate"](PARAMS)


def test_command_prints_one_line_and_the_errors_exit_code(tmp_path):
    command = [sys.executable, "-m", "components.stages", "audit"]
    environment = {"PYTHONPATH": str(ROOT), "PATH": ""}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("audit: params.yaml does not exist")
    assert len(done.stderr.splitlines()) == 1


def test_unknown_stage_is_a_usage_error(capsys):
    assert main(["deploy"]) == 2
    assert "audit,train,evaluate,export" in capsys.readouterr().err


def test_measuring_and_exporting_do_not_wait_for_lightning():
    asked = (
        "import sys, components.stages.evaluate, components.stages.export; print('pytorch_lightning' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True, timeout=300)
    assert done.stdout == "False\n"
