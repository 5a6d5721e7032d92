"""Class lists changed at random: nothing is lost, order holds, and an answer ends where its image's label does."""

from collections import Counter
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from components.data.ingestion.class_changes import (
    Add,
    Merge,
    Rename,
    Split,
    Translation,
    applied,
    carried,
    changed_list,
)
from components.data.manifest import Manifest

CLASSES = tuple("abcdef")


@st.composite
def changed_manifests(draw):
    """Draw a manifest, changes that can follow one another, and the manifest after each."""
    said = draw(st.lists(st.sampled_from(CLASSES), min_size=1, max_size=30))
    rows = [
        {"image_id": f"{n:064x}", "label": label, "split": "train", "state": "active"} for n, label in enumerate(said)
    ]
    steps, changes = [Manifest.from_rows(rows, CLASSES)], []
    for number in range(draw(st.integers(0, 6))):
        now, new = steps[-1], f"new{number}"
        kind = draw(st.sampled_from(["add", "rename", "merge", "split"]))
        some = draw(st.permutations(now.classes))
        if kind == "add":
            change = Add(new)
        elif kind == "rename":
            change = Rename(some[0], new)
        elif kind == "merge" and len(some) > 2:
            sources = tuple(some[: draw(st.integers(2, len(some) - 1))])
            change = Merge(sources, draw(st.sampled_from([new, *sources])))
        else:
            members = [image_id for image_id, label in labels(now).items() if label == some[0]]
            parts = {i: draw(st.sampled_from([f"{new}x", f"{new}y"])) for i in members if draw(st.booleans())}
            rest = draw(st.sampled_from([some[0], f"{new}rest"]))
            change = Split(some[0], tuple(sorted({*parts.values(), f"{new}x"})), rest, parts)
        changes.append(change)
        steps.append(applied(now, change))
    return steps, changes


def labels(manifest):
    return dict(zip(manifest.table["image_id"].to_pylist(), manifest.table["label"].to_pylist(), strict=True))


@given(changed_manifests())
def test_no_image_and_no_label_is_lost_and_every_label_is_in_the_list(drawn):
    steps, _ = drawn
    for manifest in steps:
        assert labels(manifest).keys() == labels(steps[0]).keys()
        assert set(labels(manifest).values()) <= set(manifest.classes)
        assert max(Counter(manifest.classes).values()) == 1
        assert sum(sum(of_class.values()) for of_class in manifest.counts().values()) == manifest.table.num_rows


@given(changed_manifests())
def test_classes_that_stay_keep_their_order(drawn):
    steps, _ = drawn
    for before, after in pairwise(steps):
        stayed = [name for name in before.classes if name in after.classes]
        kept = [name for name in after.classes if name in before.classes]
        assert stayed == kept


@given(changed_manifests())
def test_an_answer_given_before_ends_where_the_images_label_ends_or_is_held(drawn):
    steps, changes = drawn
    for step, manifest in enumerate(steps):
        for image_id, label in labels(manifest).items():
            now = carried(label, changes[step:], image_id).name
            split_since = any(isinstance(change, Split) for change in changes[step:])
            assert now == labels(steps[-1])[image_id] or (now is None and split_since)


@given(changed_manifests())
def test_what_a_translation_calls_whole_are_the_images_of_its_parts(drawn):
    steps, changes = drawn
    first, last = steps[0], steps[-1]
    translation = Translation.of(first.classes, last.classes, changes)
    for name, parts in translation.whole.items():
        before = {image_id for image_id, label in labels(first).items() if label in parts}
        assert before == {image_id for image_id, label in labels(last).items() if label == name}
    for name, place in zip(first.classes, translation.places(), strict=True):
        of_class = {labels(last)[image_id] for image_id, label in labels(first).items() if label == name}
        assert place == -1 or of_class <= {last.classes[place]}


@given(changed_manifests(), st.data())
def test_a_rename_and_back_changes_nothing(drawn, data):
    manifest = drawn[0][-1]
    name = data.draw(st.sampled_from(manifest.classes))
    back = applied(applied(manifest, Rename(name, "elsewhere")), Rename("elsewhere", name))
    assert back.classes == manifest.classes
    assert back.digest() == manifest.digest()


@given(st.permutations(CLASSES), st.integers(2, 4), st.data())
def test_changes_of_different_classes_may_come_in_any_order(some, many, data):
    merge = Merge(tuple(some[:many]), data.draw(st.sampled_from(["m", *some[:many]])))
    rename = Rename(some[-1], "r")
    assert changed_list(changed_list(CLASSES, merge), rename) == changed_list(changed_list(CLASSES, rename), merge)
    # Renaming what is merged comes to the same as renaming the result.
    before = changed_list(changed_list(CLASSES, Rename(some[0], "q")), Merge(("q", *some[1:many]), "m"))
    assert before == changed_list(changed_list(CLASSES, Merge(tuple(some[:many]), "x")), Rename("x", "m"))
