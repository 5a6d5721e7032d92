import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from components.data.decoding.decode import ImageLimits
from components.data.png import encode_png
from components.data.sources.item import SourceItem
from components.errors import DataError, IntegrityError, ServiceError
from components.model.artifact import ModelSpec
from components.model.images.preprocess import PreprocessSpec, prepare
from components.model.serving.predictor import energy
from components.params import Score
from components.records import IMAGE_STATISTICS, ScoredChunk, SetAside
from components.scoring.batch import score
from components.scoring.images import ImageStore

LIMITS = ImageLimits(max_bytes=1_000_000, max_pixels=1_000_000, min_side=4)
MONTH = date(2026, 10, 1)
SPEC = ModelSpec(
    classes=("dark", "middle", "light"),
    preprocess=PreprocessSpec(8, 1, "stretch", 1.0, "bilinear", (0.5,), (0.5,)),
    backbone="none",
    temperature=2.0,
    review_below=0.6,
)


@dataclass
class BrightnessModel:
    """Answers by an image's mean brightness, so that a test can say what each image must get."""

    spec: ModelSpec = SPEC
    batches: int = 0
    broken: bool = False

    def predict(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self.batches += 1
        brightness = images.reshape(len(images), int(np.prod(images.shape[1:]))).mean(axis=1, keepdims=True) / 255
        logits = (-20 * (brightness - np.array([[0.0, 0.5, 1.0]])) ** 2).astype(np.float32)
        scaled = np.exp(logits / self.spec.temperature)
        probabilities = scaled / scaled.sum(axis=1, keepdims=True)
        if self.broken:
            probabilities[0] = np.nan
        return logits, probabilities.astype(np.float32)


def at_work() -> list[str]:
    """The names of scoring's own threads that still run; other tests' libraries may have left theirs."""
    return [t.name for t in threading.enumerate() if t.name.startswith(("score", "read", "store"))]


def image(level: int, name: str) -> SourceItem:
    return SourceItem(name, encode_png(np.full((8, 8), level, np.uint8)))


def images(total: int) -> list[SourceItem]:
    return [image(number % 256, f"{number:05d}.png") for number in range(total)]


def start(items, store, model=None, **changes):
    arguments = {"params": Score(batch_size=4, chunk_rows=10), "batch_id": "batch", "month": MONTH} | changes
    preparing = partial(prepare, spec=SPEC.preprocess, limits=LIMITS)
    return score(items, model or BrightnessModel(), preparing, store=store, **arguments)


def run(items, store, model=None, **changes):
    return list(start(items, store, model, **changes))


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(str(tmp_path / "store"))


def test_every_item_comes_out_once_in_order_in_chunks_of_fixed_bounds(store):
    chunks = run(images(25), store)
    assert [chunk.item_no.tolist() for chunk in chunks] == [
        list(range(10)),
        list(range(10, 20)),
        list(range(20, 25)),
    ]
    assert [chunk.shard for chunk in chunks] == [f"2026-10/batch-{number:05d}.arrow" for number in range(3)]


def test_columns_hold_what_the_model_and_the_file_say(store):
    items = [image(0, "a"), image(128, "b"), image(255, "c"), image(70, "between")]
    (chunk,) = run(items, store)
    assert chunk.predicted.tolist() == [0, 1, 2, 1]
    assert chunk.name == ("a", "b", "c", "between")
    assert chunk.image_id == tuple(hashlib.sha256(item.content).hexdigest() for item in items)
    pixels = np.stack([np.full((8, 8, 1), level, np.uint8) for level in (0, 128, 255, 70)])
    logits, probabilities = BrightnessModel().predict(pixels)
    np.testing.assert_allclose(chunk.probabilities, probabilities.astype(np.float16))
    np.testing.assert_allclose(chunk.confidence, probabilities.max(axis=1))
    np.testing.assert_allclose(chunk.ood_score, energy(logits, 2.0))
    assert chunk.needs_review.tolist() == [False, False, False, True]
    assert set(chunk.statistics) == set(IMAGE_STATISTICS)
    np.testing.assert_allclose(chunk.statistics["brightness"], [0, 128 / 255, 1, 70 / 255], rtol=1e-5)
    assert chunk.statistics["bytes"].tolist() == [len(item.content) for item in items]
    assert chunk.latency_ms > 0
    assert {str(chunk.item_no.dtype), str(chunk.predicted.dtype), str(chunk.probabilities.dtype)} == {
        "int64",
        "int16",
        "float16",
    }


def test_pixels_are_stored_before_the_chunk_comes_out_and_row_n_is_item_n(store):
    items = images(12)
    for chunk in start(items, store, params=Score(batch_size=3, chunk_rows=5)):
        for row, number in enumerate(chunk.item_no):
            assert store.get(chunk.shard, row, chunk.image_id[row]) == items[number].content


def test_hostile_files_are_set_aside_with_their_rule_and_the_batch_goes_on(store):
    items = images(9)
    items[1] = SourceItem("cut", items[1].content[:40])
    items[2] = SourceItem("empty", b"")
    items[3] = SourceItem("../out", b"", problem="unsafe-path")
    items[4] = SourceItem("text", b"no image at all")
    refused, chunk = run(items, store)
    assert [(aside.item_no, aside.name) for aside in refused] == [(1, "cut"), (2, "empty"), (3, "../out"), (4, "text")]
    assert [aside.reason for aside in refused][1:] == ["empty", "unsafe-path", "not-an-image"]
    assert all(isinstance(aside, SetAside) and aside.detail for aside in refused)
    assert chunk.item_no.tolist() == [0, 5, 6, 7, 8]
    assert store.get(chunk.shard, 1, chunk.image_id[1]) == items[5].content


def test_a_recalled_image_is_set_aside_and_its_pixels_are_not_stored(store):
    items = images(9)
    gone = {hashlib.sha256(items[n].content).hexdigest() for n in (2, 4, 5, 6, 7)}  # the second piece has no other
    model = BrightnessModel()
    refused, chunk = run(items, store, model, recalled=gone.intersection)
    assert [(aside.item_no, aside.reason) for aside in refused] == [(n, "recalled") for n in (2, 4, 5, 6, 7)]
    assert chunk.item_no.tolist() == [0, 1, 3, 8]
    for row, number in enumerate(chunk.item_no):
        assert store.get(chunk.shard, row, chunk.image_id[row]) == items[number].content
    with pytest.raises(IntegrityError, match="has 4 rows"):
        store.get(chunk.shard, 4)


def test_a_chunk_of_refused_files_alone_makes_no_shard(store):
    (refused,) = run([SourceItem(str(number), b"") for number in range(7)], store)
    assert len(refused) == 7
    assert store.months() == []


def test_a_repeated_run_makes_the_same_chunks_and_shards(store, tmp_path):
    other = ImageStore(str(tmp_path / "other"))
    first, second = run(images(25), store), run(iter(images(25)), other)
    for one, two in zip(first, second, strict=True):
        assert one.image_id == two.image_id
        np.testing.assert_array_equal(one.probabilities, two.probabilities)
        assert (tmp_path / "store" / one.shard).read_bytes() == (tmp_path / "other" / two.shard).read_bytes()


def test_chunks_wholly_done_are_not_decoded_again(store):
    model = BrightnessModel()
    chunks = run(images(25), store, model, done=set(range(10)) | set(range(20, 25)))
    assert [chunk.item_no[0] for chunk in chunks] == [10]
    assert model.batches == 3
    assert run(images(25), store, done=set(range(25))) == []


def test_a_chunk_partly_done_is_made_again_whole(store):
    assert [len(chunk.item_no) for chunk in run(images(20), store, done=set(range(10)) | {13})] == [10]


def test_review_is_asked_for_below_the_models_own_threshold(store):
    (chunk,) = run([image(level, str(level)) for level in range(40, 90, 5)], store)
    np.testing.assert_array_equal(chunk.needs_review, chunk.confidence < 0.6)
    assert 0 < chunk.needs_review.sum() < 10


def test_an_answer_of_the_reject_class_needs_a_person_however_sure_it_is(store):
    items = [image(level, f"{level}.png") for level in (0, 128, 255)]
    (plain,) = run(items, store)
    (flagged,) = run(items, store, BrightnessModel(replace(SPEC, reject_class="light")))
    assert not plain.needs_review.any()
    assert flagged.needs_review.tolist() == [False, False, True]
    assert flagged.predicted.tolist() == plain.predicted.tolist() == [0, 1, 2]


def test_a_strange_image_needs_a_person_however_sure_the_answer(store):
    items = [image(level, f"{level}.png") for level in (0, 128, 255)]
    (plain,) = run(items, store)
    strange = float(plain.ood_score.min())
    (flagged,) = run(items, store, BrightnessModel(replace(SPEC, unfamiliar_above=strange)))
    assert not plain.needs_review.any()
    assert flagged.needs_review.tolist() == (plain.ood_score > strange).tolist()
    assert flagged.needs_review.sum() == 2  # dark and light are as strange as each other


def test_an_empty_batch_gives_nothing(store):
    assert run([], store) == []


def test_nan_from_the_model_stops_the_batch_and_names_the_image(store):
    with pytest.raises(DataError, match=r"00000\.png"):
        run(images(3), store, BrightnessModel(broken=True))


def test_an_error_of_the_source_comes_out_after_the_chunks_before_it(store):
    def source() -> Iterator[SourceItem]:
        yield from images(20)
        raise DataError("the folder went away")

    seen: list[ScoredChunk] = []
    with pytest.raises(DataError, match="went away"):
        seen.extend(start(source(), store))
    assert at_work() == []


def test_closing_early_ends_every_thread_and_publishes_no_part_of_a_chunk(store, tmp_path):
    handed_out = 0

    def endless() -> Iterator[SourceItem]:
        nonlocal handed_out
        for number in count():
            handed_out += 1
            yield image(number % 256, f"{number:09d}.png")

    results = start(endless(), store)
    next(results)
    results.close()
    assert at_work() == []
    assert handed_out < 200
    for shard in (tmp_path / "store" / "2026-10").iterdir():
        name = f"2026-10/{shard.name}"
        store.get(name, 9)
    assert not [path for path in (tmp_path / "store").iterdir() if path.name != "2026-10"]


def test_closing_does_not_wait_for_a_long_chunk_to_be_finished(store, tmp_path):
    handed_out = 0

    def endless() -> Iterator[SourceItem]:
        nonlocal handed_out
        for number in count():
            handed_out += 1
            yield image(number % 256, f"{number:09d}.png")

    results = start(endless(), store, params=Score(batch_size=4, chunk_rows=2000))
    next(results)
    results.close()
    assert handed_out < 3000
    assert [path.name for path in (tmp_path / "store" / "2026-10").iterdir()] == ["batch-00000.arrow"]


def test_a_store_that_cannot_be_written_is_a_service_error(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with pytest.raises(ServiceError, match="score the batch again"):
        run(images(3), ImageStore(str(blocked)))
    assert at_work() == []


def test_memory_stays_bounded_while_the_consumer_is_slow(store):
    handed_out = 0

    def source() -> Iterator[SourceItem]:
        nonlocal handed_out
        for item in images(400):
            handed_out += 1
            yield item

    results = start(source(), store)
    for number in range(5):
        chunk = next(results)
        # This chunk, one that waits, one in the making, and the pieces read and decoded ahead.
        assert handed_out <= chunk.item_no[-1] + 1 + 20 + 4 * 10, number
    results.close()


def test_several_labels_come_out_by_their_thresholds_and_near_ones_need_review(store):
    spec = replace(SPEC, several=True, thresholds=(0.5, 0.5, 0.9), scales=(1.0,) * 3, offsets=(0.0,) * 3)

    class SeveralModel(BrightnessModel):
        def predict(self, images):
            logits = np.tile(np.array([[4.0, -4.0, 2.0]], np.float32), (len(images), 1))
            logits[0] = [-9.0, -9.0, -9.0]
            return logits, (1 / (1 + np.exp(-logits))).astype(np.float32)

    (chunk,) = run(images(3), store, SeveralModel(spec), params=Score(batch_size=8, chunk_rows=8))
    assert chunk.positive.tolist() == [[False] * 3, [True, False, False], [True, False, False]]
    assert chunk.needs_review.tolist() == [False, True, True]  # 0.88 is near 0.9, and far from a half
    assert chunk.predicted[1] == 0 and chunk.ood_score[0] > chunk.ood_score[1]
    (single,) = run(images(3), store, BrightnessModel(), params=Score(batch_size=8, chunk_rows=8), batch_id="other")
    assert single.positive is None
