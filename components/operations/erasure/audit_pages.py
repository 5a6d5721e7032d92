"""Pages of audits show pictures too: which of them show an image that is erased, wherever a commit or a run keeps one.

A picture on a page is a small copy, not the file's bytes; of a small image it is all there is to see.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml

from components.data.history.kept import file_at
from components.data.history.objects import DataObjects
from components.data.versioning.git import git
from components.errors import DataError, ServiceError
from components.labels.audit_page import MOST_SHOWN, PAGE_FILE
from components.labels.findings import FINDINGS_FILE
from components.operations.lineage.past import Past
from components.operations.services import Services
from components.params import Paths
from components.store import champions

LOCK = "dvc.lock"
STAGE = "audit"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ShownIn:
    """Audits whose pages show an image: the pages as DVC's objects, and the listings of the audits' folders."""

    pages: tuple[str, ...]
    audits: frozenset[str]


def pages_showing(past: Past, image_ids: Collection[str]) -> ShownIn:
    """Return the audits, of every commit that ever had one, whose pages show one of these images."""
    commits = git("log", "--all", "--format=%H", "--", LOCK, cwd=past.repository).split()
    audits = {_audit_in(file_at(past.repository, commit, LOCK), past.paths) for commit in commits} - {None}
    pages = {audit: _page_showing(past.objects, audit, image_ids) for audit in audits if audit is not None}
    showing = {audit: page for audit, page in pages.items() if page is not None}
    return ShownIn(tuple(sorted(set(showing.values()))), frozenset(showing))


def forget_page(root: Path, paths: Paths, image_ids: Collection[str]) -> bool:
    """Forget the audit of a checkout if its page shows one of these images; return whether it did.

    The audit is out of date with the data, and the next retraining makes it anew; until then there is none.
    """
    lock = root / LOCK
    text = lock.read_text(encoding="utf-8") if lock.is_file() else None
    listing = _audit_in(text, paths)
    if text is None or listing is None or _page_showing(DataObjects.of(root), listing, image_ids) is None:
        return False
    content = yaml.safe_load(text)
    del content["stages"][STAGE]
    lock.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return True


def remove_from_runs(services: Services, past: Past, shown: ShownIn) -> list[int]:
    """Remove the pages that MLflow's runs keep of these audits; return the models whose runs had one."""
    if not shown.audits:
        return []
    removed = []
    for model in champions.models(services.database):
        with suppress(ServiceError):  # its commit is not in this repository: neither is its audit
            if _audit_in(file_at(past.repository, model.git_commit, LOCK), past.paths) in shown.audits:
                removed.append(model)
    return sorted(m.version for m in removed if services.registry.remove_file(m.run_id, f"{STAGE}/{PAGE_FILE}"))


def remove_visible(root: Path, paths: Paths, shown: ShownIn) -> None:
    """Remove the page in the visible folder if it is one of these: its audit is forgotten, and DVC leaves it there."""
    page = root / paths.audit / PAGE_FILE
    if page.is_file() and hashlib.md5(page.read_bytes(), usedforsecurity=False).hexdigest() in shown.pages:
        page.unlink()


def _audit_in(text: str | None, paths: Paths) -> str | None:
    """Return the listing of the audit's folder that a dvc.lock names."""
    content: dict[str, Any] = yaml.safe_load(text) or {} if text else {}
    outs: Iterable[dict[str, Any]] = content.get("stages", {}).get(STAGE, {}).get("outs", [])
    return next((out["md5"] for out in outs if out.get("path") == paths.audit), None)


def _page_showing(objects: DataObjects, listing: str, image_ids: Collection[str]) -> str | None:
    try:
        files = objects.folder(listing)
        if PAGE_FILE not in files or FINDINGS_FILE not in files:  # of before audits had pages
            return None
        found = pq.read_table(objects.file(files[FINDINGS_FILE]), columns=["image_id", "beside"]).slice(0, MOST_SHOWN)
    except DataError as error:
        logger.warning("an old audit is nowhere to be had, and not looked at: %s", error)
        return None
    shown = {*found["image_id"].to_pylist(), *found["beside"].to_pylist()}
    return None if shown.isdisjoint(image_ids) else files[PAGE_FILE]
