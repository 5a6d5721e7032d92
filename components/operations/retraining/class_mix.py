"""How often every class really comes in production, for a training that is to be weighted by it."""

from __future__ import annotations

import numpy as np

from components.monitoring.estimation.accuracy import estimate
from components.operations.services import Services
from components.store import champions, labelling, monitoring

FEWEST_LABELS = 100.0  # independent ones behind a mix; below, the mix of the training images is kept
PRIOR_LABELS = 0.5  # a class, so that one nobody met in the sample keeps a share


def production_mix(services: Services) -> tuple[str, dict[str, float]] | None:
    """Return the champion's latest judged window and every class's share of what people saw in it.

    It comes from labels, not from predictions, so a class that is taken for another one still counts as itself. None
    where no window of the champion has been judged, or its labels are worth fewer than 100 independent ones.
    """
    current = champions.champion(services.database)
    if current is None or current.several:
        return None
    for window in reversed(labelling.drawn_windows(services.database, current.version)):
        judged = monitoring.judgements(services.database, window, current.version)
        if not judged or not judged[-1].payload["final"]:
            continue
        estimates = estimate(labelling.counts(services.database, window, current.version))
        if estimates.mix_effective < FEWEST_LABELS:
            continue
        counted = estimates.mix * estimates.mix_effective + PRIOR_LABELS
        shares = np.round(counted / counted.sum(), 6)
        return window.name, dict(zip(estimates.classes, map(float, shares), strict=True))
    return None
