"""What a judgement needs of estimates and of the level they are held to, whether of classes or of labels."""

from __future__ import annotations

from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from components.monitoring.estimation.rates import Rates
from components.monitoring.judgement.reference import Level

FloatArray = NDArray[np.float64]


class Named(Protocol):
    """K classes, or K labels, and how precise and complete the predictions of them are or were."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Return their names."""


class Measured(Named, Protocol):
    """Estimates of K classes, as of `accuracy.Estimates`, or of K labels, as of `several_labels.LabelEstimates`."""

    @property
    def precision(self) -> Rates:
        """Return the precision of each."""

    @property
    def recall(self) -> Rates:
        """Return the recall of each."""

    @property
    def predicted(self) -> NDArray[np.int64]:
        """Return (K,), how many predictions name each."""

    @property
    def unanswered(self) -> FloatArray:
        """Return (K,), the share of those predictions that lies in strata without an answer."""

    @property
    def unanswered_overall(self) -> float | FloatArray:
        """Return the share of all predictions in strata without an answer; (K,) where each has strata of its own."""

    @property
    def complete(self) -> NDArray[np.bool_]:
        """Return (K,), whether every prediction that names it is labelled."""

    @property
    def labelled(self) -> int:
        """Return the settled answers in all."""

    @property
    def drawn(self) -> int:
        """Return the tasks in all."""


class Held(Named, Protocol):
    """The level that K classes or labels are held to."""

    @property
    def window(self) -> str:
        """Return the window that set it."""

    @property
    def precision(self) -> Level:
        """Return the precision of each."""

    @property
    def recall(self) -> Level:
        """Return the recall of each."""

    @property
    def labels(self) -> int:
        """Return the settled answers behind it."""

    def for_classes(self, classes: tuple[str, ...]) -> Self:
        """Return the level in the order of `classes`, by name."""

    def as_json(self) -> dict[str, Any]:
        """Return a JSON object that the level is read back from."""
