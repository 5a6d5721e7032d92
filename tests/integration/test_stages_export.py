"""The export stage alone, on digits: which form it takes, what it says of it, and that a new process agrees."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.datasets import load_digits
from spoilt_weights import blow_up_a_channel
from torch.nn import functional

from components.data.ingestion.ingest import ingest
from components.data.png import encode_png
from components.data.sources.item import SourceItem
from components.errors import RefusedError, ServiceError
from components.evaluation.again import Figures, Job, figures_elsewhere, refuse_unless_near, refuse_unless_same
from components.model.artifact import WEIGHTS_FILE, ModelSpec, write_spec
from components.model.calibration import expected_calibration_error
from components.model.images.dataset import StoredImages
from components.model.images.inputs import Normalise
from components.model.images.preprocess import PreprocessSpec
from components.model.networks.backbones import build
from components.model.serving.predictor import Predictor
from components.params import Params, parse_strictly
from components.stages import STAGES

pytestmark = pytest.mark.xdist_group("stages_export")

SIDE = 16
PIXELS = (load_digits().images * 15.9).astype(np.uint8).repeat(2, 1).repeat(2, 2)
LABELS = load_digits().target
TEMPERATURE = 1.25
RULES = {"parity_images": 16, "calibration_images": 64, "latency_runs": 5}
SPEC = ModelSpec(tuple("0123456789"), PreprocessSpec(SIDE, 1, "stretch", 1.0, "bilinear", (0.3,), (0.37,)), "small_cnn")


def params(**export) -> Params:
    content = {"preprocess": {"size": SIDE}, "export": RULES | export, "data": {"near_distance": 0}}
    return parse_strictly(Params, content, "test")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A workspace with digits and a network that has learnt most of them."""
    root = tmp_path_factory.mktemp("workspace")
    items = (SourceItem(f"{n}.png", encode_png(PIXELS[n]), str(LABELS[n])) for n in range(len(LABELS)))
    ingest(items, root=root, params=params(), source="digits")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        stored = StoredImages.of(params())
        rows = stored.manifest.select("train")
        images, labels = stored.pixels(rows, SPEC.preprocess), torch.from_numpy(stored.labels(rows))
    network = build("small_cnn", classes=10, channels=1, size=SIDE, dropout=0.0, pretrained="none", seed=1).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.003)
    pixels, generator = Normalise(SPEC.preprocess)(torch.from_numpy(images)), torch.Generator().manual_seed(0)
    for _ in range(4):
        for chosen in torch.randperm(len(labels), generator=generator).split(50):
            optimizer.zero_grad()
            functional.cross_entropy(network(pixels[chosen]), labels[chosen]).backward()
            optimizer.step()
    save(root, network)
    (root / "artifacts/evaluation").mkdir()
    (root / "artifacts/evaluation/metrics.json").write_text(json.dumps({"calibration": {"temperature": TEMPERATURE}}))
    return root


def save(root: Path, network: torch.nn.Module) -> None:
    folder = root / "artifacts/model"
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(network.state_dict(), folder / WEIGHTS_FILE)
    write_spec(folder, SPEC)


@pytest.fixture(scope="module")
def exported(made, tmp_path_factory) -> dict[str, Path]:
    """Copies of it, exported in fp32 as by default and in INT8."""
    roots = {}
    for name, rules in (("fp32", params()), ("int8", params(precision="int8"))):
        roots[name] = shutil.copytree(made, tmp_path_factory.mktemp("exported") / name)
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(roots[name])
            STAGES["export"](rules)
    return roots


@pytest.fixture
def workspace(made, tmp_path, monkeypatch) -> Path:
    root = shutil.copytree(made, tmp_path / "workspace")
    monkeypatch.chdir(root)
    return root


def told(root: Path) -> dict:
    return json.loads((root / "artifacts/export/metrics.json").read_text(encoding="utf-8"))


def job(root: Path, images: int = 100) -> Job:
    return Job(
        export=str(root / "artifacts/export"), shards=str(root / "data/images"),
        manifest=str(root / "data/manifest.parquet"), images=images, max_bytes=10**6, max_pixels=10**6, min_side=4,
        threads=1, ece_bins=15,
    )  # fmt: skip


def test_by_default_the_file_is_fp32_and_tells_its_latency_and_figures(exported):
    workspace = exported["fp32"]
    metrics = told(workspace)
    assert (metrics["passed"], metrics["precision"], metrics["int8"]) == (True, "fp32", None)
    assert not Predictor(workspace / "artifacts/export", threads=1).spec.lightened
    assert [row["batch"] for row in metrics["latency"]["files"]["fp32"]] == [1, 8, 32]
    assert all(0 < row["p50_ms"] <= row["p95_ms"] for row in metrics["latency"]["files"]["fp32"])
    trained, here, elsewhere = (Figures(**metrics["figures"][name]) for name in ("trained", "here", "elsewhere"))
    assert here.images > 200
    assert here.difference(elsewhere) <= 1e-6
    assert here.difference(trained) <= 1e-4
    table = (workspace / "artifacts/export/export.md").read_text(encoding="utf-8")
    assert len(re.findall(r"^\| fp32 \| (1|8|32) \|", table, re.MULTILINE)) == 3
    assert "| exported file, new process |" in table


def exported_fp32_threshold(exported) -> float:
    return Predictor(exported["fp32"] / "artifacts/export", threads=1).spec.review_below


def test_int8_takes_the_place_of_fp32_with_a_temperature_of_its_own(exported):
    workspace = exported["int8"]
    metrics, spec = told(workspace), Predictor(workspace / "artifacts/export", threads=1).spec
    assert (metrics["passed"], metrics["precision"], metrics["int8"]["used"]) == (True, "int8", True)
    assert metrics["onnx_bytes"] == metrics["int8"]["bytes"] < 0.35 * metrics["fp32_bytes"]
    assert spec.temperature == metrics["int8"]["temperature"] != TEMPERATURE
    assert spec.lightened
    # Chosen anew on the file's own answers: those that are accepted keep the promise.
    assert spec.review_below != exported_fp32_threshold(exported)
    assert spec.unfamiliar_above is not None
    assert set(metrics["latency"]["files"]) == {"fp32", "int8"}
    here, elsewhere = (Figures(**metrics["figures"][name]) for name in ("here", "elsewhere"))
    assert here.difference(elsewhere) <= 1e-6
    assert abs(here.accuracy - metrics["figures"]["trained"]["accuracy"]) <= 0.01
    table = (workspace / "artifacts/export/export.md").read_text(encoding="utf-8")
    assert "INT8 is used" in table
    assert len(re.findall(r"^\| int8 \| (1|8|32) \|", table, re.MULTILINE)) == 3


def test_probabilities_of_the_int8_file_mean_what_they_say(exported, monkeypatch):
    monkeypatch.chdir(exported["int8"])
    predictor, stored = Predictor(Path("artifacts/export"), threads=1), StoredImages.of(params())
    rows = stored.manifest.select("frozen_test")
    _, probabilities = predictor.predict(stored.pixels(rows, SPEC.preprocess))
    assert expected_calibration_error(probabilities, stored.labels(rows)) < 0.04


def test_int8_that_loses_too_much_is_refused_and_says_how_much(workspace):
    blow_up_a_channel(workspace / "artifacts/model" / WEIGHTS_FILE)
    with pytest.raises(RefusedError, match=r"it loses too much: accuracy falls by .* more than export.max_loss 0.01"):
        STAGES["export"](params(precision="int8"))
    assert told(workspace)["passed"] is False


def test_auto_keeps_fp32_where_int8_loses_too_much(workspace):
    blow_up_a_channel(workspace / "artifacts/model" / WEIGHTS_FILE)
    STAGES["export"](params(precision="auto"))
    metrics = told(workspace)
    assert (metrics["passed"], metrics["precision"]) == (True, "fp32")
    assert metrics["int8"]["refused_for"] == "it loses too much"
    assert metrics["int8"]["loss"] > 0.01
    assert Predictor(workspace / "artifacts/export", threads=1).spec.temperature == TEMPERATURE
    assert "INT8 was tried and is not used (it loses too much)" in Path("artifacts/export/export.md").read_text()


def test_auto_takes_what_it_measured_to_be_faster(workspace):
    STAGES["export"](params(precision="auto", latency_runs=0))
    metrics = told(workspace)
    fp32, int8 = (metrics["latency"]["files"][name][-1]["p50_ms"] for name in ("fp32", "int8"))
    assert metrics["int8"]["speedup"] == pytest.approx(fp32 / int8, abs=1e-3)
    assert metrics["precision"] == ("int8" if metrics["int8"]["speedup"] >= 1.05 else "fp32")


def test_a_pruned_network_is_smaller_learns_from_the_whole_one_and_says_what_it_lost(workspace):
    pytest.importorskip("torch_pruning")
    STAGES["export"](params(prune=0.3, prune_epochs=8, max_loss=0.02, max_class_loss=0.06, precision="auto"))
    metrics, spec = told(workspace), Predictor(workspace / "artifacts/export", threads=1).spec
    pruned = metrics["pruned"]
    assert metrics["passed"]
    assert spec.lightened
    assert pruned["parameters"] < 0.75 * pruned["parameters_whole"]
    assert metrics["onnx_bytes"] <= pruned["bytes"] < 0.8 * pruned["bytes_whole"]
    assert pruned["loss"] <= 0.02
    assert "Pruned by 0.3:" in (workspace / "artifacts/export/export.md").read_text(encoding="utf-8")


def test_a_network_of_which_too_much_was_taken_is_refused(workspace):
    pytest.importorskip("torch_pruning")
    with pytest.raises(RefusedError, match=r"with export\.prune 0\.75 accuracy falls by .* more than"):
        STAGES["export"](params(prune=0.75, prune_epochs=1))
    assert told(workspace)["passed"] is False


def test_a_new_process_measures_what_lies_on_the_disk(exported, tmp_path):
    workspace = shutil.copytree(exported["fp32"], tmp_path / "copy")
    here = figures_elsewhere(job(workspace))
    assert here == figures_elsewhere(job(workspace).model_copy(update={"threads": 2}))
    path = workspace / "data/manifest.parquet"
    table = pq.read_table(path)
    changed = pc.if_else(pc.equal(table["label"], "3"), "8", table["label"]).cast(table["label"].type)
    pq.write_table(table.set_column(table.column_names.index("label"), "label", changed), path)
    elsewhere = figures_elsewhere(job(workspace))
    assert elsewhere.accuracy < here.accuracy
    with pytest.raises(RefusedError, match="in a new process the exported file measures"):
        refuse_unless_same(here, elsewhere, on_gpu=False)


def test_a_file_that_is_damaged_fails_in_the_new_process_with_its_reason(exported, tmp_path):
    workspace = shutil.copytree(exported["fp32"], tmp_path / "copy")
    file = workspace / "artifacts/export/model.onnx"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(ServiceError, match="changed or damaged"):
        figures_elsewhere(job(workspace))


@pytest.mark.parametrize("change", [{"accuracy": 0.91}, {"log_loss": 0.300002}, {"ece": 0.02001}, {"images": 99}])
def test_figures_that_differ_are_refused(change):
    figures = Figures(100, 0.9, 0.3, 0.02)
    refuse_unless_same(figures, replace(figures, log_loss=0.3 + 5e-7), on_gpu=False)
    with pytest.raises(RefusedError):
        refuse_unless_same(figures, replace(figures, **change), on_gpu=False)


def test_figures_far_from_the_trained_networks_are_refused():
    figures = Figures(1000, 0.9, 0.3, 0.02)
    refuse_unless_near(figures, replace(figures, accuracy=0.901, log_loss=0.3001), 1e-4)
    for change in ({"accuracy": 0.896}, {"log_loss": 0.301}):
        with pytest.raises(RefusedError, match="the trained network"):
            refuse_unless_near(figures, replace(figures, **change), 1e-4)
