"""Show what changed in a window that drifted: sample its images and the reference's, compare, write a page."""

from __future__ import annotations

import json
import logging
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.data.appearance import apply
from components.data.files import publish, unpublished
from components.errors import PerennialError, RefusedError
from components.monitoring.drift import story
from components.monitoring.drift.embeddings import Points, common_points, domain_test, moved_groups, nearest_reference
from components.monitoring.drift.likely_corruption import (
    MOST_REFERENCE,
    MOST_WINDOW,
    Fitted,
    LikelyCorruption,
    likely_corruption,
    refuted,
)
from components.monitoring.drift.new_class import NewClasses, new_classes
from components.monitoring.drift.page import Album, Pair, Picture, write_drift_page
from components.operations.models import load_predictor
from components.operations.monitoring.drift_images import LOOKED_AT, Change, Looked, Pictures
from components.operations.services import Services
from components.operations.windows import latest_closed
from components.records import Window, require_utc
from components.store import champions, monitoring, predictions, reading
from components.store.reading import SampledImage

logger = logging.getLogger(__name__)

MOST_IMAGES = 2_000
SHOWN = 8
SEED = 0


def explain_window(services: Services, window_name: str | None, *, now: datetime) -> list[dict[str, Any]]:
    """Return what changed in each segment of a window (default: the latest that can be closed); write their pages anew.

    Raises RefusedError for a window without predictions.
    """
    window = Window.parse(window_name) if window_name else latest_closed(services, require_utc(now))
    found = [
        explain_drift(services, window, segment, now=now, again=True)
        for segment in predictions.segments(services.database, window)
    ]
    if not found:
        raise RefusedError(f"window {window.name} has no predictions; name another with --window")
    return found


def explain_drift(
    services: Services, window: Window, segment: predictions.Segment, *, now: datetime, again: bool = False
) -> dict[str, Any]:
    """Return what changed against the model's drift reference, and write it as a page: once, unless `again`.

    The object is that of `Explanation.as_json` with `page`, the page's path, and `explained_at`. Where there is nothing
    to compare, `state` and `summary` say why, and no page is written. At most 2,000 images a side are looked at.
    """
    version = segment.model_version
    if segment.several:
        return _nothing(window, version, "it is not looked for where images carry several labels")
    page = drift_page(services, window, version)
    kept = page.with_suffix(".json")
    if not again and page.is_file():
        known = _read(kept)
        if known is not None:
            return known
    reference = monitoring.drift_reference(services.database, version)
    if reference is None:
        return _nothing(window, version, "there is no drift reference yet")
    if reference.window == window.name:
        return _nothing(window, version, f"window {window.name} is the reference itself")
    before = _sample(services, Window.parse(reference.window), version)
    now_there = reading.sample_images(services.database, window, version, MOST_IMAGES)
    predictor = load_predictor(services, champions.model(services.database, version))
    pictures = Pictures(services, predictor)
    sides = pictures.look_at(before), pictures.look_at(now_there)
    if not all(side.images for side in sides):
        gone = reference.window if not sides[0].images else window.name
        return _nothing(window, version, f"the images of {gone} are not stored any more")
    found, album = _explain(pictures, sides, (window.name, version, reference.window), embeds=predictor.embeds)
    write_drift_page(found, album, page)
    result = {**found.as_json(), "page": str(page), "explained_at": require_utc(now).isoformat()}
    with unpublished(kept.parent) as (file, temporary):
        file.write(json.dumps(result, ensure_ascii=False, indent=1).encode("utf-8", "backslashreplace"))
        publish(file, temporary, kept)
    return result


def explain_if_possible(
    services: Services, window: Window, segment: predictions.Segment, *, now: datetime
) -> dict[str, Any]:
    """Return what `explain_drift` does, or why it failed: no decision rests on it, so monitoring goes on."""
    try:
        return explain_drift(services, window, segment, now=now)
    except (PerennialError, OSError) as error:
        logger.warning("drift of %s, model %d is not explained: %s", window.name, segment.model_version, error)
        return _nothing(window, segment.model_version, f"the attempt failed: {error}")


def drift_page(services: Services, window: Window, version: int) -> Path:
    """Return where the page of a segment lies, or would."""
    return services.workspace.reports / f"{window.name}-v{version}-drift.html"


def _sample(services: Services, window: Window, version: int) -> list[SampledImage]:
    """Return images of the reference window: the model's own, or, where it was promoted on others', those of all."""
    own = reading.sample_images(services.database, window, version, MOST_IMAGES)
    return own or reading.sample_images(services.database, window, None, MOST_IMAGES)


def _explain(
    pictures: Pictures, sides: tuple[Looked, Looked], names: tuple[str, int, str], *, embeds: bool
) -> tuple[story.Explanation, Album]:
    before, now = sides
    points = _points(before, now)
    test = domain_test(points, seed=SEED)
    groups = [group.members for group in moved_groups(points, test, seed=SEED)]
    corruption = likely_corruption(
        pictures.first(before.images, MOST_REFERENCE), pictures.first(now.images, MOST_WINDOW), pictures.look, seed=SEED
    )
    compared, left = points, None
    if corruption.fits and embeds:
        compared = _points(pictures.look_at(before.images, _as_change(corruption)), now)
        left = domain_test(compared, seed=SEED)
        corruption = refuted(corruption, test, left)
        if not corruption.fits:
            compared, left = points, None
    classes = sorted({image.predicted for image in before.images})
    clusters = np.array([classes.index(image.predicted) for image in before.images], np.int64)
    new = new_classes(compared, clusters)
    found = story.Explanation(
        window=names[0],
        model_version=names[1],
        reference_window=names[2],
        images=len(now.images),
        reference_images=len(before.images),
        missing=before.missing + now.missing,
        embeds=embeds,
        statistics=_medians(before, now),
        answers=_answers(before, now),
        test=test,
        groups=[_called(now, members) for members in groups],
        corruption=corruption,
        newcomers_state=new.state,
        newcomers=[
            story.Newcomer(_called(now, c.members), c.share, c.p_value, c.distance, c.gap, c.reference_rows)
            for c in new.candidates
        ],
        corrected=left is not None,
        left=left,
        gone=None if new.lost_cluster is None else (classes[new.lost_cluster], len(new.lost)),
    )
    return found, _album(pictures, sides, (points, groups), (compared, new), corruption)


def _points(before: Looked, now: Looked) -> Points:
    if before.embeddings is None or now.embeddings is None:
        empty = np.empty((0, 0))
        return Points(empty, empty, "undecided: the model gives no embeddings")
    return common_points(before.embeddings, now.embeddings)


def _as_change(corruption: LikelyCorruption) -> Change | None:
    """Return the change that fits, or None where none does."""
    best = corruption.best
    return partial(_changed, best) if best is not None and corruption.fits else None


def _changed(fit: Fitted, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    # By its own pixels: an image shown later is changed as it was when it was compared.
    return apply(fit.kind, image, fit.strength, np.random.default_rng([SEED, zlib.crc32(image.tobytes())]))


def _medians(before: Looked, now: Looked) -> list[tuple[str, float, float]]:
    medians = (np.median(side.statistics, axis=0) for side in (before, now))
    return [(name, float(b), float(a)) for name, b, a in zip(LOOKED_AT, *medians, strict=True)]


def _answers(before: Looked, now: Looked) -> list[tuple[str, float, float]]:
    counts = [Counter(image.predicted for image in side.images) for side in (before, now)]
    shares = [{name: count / sum(of_side.values()) for name, count in of_side.items()} for of_side in counts]
    return [
        (name, shares[0].get(name, 0.0), shares[1].get(name, 0.0)) for name in sorted(set(shares[0]) | set(shares[1]))
    ]


def _called(side: Looked, members: Iterable[int]) -> story.Called:
    counts = Counter(side.images[row].predicted for row in members)
    ordered: Mapping[str, int] = dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
    return story.Called(sum(counts.values()), ordered)


def _album(
    pictures: Pictures,
    sides: tuple[Looked, Looked],
    moved: tuple[Points, Sequence[NDArray[np.int64]]],
    new: tuple[Points, NewClasses],
    corruption: LikelyCorruption,
) -> Album:
    before, now = sides
    some = before.images[:SHOWN]
    best, change = corruption.best, _as_change(corruption)
    changed: list[Pair] = []
    if best is not None:
        changed = _paired(_shown(pictures, some), _shown(pictures, some, partial(_changed, best)))
    return Album(
        groups=[_with_nearest(pictures, sides, moved[0], members[:SHOWN]) for members in moved[1]],
        newcomers=[_with_nearest(pictures, sides, new[0], c.members[:SHOWN], change) for c in new[1].candidates],
        changed=changed,
        window=_shown(pictures, now.images[:SHOWN]) if best is not None else (),
        gone=_shown(pictures, [before.images[row] for row in new[1].lost[:SHOWN]]),
    )


def _with_nearest(
    pictures: Pictures,
    sides: tuple[Looked, Looked],
    points: Points,
    members: NDArray[np.int64],
    change: Change | None = None,
) -> list[Pair]:
    nearest = nearest_reference(points, members)
    above = _shown(pictures, [sides[1].images[row] for row in members])
    return _paired(above, _shown(pictures, [sides[0].images[row] for row in nearest], change))


def _paired(above: Sequence[Picture], below: Sequence[Picture]) -> list[Pair]:
    # Shorter only where an image went missing within this minute; then its pairs are left out.
    return [Pair(*pair) for pair in zip(above, below, strict=True)] if len(above) == len(below) else []


def _shown(pictures: Pictures, images: Sequence[SampledImage], change: Change | None = None) -> list[Picture]:
    return [Picture(one["picture"], one["called"]) for one in pictures.thumbnails(images, change)]


def _nothing(window: Window, version: int, why: str) -> dict[str, Any]:
    summary = f"What changed cannot be shown: {why}."
    return {
        "window": window.name, "model_version": version, "state": why, "headline": summary, "summary": [summary],
        "page": None,
    }  # fmt: skip


def _read(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return content if isinstance(content, dict) and "summary" in content else None
