"""A column of numbers as counts: the reference's quantiles become edges, kept with it, and every window uses them.

The twin of SQL's `width_bucket(value, edges)`: cell 0 lies below the first edge, cell j holds edges[j - 1] <= value <
edges[j], the last cell lies at or above the last edge. Values that are not finite belong to no cell.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]


def edges_from_quantiles(quantiles: ArrayLike) -> FloatArray:
    """Return strictly ascending edges from the reference's inner `quantiles`; empty where none is finite.

    A value that several quantiles share (most images of one width) gets a cell of its own, up to the next float32, so
    that a column which is constant in the reference still shows any other value.
    """
    values = np.asarray(quantiles, dtype=np.float64)
    distinct, times = np.unique(values[np.isfinite(values)], return_counts=True)
    shared = distinct if len(distinct) == 1 else distinct[times > 1]
    after = np.nextafter(shared.astype(np.float32), np.float32(np.inf)).astype(np.float64)
    return np.unique(np.append(distinct, after))


def quantile_edges(values: ArrayLike, bins: int) -> FloatArray:
    """Return the edges of about `bins` equally filled cells of the finite `values` (N,)."""
    finite = np.asarray(values, dtype=np.float64)
    finite = finite[np.isfinite(finite)]
    if len(finite) == 0:
        return np.empty(0)
    return edges_from_quantiles(np.quantile(finite, np.linspace(0, 1, bins + 1)[1:-1]))


def bin_counts(values: ArrayLike, edges: FloatArray) -> NDArray[np.int64]:
    """Return the counts (len(edges) + 1,) of the finite `values` (N,) per cell."""
    finite = np.asarray(values, dtype=np.float64)
    finite = finite[np.isfinite(finite)]
    return np.bincount(np.searchsorted(edges, finite, side="right"), minlength=len(edges) + 1).astype(np.int64)
