"""A dry run says what would come in from names, sizes and labels, and reads a handful of files."""

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from components.data.decoding.decode import ImageLimits
from components.data.decoding.isolation import IsolatedDecoder, IsolationLimits
from components.data.png import encode_png
from components.data.sources.datasets import fashion_mnist_entries
from components.data.sources.item import Content, SourceEntry
from components.data.sources.opening import list_source
from components.data.sources.preview import Preview, UnknownLabel, preview
from components.errors import DataError

LIMITS = ImageLimits(max_bytes=10_000, max_pixels=10_000, min_side=4)
PNG = encode_png(np.zeros((6, 8), np.uint8))


@pytest.fixture(scope="module")
def decoder() -> Iterator[IsolatedDecoder]:
    with IsolatedDecoder(LIMITS, IsolationLimits(10, 2_560 * 1024**2), processes=1) as made:
        yield made


def put(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def shown(source: Path, decoder: IsolatedDecoder, classes: list[str] | None = None, sample: int = 5) -> Preview:
    entries = list_source(str(source), limits=LIMITS, cache=Path("unused"))
    return preview(entries, classes=classes, decoder=decoder, sample=sample)


def test_files_labels_sizes_and_what_would_be_set_aside_are_counted(tmp_path: Path, decoder: IsolatedDecoder) -> None:
    files = {"cat/1.png": PNG, "cat/2.png": PNG, "dog/1.png": b"no image", "dog/2.png": b"", "stray.png": PNG}
    put(tmp_path, {**files, "dog/large.png": b"x" * 10_001})
    (tmp_path / "cat/link.png").symlink_to("1.png")
    found = shown(tmp_path, decoder)

    assert (found.files, found.usable, found.bytes, found.unknown_sizes) == (7, 3, 2 * len(PNG) + 8, 0)
    assert found.classes == {"cat": 2, "dog": 1}
    assert found.unknown is None
    assert found.reasons == {"symlink": 1, "empty": 1, "too-many-bytes": 1, "no-label": 1}
    assert dict(found.set_aside)["dog/large.png"] == "too-many-bytes"
    assert [(s.name, s.width, s.height) for s in found.sample] == [
        ("cat/1.png", 8, 6),
        ("cat/2.png", 8, 6),
        ("dog/1.png", None, None),
    ]
    assert (found.sample[2].problem or "").startswith("not-an-image")


def test_labels_that_are_no_classes_come_with_the_nearest_class(tmp_path: Path, decoder: IsolatedDecoder) -> None:
    put(tmp_path, {"cat/1.png": PNG, "dgo/1.png": PNG, "dgo/2.png": PNG, "zebra\n/1.png": PNG})
    found = shown(tmp_path, decoder, ["cat", "dog"])

    assert found.unknown == (UnknownLabel("dgo", 2, "dog"), UnknownLabel("zebra\\n", 1, None))


def test_only_the_sample_is_read(decoder: IsolatedDecoder) -> None:
    read: list[str] = []

    def entries() -> Iterator[SourceEntry]:
        for number in range(100):

            def content(name: str = f"{number}.png") -> Content:
                read.append(name)
                return PNG, None

            yield SourceEntry(f"{number}.png", content, len(PNG), "cat")

    found = preview(entries(), classes=None, decoder=decoder, sample=3)

    assert read == ["0.png", "1.png", "2.png"]
    assert (found.usable, len(found.sample)) == (100, 3)


def test_what_a_list_names_is_looked_at_and_not_read(tmp_path: Path, decoder: IsolatedDecoder) -> None:
    put(tmp_path, {"1.png": PNG, "2.png": PNG, "large.png": b"x" * 10_001})
    (tmp_path / "list.csv").write_text("path,label,group\n1.png,cat,a\n2.png,cat,a\nlarge.png,dog,b\nnone.png,dog,c\n")
    found = shown(tmp_path / "list.csv", decoder, sample=1)

    assert found.reasons == {"too-many-bytes": 1, "missing-file": 1}
    assert (found.usable, found.bytes, found.groups, len(found.sample)) == (2, 2 * len(PNG), 1, 1)


def test_of_an_archive_only_the_directory_and_the_sample_are_read(tmp_path: Path, decoder: IsolatedDecoder) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for number in range(200):
            archive.writestr(f"cat/{number:03d}.png", PNG + bytes(5_000))
    (tmp_path / "a.zip").write_bytes(buffer.getvalue())
    found = shown(tmp_path / "a.zip", decoder, sample=1)

    assert (found.usable, found.classes) == (200, {"cat": 200})
    assert found.bytes == 200 * (len(PNG) + 5_000)


def test_a_dry_run_downloads_nothing(tmp_path: Path) -> None:
    for entries in (
        list_source("torchvision:MNIST", limits=LIMITS, cache=tmp_path, fetch=False),
        fashion_mnist_entries(tmp_path, tmp_path / "none", fetch=False),
    ):
        with pytest.raises(DataError, match=r"is not on this machine yet; it is .* by `perennial ingest`"):
            next(entries)
    assert list(tmp_path.iterdir()) == []


def test_an_answer_for_machines_is_bounded(decoder: IsolatedDecoder) -> None:
    def entries() -> Iterator[SourceEntry]:
        for number in range(3_000):
            yield SourceEntry(f"{number}", lambda: (b"", None), 10, f"class {number}")
            yield SourceEntry(f"{number}", lambda: (b"", None), 10)

    told = preview(entries(), classes=["cat"], decoder=decoder, sample=0).as_json()

    assert (told["labels"], len(told["classes"]), len(told["unknown"]), len(told["set_aside"])) == (
        3000,
        1000,
        1000,
        1000,
    )
    assert told["reasons"] == {"no-label": 3000}
