"""The class list of the newest dataset version: shown, changed with its labels carried over, given display names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from components.data.annotations import read_annotations, write_with_annotations
from components.data.ingestion import class_changes
from components.data.ingestion.class_changes import Add, ClassChange, Split, describe, former_names, listed, touched
from components.data.ingestion.class_history import ClassHistory, shown_name
from components.data.ingestion.class_list import unknown_class
from components.data.label_sets import decode, encode
from components.data.manifest import Manifest
from components.data.quarantine.register import Register
from components.data.versioning.versions import WorkspaceClone, latest_dataset, past_checkout
from components.errors import RefusedError
from components.operations.carrying import OlderLists
from components.operations.ingestion import dataset_paths, exclusive_clone, register_target, splits_path
from components.operations.retraining.written_params import carry_classes
from components.operations.services import Services
from components.params import Params, load_params
from components.store import champions, labelling
from components.store.class_lists import tasks_naming
from components.store.ledger import record

AskedChange = Callable[[Manifest], ClassChange]


@dataclass(frozen=True, slots=True)
class _Dataset:
    """The newest dataset version, checked out at `root` without its images."""

    root: Path
    params: Params
    manifest: Manifest
    history: ClassHistory

    @classmethod
    def at(cls, root: Path, *, images: bool) -> _Dataset:
        params = load_params(root / "params.yaml")
        path = root / params.paths.manifest
        return cls(root, params, Manifest.read(path), ClassHistory.read(path, images=images))

    @property
    def path(self) -> Path:
        return self.root / self.params.paths.manifest


def list_classes(services: Services) -> dict[str, Any]:
    """Return every class of the newest dataset version: index, name, display name, active images by split."""
    with _reading(services) as dataset:
        counts = dataset.manifest.counts()
        classes = [
            {
                "index": index,
                "name": name,
                "display": dataset.history.display.get(name),
                "images": {split: of_class[name] for split, of_class in counts.items()},
            }
            for index, name in enumerate(dataset.manifest.classes)
        ]
        return {
            "dataset_version": latest_dataset(dataset.root),
            "classes": classes,
            "changes": [
                {**log, "change": describe(change)}
                for change, log in zip(dataset.history.changes, dataset.history.log, strict=True)
            ],
            "champion": _champion(services, dataset, dataset.manifest, dataset.history),
        }


def change_classes(services: Services, ask: AskedChange, *, apply: bool, actor: str, now: datetime) -> dict[str, Any]:
    """Return what a change of the class list changes; with `apply` it is a new dataset version, and in the ledger.

    ask: given the manifest, the change. Raises ConfigurationError, DataError or RefusedError for one that cannot be;
    then nothing was changed.
    """
    with (_writing if apply else _reading)(services) as dataset:
        change = ask(dataset.manifest)
        changed = class_changes.applied(dataset.manifest, change)
        opinions, lost = class_changes.carried_opinions(read_annotations(dataset.manifest, dataset.path), change)
        history = dataset.history.after(change, now=now, by=actor)
        result = {**_told(services, dataset, change, changed, history), "opinions_lost": lost}
        if not apply:
            return {**result, "applied": False, "dataset_version": None}
        carry_classes(dataset.root / "params.yaml", change, changed.classes)
        write_with_annotations(changed, opinions, dataset.path)
        history.write(dataset.path)
        targets = [*dataset_paths(dataset.params)[1:], *_rename_set_aside(dataset, change)]
        if isinstance(change, Split):
            targets.append(splits_path(dataset.params))
        clone = WorkspaceClone(dataset.root)
        version = clone.commit_dataset(targets, f"Change the class list: {describe(change)}"[:500], now)
        clone.publish()
    result = {**result, "applied": True, "dataset_version": version}
    shown = [shown_name(name, history.display) for name in result["classes"]]
    record(
        services.database, kind="classes", actor=actor, action=type(change).__name__.lower(), now=now,
        reason=f"{describe(change)} (now {listed(shown)}): {version}", classes=result["classes"], evidence=result,
    )  # fmt: skip
    return result


def set_display_name(
    services: Services, name: str, shown: str, *, apply: bool, actor: str, now: datetime
) -> dict[str, Any]:
    """Return a class's display name before and after; with `apply` it is committed. No model learns anything new by it.

    So it makes no dataset version: that would ask for a retraining.
    """
    with (_writing if apply else _reading)(services) as dataset:
        if name not in dataset.manifest.classes:
            raise unknown_class(name, dataset.manifest.classes)
        history = dataset.history.displayed(name, shown)
        before, after = dataset.history.display.get(name), history.display.get(name)
        result = {"name": name, "before": before, "after": after, "applied": apply}
        if not apply or before == after:
            return result
        history.write(dataset.path)
        clone = WorkspaceClone(dataset.root)
        clone.commit(f"Show {name!r} as {after!r}"[:500] if after else f"Show {name!r} by its name"[:500])
        clone.publish()
    record(
        services.database, kind="classes", actor=actor, action="display", now=now, classes=[name], evidence=result,
        reason=f"{name!r} is shown as {after!r}" if after else f"{name!r} is shown by its name",
    )  # fmt: skip
    return result


@contextmanager
def _reading(services: Services) -> Iterator[_Dataset]:
    """Yield the newest dataset version without waiting for a retraining under way."""
    workspace = services.workspace
    _require_data(services)
    targets = [f"{path}.dvc" for path in dataset_paths(workspace.params)[1:]]
    with past_checkout(
        origin=workspace.origin, state=workspace.state, commit="origin/main", targets=targets
    ) as root:  # fmt: skip
        yield _Dataset.at(root, images=False)


@contextmanager
def _writing(services: Services) -> Iterator[_Dataset]:
    """Yield the newest dataset version in a clone that nobody else writes to."""
    _require_data(services)
    with exclusive_clone(services, "classes") as clone:
        params = load_params(clone.root / "params.yaml")
        clone.pull(*dataset_paths(params)[1:], splits_path(params), register_target(params))
        yield _Dataset.at(clone.root, images=True)


def _rename_set_aside(dataset: _Dataset, change: ClassChange) -> list[str]:
    """Carry the labels of files that were set aside over; return what is to be committed for it."""
    register = Register.read(dataset.path)
    if not register.table.num_rows:
        return []
    several = dataset.manifest.several
    Register(class_changes.relabelled(register.table, change, several=several)).write(dataset.path)
    return [register_target(dataset.params)]


def _require_data(services: Services) -> None:
    if latest_dataset(services.workspace.root) is None:
        raise RefusedError("there is no class list yet; bring images in with `perennial ingest SOURCE`")


def _told(
    services: Services, dataset: _Dataset, change: ClassChange, changed: Manifest, history: ClassHistory
) -> dict[str, Any]:
    """Return what a change changes: labels, tasks, and what the next retraining makes of it."""
    gone, come = touched(change), [name for name in changed.classes if name not in set(dataset.manifest.classes)]
    kept = [name for name in gone if name in set(changed.classes)]
    before, after = dataset.manifest.counts(), changed.counts()
    champion = _champion(services, dataset, changed, history)
    tasks = tasks_naming(services.database, sorted(former_names(gone, dataset.history.changes))) if gone else []
    answers = _answers(services, dataset, changed, history)
    return {
        "change": describe(change),
        "classes": [*kept, *come],
        "images": {
            "before": {name: {split: n[name] for split, n in before.items()} for name in gone},
            "after": {name: {split: n[name] for split, n in after.items()} for name in [*kept, *come]},
        },
        "listed_elsewhere": _listed_elsewhere(dataset.manifest, change),
        "class_count": {"before": len(dataset.manifest.classes), "after": len(changed.classes)},
        "tasks": tasks,
        "answers": answers,
        "champion": champion,
        "next": _next_retraining(change, changed, after, champion, dataset.params),
    }


def _listed_elsewhere(manifest: Manifest, change: ClassChange) -> int:
    """Return how many images a split lists that are not in the dataset: answers about them may come."""
    if not isinstance(change, Split):
        return 0
    return len(change.images.keys() - set(manifest.table["image_id"].to_pylist()))


def _answers(services: Services, dataset: _Dataset, changed: Manifest, history: ClassHistory) -> dict[str, int]:
    """Return how many answers wait for the next retraining, arrive under another name, and are held back."""
    lists = OlderLists(services, dataset.root, dataset.params, history, changed.classes)
    waiting = labelling.settled_labels(services.database)
    sets = dataset.manifest.several
    found = [(encode(decode(one.answer)) if sets else one.answer, lists.carry(one).name) for one in waiting]
    return {
        "waiting": len(waiting),
        "renamed": sum(now is not None and now != answer for answer, now in found),
        "held": sum(now is None for _, now in found),
    }


def _champion(
    services: Services, dataset: _Dataset, manifest: Manifest, history: ClassHistory
) -> dict[str, Any] | None:
    """Return how the champion's class list reads in that of `manifest`, None where there is no champion."""
    current = champions.champion(services.database)
    if current is None:
        return None
    lists = OlderLists(services, dataset.root, dataset.params, history, manifest.classes)
    translation = lists.translation(current)
    unknown = [name for name in manifest.classes if name not in translation.whole]
    return {
        "version": current.version,
        "classes": len(current.classes),
        "same": current.classes == manifest.classes and translation.trivial,
        "words": translation.describe(),
        "unknown": unknown,
    }


def _next_retraining(
    change: ClassChange,
    changed: Manifest,
    counts: Mapping[str, Mapping[str, int]],
    champion: Mapping[str, Any] | None,
    params: Params,
) -> str:
    words = [f"trains {len(changed.classes)} classes"]
    if champion is not None and not champion["same"]:
        words.append(f"the champion answers its own list of {champion['classes']} until then")
        if champion["words"]:
            words.append(f"before the gate, {champion['words']}")
        if champion["unknown"]:
            words.append(f"classes the champion does not know have to reach {100 * params.gate.floor:.0f} % each")
    judged = [counts.get(split, {}) for split in ("validation", "golden")]
    empty = [name for name in changed.classes if not any(of_class.get(name) for of_class in judged)]
    if empty:
        words.append(f"the gate refuses while {listed(empty)} {'has' if len(empty) == 1 else 'have'} no image held out")
    if isinstance(change, Add):
        words.append(f"bring images of {change.name!r} in with `perennial ingest`")
    return "; ".join(words)
