from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import nn

from components.errors import ConfigurationError
from components.evaluation.examination.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from components.evaluation.examination.robustness import (
    attacked_accuracy,
    class_scores,
    corrupted_accuracy,
    further_views,
    looked_at_five_times,
)
from components.model.answering import predict_logits
from components.model.calibration import softmax
from components.model.images.preprocess import PreprocessSpec
from components.model.networks.backbones import build

DIGITS = load_digits()
SMALL = (DIGITS.images[:120] * 15.9).astype(np.uint8)
GREY = np.stack([np.asarray(Image.fromarray(image).resize((32, 32), Image.Resampling.BICUBIC)) for image in SMALL])[
    ..., None
]
LABELS = DIGITS.target[:120].astype(np.int64)
COLOUR = np.concatenate([GREY, 255 - GREY, GREY // 2], axis=3)


def nearest(images: np.ndarray) -> np.ndarray:
    """Logits by distance to the clean images: right on each of them."""
    flat, known = (x.reshape(len(x), -1).astype(np.float64) for x in (images, GREY))
    distance = (flat**2).sum(1)[:, None] - 2 * flat @ known.T + (known**2).sum(1)
    return -np.stack([distance[:, k == LABELS].min(axis=1) for k in range(10)], axis=1) / 1e5


@pytest.mark.parametrize("kind", CORRUPTIONS)
@pytest.mark.parametrize("images", [GREY, COLOUR], ids=["grey", "colour"])
def test_every_severity_is_further_from_the_image_than_the_one_before(kind, images):
    changed = [corrupt(kind, images, severity) for severity in SEVERITIES]
    far = [float(np.abs(one.astype(int) - images).mean()) for one in changed]
    assert all(one.shape == images.shape and one.dtype == np.uint8 for one in changed)
    assert far[0] > 0
    assert all(before < after for before, after in pairwise(far))
    assert (corrupt(kind, images, 3) == changed[2]).all()


def test_unknown_corruption_is_refused():
    with pytest.raises(ConfigurationError, match="pixelate"):
        corrupt("snow", GREY, 1)
    with pytest.raises(ConfigurationError, match="1 to 5"):
        corrupt("JPEG", GREY, 6)


def test_accuracy_falls_with_severity_and_is_whole_on_clean_images():
    found = corrupted_accuracy(lambda images: nearest(images).argmax(axis=1) == LABELS, GREY)
    assert found["clean"]["value"] == 1.0
    assert set(found["corruptions"]) == set(CORRUPTIONS)
    by_severity = np.array(list(found["corruptions"].values())).mean(axis=0)
    assert by_severity[0] > 0.97 > by_severity[4] + 0.1
    assert found["mean"] == pytest.approx(by_severity.mean(), abs=1e-4)


def linear(pull: float = 8.0) -> tuple[nn.Module, PreprocessSpec]:
    """A network of two classes that tells dark images from bright ones."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    with torch.no_grad():
        network[1].weight.copy_(torch.stack([-torch.ones(16), torch.ones(16)]) * pull / 16)
        network[1].bias.copy_(torch.tensor([pull / 2, -pull / 2]))
    return network.eval(), PreprocessSpec(4, 1, "stretch", 1.0, "bilinear", (0.0,), (1.0,))


def test_attack_changes_answers_only_where_the_margin_is_below_epsilon():
    network, spec = linear()
    levels = np.array([100, 110, 126, 129, 145, 155], np.uint8)  # 110 and 145: PGD's steps, added up, would reach them
    images = np.broadcast_to(levels[:, None, None, None], (6, 4, 4, 1)).copy()
    labels = (levels > 127).astype(np.int64)
    found = attacked_accuracy(network, spec, images, labels, epsilon=10 / 255, steps=5)
    assert found["clean"] == 1.0
    assert [found["fgsm"], found["pgd"]] == pytest.approx([4 / 6, 4 / 6], abs=1e-5)
    assert attacked_accuracy(network, spec, images, labels, epsilon=0.0, steps=2)["pgd"] == 1.0


def test_attack_leaves_the_network_and_its_gradients_alone():
    spec = PreprocessSpec(32, 1, "stretch", 1.0, "bilinear", (0.3,), (0.3,))
    network = build("small_cnn", classes=10, channels=1, size=32, dropout=0.3, pretrained="none")
    before = predict_logits(network, GREY[:8], spec)
    found = attacked_accuracy(network, spec, GREY[:8], LABELS[:8], epsilon=0.02, steps=2)
    assert found["pgd"] <= found["fgsm"] <= found["clean"]
    assert (predict_logits(network, GREY[:8], spec) == before).all()
    assert all(p.grad is None for p in network.parameters())


def test_five_looks_mirror_only_where_training_did():
    plain, mirrored = further_views(COLOUR, flip=False), further_views(COLOUR, flip=True)
    assert (plain[0][:, :, 1:] == COLOUR[:, :, :-1]).all()
    assert (plain[3][:, :-1] == COLOUR[:, 1:]).all()
    assert [(a == b).all() for a, b in zip(plain, mirrored, strict=True)] == [True, False, True, False]
    assert (mirrored[1] == plain[1][:, :, ::-1]).all()


def test_five_looks_are_averaged_beside_one():
    found = looked_at_five_times(
        lambda images: softmax(nearest(images), 50.0), GREY, partial(class_scores, LABELS), flip=False
    )
    assert (found["once"]["accuracy"]["value"], found["once"]["macro_f1"]) == (1.0, 1.0)
    assert 0.9 < found["averaged"]["accuracy"]["value"] <= 1.0
    assert found["averaged"]["brier"] > found["once"]["brier"]
