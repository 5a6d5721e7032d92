"""Files that were set aside: listed as the visible folder has them, released into a new dataset version."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from components.data import label_sets
from components.data.ingestion.class_list import unknown_class
from components.data.ingestion.release import Released, Verdict, release
from components.data.manifest import Manifest, find_rows, ids_from
from components.data.quarantine.choosing import called, counts, filtered
from components.data.quarantine.register import Register
from components.data.sources.item import printable
from components.data.versioning.versions import WorkspaceClone, latest_dataset
from components.errors import ConfigurationError, RefusedError
from components.operations.ingestion import (
    commit_data,
    dataset_paths,
    exclusive_clone,
    forget_bytes,
    register_target,
)
from components.operations.services import Services
from components.operations.workspace import Workspace
from components.params import Params, load_params
from components.store.ledger import record

KIND = "quarantine"
MOST_TOLD = 1000
_TOLD_WHY = 5


def list_quarantine(
    workspace: Workspace, *, reason: str | None = None, state: str | None = None, limit: int = 50
) -> dict[str, Any]:
    """Return what was set aside and awaits a decision: how many files by reason, and the first `limit` of them.

    Read from the visible folder; nothing is started, locked or changed.
    """
    table = filtered(_open(workspace.root, workspace.params), reason=reason, state=state)
    return {
        "dataset_version": latest_dataset(workspace.root),
        "files": table.num_rows,
        "counts": counts(table),
        "shown": [_shown(entry) for entry in table.slice(0, limit).to_pylist()],
        "more": max(table.num_rows - limit, 0),
    }


def show_quarantined(workspace: Workspace, text: str) -> list[dict[str, Any]]:
    """Return everything that is known of one file that was set aside. Raises ConfigurationError where there is none."""
    found = called(_open(workspace.root, workspace.params), text)
    if not found:
        raise _unknown(text)
    return [{**_shown(entry), **{key: entry[key] for key in _DETAILS}} for entry in found]


def release_files(
    services: Services,
    names: Sequence[str],
    *,
    reason: str | None = None,
    label: str | None = None,
    dry_run: bool = False,
    actor: str,
    now: datetime,
) -> dict[str, Any]:
    """Let files that were set aside in, under the label that `actor` decides, and return what became of each.

    Named files come in together or not at all; of all with a `reason` those that may. Judged by the parameters that are
    committed. A file that is in use already, as after a run that was killed, is passed over. dry_run: nothing is kept
    of it. Raises ConfigurationError for a file or a class that is not there, RefusedError where a named file, or every
    one, has to stay out; then nothing was changed. A dry run tells that instead, file by file.
    """
    with exclusive_clone(services, "release") as clone:
        params = load_params(clone.root / "params.yaml")
        clone.pull(*dataset_paths(params), register_target(params))
        manifest = clone.root / params.paths.manifest
        if label is not None and manifest.exists():
            label = _checked(label, Manifest.classes_at(manifest), several=params.data.several)
        before = Register.read(manifest)
        entries, already = _chosen(clone.root, params, names, reason, label)
        done = None
        if entries:
            done = release(
                entries, root=clone.root, params=params, kept=services.quarantine,
                cache=services.workspace.state / "cache", label=label, person=actor, at=now,
            )  # fmt: skip
            if not dry_run:
                _require(done, named=bool(names))
        version = None
        if done is not None and not dry_run:
            version = _commit(clone, params, done, now)
            after = Register.read(manifest)
            forget_bytes(services, before, after)
            services.quarantine.remove_others(after.kept())
    result = _result(done, already, version, dry_run=dry_run)
    if done is not None and not dry_run:
        record(
            services.database, kind=KIND, actor=actor, action="released" if version else "none", now=now,
            reason=f"{result['released']} files were released from quarantine, {result['settled']} keep their stored "
            f"label, {result['refused']} stay out",
            evidence={**result, "label": label, "asked_reason": reason},
        )  # fmt: skip
    return result


def _checked(label: str, classes: Sequence[str], *, several: bool) -> str:
    """Return a label as it is stored. Raises ConfigurationError for one that is no class."""
    stored = label_sets.parse(label) if several else label
    for name in label_sets.decode(stored) if several else (label,):
        if name not in classes:
            raise unknown_class(name, classes)
    return stored


def _commit(clone: WorkspaceClone, params: Params, done: Released, now: datetime) -> str | None:
    count = sum(verdict.outcome == "released" for verdict in done.verdicts)
    message = f"Release {count} files from quarantine"
    return commit_data(clone, params, message, changed=done.report.changed, noted=done.noted, now=now)


def _open(root: Path, params: Params) -> pa.Table:
    path = root / params.paths.manifest
    return Register.read(path).open(Manifest.read(path) if path.exists() else Manifest.empty())


def _chosen(
    root: Path, params: Params, names: Sequence[str], reason: str | None, label: str | None
) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the entries that are meant, and the ids of named images that are in use already."""
    table = filtered(_open(root, params), reason=reason)
    if not names:
        return table.to_pylist(), []
    chosen: dict[tuple[Any, ...], dict[str, Any]] = {}
    already = []
    for name in names:
        found = called(table, name)
        if not found:
            already.append(_in_use(root / params.paths.manifest, name, label))
        for entry in found:
            key = (entry["image_id"], entry["source"], entry["name"], entry["reason"], entry["label"])
            chosen[key] = entry
    return list(chosen.values()), already


def _in_use(manifest: Path, text: str, label: str | None) -> str:
    """Return the id of an image that nothing keeps out. Raises ConfigurationError for one that is not in use."""
    digits = text.lower()
    found = ids_from(manifest, digits, 2) if manifest.exists() and len(digits) >= 6 else []
    if len(found) == 1:
        row = find_rows(manifest, found)[found[0]]
        if row["state"] == "active" and label not in (None, row["label"]):
            raise RefusedError(
                f"{found[0][:12]} is not set aside: it is in use as {row['label']!r}; ingest a list with another label"
            )
        if row["state"] == "active":
            return found[0]
    raise _unknown(text)


def _unknown(text: str) -> ConfigurationError:
    return ConfigurationError(
        f"no file that was set aside is {printable(text)!r}; `perennial quarantine` lists them: give an id, six digits "
        "or more of it, or a name"
    )


def _require(done: Released, *, named: bool) -> None:
    refused = done.refused
    if not refused or (not named and len(refused) < len(done.verdicts)):
        return
    why = "; ".join(f"{_called(verdict)}: {verdict.detail}" for verdict in refused[:_TOLD_WHY])
    more = f"; and {len(refused) - _TOLD_WHY} more" if len(refused) > _TOLD_WHY else ""
    raise RefusedError(
        f"{len(refused)} of {len(done.verdicts)} files cannot be released, and nothing was changed: {why}{more}"
    )


def _called(verdict: Verdict) -> str:
    return f"{verdict.name} ({verdict.image_id[:12]})" if verdict.image_id else verdict.name


def _result(done: Released | None, already: list[str], version: str | None, *, dry_run: bool) -> dict[str, Any]:
    verdicts = [] if done is None else done.verdicts
    return {
        "dataset_version": version,
        "dry_run": dry_run,
        **{outcome: sum(v.outcome == outcome for v in verdicts) for outcome in ("released", "settled", "refused")},
        "already": already,
        "files": [asdict(verdict) for verdict in verdicts[:MOST_TOLD]],
        "more": max(len(verdicts) - MOST_TOLD, 0),
    }


_DETAILS = ("spec", "group_id", "captured_at", "label_origin", "labelled_by", "window", "model_version")


def _shown(entry: dict[str, Any]) -> dict[str, Any]:
    names = ("image_id", "name", "source", "state", "reason", "detail", "label", "stored", "kept", "at")
    return {name: entry[name] for name in names}
