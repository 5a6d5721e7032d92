import hashlib
from datetime import date
from functools import partial

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from components.data.decoding.decode import ImageLimits
from components.data.png import encode_png
from components.data.sources.item import SourceItem
from components.model.artifact import ModelSpec
from components.model.images.preprocess import PreprocessSpec, prepare
from components.params import Score
from components.records import ScoredChunk
from components.scoring.batch import score
from components.scoring.images import ImageStore, shard_name
from components.scoring.pieces import identity, read_batch

LIMITS = ImageLimits(max_bytes=10_000, max_pixels=10_000, min_side=4)
GOOD = encode_png(np.arange(64, dtype=np.uint8).reshape(8, 8))


class UniformModel:
    """Any two classes, equally likely: what matters here is which items come out."""

    spec = ModelSpec(("a", "b"), PreprocessSpec(8, 1, "stretch", 1.0, "bilinear", (0.5,), (0.5,)), "none")

    def predict(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros((len(images), 2), np.float32), np.full((len(images), 2), 0.5, np.float32)


contents = st.one_of(st.just(GOOD), st.binary(max_size=20), st.just(GOOD[:50]))
problems = st.sampled_from([None, None, None, "unsafe-path", "symlink"])
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
items = st.builds(lambda name, content, problem: SourceItem(name, content, problem=problem), names, contents, problems)
batches = st.lists(items, max_size=30)


@settings(max_examples=60, deadline=None)
@given(batches, st.integers(1, 7), st.integers(1, 12), st.integers(1, 3), st.sets(st.integers(0, 30)))
def test_every_item_comes_out_exactly_once_whatever_the_sizes(tmp_path_factory, batch, size, rows, threads, done):
    store = ImageStore(str(tmp_path_factory.mktemp("store")))
    params = Score(batch_size=size, chunk_rows=rows, workers=threads)
    results = score(
        batch,
        UniformModel(),
        partial(prepare, spec=UniformModel.spec.preprocess, limits=LIMITS),
        params=params,
        store=store,
        batch_id="b",
        month=date(2026, 10, 1),
        done=done,
    )
    seen: list[int] = []
    for result in results:
        if isinstance(result, ScoredChunk):
            assert result.shard == shard_name(date(2026, 10, 1), "b", int(result.item_no[0]) // rows)
            for row, number in enumerate(result.item_no):
                assert store.get(result.shard, row, result.image_id[row]) == batch[number].content
            seen += result.item_no.tolist()
        else:
            seen += [aside.item_no for aside in result]
    assert len(seen) == len(set(seen))
    expected = set()
    for start in range(0, len(batch), rows):
        chunk = set(range(start, min(start + rows, len(batch))))
        if not chunk <= done:
            expected |= chunk
    assert set(seen) == expected


@settings(deadline=None)
@given(batches, st.integers(1, 7), st.integers(1, 12))
def test_pieces_are_the_batch_cut_at_fixed_places(batch, size, rows):
    pieces = list(read_batch(iter(batch), batch_size=size, chunk_rows=rows))
    assert [item for piece in pieces for item in piece.items] == batch
    for piece in pieces:
        assert 1 <= len(piece.items) <= size
        assert piece.first // rows == (piece.first + len(piece.items) - 1) // rows == piece.chunk


@settings(deadline=None)
@given(batches, st.randoms(use_true_random=False))
def test_identity_knows_a_batch_by_its_content_and_not_its_order(batch, random):
    shuffled = list(batch)
    random.shuffle(shuffled)
    assert identity(shuffled) == identity(batch)
    assert identity([*batch, SourceItem("one more", b"x")]) != identity(batch)


@settings(deadline=None)
@given(st.text(max_size=120), st.text(max_size=120))
def test_no_two_batch_ids_share_a_shard_and_none_leaves_its_month(one, other):
    first, second = (shard_name(date(2026, 10, 1), key.encode("utf-8", "replace").decode(), 0) for key in (one, other))
    assert first.startswith("2026-10/")
    assert first.count("/") == 1
    assert "\x00" not in first
    if one.encode("utf-8", "replace") != other.encode("utf-8", "replace"):
        assert first != second
    assert len(first) <= len("2026-10/") + 100 + len("-00000.arrow")


def test_a_hashed_key_is_the_whole_keys_hash():
    key = "a/b"
    assert hashlib.sha256(key.encode()).hexdigest() in shard_name(date(2026, 10, 1), key, 0)
