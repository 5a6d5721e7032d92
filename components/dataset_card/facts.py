"""What the card of a dataset version says, from its manifest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from components.data.manifest import SPLITS, Manifest

MOST_SOURCES = 20
MOST_SIZES = 8


def card_facts(
    manifest: Manifest,
    sizes: NDArray[np.integer],
    awaiting: pa.Table,
    *,
    version: str | None,
    licence: str,
    audit: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Return the facts of a dataset version as JSON.

    sizes: width and height (N, 2) of the active rows in the manifest's order, 0 where unknown. awaiting: state and
    reason of every file that was set aside and awaits a decision, stored or not. version: its tag. licence: as
    params.yaml states it. audit: metrics.json of an audit of this version, or None.
    """
    active = manifest.select()
    counts = manifest.counts()
    splits = [split for split in SPLITS if split in counts]
    times = pc.min_max(active["captured_at"]).as_py()
    of_split = Counter(active["split"].to_pylist())
    groups = Counter(active["group_id"].to_pylist())
    return {
        "version": version,
        "licence": licence or None,
        "images": active.num_rows,
        "splits": {split: of_split[split] for split in splits},
        "classes": [{"name": name, **{split: counts[split][name] for split in splits}} for name in manifest.classes],
        "sources": _sources(active),
        "origins": _counted(active["label_origin"]),
        "production": active.num_rows - active["window"].null_count,
        "captured": None if times["min"] is None else [times["min"].isoformat(), times["max"].isoformat()],
        "sizes": _sizes(sizes),
        "groups": {"number": len(groups), "largest": max(groups.values(), default=0)},
        "set_aside": _set_aside(manifest.table, awaiting),
        "issues": None if audit is None else _issues(audit),
    }


def training_images(facts: Mapping[str, Any]) -> dict[str, int]:
    """Return how many images of each class there are to learn from."""
    return {row["name"]: row.get("train", 0) for row in facts["classes"]}


def _sources(active: pa.Table) -> list[dict[str, Any]]:
    counted = Counter(active["source"].to_pylist()).most_common()
    told = [{"source": name or "unknown", "images": images} for name, images in counted[:MOST_SOURCES]]
    further = sum(images for _, images in counted[MOST_SOURCES:])
    if further:
        told.append({"source": f"{len(counted) - MOST_SOURCES} further sources", "images": further})
    return told


def _sizes(sizes: NDArray[np.integer]) -> dict[str, Any]:
    known = sizes[(sizes > 0).all(axis=1)]
    if not len(known):
        return {"unknown": len(sizes), "common": [], "different": 0, "median": None, "smallest": None, "largest": None}
    pairs, counts = np.unique(known, axis=0, return_counts=True)
    order = np.lexsort((pairs[:, 1], pairs[:, 0], -counts))[:MOST_SIZES]
    return {
        "unknown": len(sizes) - len(known),
        "common": [[*pairs[n].tolist(), int(counts[n])] for n in order.tolist()],
        "different": len(pairs),
        "median": np.median(known, axis=0).astype(int).tolist(),
        "smallest": known.min(axis=0).tolist(),
        "largest": known.max(axis=0).tolist(),
    }


def _set_aside(rows: pa.Table, awaiting: pa.Table) -> dict[str, dict[str, int]]:
    """Return files that are not in use: {state: {reason: files}}."""
    found: dict[str, Counter[str]] = {}
    for table in (awaiting, rows.filter(pc.equal(rows["state"], "recalled"))):
        for state, reason in zip(table["state"].to_pylist(), table["reason"].to_pylist(), strict=True):
            found.setdefault(state, Counter())[reason or "no reason noted"] += 1
    return {state: dict(sorted(reasons.items())) for state, reasons in sorted(found.items())}


def _issues(audit: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "audited": audit["images"],
        "suspects": audit["suspects"],
        "share": audit["share"],
        "looks": {kind: number for kind, number in audit["image_issues"]["counts"].items() if number},
        "common": audit["image_issues"]["common"],
        "conflicts": audit["near_duplicates"]["conflicts"],
    }


def _counted(column: pa.ChunkedArray) -> dict[str, int]:
    counts = Counter(column.to_pylist())
    return {str(name): counts[name] for name in sorted(counts, key=str)}
