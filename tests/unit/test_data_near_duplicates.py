"""Near pairs: the groups that comparing all with all gives, in any order of rows, bounded where all are alike."""

import io
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from components.data.descriptor import DESCRIPTOR_BYTES, SQUARED_WEIGHTS, descriptor
from components.data.ingestion import near_duplicates
from components.data.ingestion.near_duplicates import MOST_CANDIDATES, NEAR, NearPairs, near_pairs
from components.data.sources.datasets import digits_entries
from components.data.sources.fashion_mnist import SYSTEM_FOLDER, read_idx_folder
from components.errors import DataError

NONE = np.empty((0, DESCRIPTOR_BYTES), np.uint8)
COUNTS = st.tuples(st.integers(0, 60), st.integers(0, 60))


def families(rng: np.random.Generator, count: int) -> np.ndarray:
    """Descriptors around few centres, at distances on both sides of NEAR, some of them equal."""
    centres = rng.integers(0, 256, (3, DESCRIPTOR_BYTES))
    spread = rng.choice([0, 1, 2, 3], (count, 1))
    rows = centres[rng.integers(3, size=count)] + rng.integers(-1, 2, (count, DESCRIPTOR_BYTES)) * spread
    rows = np.where(rng.random((count, 1)) < 0.2, rng.integers(0, 256, rows.shape), rows)
    return rows.clip(0, 255).astype(np.uint8)


def all_distances(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.sqrt((one[:, None].astype(int) - other[None]) ** 2 @ SQUARED_WEIGHTS)


def groups(count: int, first: np.ndarray, second: np.ndarray) -> set[frozenset[int]]:
    graph = coo_array((np.ones(len(first)), (first, second)), shape=(count, count))
    label = connected_components(graph, directed=False)[1]
    return {frozenset(np.flatnonzero(label == n).tolist()) for n in np.unique(label)}


def brute_force(new: np.ndarray, stored: np.ndarray, within: float) -> set[frozenset[int]]:
    """Groups by comparing every new image with everything; equal stored ones stand for each other, by the first."""
    rows = np.concatenate([new, stored])
    near = all_distances(new, rows) <= within
    for number in range(len(new), len(rows)):
        earlier = [other for other in range(len(new), number) if (rows[other] == rows[number]).all()]
        near[:, number] &= not earlier
    return groups(len(rows), *np.nonzero(near))


def found(pairs: NearPairs, count: int) -> set[frozenset[int]]:
    return groups(count, pairs.first, pairs.second)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32 - 1), COUNTS, st.sampled_from([0.0, 12.0, NEAR, 30.0, 300.0]))
def test_groups_are_those_of_comparing_all_with_all(seed: int, counts: tuple[int, int], within: float) -> None:
    rng = np.random.default_rng(seed)
    rows = families(rng, sum(counts))
    new, stored = rows[: counts[0]], rows[counts[0] :]
    pairs = near_pairs(new, stored, within=within, workers=1)
    if pairs.crowded:
        return
    assert found(pairs, len(rows)) == brute_force(new, stored, within)
    apart = all_distances(rows, rows)[pairs.first, pairs.second]
    np.testing.assert_allclose(pairs.distance, apart)
    assert (apart <= within).all()
    assert (pairs.first < len(new)).all()
    assert (pairs.first < pairs.second).all()
    order = np.lexsort((pairs.second, pairs.first))
    np.testing.assert_array_equal(order, np.arange(len(order)))
    joined = sum(len(group) - 1 for group in found(pairs, len(rows)))
    assert len(pairs.first) == joined  # no pair more than joins the groups


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_groups_do_not_depend_on_the_order_of_rows(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = families(rng, 300)  # several crowds among them
    new, stored = rows[:200], rows[200:]
    places = np.concatenate([rng.permutation(200), 200 + rng.permutation(100)])
    moved = near_pairs(rows[places[:200]], rows[places[200:]], workers=1)
    named = {frozenset(places[list(group)].tolist()) for group in found(moved, 300) if min(group) < 200}
    anchors = {frozenset(group) for group in found(near_pairs(new, stored, workers=1), 300) if min(group) < 200}

    def described(of: set[frozenset[int]]) -> set[frozenset[bytes]]:
        return {frozenset(rows[number].tobytes() for number in group) for group in of}

    assert described(named) == described(anchors)


def test_the_same_rows_give_the_same_pairs_whatever_the_threads():
    rows = families(np.random.default_rng(7), 2000)
    one, other = near_pairs(rows, NONE, workers=1), near_pairs(rows, NONE, workers=2)
    assert one.first.tobytes() == other.first.tobytes()
    assert one.second.tobytes() == other.second.tobytes()
    assert one.distance.tobytes() == other.distance.tobytes()


def test_the_nearest_pairs_join_a_group():
    rows = np.full((3, DESCRIPTOR_BYTES), 128, np.uint8)
    rows[1, :100] += 1
    rows[2, :150] += 1  # 10 and 12.2 from the first, 7.1 from the second
    pairs = near_pairs(rows, NONE)
    assert [*zip(pairs.first, pairs.second, strict=True)] == [(0, 1), (1, 2)]
    assert pairs.distance == pytest.approx([10, np.sqrt(44 + 6 * 4)])


def test_stored_images_are_not_compared_with_each_other_but_a_new_one_joins_them():
    rows = np.full((3, DESCRIPTOR_BYTES), 128, np.uint8)
    rows[1, 0] += 1
    rows[2, 0] += 2
    assert len(near_pairs(NONE, rows).first) == 0
    assert len(near_pairs(rows[:1] + 100, rows[1:]).first) == 0
    pairs = near_pairs(rows[1:2], rows[[0, 2]])
    assert [*zip(pairs.first, pairs.second, strict=True)] == [(0, 1), (0, 2)]


def test_equal_images_are_paired_with_a_stored_one_first():
    rows = np.full((4, DESCRIPTOR_BYTES), 77, np.uint8)
    pairs = near_pairs(rows[:2], rows[2:])
    assert [*zip(pairs.first, pairs.second, strict=True)] == [(0, 2), (1, 2)]
    alone = near_pairs(rows, NONE)
    assert [*zip(alone.first, alone.second, strict=True)] == [(0, 1), (0, 2), (0, 3)]
    assert alone.crowded == 0


def test_the_distance_counts_up_to_its_limit_and_no_further():
    rows = np.full((2, DESCRIPTOR_BYTES), 100, np.uint8)
    rows[1, :4] += 10  # 20
    assert len(near_pairs(rows, NONE).first) == 1
    rows[1, 5] += 1
    assert len(near_pairs(rows, NONE).first) == 0


def test_crowds_of_nearly_blank_images_stay_bounded_and_one_group(monkeypatch):
    compared = 0
    squared = near_duplicates._squared

    def counting(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        nonlocal compared
        compared += len(one)
        return squared(one, other)

    monkeypatch.setattr(near_duplicates, "_squared", counting)
    monkeypatch.setattr(near_duplicates, "_MOST_KEPT", 50_000)  # several times thinned on the way
    rng = np.random.default_rng(8)
    blank = (128 + rng.integers(-1, 2, (10_000, DESCRIPTOR_BYTES)) * (np.arange(DESCRIPTOR_BYTES) < 144)).astype(
        np.uint8
    )
    blank[5000:7000] = blank[0]
    pairs = near_pairs(blank, NONE)
    assert compared <= 8001 * (MOST_CANDIDATES + 1)
    assert pairs.crowded >= 7999  # outliers may be in no crowd
    assert len(pairs.first) == 9999
    assert len(found(pairs, len(blank))) == 1


def test_crowds_of_different_images_keep_their_copies():
    rng = np.random.default_rng(9)
    noise = (128 + rng.integers(-4, 5, (8000, DESCRIPTOR_BYTES)) * (np.arange(DESCRIPTOR_BYTES) < 144)).astype(np.uint8)
    copies = noise[:200].copy()
    copies[:, :60] += 1
    pairs = near_pairs(copies, noise)
    assert pairs.crowded == 200
    assert (pairs.second == 200 + pairs.first).all()
    assert len(pairs.first) >= 0.97 * len(copies)


def test_other_arrays_are_refused():
    with pytest.raises(DataError, match=r"stored: .*\(3, 5\)"):
        near_pairs(NONE, np.zeros((3, 5), np.uint8))
    with pytest.raises(DataError, match=r"new: .*float64"):
        near_pairs(np.zeros((3, DESCRIPTOR_BYTES)), NONE)


def encoded(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(io.BytesIO(file.getvalue()))


def recalls(images: list[Image.Image], each: int) -> tuple[dict[str, float], float]:
    """Recall of each kind of planted copy, and the share of untouched images grouped with each other."""
    changes = {
        "JPEG 75": lambda image: encoded(image, 75),
        "JPEG 90": lambda image: encoded(image, 90),
        "doubled": lambda image: image.resize((2 * image.width, 2 * image.height), Image.Resampling.BILINEAR),
        "lighter": lambda image: image.point(lambda value: min(255, value + 3)),
        "darker": lambda image: image.point(lambda value: max(0, value - 3)),
    }
    rng = np.random.default_rng(10)
    picked = rng.choice(len(images), (len(changes), each), replace=False)
    copies = [change(images[n]) for change, row in zip(changes.values(), picked, strict=True) for n in row]
    rows = np.stack([descriptor(image) for image in [*images, *copies]])
    pairs = near_pairs(rows, NONE)
    graph = coo_array((np.ones(len(pairs.first)), (pairs.first, pairs.second)), shape=(len(rows), len(rows)))
    label = connected_components(graph, directed=False)[1]
    hit = (label[len(images) :] == label[picked.ravel()]).reshape(picked.shape).mean(axis=1)
    untouched = label[: len(images)]
    return dict(zip(changes, hit.tolist(), strict=True)), float((np.bincount(untouched)[untouched] > 1).mean())


def test_copies_of_real_digits_are_found_and_other_digits_are_not_taken_for_them():
    images = [Image.open(io.BytesIO(entry.read()[0])).convert("L").resize((32, 32)) for entry in digits_entries()]
    recall, wrong = recalls(images, 100)
    assert min(recall.values()) >= 0.95, recall
    assert wrong <= 0.005


def test_copies_of_real_clothes_are_found_and_other_clothes_are_not_taken_for_them():
    if not SYSTEM_FOLDER.exists():
        pytest.skip(f"the package dataset-fashion-mnist is not installed: no {SYSTEM_FOLDER}")
    start = time.perf_counter()
    images = [Image.fromarray(image) for image in read_idx_folder(SYSTEM_FOLDER).test_images]
    recall, wrong = recalls(images, 200)
    assert min(recall.values()) >= 0.95, recall
    assert wrong <= 0.005
    assert time.perf_counter() - start < 60
