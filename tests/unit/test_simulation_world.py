from collections import Counter

import numpy as np
import pytest

from components.data.decoding.decode import ImageLimits, decode
from components.data.png import encode_png
from components.data.sources.item import SourceItem
from components.errors import ConfigurationError
from components.simulation.scenario import Scenario
from components.simulation.world import World

LIMITS = ImageLimits(max_bytes=100_000, max_pixels=10_000, min_side=1)
CLASSES = ("a", "b", "c", "d")


def source(per_class: int = 250) -> list[SourceItem]:
    """Images of one colour with one odd corner, all different."""
    items = []
    for place, label in enumerate(CLASSES):
        for number in range(per_class):
            pixels = np.full((6, 6), 20 * place + number % 180, np.uint8)
            pixels[0, :3] = (place, number // 180, 5)
            items.append(SourceItem(f"{label}/{number:04d}.png", encode_png(pixels), label=label))
    return items


def world(*shifts: dict, months: int = 3, images: int = 200, items=None, **changes) -> World:
    first = {"images": images, "shifts": list(shifts)}
    content = {"initial_images": 100, "label_errors": 0.1, "months": [first] + [{"images": images}] * (months - 1)}
    return World(Scenario.model_validate(content | changes), source() if items is None else items)


def pixels(item: SourceItem) -> np.ndarray:
    return np.asarray(decode(item.content, LIMITS))


def everything(built: World) -> list:
    return [built.initial(), *(built.month(number + 1) for number in range(len(built.scenario.months)))]


def test_the_same_scenario_gives_the_same_world_and_another_seed_another():
    shift = {"kind": "noise", "severity": 0.5}
    assert everything(world(shift)) == everything(world(shift))
    assert world(shift, seed=8).month(1) != world(shift).month(1)


def test_months_can_be_asked_in_any_order_and_repeatedly():
    built = world({"kind": "rotate", "severity": 0.5})
    third = built.month(3)
    built.month(1)
    assert built.month(3) == third


def test_a_longer_scenario_does_not_change_the_earlier_months():
    assert everything(world(months=2)) == everything(world(months=4))[:3]


def test_the_planted_share_of_initial_labels_is_wrong_and_the_truth_says_which():
    items, truth = world().initial()
    assert len(items) == len(truth) == 100
    wrong = [item for item in items if item.label != truth[item.name]]
    assert len(wrong) == 10
    assert {item.label for item in wrong} <= set(CLASSES)
    assert all(item.name.startswith(f"{truth[item.name]}/") for item in items)


def test_months_are_unlabelled_and_their_names_tell_nothing():
    items, truth = world().month(2)
    assert len(items) == len(truth) == 200
    assert all(item.label is None and item.group is None for item in items)
    names = [item.name for item in items]
    assert names == sorted(names) == sorted(truth)
    assert set(truth.values()) == set(CLASSES)
    half = [truth[name] for name in names[:100]]
    assert set(half) == set(CLASSES), "classes come in blocks"


def test_no_image_is_handed_out_twice():
    seen = Counter(item.content for items, _ in everything(world(months=4, images=220)) for item in items)
    assert max(seen.values()) == 1
    assert seen.total() == 980


def test_a_source_that_is_too_small_is_refused_with_the_month_and_the_numbers():
    with pytest.raises(ConfigurationError, match=r"month 5 .* wants 200 images, 100 are left"):
        world(months=5)
    with pytest.raises(ConfigurationError, match=r"initial data .* wants 1100 images, 1000 are left"):
        world(initial_images=1100)


def test_the_last_image_of_the_source_can_be_handed_out():
    assert len(world(months=3, images=300).month(3)[0]) == 300


def test_a_shift_changes_the_images_of_its_classes_alone():
    plain, shifted = world().month(1), world({"kind": "invert", "classes": ["b"]}).month(1)
    assert plain[1] == shifted[1]
    for before, after in zip(plain[0], shifted[0], strict=True):
        if plain[1][before.name] == "b":
            np.testing.assert_array_equal(pixels(after), 255 - pixels(before))
        else:
            assert after == before


def test_a_shift_that_has_ended_changes_nothing_more():
    plain, shifted = world(), world({"kind": "invert", "until": 2})
    assert [plain.month(m) == shifted.month(m) for m in (1, 2, 3)] == [False, False, True]


def test_a_prior_shift_changes_the_mix_by_its_weight():
    def share(severity: float) -> float:
        built = world(
            {"kind": "class_prior", "weights": {"a": 3.0}, "severity": severity},
            items=source(2000),
            images=3000,
            months=1,
        )
        return Counter(built.month(1)[1].values())["a"] / 3000

    assert share(0.0) == pytest.approx(1 / 4, abs=0.03)
    assert share(0.5) == pytest.approx(2 / 5, abs=0.03)
    assert share(1.0) == pytest.approx(3 / 6, abs=0.03)


def test_a_prior_that_exhausts_its_class_is_refused_by_name():
    with pytest.raises(ConfigurationError, match=r"month 3 .* of class 'a', \d+ are left; .* smaller weight"):
        world({"kind": "class_prior", "weights": {"a": 3.0}})


def test_relabel_means_another_class_for_the_brightest_share_and_leaves_the_pixels():
    plain = world()
    relabelled = world({"kind": "relabel", "classes": ["a"], "to": "b", "severity": 0.4})
    items, truth = relabelled.month(1)
    assert items == plain.month(1)[0]
    before = plain.month(1)[1]
    moved = {name for name in truth if truth[name] != before[name]}
    assert {(before[name], truth[name]) for name in moved} == {("a", "b")}
    levels = {item.name: pixels(item).mean() for item in items if before[item.name] == "a"}
    stayed = set(levels) - moved
    assert min(levels[name] for name in moved) > max(levels[name] for name in stayed)
    assert len(moved) / len(levels) == pytest.approx(0.4, abs=0.15)


def test_relabel_of_severity_0_and_1_moves_none_and_all():
    for severity, left in ((0.0, True), (1.0, False)):
        truth = world({"kind": "relabel", "classes": ["a"], "to": "b", "severity": severity}).month(1)[1]
        assert ("a" in truth.values()) is left


def test_a_novel_class_is_held_back_until_its_month():
    shift = {"kind": "novel_class", "classes": ["d"]}
    months = [{"images": 100}, {"images": 200, "shifts": [shift]}, {"images": 200}]
    built = World(Scenario.model_validate({"initial_images": 100, "months": months}), source())
    truths = [set(truth.values()) for _, truth in everything(built)]
    assert truths == [{"a", "b", "c"}, {"a", "b", "c"}, set(CLASSES), set(CLASSES)]
    assert {item.label for item in built.initial()[0]} == {"a", "b", "c"}
    assert built.classes == CLASSES


def test_class_names_the_source_does_not_have_are_refused():
    for shift in (
        {"kind": "blur", "classes": ["x"]},
        {"kind": "class_prior", "weights": {"x": 2.0}},
        {"kind": "relabel", "classes": ["a"], "to": "x"},
    ):
        with pytest.raises(ConfigurationError, match=r"class 'x'.* a, b, c, d"):
            world(shift)


def test_an_item_without_a_label_and_a_month_that_is_none_are_refused():
    with pytest.raises(ConfigurationError, match=r"lone\.png has no label"):
        world(items=[*source(), SourceItem("lone.png", b"")])
    for number in (0, 4):
        with pytest.raises(ConfigurationError, match="3 months"):
            world().month(number)
