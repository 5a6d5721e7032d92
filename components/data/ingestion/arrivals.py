"""Groups of newly arrived images: which belong together, and which split each group takes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from components import params
from components.data.ingestion.split import Group, first_split, later_split, production_split
from components.data.label_sets import decode
from components.data.sources.item import Origin


@dataclass(slots=True)
class Arrival:
    """One new image of an ingest; its bytes lie in `row` of the `shard` of that number in the buffer, None: nowhere.

    also_in: further groups that its source put the same bytes in.
    """

    image_id: str
    item_no: int
    name: str
    label: str
    group_id: str
    label_origin: str
    origin: Origin
    labelled_by: str | None = None
    captured_at: datetime | None = None
    window: str | None = None
    model_version: int | None = None
    shard: int | None = None
    row: int | None = None
    split: str | None = None
    state: str = "active"
    reason: str | None = None
    also_in: tuple[str, ...] = ()


class GroupLinks:
    """Which groups turned out to be one, because the same image came in both (union-find)."""

    def __init__(self) -> None:
        self._parent: dict[str, str] = {}

    def join(self, one: str, other: str) -> None:
        """Note that two groups are one; the smaller id stands for both, so the order of joining does not matter."""
        first, second = sorted((self.root(one), self.root(other)))
        if first != second:
            self._parent[second] = first

    def root(self, group_id: str) -> str:
        """Return the id that stands for the group."""
        path = []
        while (parent := self._parent.get(group_id)) is not None:
            path.append(group_id)
            group_id = parent
        for passed in path:
            self._parent[passed] = group_id
        return group_id

    def linked(self) -> Collection[str]:
        """Return every group id that was joined to another."""
        return {*self._parent, *self._parent.values()}


@dataclass(frozen=True, slots=True)
class SplitRules:
    """How groups without a stored split get one. kind: first | later | production."""

    kind: str
    data: params.Data
    alarmed: frozenset[str]

    def assign(self, groups: Mapping[str, list[Arrival]]) -> dict[str, str]:
        """Return the split of every new group, by its id."""
        if self.kind == "first":
            stratum = _rarest(groups) if self.data.several else {name: _majority(groups[name]) for name in groups}
            counted = (Group(group_id, stratum[group_id], len(members)) for group_id, members in groups.items())
            return dict(first_split(counted, self.data.split, self.data.seed))
        if self.kind == "later":
            return {group_id: self._later(group_id, members) for group_id, members in groups.items()}
        return {group_id: self._production(group_id, members) for group_id, members in groups.items()}

    def _later(self, group_id: str, members: list[Arrival]) -> str:
        if any(arrival.window is not None for arrival in members):  # held when production's labels came, released now
            return self._production(group_id, members)
        return later_split(group_id, self.data.split, self.data.seed)

    def _production(self, group_id: str, members: list[Arrival]) -> str:
        named = {arrival.label for arrival in members}
        if self.data.several:
            named = {name for label in named for name in decode(label)}
        alarmed = not named.isdisjoint(self.alarmed)
        golden = self.data.golden_share_alarmed if alarmed else self.data.golden_share
        return production_split(group_id, golden, self.data.seed, self.data.split.validation)


def assign_splits(
    arrivals: Iterable[Arrival], links: GroupLinks, stored: Mapping[str, Collection[str]], rules: SplitRules
) -> None:
    """Give every active arrival its split, or hold it where its group lies in two, or in the frozen test set.

    stored: the splits in which each group id has images already. A stored split wins over every rule; but a frozen set
    takes nobody in. Arrivals in a group of their own take the name of the one they turned out to belong to.
    """
    taken: dict[str, set[str]] = {}
    for group_id, splits in stored.items():
        taken.setdefault(links.root(group_id), set()).update(splits)
    groups: dict[str, list[Arrival]] = {}
    for arrival in arrivals:
        if arrival.state == "active":
            groups.setdefault(links.root(arrival.group_id), []).append(arrival)
    _name_groups(groups, links, stored)
    new = rules.assign({group_id: members for group_id, members in groups.items() if group_id not in taken})
    for group_id, members in groups.items():
        splits = sorted(taken.get(group_id, ())) or [new[group_id]]
        for arrival in members:
            if len(splits) > 1:
                arrival.state, arrival.reason = "held", f"group-conflict: {' and '.join(splits)}"
            elif splits == ["frozen_test"] and group_id in taken:
                arrival.state, arrival.reason = "held", "frozen-group"
            else:
                arrival.split = splits[0]


def _name_groups(groups: Mapping[str, list[Arrival]], links: GroupLinks, stored: Mapping[str, object]) -> None:
    """Name newcomers' groups as later ingests will find them: as stored, else as the source does, else by the first."""
    names: dict[str, str] = {}
    for group_id in sorted(stored, reverse=True):
        names[links.root(group_id)] = group_id
    for root, members in groups.items():
        if len(members) > 1 or root in names:
            given = [arrival.group_id for arrival in members if arrival.group_id != arrival.image_id]
            name = names.get(root) or min(given, default=root)
            for arrival in members:
                if arrival.group_id == arrival.image_id:  # the source's own name is kept: its next images bring it too
                    arrival.group_id = name


def _rarest(groups: Mapping[str, list[Arrival]]) -> dict[str, str]:
    """Return of every group the rarest label that one of its images carries, "" for none at all.

    By it groups are stratified where images carry several: a common label is spread well by chance, a rare one is not.
    """
    named = {name: {one for arrival in members for one in decode(arrival.label)} for name, members in groups.items()}
    counts = Counter(one for name, labels in named.items() for one in labels)
    return {name: min(labels, key=lambda one: (counts[one], one), default="") for name, labels in named.items()}


def _majority(members: list[Arrival]) -> str:
    return min(Counter(arrival.label for arrival in members).items(), key=lambda item: (-item[1], item[0]))[0]
