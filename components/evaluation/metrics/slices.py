"""Accuracy by what images have in common beside their class: where they came from, how large and bright they are. Pure.

A model may be good on the whole and bad on what one camera takes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.evaluation.metrics.one_class import wilson

FEW_IMAGES = 100
MOST_SLICES = 40
UNKNOWN = "not known"


def slice_rows(right: NDArray[np.bool_], columns: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
    """Return the slices, worst first: {"by", "value", "images", "accuracy"}, with Wilson intervals; at most 40.

    right: (N,), which images are answered right. columns: for every property, its value (N,) of each image; a property
    that all images share is left out. The worst is the one whose accuracy is surely low: whose interval ends lowest, so
    that five unlucky images do not hide five hundred bad ones.
    """
    found = []
    for by, values in columns.items():
        names, inverse = np.unique(np.asarray(values, dtype=object).astype(str), return_inverse=True)
        if len(names) < 2:
            continue
        images, hits = np.bincount(inverse), np.bincount(inverse, right)
        for name, number, of_these in zip(names.tolist(), images.tolist(), hits.tolist(), strict=True):
            low, high = wilson(of_these, number)
            accuracy = {"value": round(of_these / number, 5), "low": round(low, 5), "high": round(high, 5)}
            found.append({"by": by, "value": name, "images": number, "accuracy": accuracy})
    found.sort(key=lambda row: (row["accuracy"]["high"], row["accuracy"]["value"], row["by"], row["value"]))
    return found[:MOST_SLICES]


def terciles(values: NDArray[np.floating], names: tuple[str, str, str], unit: str = "") -> list[str]:
    """Return for every value (N,) the name of its third, with its bounds; UNKNOWN for NaN.

    Where values repeat so often that thirds cannot be told apart, there are fewer names.
    """
    known = np.isfinite(values)
    if not known.any():
        return [UNKNOWN] * len(values)
    lower, upper = np.quantile(values[known], (1 / 3, 2 / 3))
    lowest, highest = values[known].min(), values[known].max()
    if lowest == highest:
        return [f"{lowest:.3g}{unit}" if k else UNKNOWN for k in known]
    spans = ((lowest, lower), (lower, upper), (upper, highest))
    told = [f"{name}, {low:.3g} to {high:.3g}{unit}" for name, (low, high) in zip(names, spans, strict=True)]
    place = (values > lower).astype(np.int64) + (values > upper)
    return [told[p] if k else UNKNOWN for p, k in zip(place, known, strict=True)]
