"""Which split a group goes to."""

from collections import Counter

import pytest

from components.data.ingestion.arrivals import Arrival, GroupLinks, SplitRules, assign_splits
from components.data.ingestion.split import Group, first_split, hash_share, later_split, production_split
from components.data.sources.item import Origin
from components.params import Data, Split

SHARES = Split()


def test_hash_share_is_uniform_and_keyed() -> None:
    shares = [hash_share("key", str(n)) for n in range(20_000)]
    counts = Counter(int(share * 10) for share in shares)

    assert all(0 <= share < 1 for share in shares)
    assert all(abs(counts[tenth] - 2000) < 200 for tenth in range(10))
    assert hash_share("key", "1") != hash_share("other", "1")
    assert hash_share("key", "1") == 0.9214730401679404


def test_the_first_split_meets_the_shares_in_every_class() -> None:
    groups = [Group(f"{label}{n}", label) for label, size in {"a": 800, "b": 80, "c": 8}.items() for n in range(size)]
    assigned = first_split(groups, SHARES, seed=7)
    counts = Counter((group.label, assigned[group.group_id]) for group in groups)

    for label, size in {"a": 800, "b": 80, "c": 8}.items():
        assert counts[label, "train"] == size * 3 // 4
        assert counts[label, "validation"] == counts[label, "frozen_test"] == size // 8


def test_three_groups_of_a_class_meet_all_three_splits() -> None:
    assigned = first_split([Group(str(n), "a") for n in range(3)], SHARES, seed=7)

    assert sorted(assigned.values()) == ["frozen_test", "train", "validation"]


def test_one_group_of_a_class_is_learnt_from() -> None:
    assert first_split([Group("only", "a")], SHARES, seed=7) == {"only": "train"}


def test_a_large_group_takes_its_share_of_the_class() -> None:
    groups = [Group("large", "a", 600), *(Group(str(n), "a") for n in range(200))]
    assigned = first_split(groups, SHARES, seed=7)
    images = Counter()
    for group in groups:
        images[assigned[group.group_id]] += group.images

    assert assigned["large"] == "train"
    assert images == {"train": 600, "validation": 100, "frozen_test": 100}


def test_the_first_split_depends_on_the_seed_and_not_on_the_order() -> None:
    groups = [Group(str(n), "ab"[n % 2]) for n in range(100)]

    assert first_split(groups, SHARES, seed=7) == first_split(groups[::-1], SHARES, seed=7)
    assert first_split(groups, SHARES, seed=7) != first_split(groups, SHARES, seed=8)


def test_later_groups_meet_the_shares_and_never_the_frozen_test() -> None:
    counts = Counter(later_split(str(n), SHARES, seed=7) for n in range(20_000))

    assert set(counts) == {"train", "validation", "test"}
    assert abs(counts["train"] - 15_000) < 300
    assert abs(counts["validation"] - 2_500) < 200


def test_a_group_golden_at_one_share_is_golden_at_every_larger_one() -> None:
    ids = [str(n) for n in range(5_000)]
    small = {g for g in ids if production_split(g, 0.2, 7, 0.125) == "golden"}
    large = {g for g in ids if production_split(g, 0.5, 7, 0.125) == "golden"}

    assert small < large
    assert abs(len(small) - 1000) < 120
    assert abs(len(large) - 2500) < 150
    rest = Counter(production_split(g, 0.2, 7, 0.125) for g in ids if g not in small)
    assert abs(rest["validation"] - 500) < 80


def arrival(image_id: str, group: str, label: str = "a") -> Arrival:
    return Arrival(image_id, 0, image_id, label, group, "given", Origin("test"))


def rules(kind: str, alarmed: frozenset[str] = frozenset()) -> SplitRules:
    return SplitRules(kind, Data(golden_share=0.0, golden_share_alarmed=1.0), alarmed)


def test_a_stored_split_wins_over_every_rule() -> None:
    arrivals = [arrival(str(n), "patient") for n in range(20)]
    for kind in ("first", "later", "production"):
        assign_splits(arrivals, GroupLinks(), {"patient": {"validation"}}, rules(kind, frozenset("a")))
        assert {a.split for a in arrivals} == {"validation"}


def test_the_frozen_test_set_takes_nobody_in() -> None:
    for kind in ("later", "production"):
        newcomers = [arrival("1", "patient"), arrival("2", "2")]
        assign_splits(newcomers, GroupLinks(), {"patient": {"frozen_test"}}, rules(kind, frozenset("a")))
        assert (newcomers[0].state, newcomers[0].split, newcomers[0].reason) == ("held", None, "frozen-group")
        assert newcomers[1].state == "active"


def test_newcomers_take_the_name_under_which_later_ones_will_find_their_group() -> None:
    links = GroupLinks()
    for one, other in (("1", "2"), ("3", "patient"), ("5", "6"), ("6", "old")):
        links.join(one, other)
    arrivals = [arrival(n, n) for n in "12345"] + [arrival("7", "patient"), arrival("6", "other patient")]
    assign_splits(arrivals, links, {"old": {"train"}}, rules("later"))

    names = {a.image_id: a.group_id for a in arrivals}
    assert names == {
        "1": "1", "2": "1", "3": "patient", "4": "4", "5": "old", "7": "patient", "6": "other patient",
    }  # fmt: skip


def test_a_group_is_never_torn() -> None:
    arrivals = [arrival(str(n), f"patient {n % 10}") for n in range(200)]
    assign_splits(arrivals, GroupLinks(), {}, rules("later"))

    assert all(len({a.split for a in arrivals if a.group_id == f"patient {n}"}) == 1 for n in range(10))


def test_groups_that_share_an_image_take_one_split() -> None:
    arrivals = [arrival(str(n), f"group {n}") for n in range(50)]
    links = GroupLinks()
    for n in range(49):
        links.join(f"group {n}", f"group {n + 1}")
    assign_splits(arrivals, links, {}, rules("later"))

    assert len({a.split for a in arrivals}) == 1


def test_a_newcomer_that_joins_two_splits_is_held_with_the_reason() -> None:
    newcomers = [arrival("1", "x"), arrival("2", "z")]
    links = GroupLinks()
    links.join("x", "stored in train")
    links.join("x", "stored in test")
    stored = {"stored in train": {"train"}, "stored in test": {"test"}}
    assign_splits(newcomers, links, stored, rules("later"))

    assert (newcomers[0].state, newcomers[0].split) == ("held", None)
    assert newcomers[0].reason == "group-conflict: test and train"
    assert newcomers[1].state == "active"


@pytest.mark.parametrize(("alarmed", "split"), [({"b"}, "golden"), ({"c"}, "train")])
def test_one_alarmed_label_gives_its_whole_group_the_alarmed_share(alarmed: set[str], split: str) -> None:
    arrivals = [arrival("1", "x", "a"), arrival("2", "x", "b")]
    assign_splits(arrivals, GroupLinks(), {}, rules("production", frozenset(alarmed)))

    assert {a.split for a in arrivals} <= ({"golden"} if split == "golden" else {"train", "validation"})


def test_joining_does_not_depend_on_the_order() -> None:
    pairs = [("d", "c"), ("a", "b"), ("c", "a"), ("x", "y")]
    forward, backward = GroupLinks(), GroupLinks()
    for one, other in pairs:
        forward.join(one, other)
    for one, other in reversed(pairs):
        backward.join(other, one)

    assert [forward.root(g) for g in "abcdxyz"] == [backward.root(g) for g in "abcdxyz"] == list("aaaaxxz")
