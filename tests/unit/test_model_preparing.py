"""Files as the network takes them, decoded apart: the same pixels, and no file ends more than its own process."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator

import numpy as np
import psutil
import pytest
from PIL import Image

from components.data.decoding.decode import ImageLimits
from components.data.decoding.isolation import IsolationLimits
from components.data.png import encode_png
from components.model.images.preparing import IsolatedPreparer
from components.model.images.preprocess import PreprocessSpec, prepare

LIMITS = ImageLimits(max_bytes=1_000_000, max_pixels=1_000_000, min_side=4)
ISOLATION = IsolationLimits(seconds=1, memory=2 * 1024**3)
GREY = PreprocessSpec(9, 1, "stretch", 1.0, "bilinear", (0.5,), (0.5,))
COLOUR = PreprocessSpec(16, 3, "crop", 0.875, "bicubic", (0.5, 0.4, 0.3), (0.2, 0.2, 0.2))


def photograph(number: int, mode: str = "RGB") -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (20 + number, 31, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, "JPEG" if mode != "P" else "PNG")
    return buffer.getvalue()


FILES = [photograph(0), b"", photograph(1, "L"), b"rubbish", photograph(2, "CMYK"), photograph(3)[:300], photograph(4)]


@pytest.mark.parametrize("spec", [GREY, COLOUR], ids=["grey", "colour"])
def test_files_are_prepared_as_they_are_in_this_process(spec: PreprocessSpec) -> None:
    expected = prepare(FILES, spec, LIMITS)
    with IsolatedPreparer(spec, LIMITS, ISOLATION, processes=1) as preparer:
        found = preparer.prepare(FILES)
        again = preparer.prepare(FILES[:1])

    assert found.accepted == expected.accepted == [0, 2, 4, 6]
    np.testing.assert_array_equal(found.pixels, expected.pixels)
    np.testing.assert_array_equal(found.statistics, expected.statistics)
    assert {place: str(error) for place, error in found.refused.items()} == {
        place: str(error) for place, error in expected.refused.items()
    }
    np.testing.assert_array_equal(again.pixels, expected.pixels[:1])


@pytest.mark.parametrize("files", [[], [b"", b"rubbish"]], ids=["none", "none that can be used"])
def test_of_no_image_there_are_no_pixels(files: list[bytes]) -> None:
    with IsolatedPreparer(COLOUR, LIMITS, ISOLATION, processes=1) as preparer:
        found = preparer.prepare(files)
    assert (found.pixels.shape, found.pixels.dtype, found.statistics.shape) == ((0, 16, 16, 3), np.uint8, (0, 8))
    assert len(found.refused) == len(files)


@pytest.fixture
def preparer() -> Iterator[IsolatedPreparer]:
    with IsolatedPreparer(GREY, LIMITS, ISOLATION, processes=1) as preparer:
        yield preparer


@pytest.mark.usefixtures("misbehaving")
def test_a_file_that_ends_its_process_is_refused_and_the_others_are_what_they_were(preparer: IsolatedPreparer) -> None:
    good = [encode_png(np.full((9, 9), level, np.uint8)) for level in (10, 20, 30)]
    found = preparer.prepare([good[0], b"crash", good[1], b"hang", b"swell", good[2]])

    assert found.accepted == [0, 2, 5]
    assert [int(pixels.mean()) for pixels in found.pixels] == [10, 20, 30]
    np.testing.assert_allclose(found.statistics, prepare(good, GREY, LIMITS).statistics)
    assert {place: error.reason for place, error in found.refused.items()} == {
        1: "decoder-crashed", 3: "too-slow", 4: "too-much-memory",
    }  # fmt: skip


def test_its_processes_end_with_it(preparer: IsolatedPreparer) -> None:
    preparer.prepare(FILES)
    module = "components.model.images.preparing_process"
    children = [child for child in psutil.Process(os.getpid()).children() if module in child.cmdline()]
    assert len(children) == 1
    preparer.__exit__()
    assert not children[0].is_running() or children[0].status() == psutil.STATUS_ZOMBIE
