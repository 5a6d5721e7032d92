"""What training makes of the labels that the audit doubts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from components.errors import DataError
from components.labels.suspects import (
    read_doubted_labels,
    read_out_of_fold,
    soft_targets,
    training_weights,
    unconfirmed_suspects,
    write_out_of_fold,
    write_suspects,
)
from components.params import AuditPolicy

SUSPECT = np.array([True, True, False, False])
GIVEN = np.array([True, False, True, False])
PRODUCTION = np.array([False, True, False, True])


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("keep", [1, 3, 1, 3]),
        ("drop", [0, 3, 1, 3]),
        ("down-weight", [0.1, 3, 1, 3]),
        ("soft-targets", [1, 3, 1, 3]),
    ],
)
def test_a_policy_touches_only_doubted_labels_that_nobody_confirmed(policy: AuditPolicy, expected: list[float]) -> None:
    weights = training_weights(SUSPECT, GIVEN, PRODUCTION, policy=policy, suspect_weight=0.1, production_weight=3.0)
    np.testing.assert_allclose(weights, expected)


def test_of_several_labels_only_the_doubted_ones_count_less(tmp_path: Path) -> None:
    given, likely = ['["cat"]', '["cat","dog"]', "[]", '["dog"]'], ['["dog"]', '["cat"]', "[]", "[]"]
    write_suspects(tmp_path, list("abcd"), given, likely, np.zeros(4), np.array([True, True, False, True]))
    doubted = read_doubted_labels(tmp_path, list("abcd"), ("cat", "dog"))
    assert doubted.tolist() == [[True, True], [False, True], [False, False], [False, True]]
    people = np.array([True, True, True, False])  # the last was settled by people
    rules = {"suspect_weight": 0.1, "production_weight": 3.0}
    lighter = training_weights(doubted, people, PRODUCTION, policy="down-weight", **rules)
    np.testing.assert_allclose(lighter, [[0.1, 0.1], [3, 0.3], [1, 1], [3, 3]], rtol=1e-6)
    left_out = training_weights(doubted, people, PRODUCTION, policy="drop", **rules)
    np.testing.assert_allclose(left_out, [[0, 0], [3, 0], [1, 1], [3, 3]])


def test_soft_targets_are_what_models_hold_likely_of_doubted_rows_and_the_label_of_others() -> None:
    probabilities = np.array([[0.1, 0.9], [0.7, 0.3]], np.float32)
    targets = soft_targets(np.array([0, 1]), probabilities, np.array([True, False]))
    np.testing.assert_allclose(targets, [[0.1, 0.9], [0, 1]])


def test_what_the_audits_models_said_is_read_as_it_was_written_and_only_for_the_same_images(tmp_path: Path) -> None:
    probabilities = np.random.default_rng(0).dirichlet(np.ones(3), 4).astype(np.float32)
    write_out_of_fold(tmp_path, ["a", "b", "c", "d"], probabilities, np.array([0, 1, 0, 1]))
    np.testing.assert_array_equal(read_out_of_fold(tmp_path, ["a", "b", "c", "d"]), probabilities)
    with pytest.raises(DataError, match="another dataset version"):
        read_out_of_fold(tmp_path, ["a", "b", "c", "e"])


def test_training_learns_the_targets_in_place_of_the_labels() -> None:
    from components.model.answering import predict_logits
    from components.model.images.inputs import ImageSet
    from components.model.images.preprocess import PreprocessSpec
    from components.model.networks.backbones import build
    from components.model.training.fit import fit
    from components.params import Preprocess, Train

    bright = np.arange(128) % 2
    images = np.broadcast_to((60 + 120 * bright).astype(np.uint8)[:, None, None, None], (128, 8, 8, 1)).copy()
    targets = np.eye(2, dtype=np.float32)[bright] * 0.8 + 0.1
    data = ImageSet(images, np.zeros(128, np.int64), np.ones(128, np.float32), targets)
    spec = PreprocessSpec.of(Preprocess(size=8), (0.5,), (0.25,))
    network = build("small_cnn", classes=2, channels=1, size=8, dropout=0.0, pretrained="none")
    params = Train(batch_size=32, precision="fp32", augment={"shift": 0.0})
    fitted = fit(network, data.take(np.arange(128)), None, spec=spec, params=params, epochs=8)
    assert (predict_logits(fitted.network, images, spec).argmax(axis=1) == bright).all()
    with pytest.raises(DataError, match="do not match"):
        ImageSet(images, np.zeros(128, np.int64), np.ones(128, np.float32), targets[:-1])


def suspects_of(folder: Path, given: list[int], suspect: list[bool], score: list[float]) -> None:
    said, likely = ([("cat", "dog")[k] for k in column] for column in (given, [(k + 1) % 2 for k in given]))
    ids = [f"i{n}" for n in range(len(given))]
    write_suspects(folder, ids, said, likely, np.array(score), np.array(suspect))


def test_people_are_asked_about_suspects_that_nobody_has_confirmed_and_that_are_still_labelled_so(
    tmp_path: Path,
) -> None:
    suspects_of(tmp_path, [0, 0, 1, 1, 0, 1], [True, False, True, True, True, True], [0.3, 0.1, 0.2, 0.1, 0.05, 0.4])
    rows = pa.table({
        "image_id": ["i5", "i4", "i3", "i2", "i1", "i0"],
        "label": ["dog", "cat", "cat", "dog", "cat", "cat"],  # i3 was corrected since
        "label_origin": ["opinions", "consensus", "given", "given", "given", "given"],
    })  # fmt: skip
    assert unconfirmed_suspects(tmp_path, rows) == [
        {"image_id": "i2", "given": "dog", "likely": "cat", "belief": 0.2},
        {"image_id": "i0", "given": "cat", "likely": "dog", "belief": 0.3},
        {"image_id": "i5", "given": "dog", "likely": "cat", "belief": 0.4},
    ]
    with pytest.raises(DataError, match="audit stage"):
        unconfirmed_suspects(tmp_path / "none", rows)
