from collections import Counter

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from components.data.appearance import APPEARANCE, apply
from components.data.png import encode_png
from components.data.sources.item import SourceItem
from components.errors import ConfigurationError
from components.simulation.scenario import Scenario
from components.simulation.truth import share_right, true_accuracy
from components.simulation.world import World

CLASSES = ("a", "b", "c")


def source(per_class: int) -> list[SourceItem]:
    return [
        SourceItem(f"{label}{number}", encode_png(np.full((4, 4), 60 * place + number, np.uint8)), label=label)
        for place, label in enumerate(CLASSES)
        for number in range(per_class)
    ]


weights = st.dictionaries(st.sampled_from(CLASSES), st.floats(0.1, 5), min_size=1)
shifts = st.one_of(
    st.fixed_dictionaries({"kind": st.just("class_prior"), "weights": weights, "severity": st.floats(0, 1)}),
    st.fixed_dictionaries({"kind": st.just("novel_class"), "classes": st.just(["c"]), "severity": st.floats(0.01, 1)}),
    st.fixed_dictionaries(
        {"kind": st.just("relabel"), "classes": st.just(["a"]), "to": st.just("b"), "severity": st.floats(0, 1)}
    ),
)
months = st.lists(
    st.fixed_dictionaries({"images": st.integers(1, 40), "shifts": st.lists(shifts, max_size=2)}),
    min_size=1,
    max_size=4,
)


@settings(max_examples=60, deadline=None)
@given(months, st.integers(1, 40), st.integers(0, 1000))
def test_a_world_deals_what_it_was_asked_for_and_nothing_twice_or_refuses(plan, initial, seed):
    scenario = Scenario.model_validate({"months": plan, "initial_images": initial, "seed": seed})
    items = source(50)
    try:
        world = World(scenario, items)
    except ConfigurationError as error:
        assert "are left" in str(error)
        return
    dealt = [world.initial()] + [world.month(number + 1) for number in range(len(plan))]
    assert [len(images) for images, _ in dealt] == [initial, *(month["images"] for month in plan)]
    contents = Counter(item.content for images, _ in dealt for item in images)
    assert max(contents.values()) == 1
    assert all({item.name for item in images} == set(truth) for images, truth in dealt)
    held_back = scenario.novel_classes()
    assert not held_back & set(dealt[0][1].values())


@settings(deadline=None)
@given(
    st.sampled_from(sorted(APPEARANCE)),
    st.floats(0, 1),
    st.integers(1, 12),
    st.integers(1, 12),
    st.sampled_from([(), (3,)]),
    st.integers(0, 2**32 - 1),
)
def test_a_shift_keeps_shape_and_type_and_never_writes_into_its_input(kind, severity, height, width, colours, seed):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (height, width, *colours), dtype=np.uint8)
    image.setflags(write=False)
    changed = apply(kind, image, severity, rng)
    assert changed.shape == image.shape
    assert changed.dtype == np.uint8


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(CLASSES), st.sampled_from([*CLASSES, "other"])), max_size=40))
def test_true_accuracy_adds_up(pairs):
    predicted, truth = [guess for guess, _ in pairs], [true for _, true in pairs]
    rows = true_accuracy(predicted, truth, CLASSES)
    assert sum(row.predicted for row in rows) == len(pairs)
    right = sum(guess == true for guess, true in pairs)
    assert round(sum((row.precision or 0) * row.predicted for row in rows)) == right
    assert round(sum((row.recall or 0) * row.actual for row in rows)) == right
    assume(pairs)
    assert share_right(predicted, truth) == right / len(pairs)
