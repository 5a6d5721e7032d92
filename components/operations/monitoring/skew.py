"""Is a model worse in production than offline, and does serving do what training did? Asked when a window is judged."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from components.alerts.causes import gap_alert, skew_alert
from components.data.versioning.versions import past_checkout
from components.errors import IntegrityError, PerennialError
from components.monitoring.comparison.skew import (
    FEWEST_REPLAYED,
    Gap,
    OfflineRecall,
    Replayed,
    SkewState,
    SkewVerdict,
    find_gap,
    judge_replay,
    without_replay,
)
from components.monitoring.estimation.accuracy import Estimates
from components.operations.alerting import send_once
from components.operations.models import load_predictor
from components.operations.monitoring.reactions import report_links
from components.operations.services import Services
from components.params import load_params
from components.records import ModelVersion, Window
from components.store import champions, ledger, monitoring, reading
from components.store.predictions import ImagePlace

logger = logging.getLogger(__name__)

MOST_IMAGES = 500
LOOKED_BACK = 200
KIND = "skew"


def look_for_skew(
    services: Services, window: Window, version: int, estimates: Estimates, *, alarmed: bool, now: datetime
) -> dict[str, Any] | None:
    """Return what a judged segment says of production against offline accuracy; None where it was not asked.

    It is asked of the first window of a model that is judged for good, and again where an alarm was raised. What was
    found stands, but for a test that could not be made, which is tried again.
    """
    judged = monitoring.judgements(services.database, window, version)
    if not judged or not judged[-1].payload["final"]:
        return None
    rows = ledger.history(services.database, LOOKED_BACK, kind=KIND)
    of_model = [row for row in rows if row["model_version"] == version]
    here = next((row for row in of_model if row["window"] == window.name), None)
    if here is not None and here["action"] != SkewState.UNTESTED:
        found = dict(here["evidence"]["verdict"])
        _tell(services, window, version, found, now)  # a crash may have cut it short
        return found
    if here is None and of_model and not alarmed:
        return None
    model = champions.model(services.database, version)
    verdict = _verdict(services, window, model, estimates)
    classes = [name for name, _, _ in verdict.gap.classes] if verdict.gap else []
    if here is None or here["reason"] != verdict.reason:
        ledger.record(
            services.database, kind=KIND, actor="monitor", action=str(verdict.state), reason=verdict.reason, now=now,
            window=window.name, model_version=version, classes=classes,
            evidence={
                "verdict": verdict.as_json(),
                "offline": model.metrics.get("offline"),
                "commit": model.git_commit,
                "tolerance": services.workspace.params.monitor.tolerance,
            },
        )  # fmt: skip
    _tell(services, window, version, verdict.as_json(), now)
    return verdict.as_json()


def _tell(services: Services, window: Window, version: int, verdict: dict[str, Any], now: datetime) -> None:
    links = report_links(services, window, version)
    if verdict["state"] == SkewState.SKEW:
        replay = verdict["replay"]
        page = skew_alert(
            window.name, version, reason=verdict["reason"], worst=replay["worst_image"],
            largest=replay["largest_difference"], links=links,
        )  # fmt: skip
        send_once(services, page, now=now)
    elif verdict["state"] == SkewState.DRIFT:
        send_once(services, gap_alert(window.name, version, reason=verdict["reason"], links=links), now=now)


def _verdict(services: Services, window: Window, model: ModelVersion, estimates: Estimates) -> SkewVerdict:
    known = model.metrics.get("offline")
    if known is None:
        reason = f"version {model.version} was registered without its offline figures"
        return SkewVerdict(SkewState.UNKNOWN, reason)
    gap = find_gap(estimates, OfflineRecall.from_json(known), services.workspace.params.monitor)
    if not gap:
        return without_replay(gap)
    try:
        return _replay(services, window, model, gap)
    except PerennialError as error:  # monitoring goes on, and the next judgement of this window tries again
        logger.warning("the replay of version %d failed: %s", model.version, error)
        return without_replay(gap, str(error))


def _replay(services: Services, window: Window, model: ModelVersion, gap: Gap) -> SkewVerdict:
    """Answer stored images again as training would: its checkpoint, its preprocessing, the temperature it measured."""
    logged = list(_stored(services, reading.logged_answers(services.database, window, model.version, MOST_IMAGES)))
    if len(logged) < FEWEST_REPLAYED:
        return without_replay(gap, f"only {len(logged)} of the model's stored images are left")
    params = services.workspace.params
    targets = (params.paths.model, params.paths.evaluation)
    workspace = services.workspace
    with past_checkout(
        origin=workspace.origin, state=workspace.state, commit=model.git_commit, targets=targets
    ) as root:
        then = load_params(root / "params.yaml")
        replayed = _answer_again(services, model, root / then.paths.model, root / then.paths.evaluation, logged)
    return judge_replay(
        gap,
        Replayed(
            tuple(place.image_id for place, _, _ in logged),
            np.stack([probabilities for _, probabilities, _ in logged]),
            replayed,
        ),
        parity_tolerance=then.export.parity_tolerance,
    )


Logged = tuple[ImagePlace, np.ndarray[Any, np.dtype[np.float64]], bytes]


def _stored(services: Services, rows: list[tuple[ImagePlace, Any]]) -> Iterator[Logged]:
    for place, probabilities in rows:
        # One past its retention is missing; the others stand for it.
        with suppress(IntegrityError):
            yield place, probabilities, services.images.get(place.shard, place.row, place.image_id)


def _answer_again(
    services: Services, registered: ModelVersion, model: Path, evaluation: Path, logged: list[Logged]
) -> Any:
    """Return the training path's probabilities (N, K) of stored images.

    Of a file that was made lighter after training, its own: what it loses was judged when it was exported, and what is
    left to differ is how images are read and prepared.
    """
    from components.model.answering import predict_logits
    from components.model.calibration import softmax
    from components.model.images.dataset import decode_and_resize_stored
    from components.model.networks.backbones import restore

    network, spec = restore(model)
    try:
        measured = json.loads((evaluation / "metrics.json").read_text(encoding="utf-8"))
        temperature = float(measured["calibration"]["temperature"])
    except (OSError, ValueError, KeyError) as error:
        raise IntegrityError(f"{evaluation}/metrics.json does not hold the temperature: {error!r}") from error
    images = np.stack(
        [
            decode_and_resize_stored(content, place.image_id, spec.preprocess, services.limits)
            for place, _, content in logged
        ]
    )
    serving = load_predictor(services, registered)
    if serving.spec.lightened:
        return serving.predict(images)[1]
    return softmax(predict_logits(network, images, spec.preprocess), temperature)
