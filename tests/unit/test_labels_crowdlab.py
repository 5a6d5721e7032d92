"""CROWDLAB over opinions: the figures of cleanlab, better labels than the majority's, annotators ranked by their skill.

The annotators are simulated: each is right with a probability of their own, else names another class by chance.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cleanlab.multiannotator import get_label_quality_multiannotator
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from components.errors import DataError
from components.labels.crowdlab import Opinions, find_consensus


def world(
    images: int, skill: Any, classes: int = 4, each: int = 3, model: float = 2.0, seed: int = 0, alone: float = 0.0
) -> tuple[np.ndarray, np.ndarray, Opinions]:
    """Truth, a model's probabilities, and opinions of annotators who are right with the probabilities `skill`."""
    rng = np.random.default_rng(seed)
    skill = np.asarray(skill)
    truth = rng.integers(0, classes, images)
    scores = rng.normal(size=(images, classes))
    scores[np.arange(images), truth] += model
    probabilities = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    asked = rng.random((images, len(skill))).argsort(axis=1)[:, : min(each, len(skill))]
    asked = np.where((rng.random(images) < alone)[:, None] & (np.arange(asked.shape[1]) > 0), -1, asked)
    image, place = np.nonzero(asked >= 0)
    annotator = asked[image, place]
    right = rng.random(len(image)) < skill[annotator]
    wrong = (truth[image] + rng.integers(1, classes, len(image))) % classes
    _, annotator = np.unique(annotator, return_inverse=True)
    return truth, probabilities, Opinions(image, annotator, np.where(right, truth[image], wrong))


def cleanlab_says(opinions: Opinions, probabilities: np.ndarray) -> dict[str, Any]:
    table = np.full((len(probabilities), opinions.annotator.max() + 1), np.nan)
    table[opinions.image, opinions.annotator] = opinions.label
    return get_label_quality_multiannotator(table, probabilities, verbose=False)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10_000), st.integers(5, 60), st.integers(2, 8), st.integers(2, 6), st.integers(2, 5),
    st.sampled_from([0.0, 0.3, 0.9]), st.floats(0, 4),
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:Annotators do not agree", "ignore:Mean of empty slice")
def test_the_figures_are_those_of_cleanlab(
    seed: int, images: int, people: int, classes: int, each: int, alone: float, model: float
) -> None:
    skill = np.random.default_rng(seed).uniform(0, 1, people)
    truth, probabilities, opinions = world(images, skill, classes, each, model, seed, alone)
    if not (np.bincount(opinions.image) > 1).any():
        with pytest.raises(DataError, match="two opinions"):
            find_consensus(opinions, probabilities, truth)
        return
    found = find_consensus(opinions, probabilities, truth)
    expected = cleanlab_says(opinions, probabilities)
    of_images, of_people = expected["label_quality"], expected["annotator_stats"].sort_index()

    assert found.label.tolist() == of_images["consensus_label"].tolist()
    np.testing.assert_allclose(found.quality, of_images["consensus_quality_score"], rtol=1e-9)
    np.testing.assert_allclose(found.agreement, of_images["annotator_agreement"], rtol=1e-9)
    assert found.opinions.tolist() == of_images["num_annotations"].tolist()
    np.testing.assert_allclose(found.annotator_quality, of_people["annotator_quality"], rtol=1e-9)
    np.testing.assert_allclose(found.annotator_agreement, of_people["agreement_with_consensus"], rtol=1e-9)
    assert np.bincount(opinions.annotator).tolist() == of_people["num_examples_labeled"].tolist()


SKILL = (0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5, 0.4)


@pytest.mark.parametrize("seed", range(3))
def test_simulated_annotators_are_ranked_by_skill_and_outweigh_the_majority(seed: int) -> None:
    truth, probabilities, opinions = world(3000, SKILL, classes=5, seed=seed)
    found = find_consensus(opinions, probabilities, truth)
    votes = np.zeros((3000, 5))
    np.add.at(votes, (opinions.image, opinions.label), 1)
    by_votes = (votes + np.random.default_rng(seed).random(votes.shape) * 1e-3).argmax(axis=1)  # ties by chance
    by_model = probabilities.argmax(axis=1)
    right = {name: float((one == truth).mean()) for name, one in
             (("consensus", found.label), ("votes", by_votes), ("model", by_model))}  # fmt: skip

    assert right["consensus"] > right["votes"] + 0.04
    assert right["consensus"] > right["model"] + 0.04
    assert spearmanr(found.annotator_quality, SKILL).statistic > 0.97
    wrong = found.label != truth
    assert found.quality[wrong].mean() < found.quality[~wrong].mean() - 0.1
    assert found.given == pytest.approx(np.where(wrong, found.given, found.quality))


def test_ties_are_broken_alike_every_time_and_the_model_may_name_what_nobody_did() -> None:
    always_apart = Opinions(np.repeat(np.arange(4), 2), np.tile([0, 1], 4), np.tile([1, 0], 4))
    flat = find_consensus(
        always_apart, np.full((4, 3), 1 / 3), np.zeros(4, np.int64)
    )  # cleanlab raises ValueError here

    assert flat.label.tolist() == [0, 0, 0, 0]
    truth, probabilities, opinions = world(300, (0.9, 0.9, 0.9), each=2)
    probabilities[7] = (0.001, 0.001, 0.001, 0.997)
    here = opinions.image == 7
    opinions.label[here] = (0, 1)
    assert find_consensus(opinions, probabilities, truth).label[7] == 3


def test_what_cannot_be_compared_is_refused() -> None:
    truth, probabilities, opinions = world(20, (0.9, 0.8))
    broken = probabilities.copy()
    broken[3, 1] = np.nan
    with pytest.raises(DataError, match="finite"):
        find_consensus(opinions, broken, truth)
    with pytest.raises(DataError, match="1 classes"):
        find_consensus(opinions, np.ones((20, 1)), truth)
