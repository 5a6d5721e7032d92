"""The export stage where images carry several labels: drawn shapes, each label a quarter of the image."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from spoilt_weights import blow_up_a_channel
from torch.nn import functional

from components.data.ingestion.ingest import ingest
from components.data.label_sets import encode
from components.data.png import encode_png
from components.data.sources.item import SourceItem
from components.errors import RefusedError
from components.evaluation.again import Figures, Job, figures_elsewhere, refuse_unless_same
from components.evaluation.metrics.set_answers import label_calibration_error
from components.labels.stale import find_stale, write_stale
from components.model.artifact import WEIGHTS_FILE, ModelSpec, write_spec
from components.model.calibration import sigmoid
from components.model.images.dataset import StoredImages
from components.model.images.inputs import Normalise
from components.model.images.preprocess import PreprocessSpec
from components.model.networks.backbones import build
from components.model.serving.predictor import Predictor, decisions
from components.params import Params, parse_strictly
from components.stages import STAGES

pytestmark = pytest.mark.xdist_group("stages_export_several")

NAMES, COMMON = ("bar", "cross", "dot", "ring"), (0.5, 0.4, 0.3, 0.06)
SPEC = ModelSpec(NAMES, PreprocessSpec(16, 1, "stretch", 1.0, "bilinear", (0.25,), (0.2,)), "small_cnn", several=True)


def params(**export) -> Params:
    rules = {"parity_images": 16, "calibration_images": 64, "latency_runs": 1} | export
    content = {
        "data": {"several": True, "near_distance": 0}, "preprocess": {"size": 16}, "export": rules,
        "evaluate": {"bootstrap": 100}, "train": {"batch_size": 32, "precision": "fp32", "augment": {"shift": 0.0}},
    }  # fmt: skip
    return parse_strictly(Params, content, "test")


def drawing(number: int) -> tuple[np.ndarray, list[str]]:
    rng = np.random.default_rng(number)
    there = [name for name, share in zip(NAMES, COMMON, strict=True) if rng.random() < share]
    pixels = rng.integers(0, 90, (16, 16))
    for name in there:
        top, left = divmod(NAMES.index(name), 2)
        pixels[8 * top + 2 : 8 * top + 6, 8 * left + 2 : 8 * left + 6] += rng.integers(5, 120)
    return pixels.astype(np.uint8), there


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with drawings and a network that has learnt most of them, evaluated."""
    root = tmp_path_factory.mktemp("workspace")
    drawn = (drawing(number) for number in range(1100))
    items = (SourceItem(f"{n}.png", encode_png(pixels), encode(said)) for n, (pixels, said) in enumerate(drawn))
    ingest(items, root=root, params=params(), source="shapes")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        stored = StoredImages.of(params())
        rows = stored.manifest.select("train")
        images, labels = stored.pixels(rows, SPEC.preprocess), torch.from_numpy(stored.labels(rows)).float()
        network = build("small_cnn", classes=4, channels=1, size=16, dropout=0.0, pretrained="none", seed=1).train()
        optimizer = torch.optim.AdamW(network.parameters(), lr=0.003)
        pixels, generator = Normalise(SPEC.preprocess)(torch.from_numpy(images)), torch.Generator().manual_seed(0)
        for _ in range(4):
            for chosen in torch.randperm(len(labels), generator=generator).split(32):
                optimizer.zero_grad()
                functional.binary_cross_entropy_with_logits(network(pixels[chosen]), labels[chosen]).backward()
                optimizer.step()
        folder = root / "artifacts/model"
        folder.mkdir(parents=True)
        torch.save(network.state_dict(), folder / WEIGHTS_FILE)
        write_spec(folder, SPEC)
        (root / "artifacts/audit").mkdir()
        write_stale(root / "artifacts/audit", find_stale(stored, SPEC.preprocess, params()))
        STAGES["evaluate"](params())
    return root


@pytest.fixture(scope="module")
def exported(made: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Copies of it, exported in fp32 as by default and in INT8."""
    roots = {}
    for name, rules in (("fp32", params()), ("int8", params(precision="int8"))):
        roots[name] = shutil.copytree(made, tmp_path_factory.mktemp("exported") / name)
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(roots[name])
            STAGES["export"](rules)
    return roots


@pytest.fixture
def workspace(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = shutil.copytree(made, tmp_path / "workspace")
    monkeypatch.chdir(root)
    return root


def told(root: Path) -> dict:
    return json.loads((root / "artifacts/export/metrics.json").read_text(encoding="utf-8"))


def predictor_of(root: Path) -> Predictor:
    return Predictor(root / "artifacts/export", threads=1)


def test_a_new_process_measures_the_fp32_file_and_what_lies_on_the_disk(
    exported: dict[str, Path], tmp_path: Path
) -> None:
    workspace = exported["fp32"]
    metrics = told(workspace)
    assert (metrics["passed"], metrics["precision"], metrics["several"]) == (True, "fp32", True)
    trained, here, elsewhere = (Figures(**metrics["figures"][name]) for name in ("trained", "here", "elsewhere"))
    assert here.images > 100
    assert 0.7 < here.accuracy < 1
    assert here.difference(elsewhere) <= 1e-6
    assert here.difference(trained) <= 1e-3
    table = (workspace / "artifacts/export/export.md").read_text(encoding="utf-8")
    assert "| on validation images | images | exact match |" in table
    changed = shutil.copytree(workspace, tmp_path / "copy")
    path = changed / "data/manifest.parquet"
    rows = pq.read_table(path)
    emptied = rows.set_column(rows.column_names.index("label"), rows.schema.field("label"), [["[]"] * len(rows)])
    pq.write_table(emptied.replace_schema_metadata(rows.schema.metadata), path)
    job = Job(
        export=str(changed / "artifacts/export"), shards=str(changed / "data/images"), manifest=str(path),
        images=here.images, max_bytes=10**6, max_pixels=10**6, min_side=4, threads=1, ece_bins=15,
    )  # fmt: skip
    with pytest.raises(RefusedError, match="in a new process the exported file measures"):
        refuse_unless_same(here, figures_elsewhere(job), on_gpu=False)


def test_int8_takes_the_place_of_fp32_with_a_calibration_of_its_own(exported: dict[str, Path]) -> None:
    metrics, light, full = told(exported["int8"]), predictor_of(exported["int8"]), predictor_of(exported["fp32"])
    assert (metrics["passed"], metrics["precision"], metrics["int8"]["used"]) == (True, "int8", True)
    assert metrics["onnx_bytes"] == metrics["int8"]["bytes"] < 0.4 * metrics["fp32_bytes"]
    assert light.spec.lightened and light.spec.several
    common, rare = slice(0, 3), 3  # fewer than ten validation images have the last
    assert all(a != b for a, b in zip(light.spec.scales[common], full.spec.scales[common], strict=True))
    assert light.spec.thresholds[common] != full.spec.thresholds[common]
    assert light.spec.scales[rare] == full.spec.scales[rare]
    figures = {name: Figures(**one) for name, one in metrics["figures"].items()}
    assert figures["here"].difference(figures["elsewhere"]) <= 1e-6
    assert figures["here"].accuracy >= figures["trained"].accuracy - 0.01
    assert 0 <= light.spec.review_below <= 1

    shown = [drawing(10_000 + number) for number in range(400)]
    pixels = np.stack([one for one, _ in shown])[..., None]
    truth = np.array([[name in said for name in NAMES] for _, said in shown])
    logits, probabilities = light.predict(pixels)
    wanted = sigmoid(logits * np.array(light.spec.scales) + np.array(light.spec.offsets))
    assert np.abs(probabilities - wanted).max() < 1e-5
    assert len(np.unique(probabilities[:, common])) > 900  # of 1,200, not in 256 steps
    assert label_calibration_error(truth, probabilities, 15) < 0.06
    right = [(decisions(one.predict(pixels)[1], one.spec)[0] == truth).mean() for one in (full, light)]
    assert right[1] > right[0] - 0.01
    assert "points of exact match lost in all" in (
        exported["int8"] / "artifacts/export/export.md"
    ).read_text(encoding="utf-8")  # fmt: skip


def test_int8_that_loses_too_much_is_refused_and_auto_keeps_fp32(workspace: Path) -> None:
    blow_up_a_channel(workspace / "artifacts/model" / WEIGHTS_FILE)
    with pytest.raises(RefusedError, match=r"it loses too much: the share of images with all labels right falls by"):
        STAGES["export"](params(precision="int8"))
    assert told(workspace)["passed"] is False
    STAGES["export"](params(precision="auto"))
    metrics = told(workspace)
    assert (metrics["passed"], metrics["precision"]) == (True, "fp32")
    assert metrics["int8"]["refused_for"] == "it loses too much"
    assert re.search("label 'bar' falls by", "; ".join(metrics["int8"]["reasons"]))


def test_a_pruned_network_learns_every_label_from_the_whole_one(workspace: Path) -> None:
    pytest.importorskip("torch_pruning")
    chosen = params(prune=0.3, prune_epochs=4, max_loss=0.04, max_class_loss=0.08)
    STAGES["export"](chosen.model_copy(update={"score": chosen.score.model_copy(update={"review_below": 0.9})}))
    metrics, predictor = told(workspace), predictor_of(workspace)
    assert metrics["passed"]
    assert metrics["pruned"]["parameters"] < 0.75 * metrics["pruned"]["parameters_whole"]
    assert predictor.spec.lightened
    assert predictor.spec.review_below == 0.9
    figures = metrics["figures"]
    assert figures["here"]["accuracy"] == pytest.approx(figures["trained"]["accuracy"], abs=0.01)
