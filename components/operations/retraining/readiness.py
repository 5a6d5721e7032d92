"""Is the open retrain request ready to start: are the labels it waits for in?"""

from __future__ import annotations

from datetime import datetime, timedelta

from components.operations.services import Services
from components.store import labelling, requests


def due_request(services: Services, *, now: datetime) -> str | None:
    """Return the reason of the open request once its training queue is answered or old, else None.

    Only a fall of accuracy asks for labels to learn from; a request of any other cause is due at once.
    Rows decide: a request whose worker died (its lease has expired) is due at once as well.
    """
    waiting = requests.current_request(services.database)
    if waiting is None or waiting.leased:
        return None
    if waiting.interrupted or waiting.evidence.get("cause", "accuracy") != "accuracy":
        return waiting.reason
    rules = services.workspace.params.labelling
    if now - waiting.opened_at >= timedelta(days=rules.judge_after_days):
        return waiting.reason
    answered, asked = labelling.queue_response(services.database, "training", waiting.window)
    return waiting.reason if answered >= rules.judge_at_response * asked else None
