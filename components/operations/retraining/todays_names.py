"""What a retraining knows under an older class list, by the class names of today: answers, alarms, the class mix."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from components.data.ingestion.class_changes import Carried, Translation
from components.data.manifest import find_rows
from components.data.versioning.versions import WorkspaceClone
from components.operations.carrying import older_lists
from components.operations.ingestion import splits_path
from components.operations.retraining.attempt import Attempt
from components.operations.services import Services
from components.params import load_params
from components.records import Answer
from components.store import champions
from components.store.labelling import SettledLabel
from components.store.queues.audit_queue import SettledDoubt

_Verdict = TypeVar("_Verdict", SettledLabel, SettledDoubt)


def todays_answers(
    services: Services, clone: WorkspaceClone, settled: Sequence[SettledLabel], doubts: Sequence[SettledDoubt]
) -> tuple[list[SettledLabel], list[SettledDoubt], list[dict[str, Any]]]:
    """Return verdicts by today's class names, and those of which that cannot be told, each with the reason why.

    doubts: about images of the dataset; of these, too, only what is in the dataset still.
    """
    if not settled and not doubts:
        return [], [], []
    params = load_params(clone.root / "params.yaml")
    clone.pull(params.paths.manifest, splits_path(params))
    lists = older_lists(services, clone.root, params)
    stored = find_rows(clone.root / params.paths.manifest, {doubt.image_id for doubt in doubts}) if doubts else {}
    held: list[dict[str, Any]] = []

    def usable(verdicts: Sequence[_Verdict], carry: Callable[[_Verdict], Carried]) -> list[_Verdict]:
        found = []
        for verdict in verdicts:
            now = carry(verdict)
            if now.name is not None:
                found.append(replace(verdict, answer=now.name))
            else:
                told = {"task_id": verdict.task_id, "image_id": verdict.image_id, "answer": verdict.answer}
                held.append({**told, "why": now.why})
        return found

    def carry_doubt(doubt: SettledDoubt) -> Carried:
        if stored.get(doubt.image_id, {"state": None})["state"] not in ("active", "held"):
            return Carried(None, "the image is not in the dataset any more")
        return Carried(doubt.answer) if doubt.answer == Answer.OTHER else lists.carry(doubt)

    return usable(settled, lists.carry), usable(doubts, carry_doubt), held


def todays_alarms(services: Services, clone: WorkspaceClone, attempt: Attempt) -> dict[str, list[str]]:
    """Return the classes of the champion that raised the alarm by their names of today, each with its rules.

    A class that was split since is left out: which of its parts fell was not measured.
    """
    translation = _of_champion(services, clone) if attempt.alarmed else None
    if translation is None:
        return attempt.alarmed
    found: dict[str, list[str]] = {}
    for name, rules in attempt.alarmed.items():
        now = translation.names.get(name)
        if now is not None:
            found[now] = sorted({*found.get(now, []), *rules})
    return found


def todays_shares(services: Services, clone: WorkspaceClone, shares: Mapping[str, float]) -> dict[str, float]:
    """Return each class's share by its name of today, merged ones added up; nothing where one of them was split."""
    translation = _of_champion(services, clone)
    if translation is None:
        return dict(shares)
    if not all(name in translation.names for name in shares):
        return {}
    found: dict[str, float] = {}
    for name, share in shares.items():
        now = translation.names[name]
        found[now] = found.get(now, 0.0) + share
    return {name: round(share, 6) for name, share in found.items()}


def _of_champion(services: Services, clone: WorkspaceClone) -> Translation | None:
    """Return how the champion's class list reads in that of the clone's dataset; None before the first champion."""
    current = champions.champion(services.database)
    if current is None:
        return None
    params = load_params(clone.root / "params.yaml")
    clone.pull(params.paths.manifest)
    return older_lists(services, clone.root, params, images=False).translation(current)
