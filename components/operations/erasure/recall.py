"""Recall images: used for nothing from now on, and, on request, in no shard of the newest dataset version."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from components.data.erasure.rewriting import recall_images
from components.data.versioning.versions import WorkspaceClone
from components.errors import ConfigurationError
from components.operations.erasure.audit_pages import forget_page
from components.operations.erasure.touched import Touched, touched
from components.operations.ingestion import dataset_paths, exclusive_clone
from components.operations.lineage.past import open_past
from components.operations.services import Services
from components.params import load_params
from components.store import ledger, recalls

KIND = "recall"


def recall(
    services: Services, image_ids: Sequence[str], *, reason: str, actor: str, purge: bool, now: datetime
) -> dict[str, Any]:
    """Recall known images; return what it touched, the dataset version that says so and the shards written anew.

    First the database knows: nobody is asked about the images any more, no sample shows them, no answer about them is
    learnt. Then a new dataset version marks them; with `purge`, its shards do not hold them. Last, the ledger. Done
    again, or after a crash anywhere, it does what is missing, and nothing where nothing is.
    """
    if not reason.strip():
        raise ConfigurationError("a recall needs a reason; it is recorded")
    before = touched(services, image_ids)
    recalls.recall(services.database, image_ids, reason=reason, actor=actor, now=now)
    with exclusive_clone(services, "recall") as clone:
        shards = _new_version(clone, image_ids, reason, purge=purge, now=now)
    version = _note(services, before, shards, purge=purge, reason=reason, actor=actor, now=now)
    return {
        "images": [one.as_json() for one in before],
        "dataset_version": version,
        "shards": shards,
        "purged": purge,
    }


def _new_version(
    clone: WorkspaceClone, image_ids: Sequence[str], reason: str, *, purge: bool, now: datetime
) -> dict[str, str | None]:
    params = load_params(clone.root / "params.yaml")
    paths = dataset_paths(params)
    clone.pull(*paths)
    done = recall_images(clone.root, params.paths, image_ids, reason, purge=purge)
    forgotten = purge and forget_page(clone.root, params.paths, image_ids)
    said = f"Recall {len(image_ids)} images" + (", in no shard any more" if purge else "")
    if done.changed:
        clone.commit_dataset(paths, said, now)
    elif forgotten:
        clone.commit(said)
    if done.changed or forgotten:
        clone.publish()
    return done.shards


def _note(
    services: Services,
    before: Sequence[Touched],
    shards: dict[str, str | None],
    *,
    purge: bool,
    reason: str,
    actor: str,
    now: datetime,
) -> str:
    """Note versions and decision together, each image once: a repeated recall adds no row to the ledger."""
    past = open_past(services)
    image_ids = [one.image_id for one in before]
    through_time = past.rows(image_ids)
    with services.database.transaction() as connection:
        done: dict[str, list[str]] = {"recalled": [], "purged": []}
        for image_id in image_ids:
            said = [(version.tag, rows[image_id]) for version, rows in through_time if image_id in rows]
            marked = next(tag for tag, row in said if row["state"] == "recalled")
            done["recalled"] += recalls.set_recalled_in(connection, [image_id], marked)
            if purge:
                free = next(tag for tag, row in said if row["state"] == "recalled" and row["shard"] is None)
                done["purged"] += recalls.set_purged_in(connection, [image_id], free)
        for action, images in done.items():
            if images:
                facts = [one.as_json() for one in before if one.image_id in images]
                ledger.record(
                    connection, kind=KIND, actor=actor, action=action, reason=reason, now=now,
                    evidence={"dataset_version": past.newest.tag, "shards": shards, "images": facts},
                )  # fmt: skip
    return past.newest.tag
