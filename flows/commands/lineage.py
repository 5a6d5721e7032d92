"""Verbs about where things come from, and about taking images back: lineage, recall."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import click

from flows.commands.options import at_option, emit, person, services, table, verb

_SHOWN = 20


@click.command(epilog="Example: perennial lineage 3f9ac02be81d")
@click.argument("thing", metavar="ID")
@verb
def lineage(root: Path, as_json: bool, thing: str) -> None:
    """Show where something comes from and what became of it, both ways.

    ID: an image id or its first 12 or more digits, an image file, BATCH:ITEM (a prediction; items count from 0),
    model:3 or 3, data/2026-11-22-1. Where it could be two things, say image:, prediction:, model:, dataset: or file:
    in front.
    """
    from components.operations.lineage.traced import lineage_of

    with services(root) as opened:
        result = lineage_of(opened, thing)
    show = {"image": _image, "prediction": _prediction, "model": _model, "dataset": _dataset}[result["kind"]]
    emit(result, as_json, show(result))


@click.command(epilog='Example: perennial recall 3f9ac02be81d --apply --reason "the person asked for it"')
@click.argument("images", nargs=-1, metavar="[IMAGE]...")
@click.option("--file", "listed", type=click.Path(path_type=Path, exists=True, dir_okay=False), default=None,
              help="A file with one IMAGE a line.")  # fmt: skip
@click.option("--apply", "applied", is_flag=True, help="Do it. Without, only say what it touches.")
@click.option("--reason", default="", help="Why; recorded in the ledger. Needed to apply.")
@click.option("--purge", is_flag=True, help="Also write the shards that hold them anew, in the new dataset version.")
@click.option("--purge-history", is_flag=True, help="Also remove their bytes from old versions and the image store.")
@click.option("--yes", is_flag=True, help="Yes, --purge-history removes them for good.")
@verb
@at_option
def recall(
    root: Path,
    as_json: bool,
    now: datetime,
    images: tuple[str, ...],
    listed: Path | None,
    applied: bool,
    reason: str,
    purge: bool,
    purge_history: bool,
    yes: bool,
) -> None:
    """Take images back: say what that touches, or do it.

    IMAGE: an id, its first 12 or more digits, or a file. With --apply they are used for nothing any more: not trained
    on, not measured on, not asked about, not scored; a new dataset version says so. With --purge its shards do not hold
    them. With --purge-history (and --yes) older versions' shards are removed from DVC's cache and remote, and the
    images emptied in the image store; older versions are then restored without them. Predictions and models stay.
    """
    _check(applied, reason, purge, purge_history, yes)
    from components.operations.erasure import erasing, touched
    from components.operations.erasure import recall as recalling
    from components.operations.lineage.past import open_past

    wanted = [*images, *(touched.read_list(listed) if listed else ())]
    if not wanted:
        raise click.UsageError("name an IMAGE, or a --file with one a line")
    with services(root) as opened:
        image_ids = touched.known_images(opened, open_past(opened), wanted)
        if not applied:
            found = [one.as_json() for one in touched.touched(opened, image_ids)]
            emit(found, as_json, [*_touched(found), "nothing was done; --apply --reason TEXT recalls them"])
            return
        result = recalling.recall(opened, image_ids, reason=reason, actor=person(), purge=purge, now=now)
        result["erased"] = None
        if purge_history:
            result["erased"] = erasing.erase(opened, image_ids, actor=person(), reason=reason, now=now)
    emit(result, as_json, [*_touched(result["images"]), *_done(result)])


def _check(applied: bool, reason: str, purge: bool, purge_history: bool, yes: bool) -> None:
    if not applied and (purge or purge_history or yes):
        raise click.UsageError("--purge and --purge-history need --apply; without it only the list is shown")
    if applied and not reason.strip():
        raise click.UsageError("--apply needs --reason: a recall is recorded with it")
    if purge_history and not purge:
        raise click.UsageError("--purge-history needs --purge: the newest version must not hold the images first")
    if purge_history and not yes:
        raise click.UsageError(
            "--purge-history removes bytes for good: from every older version in DVC's cache and remote, and from the "
            "image store. Nothing was done. Look at the list without --apply, then add --yes"
        )


def _touched(found: list[dict[str, Any]]) -> list[str]:
    rows = [
        (
            one["image_id"][:12],
            one["state"] or "-",
            one["label"] or "-",
            one["split"] or "-",
            one["dataset_versions"]["count"],
            " ".join(map(str, one["models_trained"])) or "-",
            one["predictions"],
            one["open_tasks"],
            "?" if one["bytes"] is None else one["bytes"],
            len(one["image_store"]),
        )
        for one in found
    ]
    header = ("image", "state", "label", "split", "versions", "models trained", "predictions", "open tasks", "bytes",
              "image-store shards")  # fmt: skip
    notes = [f"{one['image_id'][:12]}: {note}" for one in found for note in one["notes"]]
    return [table(header, rows), *notes, ""]


def _done(result: dict[str, Any]) -> list[str]:
    lines = [f"recalled; the newest dataset version is {result['dataset_version']}"]
    for old, new in result["shards"].items():
        lines.append(f"shard {old} was written anew as {new}" if new else f"shard {old} held nothing else")
    erased = result["erased"]
    if erased is None:
        return [*lines, *(["older versions still hold the bytes; --purge-history removes them"] if result["purged"]
                          else ["the bytes are still stored; --purge takes them out of the new version"])]  # fmt: skip
    lines.append(
        f"removed {len(erased['objects'])} files ({erased['object_bytes']} bytes) of {len(erased['versions'])} older "
        f"versions from DVC's cache and remote, {erased['pictures']} pictures from the image store, "
        f"{erased['kept']} files from quarantine, "
        f"{len(erased['pages']) + erased['audit_pages']} pages that may show them"
    )
    if erased["being_scored"]:
        lines.append(f"being scored: {', '.join(erased['being_scored'])}; run this again when that is finished")
    return [*lines, "other machines' caches, and the files that were ingested, are not reached from here"]


def _image(found: dict[str, Any]) -> list[str]:
    data, held = found["data"], found["dataset_versions"]
    lines = [f"image {found['image_id']}"]
    if found["recalled"]:
        noted = found["recalled"]
        gone = "erased" if noted["erased_at"] else "purged" if noted["purged_in"] else "marked"
        lines.append(
            f"recalled at {noted['recalled_at']:%Y-%m-%d %H:%M} by {noted['actor']} ({gone}): {noted['reason']}"
        )
    if data is None:
        lines.append("never ingested")
    else:
        rows = [(key, data[key]) for key in ("source", "name", "captured_at", "label", "label_origin", "labelled_by",
                                             "window", "model_version", "group_id", "group_images", "split", "state",
                                             "reason") if data.get(key) is not None]  # fmt: skip
        lines += [table(("", ""), rows), f"in {held['count']} dataset versions, {held['first']} to {held['last']}"]
        changed = [(c["version"], c["state"], c["label"] or "-", c["split"] or "-", c["shard"] or "-")
                   for c in held["changes"]]  # fmt: skip
        lines += [table(("since", "state", "label", "split", "shard"), changed)]
    lines += _section(("model", "", "dataset version", "use", "label"), _met(found["models"]))
    logged = [
        (f"{p['batch'][:24]}:{p['item_no']}", f"{p['scored_at']:%Y-%m-%d %H:%M}", p["model_version"], p["predicted"],
         f"{p['confidence']:.3f}") for p in found["predictions"]
    ]  # fmt: skip
    lines += _section(("prediction", "when (UTC)", "model", "predicted", "confidence"), logged)
    return lines + _answers(found["tasks"])


def _section(header: tuple[str, ...], rows: list[tuple[Any, ...]], shown: int = _SHOWN) -> list[str]:
    """Return a table under an empty line, its first rows alone; nothing where there are none."""
    more = [f"… and {len(rows) - shown} more; --json has all"] if len(rows) > shown else []
    return ["", table(header, rows[:shown]), *more] if rows else []


def _met(models: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return [(m["version"], m["state"], m["dataset_version"], m["use"], m["label"] or "-") for m in models]


def _answers(tasks: list[dict[str, Any]]) -> list[str]:
    rows = [
        (t["queue"], t["window"], t["state"], t["verdict"] or "-",
         ", ".join(f"{a['annotator']}: {a['answer']}" for a in t["answers"]) or "-", t["exported_in"] or "-")
        for t in tasks
    ]  # fmt: skip
    return _section(("asked in", "about", "state", "verdict", "answers", "learnt in"), rows)


def _prediction(found: dict[str, Any]) -> list[str]:
    model = found["model"]
    rows = [
        ("predicted", f"{found['predicted']} ({found['confidence']:.3f})"),
        ("when (UTC)", f"{found['scored_at']:%Y-%m-%d %H:%M:%S}"),
        ("batch", found["batch"]),
        ("source", found["source"]),
        ("name", found["name"]),
        ("image", found["image_id"]),
        ("pixels", found["shard"] if found["pixels_stored"] else "gone"),
        ("model", found["model_version"]),
        ("dataset version", model["dataset_version"]),
        ("git commit", model["git_commit"]),
        ("code", model["code_lock"] or "-"),
        ("MLflow run", model["mlflow_run"]),
    ]
    since = found["trained_since"]
    taught = _section(("trained on it since", "", "dataset version", "use", "label"), _met(since))
    return [f"prediction {found['batch']}:{found['item_no']}", table(("", ""), rows), *_answers(found["tasks"]),
            *(taught or ["", "no model was trained on it since"])]  # fmt: skip


def _model(found: dict[str, Any]) -> list[str]:
    served, gate = found["served"], found["gate"]
    rows = [
        ("state", found["state"]),
        ("made at", f"{found['created_at']:%Y-%m-%d %H:%M}"),
        ("because", f"{found['cause']}: {found['reason']}"),
        ("dataset version", found["dataset_version"]),
        ("images", ", ".join(f"{k} {v}" for k, v in (found["images"] or {}).items()) or "-"),
        ("git commit", found["git_commit"]),
        ("code", found["code_lock"] or "-"),
        ("MLflow run", found["mlflow_run"]),
        ("judged against", found["parent"] or "none: the first"),
        ("gate", "-" if gate is None else f"{'passed' if gate['passed'] else 'refused'}: {gate['reason']}"),
        ("predictions", f"{served['predictions']} in {served['batches']} batches"),
        ("recalled since", f"{len(found['recalled_since'])} of its training images"),
    ]
    said = [(f"{d['at']:%Y-%m-%d %H:%M}", d["kind"], d["action"], d["actor"], d["reason"]) for d in found["decisions"]]
    ledger = _section(("when (UTC)", "kind", "action", "by", "reason"), said)
    return [f"model version {found['version']}", table(("", ""), rows), *ledger]


def _dataset(found: dict[str, Any]) -> list[str]:
    rows = [
        ("made at", f"{found['made_at']:%Y-%m-%d %H:%M}"),
        ("for", found["message"]),
        ("git commit", found["git_commit"]),
        ("images", f"{found['images']} ({', '.join(f'{k} {v}' for k, v in found['states'].items())})"),
        ("usable", ", ".join(f"{k} {v}" for k, v in found["splits"].items()) or "-"),
        ("before", f"{found['before']}: {found['images_before']} images" if found["before"] else "the first"),
        ("erased since", len(found["erased_since"])),
        ("models", ", ".join(f"{m['version']} ({m['state']})" for m in found["models"]) or "none"),
    ]
    return [f"dataset version {found['version']}", table(("", ""), rows)]


VERBS = (lineage, recall)
