"""How many images of a window each label is predicted for: for the drift of predicted labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import text

from components.records import Window
from components.store.database import Database
from components.store.draws.spans import span_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_SHARES = text(
    """
SELECT label, positive, sum(n) FROM label_count
WHERE model_version = :version AND batch_number = ANY(CAST(:batches AS bigint[]))
GROUP BY label, positive
"""
)


def predicted_labels(db: Database, window: Window, model_version: int) -> NDArray[np.int64]:
    """Return (K, 2) images of the segment that are predicted to carry each label, and that are not, late ones too."""
    import numpy as np

    with db.transaction() as connection:
        span = span_of(connection, window, model_version)
        found = np.zeros((len(span.classes), 2), np.int64)
        for label, positive, many in connection.execute(_SHARES, span.binds()):
            found[label, 0 if positive else 1] = int(many)
    return found
