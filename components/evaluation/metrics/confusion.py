"""Labels against predictions, counted: only the pairs that occur, since 10,000 classes squared are 800 MB."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from components.errors import DataError

IntArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Confusion:
    """Counts of K `classes`. rows, columns, counts: (C,) label, prediction and images of each pair that occurs, sorted.

    C is at most the number of images.
    """

    classes: int
    rows: IntArray
    columns: IntArray
    counts: IntArray

    @classmethod
    def of(cls, labels: NDArray[np.integer], predicted: NDArray[np.integer], classes: int) -> Confusion:
        """Return the counts of (N,) class indices. Raises DataError for an index outside 0..K-1."""
        if labels.shape != predicted.shape:
            raise DataError(f"{len(labels)} labels and {len(predicted)} predictions do not match")
        for name, values in (("label", labels), ("prediction", predicted)):
            if len(values) and not (values.min() >= 0 and values.max() < classes):
                raise DataError(
                    f"a {name} lies outside the class list: {values.min()}..{values.max()}, not 0..{classes - 1}"
                )
        cells, counts = np.unique(labels.astype(np.int64) * classes + predicted, return_counts=True)
        return cls(classes, cells // classes, cells % classes, counts.astype(np.int64))

    @classmethod
    def of_table(cls, table: NDArray[np.integer]) -> Confusion:
        """Return the counts of a table (K, K), row the label, column the prediction."""
        rows, columns = np.nonzero(table)
        return cls(len(table), rows, columns, table[rows, columns].astype(np.int64))

    @property
    def total(self) -> int:
        """Return how many images there are."""
        return int(self.counts.sum())

    @property
    def hits(self) -> IntArray:
        """Return how many images (K,) of every class are predicted as it."""
        right = self.rows == self.columns
        return self._summed(self.rows[right], self.counts[right])

    @property
    def present(self) -> IntArray:
        """Return how many images (K,) are of every class."""
        return self._summed(self.rows, self.counts)

    @property
    def predicted(self) -> IntArray:
        """Return how many images (K,) are predicted as every class."""
        return self._summed(self.columns, self.counts)

    def table(self, shown: Sequence[int] | IntArray | None = None) -> IntArray:
        """Return the counts (S, S) among the classes `shown`, in their order; of all classes by default."""
        chosen = np.arange(self.classes) if shown is None else np.asarray(shown, np.int64)
        place = np.full(self.classes, -1, np.int64)
        place[chosen] = np.arange(len(chosen))
        kept = (place[self.rows] >= 0) & (place[self.columns] >= 0)
        found = np.zeros((len(chosen), len(chosen)), np.int64)
        found[place[self.rows[kept]], place[self.columns[kept]]] = self.counts[kept]
        return found

    def worst(self, most: int) -> list[tuple[int, int, int]]:
        """Return the commonest errors: label, prediction, images; the commonest first."""
        wrong = np.flatnonzero(self.rows != self.columns)
        order = wrong[np.argsort(-self.counts[wrong], kind="stable")[:most]]
        return [(int(self.rows[n]), int(self.columns[n]), int(self.counts[n])) for n in order]

    def _summed(self, keys: IntArray, counts: IntArray) -> IntArray:
        return np.bincount(keys, counts, self.classes).astype(np.int64)
