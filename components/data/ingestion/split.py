"""Which split a group of images belongs to. Pure: stored splits are looked up elsewhere and always win."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal

from components import params

FirstSplit = Literal["train", "validation", "frozen_test"]
LaterSplit = Literal["train", "validation", "test"]
ProductionSplit = Literal["golden", "train", "validation"]


@dataclass(frozen=True, slots=True)
class Group:
    """Images that must stay together: their group's id, the class most of them show, and how many they are."""

    group_id: str
    label: str
    images: int = 1


def hash_share(key: str, group_id: str) -> float:
    """Return a number in [0, 1) that depends on `key` and `group_id` alone; uniform over groups (keyed BLAKE2b)."""
    digest = blake2b(group_id.encode(), key=blake2b(key.encode()).digest(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / 2.0**53


def first_split(groups: Iterable[Group], shares: params.Split, seed: int) -> dict[str, FirstSplit]:
    """Return the split of every group of the first ingest, stratified by class.

    Within a class the largest groups come first, equal ones in an order keyed by `seed`; each goes where relatively
    most images are missing among the splits with room for it. So every class meets the shares to within a group, a
    class of three has one in each split, and the order of `groups` does not matter.
    """
    wanted: dict[FirstSplit, float] = {
        "train": shares.train,
        "validation": shares.validation,
        "frozen_test": shares.test,
    }
    by_class: dict[str, list[tuple[int, float, str]]] = {}
    for group in groups:
        place = (-group.images, hash_share(f"first:{seed}", group.group_id), group.group_id)
        by_class.setdefault(group.label, []).append(place)
    assigned: dict[str, FirstSplit] = {}
    for members in by_class.values():
        total = -sum(images for images, _, _ in members)
        missing = {split: share * total for split, share in wanted.items()}
        for negative, _, group_id in sorted(members):
            split = _roomiest(missing, wanted, -negative)
            assigned[group_id] = split
            missing[split] += negative
    return assigned


def _roomiest(missing: dict[FirstSplit, float], wanted: dict[FirstSplit, float], images: int) -> FirstSplit:
    fitting = [split for split, room in missing.items() if room > 0 and images <= max(room, 1)]
    if fitting:
        return max(fitting, key=lambda split: missing[split] / wanted[split])
    return max(missing, key=missing.__getitem__)


def later_split(group_id: str, shares: params.Split, seed: int) -> LaterSplit:
    """Return the split of a group that came after the first ingest and not from production."""
    share = hash_share(f"later:{seed}", group_id)
    if share < shares.train:
        return "train"
    return "validation" if share < shares.train + shares.validation else "test"


def production_split(group_id: str, golden_share: float, seed: int, validation_share: float) -> ProductionSplit:
    """Return the split of a group labelled in production: measured on for ever, or learnt from, never both.

    golden_share: of all groups, in 0..1. validation_share: of the groups that are not golden. A group that is golden
    at one golden share is golden at every larger one.
    """
    if hash_share(f"golden:{seed}", group_id) < golden_share:
        return "golden"
    return "validation" if hash_share(f"production:{seed}", group_id) < validation_share else "train"
