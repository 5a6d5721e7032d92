"""Twenty thousand damaged images (`make fuzz`: ten times as many, others each time): each one decodes or is rejected.

Quickly, within its memory, and no good image beside them is lost.
"""

import io
import os
import time
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from components.data.decoding.decode import ImageLimits, ImageRejected, decode
from components.data.decoding.isolation import IsolatedDecoder, IsolationLimits

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's remarks on damaged metadata

LIMITS = ImageLimits(max_bytes=1_000_000, max_pixels=1_000_000, min_side=4)
REASONS = {"empty", "too-many-bytes", "not-an-image", "too-many-pixels", "too-small", "truncated", "corrupt"}
MUTANTS = int(os.environ.get("PERENNIAL_FUZZ_IMAGES", "20000"))
SEED = int(os.environ.get("PERENNIAL_FUZZ_SEED", "7"))
GOOD_EVERY = 16  # so many damaged images follow on a good one
BATCH = 480


def seeds() -> list[bytes]:
    grey = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 24), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    kinds = [
        (grey, "PNG", {"exif": exif}),
        (grey.convert("P"), "PNG", {"transparency": 0}),
        (Image.fromarray(np.asarray(grey).astype(np.uint16) * 257), "PNG", {}),
        (grey.convert("RGB"), "JPEG", {"exif": exif}),
        (grey.convert("RGB"), "JPEG", {"progressive": True}),
        (grey.convert("CMYK"), "JPEG", {}),
        (grey, "GIF", {"save_all": True, "append_images": [grey.rotate(90)]}),
        (grey.convert("RGB"), "BMP", {}),
        (grey.convert("RGB"), "TIFF", {"compression": "tiff_lzw"}),
        (grey.convert("F"), "TIFF", {}),
        (grey.convert("RGBA"), "WEBP", {"exif": exif}),
        (grey.convert("RGB"), "WEBP", {"save_all": True, "append_images": [grey.rotate(90).convert("RGB")]}),
        (grey, "PPM", {}),
    ]
    contents = []
    for image, kind, options in kinds:
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        contents.append(buffer.getvalue())
    return contents


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    """Flip bytes (headers more often), cut the end, or repeat or remove a piece."""
    changed = bytearray(content)
    for _ in range(int(rng.integers(1, 6))):
        span = min(len(changed), 80) if rng.random() < 0.6 else len(changed)
        if span == 0:
            break
        place = int(rng.integers(span))
        action = rng.random()
        if action < 0.6:
            changed[place] = int(rng.choice([0, 1, 0x7F, 0x80, 0xFF, int(rng.integers(256))]))
        elif action < 0.75:
            del changed[max(place, 1) :]
        elif action < 0.9:
            del changed[place : place + int(rng.integers(1, 9))]
        else:
            changed[place:place] = changed[place : place + int(rng.integers(1, 40))]
    return bytes(changed)


def outcome(content: bytes) -> str:
    try:
        image = decode(content, LIMITS)
    except ImageRejected as rejected:
        assert rejected.reason in REASONS
        return rejected.reason
    assert image.mode in ("L", "RGB")
    assert np.asarray(image).dtype == np.uint8
    assert image.width * image.height <= LIMITS.max_pixels
    return "decoded"


def test_damaged_images_decode_or_are_rejected_and_none_takes_long() -> None:
    rng = np.random.default_rng(SEED)
    originals = seeds()
    outcomes: Counter[str] = Counter()
    slowest = 0.0
    for number in range(MUTANTS):
        content = mutated(originals[number % len(originals)], rng)
        started = time.perf_counter()
        outcomes[outcome(content)] += 1
        slowest = max(slowest, time.perf_counter() - started)

    assert slowest < 2
    assert min(outcomes["decoded"], outcomes["truncated"], outcomes["corrupt"], outcomes["too-many-pixels"]) > 100


def test_good_images_among_damaged_ones_all_come_through_the_isolated_decoder() -> None:
    rng = np.random.default_rng(SEED + 1)
    originals = seeds()
    kinds = [*originals, *(mutated(content, rng) for _ in range(20) for content in originals)]
    outcomes: Counter[str] = Counter()
    lost = 0
    with IsolatedDecoder(LIMITS, IsolationLimits(seconds=2, memory=2_560_000_000)) as decoder:
        for start in range(0, MUTANTS, BATCH):
            batch = [mutated(kinds[int(rng.integers(len(kinds)))], rng) for _ in range(BATCH)]
            batch[::GOOD_EVERY] = [originals[(start + n) % len(originals)] for n in range(len(batch[::GOOD_EVERY]))]
            verdicts = decoder.submit(batch).result()
            outcomes.update(verdict.reason or "decoded" for verdict in verdicts)
            lost += sum(verdict.reason is not None for verdict in verdicts[::GOOD_EVERY])

    assert lost == 0
    assert outcomes.keys() <= REASONS | {"decoded"}  # none crashed the decoder, took too long or too much memory
    assert outcomes.total() >= MUTANTS


def test_the_undamaged_ones_decode() -> None:
    assert {outcome(content) for content in seeds()} == {"decoded"}


@settings(max_examples=300, deadline=None)
@given(
    st.binary(max_size=400), st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"II*\x00", b"RIFF", b"P6 "])
)
def test_arbitrary_bytes_are_rejected_or_decoded(content: bytes, start: bytes) -> None:
    assert outcome(start + content) in {
        "decoded", "empty", "too-many-bytes", "not-an-image", "too-many-pixels", "too-small", "truncated", "corrupt",
    }  # fmt: skip
