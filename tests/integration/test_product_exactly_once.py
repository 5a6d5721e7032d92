"""A batch is logged exactly once, whoever delivers it, however often, and whatever dies meanwhile."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

pytestmark = [pytest.mark.xdist_group("workspace"), pytest.mark.timeout(1800), pytest.mark.slow]

IMAGES = 600
KILLS = 20
PATIENCE_SECONDS = 120.0


@pytest.fixture(scope="module")
def delivery(tmp_path_factory: pytest.TempPathFactory, digits: list[Any], archive: Callable[..., Path]) -> Path:
    """An archive of 600 images: ten chunks."""
    files = [(Path(item.name).name, item.content) for item in digits[:IMAGES]]
    return archive(tmp_path_factory.mktemp("delivery") / "delivery.tar", files)


def logged(services: Any, batch: str) -> list[tuple[int, str]]:
    """Return (item number, name) of every row of a batch, by number."""
    asked = text(
        "SELECT p.item_no, p.name FROM prediction p JOIN batch b ON b.number = p.batch_number"
        " WHERE b.id = :batch ORDER BY p.item_no"
    )
    with services.database.transaction() as connection:
        return [tuple(row) for row in connection.execute(asked, {"batch": batch})]


def assert_each_image_once(services: Any, batch: str) -> None:
    rows = logged(services, batch)
    assert [number for number, _ in rows] == list(range(IMAGES))
    assert Counter(name for _, name in rows) == Counter(f"{n:04d}.png" for n in range(IMAGES))


def shards_of(services: Any, batch: str, month: datetime) -> list[str]:
    folder = Path(services.images.url) / f"{month:%Y-%m}"
    return sorted(path.name for path in folder.iterdir() if batch in path.name)


def test_scoring_the_same_batch_again_adds_no_row(product: Any, services: Any, today: datetime) -> None:
    from components.operations.batches import score_source

    first = product.scored
    again = score_source(services, "digits", batch_id=None, now=today)
    assert first["new_rows"] == first["predictions"] == 1797
    assert again["new_rows"] == 0
    assert {k: again[k] for k in ("batch", "model_version", "predictions")} == {
        k: first[k] for k in ("batch", "model_version", "predictions")
    }
    assert len(logged(services, first["batch"])) == 1797


def test_a_key_that_comes_with_other_content_is_refused_and_adds_nothing(
    services: Any, delivery: Path, digits: list[Any], archive: Callable[..., Path], tmp_path: Path, today: datetime
) -> None:
    from components.errors import ConflictError
    from components.operations.batches import score_source

    score_source(services, str(delivery), batch_id="shift-1", now=today)
    other = archive(tmp_path / "other.tar", [("0000.png", digits[700].content)])
    with pytest.raises(ConflictError, match=r"shift-1.*other content"):
        score_source(services, str(other), batch_id="shift-1", now=today)
    assert_each_image_once(services, "shift-1")


def test_two_processes_that_score_one_batch_at_once_add_its_rows_once(
    product: Any, services: Any, forked: Any, delivery: Path, today: datetime
) -> None:
    job = {"operation": "score", "root": str(product.root), "source": str(delivery), "at": today.isoformat()}
    for key in ("both-1", "both-2", "both-3"):
        forked.start({**job, "batch": key}, {**job, "batch": key})
        codes, results = forked.finish()
        assert codes == [0, 0]
        assert sum(result["new_rows"] for result in results) == IMAGES
        assert [result["predictions"] for result in results] == [IMAGES, IMAGES]
        assert_each_image_once(services, key)


def test_a_batch_killed_at_twenty_random_moments_is_finished_by_a_rerun_with_every_image_once(
    product: Any, services: Any, forked: Any, delivery: Path, today: datetime
) -> None:
    from components.operations.batches import score_source

    moments = random.Random(20)
    left_unfinished = 0
    for kill in range(KILLS):
        key = f"killed-{kill}"
        job = {"operation": "score", "root": str(product.root), "source": str(delivery), "at": today.isoformat()}
        (child,) = forked.start({**job, "batch": key})
        kill_at_a_random_moment(services, child, key, moments)
        (code,), _ = forked.finish()
        assert code in (0, -signal.SIGKILL)  # 0: it was done before the signal came
        before = len(logged(services, key))
        left_unfinished += 0 < before < IMAGES

        rerun = score_source(services, str(delivery), batch_id=key, now=today)
        assert rerun["new_rows"] == IMAGES - before  # whole chunks were kept, and none is scored twice
        assert_each_image_once(services, key)
        assert shards_of(services, key, today) == [f"{key}-{chunk:05d}.arrow" for chunk in range(10)]
    assert left_unfinished >= KILLS // 2, "the kills came too late or too early to show anything"


def kill_at_a_random_moment(services: Any, child: int, batch: str, moments: random.Random) -> None:
    """SIGKILL `child` some milliseconds after it has committed so and so many chunks, anything from none to nine."""
    rows = 64 * moments.randrange(10)
    later = moments.uniform(0.0, 0.03)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while len(logged(services, batch)) < rows and alive(child) and time.monotonic() < deadline:
        time.sleep(0.002)
    moment = time.monotonic() + later
    while time.monotonic() < moment:
        pass
    os.kill(child, signal.SIGKILL)  # not reaped yet: it is still this child's number


def alive(child: int) -> bool:
    # "State:\tZ (zombie)" for one that has ended and was not waited for.
    return "\tZ" not in Path(f"/proc/{child}/status").read_text(encoding="utf-8")


class PowerCutError(BaseException):
    """Nothing in the product catches this."""


def test_a_crash_between_the_pixels_and_their_rows_leaves_neither_a_gap_nor_a_copy(
    services: Any, delivery: Path, today: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    from components.operations.batches import score_source
    from components.store import predictions

    write_chunk = predictions.write_chunk
    chunks = []

    def crash_at_the_fourth(database: Any, batch: Any, chunk: Any) -> int:
        chunks.append(chunk)
        if len(chunks) == 4:
            raise PowerCutError
        return write_chunk(database, batch, chunk)

    with monkeypatch.context() as patched, pytest.raises(PowerCutError):
        patched.setattr(predictions, "write_chunk", crash_at_the_fourth)
        score_source(services, str(delivery), batch_id="cut", now=today)

    assert len(logged(services, "cut")) == 3 * 64
    lost = chunks[3].shard
    assert services.images.get(lost, 0, chunks[3].image_id[0])  # the pixels came first, their rows never

    rerun = score_source(services, str(delivery), batch_id="cut", now=today)
    assert rerun["new_rows"] == IMAGES - 3 * 64
    assert_each_image_once(services, "cut")
    assert shards_of(services, "cut", today) == [f"cut-{chunk:05d}.arrow" for chunk in range(10)]
    assert services.images.get(lost, 0, chunks[3].image_id[0])
