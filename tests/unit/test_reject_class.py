"""A class of images that are none of the others: whatever its confidence, a person sees such an answer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from components.errors import ConfigurationError
from components.evaluation.measure import Part, measure
from components.evaluation.metrics.rejection import choose_threshold, offered
from components.evaluation.page.further_sections import answering
from components.model.artifact import SPEC_FILE, ModelSpec, read_spec, reject_index, write_spec
from components.model.calibration import softmax
from components.model.images.preprocess import PreprocessSpec
from components.params import Data, Evaluate, Params
from components.stages.exporting.refitted import refitted

NAMES = ("bag", "background", "coat")
SPEC = ModelSpec(NAMES, PreprocessSpec(8, 1, "stretch", 1.0, "bilinear", (0.5,), (0.5,)), "small_cnn")


def answered(rows: int, seed: int) -> Part:
    """Logits of calibrated answers; those of background are always sure and right, so any threshold looks good."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 2.5, (rows, 3))
    labels = (softmax(logits).cumsum(axis=1) > generator.random((rows, 1))).argmax(axis=1)
    taken = np.flatnonzero(logits.argmax(axis=1) == 1)
    logits[taken, 1] += 6
    labels[taken] = 1
    return Part(logits.astype(np.float32), labels.astype(np.int64))


def test_the_threshold_is_chosen_of_the_other_answers_alone() -> None:
    part = answered(6000, 1)
    probabilities = softmax(part.logits)
    sure, said, right = (
        probabilities.max(axis=1),
        probabilities.argmax(axis=1),
        probabilities.argmax(axis=1) == part.labels,
    )
    others = said != 1
    of_all = choose_threshold(offered(sure, said, 1), right, 0.9, label_noise=0.0, classes=3)
    of_others = choose_threshold(sure[others], right[others], 0.9, label_noise=0.0, classes=3)
    assert 0 < of_all.threshold < 1
    assert of_all.threshold == of_others.threshold
    assert of_all.coverage == pytest.approx(of_others.coverage * others.mean())
    assert choose_threshold(sure, right, 0.9, label_noise=0.0, classes=3).threshold < of_others.threshold


def test_where_every_other_answer_keeps_the_promise_all_of_them_are_accepted_and_no_more() -> None:
    sure, said = np.linspace(0.4, 0.9, 100), np.arange(100) % 2
    chosen = choose_threshold(offered(sure, said, 1), np.ones(100, bool), 0.9, label_noise=0.0, classes=3)
    assert (chosen.threshold, chosen.coverage) == (0.0, 0.5)
    assert chosen.report(offered(sure, said, 1), np.ones(100, bool))["accepted"] == 50
    none = choose_threshold(offered(sure, np.ones(100), 1), np.ones(100, bool), 0.9, label_noise=0.0, classes=3)
    assert not none.reached


def test_evaluation_and_a_lightened_file_keep_the_promise_without_its_answers() -> None:
    part = answered(6000, 2)
    rules = Evaluate(bootstrap=100, reject_class="background", accepted_accuracy=0.9)
    found = measure({"frozen_test": answered(6000, 3), "validation": part}, NAMES, rules)
    review = found["answering"]["review"]
    assert found["answering"]["reject_class"] == "background"
    assert review["accuracy"]["value"] == pytest.approx(0.9, abs=0.03)
    assert "taken for background" in " ".join(answering({**found, "backbone": "x"}).words)
    light = refitted(replace(SPEC, reject_class="background"), part.logits, part.labels, Params(evaluate=rules))
    assert light.review_below == pytest.approx(review["threshold"], abs=1e-6)
    assert refitted(SPEC, part.logits, part.labels, Params(evaluate=rules)).review_below < light.review_below


def test_it_is_kept_with_the_model_and_nothing_is_written_where_there_is_none(tmp_path: Path) -> None:
    spec = replace(SPEC, reject_class="background")
    write_spec(tmp_path, spec)
    assert read_spec(tmp_path) == spec
    write_spec(tmp_path, SPEC)
    assert "reject_class" not in (tmp_path / SPEC_FILE).read_text(encoding="utf-8")
    assert read_spec(tmp_path) == SPEC


def test_a_class_that_is_not_there_and_sets_of_labels_are_refused() -> None:
    part = answered(100, 4)
    with pytest.raises(ConfigurationError, match=r"'backgrund' is not among the 3 classes"):
        measure({"validation": part}, NAMES, Evaluate(bootstrap=100, reject_class="backgrund"))
    with pytest.raises(ConfigurationError, match="not among"):
        replace(SPEC, reject_class="backgrund")
    assert reject_index("", NAMES) is None
    with pytest.raises(ValidationError, match="for one class an image"):
        Params(data=Data(several=True), evaluate=Evaluate(reject_class="background"))
