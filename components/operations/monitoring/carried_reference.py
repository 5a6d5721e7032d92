"""The reference accuracy when the champion's class list changes: a renamed class keeps its level, no other does."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from components.monitoring.judgement.reference import ReferenceLevel
from components.operations.carrying import translation_between
from components.operations.services import Services
from components.records import ModelVersion, Window
from components.store import ledger, monitoring

_NOBODY = "\0"  # no class is called so


def carry_reference(
    services: Services, before: ModelVersion | None, now_serves: ModelVersion, *, now: datetime
) -> None:
    """Write the reference in force under the class list of the model that serves now, where its classes mean others.

    A class that is called otherwise keeps its level. One that was merged, or is part of a split, has none until a
    window measures it, though another class had the same name. Added classes change nothing: they have no level.
    Called before the pointer moves, and again after a crash, when it finds its own work.
    """
    if before is None or before.classes == now_serves.classes or before.several or now_serves.several:
        return
    stored = monitoring.reference_level(services.database, several=False)
    if stored is None or stored.classes == now_serves.classes:
        return
    translation = translation_between(services, before, now_serves)
    if translation.trivial:
        return
    sources = [translation.whole.get(name, ()) for name in translation.new]
    asked = tuple(s[0] if len(s) == 1 else f"{_NOBODY}{n}" for s, n in zip(sources, translation.new, strict=True))
    level = ReferenceLevel.from_json(stored.level).for_classes(asked)
    carried = replace(level, classes=translation.new)
    reason = (
        f"the class list changed with version {now_serves.version}: {translation.describe()}; the level of window "
        f"{stored.window}, measured on model {stored.model_version}, holds for the others"
    )
    window, payload = Window.parse(stored.window), carried.as_json()
    with services.database.transaction() as connection:
        monitoring.set_reference_level(
            connection, window, now_serves.version, payload, reason=reason, now=now, actor="promote"
        )
        ledger.record(
            connection, kind="reference", actor="promote", action="carried", reason=reason, now=now,
            window=window.name, model_version=now_serves.version, evidence={"labels": carried.labels, "level": payload},
        )  # fmt: skip
