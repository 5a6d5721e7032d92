"""Is the open retrain request ready to start: are the labels it waits for in?"""

from __future__ import annotations

from datetime import datetime, timedelta

from components.operations.services import Services
from components.store import labelling, requests


def due_request(services: Services, *, now: datetime) -> str | None:
    """Return the reason of the open request once its training queue is answered or old, else None.

    Rows decide: a request whose worker died (its lease has expired) is due at once.
    """
    waiting = requests.current_request(services.database)
    if waiting is None or waiting.leased:
        return None
    if waiting.interrupted:
        return waiting.reason
    rules = services.workspace.params.labelling
    if now - waiting.opened_at >= timedelta(days=rules.judge_after_days):
        return waiting.reason
    answered, asked = labelling.queue_response(services.database, "training", waiting.window)
    return waiting.reason if answered >= rules.judge_at_response * asked else None
