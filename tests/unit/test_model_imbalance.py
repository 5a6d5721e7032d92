"""Remedies for classes with few images: what each makes a class count, held against PyTorch's own losses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from components.errors import ConfigurationError
from components.model.images.inputs import ImageSet
from components.model.training.batches import WholeBatches
from components.model.training.objectives.imbalance import Remedy, losses, remedy_for
from components.params import Imbalance, Train

CLASSES = ("cat", "dog", "bird")
LABELS = np.repeat([0, 1], [90, 10]).astype(np.int64)
ONES = np.ones(100, np.float32)


def remedy(kind: str = "class-weights", **rules: object) -> Remedy:
    found = remedy_for(LABELS, ONES, CLASSES, Imbalance(remedy=kind, **rules))  # type: ignore[arg-type]
    assert found is not None
    return found


def test_at_full_strength_every_class_counts_the_same_and_together_the_rows_as_much_as_before() -> None:
    of_rows = remedy().of_rows(LABELS)
    assert of_rows[LABELS == 0].sum() == pytest.approx(50, rel=1e-5)
    assert of_rows[LABELS == 1].sum() == pytest.approx(50, rel=1e-5)
    assert remedy().factors[2] == 1


def test_a_weaker_remedy_lies_between() -> None:
    ratios = [np.divide(*remedy(strength=strength).factors[[1, 0]]) for strength in (0.0, 0.5, 1.0)]
    np.testing.assert_allclose(ratios, [1, 3, 9], rtol=1e-5)


def test_weights_that_rows_have_already_are_counted() -> None:
    weights = np.where(LABELS == 1, 9.0, 1.0).astype(np.float32)
    found = remedy_for(LABELS, weights, CLASSES, Imbalance(remedy="class-weights"))
    assert found is not None
    np.testing.assert_allclose(found.factors, 1, rtol=1e-5)


def test_factors_that_are_given_take_the_place_of_counted_ones() -> None:
    factors = remedy(strength=0.0, factors={"dog": 5.0}).factors
    assert factors[1] / factors[0] == pytest.approx(5)
    with pytest.raises(ConfigurationError, match="fish"):
        remedy(factors={"fish": 2.0})


def test_no_remedy_is_none_and_two_are_refused() -> None:
    assert remedy_for(LABELS, ONES, CLASSES, Imbalance()) is None
    with pytest.raises(ValueError, match="choose one"):
        Train(class_mix="production", imbalance=Imbalance(remedy="focal"))


@given(st.integers(0, 2**32 - 1), st.floats(0, 0.5), st.booleans())
def test_a_focal_loss_without_focus_is_the_cross_entropy(seed: int, smoothing: float, soft: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(8, 3, generator=generator)
    targets = torch.randint(0, 3, (8,), generator=generator)
    plain = Remedy("focal", np.ones(3, np.float32), gamma=0.0)
    given = functional.one_hot(targets, 3).float() if soft else targets
    found = losses(logits, given, smoothing=smoothing, remedy=plain)
    expected = functional.cross_entropy(logits, targets, label_smoothing=smoothing, reduction="none")
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_the_focal_loss_is_that_of_the_paper() -> None:
    logits, targets = torch.tensor([[3.0, 0.0, 0.0], [0.0, 1.0, 0.0]]), torch.tensor([0, 0])
    alpha = np.array([0.5, 2.0, 1.0], np.float32)
    found = losses(logits, targets, smoothing=0.0, remedy=Remedy("focal", alpha, gamma=2.0))
    likely = torch.softmax(logits, dim=1)[:, 0]
    torch.testing.assert_close(found, -0.5 * (1 - likely) ** 2 * likely.log())
    assert found[0] < 0.01 * found[1]  # what is answered right already counts next to nothing


def test_sampling_draws_every_class_as_often() -> None:
    labels = np.repeat([0, 1], [900, 100]).astype(np.int64)
    data = ImageSet(np.zeros((1000, 4, 4, 1), np.uint8), labels, np.ones(1000, np.float32))
    found = remedy_for(labels, data.weights, ("cat", "dog"), Imbalance(remedy="sampling"))
    assert found is not None
    batches = WholeBatches(data, 100, 7, found.of_rows(labels))
    drawn = torch.cat([targets for _, targets, _ in batches])
    assert len(drawn) == 1000
    assert float(drawn.float().mean()) == pytest.approx(0.5, abs=0.05)
    again = torch.cat([targets for _, targets, _ in WholeBatches(data, 100, 7, found.of_rows(labels))])
    assert torch.equal(drawn, again)
    assert not torch.equal(drawn, torch.cat([targets for _, targets, _ in batches]))  # the next pass is another
