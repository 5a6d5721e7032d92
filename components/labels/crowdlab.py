"""Consensus and annotator quality from opinions and a model's answers: CROWDLAB (Goh et al. 2022), over opinions alone.

The figures are those of cleanlab.multiannotator, with which they are tested. That one works on tables of images times
annotators and of images times classes, and on loops over both; this one on as many numbers as there are opinions. And
where opinions, model and frequencies leave a tie, it takes the first class instead of one by chance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.errors import DataError
from components.model.calibration import rows_at_once

LEAST_WEIGHT = 1e-6

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
Probabilities = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True, eq=False)
class Opinions:
    """O opinions about N images by M annotators, at most one by one annotator about one image; every image has one.

    image: (O,) in 0..N-1. annotator: (O,) in 0..M-1, each of them there. label: (O,) class indices.
    """

    image: IntArray
    annotator: IntArray
    label: IntArray


@dataclass(frozen=True, slots=True, eq=False)
class Consensus:
    """What N images show and how well M annotators know it.

    label: (N,) the consensus, which may be a class that only the model names. quality: (N,) 0..1, how far it is to be
    believed. given: (N,) how far the label is that was stored. opinions: (N,) how many there are. agreement: (N,) share
    of them that name the consensus. annotator_quality: (M,) 0..1, NaN for one whose images nobody else looked at.
    annotator_agreement: (M,) share of an annotator's opinions that name the consensus. shared: (M,) how many of them
    are about images with another opinion.
    """

    label: IntArray
    quality: FloatArray
    given: FloatArray
    opinions: IntArray
    agreement: FloatArray
    annotator_quality: FloatArray
    annotator_agreement: FloatArray
    shared: IntArray


@dataclass(frozen=True, slots=True, eq=False)
class _Named:
    """The U pairs of an image and a class that somebody names for it, by image. of: (O,) the pair of each opinion.

    start: (N,) each image's first pair. times: (U,) opinions. belief: (U,) the model's.
    """

    image: IntArray
    label: IntArray
    of: IntArray
    start: IntArray
    times: IntArray
    belief: FloatArray

    @classmethod
    def by(cls, opinions: Opinions, probabilities: Probabilities) -> _Named:
        classes = probabilities.shape[1]
        pairs, of, times = np.unique(opinions.image * classes + opinions.label, return_inverse=True, return_counts=True)
        image, label = np.divmod(pairs, classes)
        start = np.flatnonzero(np.diff(image, prepend=-1))
        return cls(image, label, of, start, times, probabilities[image, label].astype(np.float64))

    def first(self, *keys: NDArray[Any]) -> IntArray:
        """Return each image's pair (N,) that comes first by `keys`, the most important one last; then by class."""
        order = np.lexsort((self.label, *keys, self.image))
        return np.asarray(order[self.start], np.int64)

    def times_of(self, label: IntArray) -> IntArray:
        """Return how many opinions (N,) name the class `label` (N,) of their image."""
        return np.bincount(self.image, self.times * (label[self.image] == self.label), len(label)).astype(np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class _Weights:
    """What an opinion that names a class, or another one, says for it; and what model and annotators (M,) weigh."""

    naming: float
    other: float
    model: float
    annotator: FloatArray


def find_consensus(opinions: Opinions, probabilities: Probabilities, given: IntArray) -> Consensus:
    """Return the consensus of several annotators and a model that did not see the images, by CROWDLAB.

    probabilities: (N, K), out of fold, rows sum to 1. given: (N,) the labels that are stored. Raises DataError for
    fewer than two classes, and where no image has two opinions: then nothing tells who is right.
    """
    images, classes = probabilities.shape
    count = np.bincount(opinions.image, minlength=images)
    if classes < 2 or not (count > 1).any():
        raise DataError(f"{images} images of {classes} classes, {int((count > 1).sum())} of them with two opinions; "
                        "a consensus needs two classes and two opinions")  # fmt: skip
    if not np.isfinite(probabilities).all():
        raise DataError("the model's probabilities are not all finite; its training diverged")
    named = _Named.by(opinions, probabilities)
    likeliest = probabilities.argmax(axis=1)
    how_often = np.bincount(opinions.label, minlength=classes)
    majority = named.label[named.first(how_often[named.label], -named.belief, -named.times)]
    weights = _weigh(opinions, named, count, majority, likeliest, classes)
    label = _best(opinions, named, probabilities, weights, majority)
    weights = _weigh(opinions, named, count, label, likeliest, classes)
    named_support = _named_support(opinions, named, weights)
    agrees = opinions.label == label[opinions.image]
    shared = count[opinions.image] > 1
    return Consensus(
        label=label,
        quality=_support(opinions, named, probabilities, weights, label),
        given=_support(opinions, named, probabilities, weights, given),
        opinions=count,
        agreement=named.times_of(label) / count,
        annotator_quality=_quality(opinions, weights, named_support[named.of], agrees, shared, float(count.mean())),
        annotator_agreement=_mean_by(opinions.annotator, agrees, len(weights.annotator)),
        shared=np.bincount(opinions.annotator[shared], minlength=len(weights.annotator)),
    )


def _weigh(
    opinions: Opinions, named: _Named, count: IntArray, label: IntArray, likeliest: IntArray, classes: int
) -> _Weights:
    """Return the weights where `label` (N,) is taken for right."""
    several = count > 1
    naming = float((named.times_of(label) / count)[several].mean())
    usual = np.bincount(label[several], minlength=classes).argmax()
    # How often one is wrong who always gives the commonest class: what annotators and model are measured against.
    chance = max(float((label[several] != usual).mean()), LEAST_WEIGHT)
    people = int(opinions.annotator.max()) + 1
    others = (count - 1)[opinions.image]
    met = np.bincount(opinions.annotator, others, people)
    agreed = np.bincount(opinions.annotator, named.times[named.of] - 1, people)
    alone = met == 0
    agreement = agreed / np.where(alone, 1, met)
    agreement[alone] = agreement[~alone].mean()
    error = float((likeliest[several] != label[several]).mean())
    return _Weights(
        naming=naming,
        other=(1 - naming) / (classes - 1),
        model=max(1 - error / chance, LEAST_WEIGHT) * float(np.sqrt(count.mean())),
        annotator=np.maximum(1 - (1 - agreement) / chance, LEAST_WEIGHT),
    )


def _total(opinions: Opinions, weights: _Weights, images: int) -> FloatArray:
    return np.bincount(opinions.image, weights.annotator[opinions.annotator], images).astype(np.float64)


def _named_support(opinions: Opinions, named: _Named, weights: _Weights) -> FloatArray:
    """Return how far each named class (U,) of an image is to be believed: the weighted mean of model and annotators."""
    total = _total(opinions, weights, len(named.start))[named.image]
    says = np.bincount(named.of, weights.annotator[opinions.annotator], len(named.label))
    said = says * weights.naming + (total - says) * weights.other
    return np.asarray((named.belief * weights.model + said) / (total + weights.model))


def _support(
    opinions: Opinions, named: _Named, probabilities: Probabilities, weights: _Weights, label: IntArray
) -> FloatArray:
    """Return how far the classes `label` (N,) are to be believed."""
    total = _total(opinions, weights, len(label))
    belief = probabilities[np.arange(len(label)), label].astype(np.float64)
    found = (belief * weights.model + total * weights.other) / (total + weights.model)
    hit = np.flatnonzero(label[named.image] == named.label)
    found[named.image[hit]] = _named_support(opinions, named, weights)[hit]
    return found


def _best(
    opinions: Opinions, named: _Named, probabilities: Probabilities, weights: _Weights, majority: IntArray
) -> IntArray:
    """Return the class (N,) with the most support of all; where two have as much, the majority's."""
    support = _named_support(opinions, named, weights)
    best = named.first(-support)
    ties = np.add.reduceat((support == support[best][named.image]).astype(np.int64), named.start)
    unnamed, unnamed_ties = _likeliest_unnamed(named, probabilities)
    there = unnamed >= 0
    label = named.label[best].copy()
    label[ties > 1] = majority[ties > 1]
    without = np.full(len(label), -np.inf)
    without[there] = _support(opinions, named, probabilities, weights, np.maximum(unnamed, 0))[there]
    wins = without > support[best]
    label[wins] = np.where(unnamed_ties, majority, unnamed)[wins]
    equal = without == support[best]
    label[equal] = majority[equal]
    return label


def _likeliest_unnamed(named: _Named, probabilities: Probabilities) -> tuple[IntArray, NDArray[np.bool_]]:
    """Return the model's likeliest class (N,) that nobody names, -1 where there is none, and whether it has equals."""
    found = np.empty(len(probabilities), np.int64)
    ties = np.zeros(len(probabilities), bool)
    for some in rows_at_once(probabilities):
        begin, end, _ = some.indices(len(probabilities))
        rest = np.array(probabilities[some], np.float64)
        first, last = np.searchsorted(named.image, (begin, end))
        rest[named.image[first:last] - begin, named.label[first:last]] = -1
        best = rest.argmax(axis=1)
        highest = rest[np.arange(len(rest)), best]
        found[some] = np.where(highest < 0, -1, best)
        ties[some] = (rest == highest[:, None]).sum(axis=1) > 1
    return found, ties


def _quality(
    opinions: Opinions, weights: _Weights, support: FloatArray, agrees: NDArray[np.bool_], shared: NDArray[np.bool_],
    opinions_an_image: float,
) -> FloatArray:  # fmt: skip
    """Return each annotator's quality (M,): what the consensus believes of their opinions, and how often they agree."""
    people = len(weights.annotator)
    believed = _mean_by(opinions.annotator, support, people)
    agreement = _mean_by(opinions.annotator[shared], agrees[shared], people)
    model = weights.model / (weights.model + weights.annotator.mean() * opinions_an_image)
    return np.asarray(model * believed + (1 - model) * agreement)


def _mean_by(group: IntArray, values: NDArray[Any], groups: int) -> FloatArray:
    """Return the mean of `values` in every group, NaN in an empty one."""
    number = np.bincount(group, minlength=groups)
    sums = np.bincount(group, values, groups)
    return np.asarray(np.divide(sums, number, out=np.full(groups, np.nan), where=number > 0))
