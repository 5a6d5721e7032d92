"""Whatever comes in whatever order: no image twice, no group in two splits, stored splits for ever."""

import tempfile
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from components.data.decoding.isolation import IsolatedDecoder
from components.data.ingestion.ingest import ingest
from components.data.ingestion.release import release
from components.data.manifest import Manifest
from components.data.png import encode_png
from components.data.quarantine.choosing import filtered
from components.data.quarantine.kept_bytes import KeptBytes
from components.data.quarantine.register import Register
from components.data.shards import ShardReader
from components.data.sources.item import SourceItem
from components.errors import ConfigurationError
from components.params import Params

PARAMS = Params()
IMAGES = [encode_png(np.full((8, 8), n, np.uint8)) for n in range(24)]

ITEMS = st.builds(
    SourceItem,
    st.just("name"),
    st.sampled_from([*IMAGES, b"rubbish"]),
    st.sampled_from(["a", "b", None]),
    st.sampled_from([None, "g", "h", "i"]),
    label_origin=st.sampled_from(["given", "consensus"]),
)
RELEASES = st.tuples(st.sampled_from([None, "a", "b", "c"]), st.sampled_from([None, "frozen-group", "label-conflict"]))
INGESTS = st.lists(st.tuples(st.lists(ITEMS, max_size=20), st.booleans()), min_size=1, max_size=5)


OPTIONS: dict[str, Any] = {"params": PARAMS, "source": "s", "add_classes": ["a", "b"]}


@settings(max_examples=50, deadline=None)
@given(INGESTS)
def test_a_history_of_ingests_keeps_every_promise(
    decoder: IsolatedDecoder, history: list[tuple[list[SourceItem], bool]]
) -> None:
    splits: dict[str, str] = {}
    frozen: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        for items, production in history:
            try:
                report = ingest(items, root=root, production=production, decoder=decoder, **OPTIONS)
            except ConfigurationError:
                assert production
                assert not splits
                continue
            listed = len(report.set_aside)
            held_back = sum(entry.reason == "group-conflict" for entry in report.set_aside)
            assert report.duplicates + report.corrected + report.added + listed - held_back + held_back == len(items)
            if not (root / PARAMS.paths.manifest).exists():
                continue
            rows = Manifest.read(root / PARAMS.paths.manifest).table.to_pylist()
            reader = ShardReader(root / PARAMS.paths.images)

            assert len({row["image_id"] for row in rows}) == len(rows)
            now = {row["image_id"]: row["split"] for row in rows if row["state"] == "active"}
            assert now.items() >= splits.items()
            labels = {row["image_id"]: row["label"] for row in rows if row["split"] == "frozen_test"}
            assert labels.items() >= frozen.items()
            groups: dict[str, set[str]] = {}
            for row in rows:
                if row["state"] == "active":
                    groups.setdefault(row["group_id"], set()).add(row["split"])
                if row["shard"] is not None:
                    reader.read_verified(row["shard"], row["row"], row["image_id"])
            assert all(len(of_group) == 1 for of_group in groups.values())
            splits, frozen = now, labels
            again = ingest(items, root=root, production=production, decoder=decoder, **OPTIONS)
            assert again.added == 0


@settings(max_examples=12, deadline=None)
@given(INGESTS, st.lists(RELEASES, min_size=1, max_size=3))
def test_releases_keep_what_ingests_promise(
    decoder: IsolatedDecoder,
    history: list[tuple[list[SourceItem], bool]],
    releases: list[tuple[str | None, str | None]],
) -> None:
    """Whatever a person says: the frozen test set stays as it is, groups in one split, and nothing gets lost."""
    now = datetime(2026, 11, 20, tzinfo=UTC)
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        kept, path = KeptBytes(f"{temporary}/kept"), root / PARAMS.paths.manifest
        for items, production in history:
            with suppress(ConfigurationError):
                ingest(items, root=root, production=production, decoder=decoder, kept=kept, at=now, **OPTIONS)
        for label, reason in releases if path.exists() else ():
            before = Manifest.read(path)
            entries = filtered(Register.read(path).open(before), reason=reason)
            done = release(
                entries.to_pylist(), root=root, params=PARAMS, kept=kept, cache=root, label=label, person="ann",
                at=now, decoder=decoder,
            )  # fmt: skip
            after = Manifest.read(path)
            then, rows = ({row["image_id"]: row for row in m.table.to_pylist()} for m in (before, after))
            frozen = {image_id: row for image_id, row in then.items() if row["split"] == "frozen_test"}
            assert {image_id: rows[image_id] for image_id in frozen} == frozen
            if any(row["split"] for row in then.values()):  # else this was the first ingest of usable images
                assert sum(row["split"] == "frozen_test" for row in rows.values()) == len(frozen)
            groups: dict[str, set[str]] = {}
            reader = ShardReader(root / PARAMS.paths.images)
            for image_id, row in rows.items():
                if image_id in then and then[image_id]["state"] == "active":
                    assert (row["split"], row["group_id"]) == (then[image_id]["split"], then[image_id]["group_id"])
                if row["state"] == "active":
                    groups.setdefault(row["group_id"], set()).add(row["split"])
                    reader.read_verified(row["shard"], row["row"], image_id)
                if image_id in then and then[image_id]["shard"] is not None:
                    assert (row["shard"], row["row"]) == (then[image_id]["shard"], then[image_id]["row"])
            assert all(len(of_group) == 1 for of_group in groups.values())
            told = Register.read(path).open(after)["image_id"].to_pylist()
            for verdict in done.verdicts:
                assert verdict.image_id is not None
                assert (verdict.image_id in told) == (verdict.outcome == "refused")
                if verdict.outcome == "released":
                    assert (rows[verdict.image_id]["label"], label) in ((verdict.label, label), (label, label))
