"""Newly arrived images that look the same as others: they join the others' groups, so that no split comes between."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from components.data.decoding.decode import ImageLimits
from components.data.described import read_descriptors
from components.data.ingestion.arrivals import Arrival
from components.data.ingestion.intake import Intake
from components.data.ingestion.near_duplicates import near_pairs
from components.data.ingestion.shard_buffer import ShardBuffer
from components.data.shards import ShardReader


@dataclass(frozen=True, slots=True)
class NearDuplicates:
    """How many new images look the same as another one, and how many of those have another label than it."""

    images: int
    conflicts: int


def link_near_duplicates(intake: Intake, images: Path, limits: ImageLimits, within: float) -> NearDuplicates:
    """Join the groups of new images with those of images, new or stored, that look the same.

    images: the folder of shards, with those of this ingest. limits: of images that have to be decoded once more.
    within: the largest distance of images that look the same; 0: none do.
    """
    new = [arrival for arrival in intake.arrivals.values() if arrival.shard is not None]
    if not new or within == 0:
        return NearDuplicates(0, 0)
    arrived = read_descriptors(ShardReader(images), _places(new, intake.buffer), limits)
    rows = intake.manifest.select()
    stored = read_descriptors(ShardReader(images), rows.select(["shard", "row"]), limits)
    pairs = near_pairs(arrived, stored, within=within)
    beside = pairs.second[pairs.second >= len(new)] - len(new)
    found = rows.take(pa.array(beside)).select(["group_id", "label"]).to_pydict()
    met = dict(zip(beside.tolist(), zip(found["group_id"], found["label"], strict=True), strict=True))
    alike, conflicting = set(), set()
    for first, second in zip(pairs.first.tolist(), pairs.second.tolist(), strict=True):
        one = new[first]
        other = new[second] if second < len(new) else None
        group, label = (other.group_id, other.label) if other else met[second - len(new)]
        intake.links.join(one.group_id, group)
        both = {first, second} if other else {first}
        alike |= both
        if label != one.label:
            conflicting |= both
    return NearDuplicates(len(alike), len(conflicting))


def _places(new: list[Arrival], buffer: ShardBuffer) -> pa.Table:
    """Return where the bytes of new images lie: shard and row."""
    given = np.fromiter((arrival.shard for arrival in new if arrival.shard is not None), np.int32)
    numbers, shards = np.unique(given, return_inverse=True)
    names = [buffer.shard(int(number)) for number in numbers]
    rows = np.fromiter((arrival.row for arrival in new if arrival.row is not None), np.int32)
    return pa.table({"shard": pa.DictionaryArray.from_arrays(shards.astype(np.int32), names), "row": rows})
