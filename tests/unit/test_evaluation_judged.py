from pathlib import Path

import numpy as np
import pytest
from torch import nn

from components.data.ingestion.ingest import ingest
from components.data.png import encode_png
from components.data.sources.item import SourceItem
from components.evaluation.examination.judged import Judged, drawn
from components.evaluation.metrics.one_class import Answers
from components.evaluation.metrics.set_answers import SetAnswers
from components.evaluation.metrics.slices import slice_rows
from components.evaluation.page.pictures import confused_pairs, explained_errors
from components.evaluation.page.several_page import label_slips
from components.model.artifact import ModelSpec
from components.model.images.dataset import StoredImages
from components.model.images.preprocess import PreprocessSpec
from components.model.networks.backbones import build
from components.params import Params, parse_strictly

PARAMS = parse_strictly(Params, {"data": {"near_distance": 0}}, "test")
SPEC = ModelSpec(("cat", "dog"), PreprocessSpec(16, 1, "stretch", 1.0, "bilinear", (0.3,), (0.3,)), "small_cnn")


@pytest.fixture
def judged(tmp_path, monkeypatch) -> Judged:
    """Sixty images of three sizes from two sources; the answer is right but for the large ones, which are all cats."""
    generator = np.random.default_rng(0)
    for source in ("shop", "street"):
        items = []
        for number in range(30):
            side = (12, 20, 40)[number % 3]
            pixels = generator.integers(0, 256, (side, side), dtype=np.uint8)
            label = "dog" if number % 2 else "cat"
            items.append(SourceItem(f"{source}{number}.png", encode_png(pixels), label))
        ingest(items, root=tmp_path, params=PARAMS, source=source)
    monkeypatch.chdir(tmp_path)
    stored = StoredImages.of(PARAMS)
    rows = stored.manifest.select()
    labels = stored.labels(rows)
    sizes = np.array(
        [(12, 20, 40)[int("".join(filter(str.isdigit, Path(name).stem))) % 3] for name in rows["name"].to_pylist()]
    )
    said = np.where(sizes == 40, 0, labels)
    scores = np.eye(2)[said] * 0.8 + 0.1
    network: nn.Module = build("small_cnn", classes=2, channels=1, size=16, dropout=0.0, pretrained="none").eval()
    pixels = np.linspace(0, 1, len(labels))
    energy = np.zeros(len(labels), np.float32)
    return Judged(network, SPEC, stored, rows, pixels, Answers.of(scores, labels), energy, 1.0)


def test_images_are_sliced_by_where_they_come_from_their_size_and_their_light(judged):
    rows = slice_rows(judged.answers.right, judged.properties())
    assert {row["by"] for row in rows} == {"source", "size", "brightness"}
    assert rows[0]["by"] == "size"
    assert rows[0]["value"].startswith("large")
    assert {row["value"] for row in rows if row["by"] == "source"} == {"shop", "street"}


def test_confused_images_are_shown_with_one_that_is_right(judged):
    (pair,) = confused_pairs(judged)
    assert (pair.label, pair.predicted, pair.images, len(pair.shown)) == ("dog", "cat", 10, 6)
    assert pair.typical is not None
    assert all(shown.picture.startswith("data:image/png") for shown in (*pair.shown, pair.typical))
    assert pair.shown[0].words == "90 % sure"


def test_a_label_s_surest_errors_are_shown_missed_and_false(judged):
    cats = judged.labels == 0
    truth = np.column_stack([cats, np.zeros(60)]).astype(np.int64)
    likely = np.where(cats, 0.9, 0.1)
    missed, alarms = np.flatnonzero(cats)[:8], np.flatnonzero(~cats)[:2]
    likely[missed], likely[alarms] = np.linspace(0.4, 0.05, 8), (0.7, 0.95)
    answers = SetAnswers.of(np.column_stack([likely, np.full(60, 0.01)]), truth, np.array([0.5, 0.5]))
    (slips,) = label_slips(judged, answers, ("dog", "cat"))
    assert (slips.label, slips.missed, slips.alarms) == ("cat", 8, 2)
    assert [shown.words for shown in slips.alarms_shown] == ["95 % likely", "70 % likely"]
    assert len(slips.missed_shown) == 6
    assert slips.missed_shown[0].words == "5 % likely"
    assert slips.missed_shown[0].name == judged.rows["name"][int(missed[-1])].as_py()


def test_surest_errors_are_explained_and_no_more_than_asked(judged):
    faults = explained_errors(judged, 3)
    assert [(fault.label, fault.predicted) for fault in faults] == [("dog", "cat")] * 3
    assert len({fault.glowing for fault in faults}) == 3
    assert explained_errors(judged, 0) == []


def test_a_sample_is_the_same_for_the_same_seed_and_never_more_than_there_is():
    assert drawn(5, 9).tolist() == [0, 1, 2, 3, 4]
    sample = drawn(1000, 100)
    assert len(set(sample.tolist())) == 100
    assert (np.diff(sample) > 0).all()
    assert (drawn(1000, 100) == sample).all()
    assert (drawn(1000, 100, seed=1) != sample).any()
