"""Folders, lists, URLs and named data sets: the same files in the same order, and nothing from outside."""

import functools
import gzip
import hashlib
import os
import struct
import sys
import threading
import types
from datetime import UTC, datetime
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from components.data.decoding.decode import ImageLimits, decode
from components.data.png import encode_png
from components.data.sources.opening import SourceItem, list_source, open_source
from components.errors import ConfigurationError, ServiceError

LIMITS = ImageLimits(max_bytes=10_000, max_pixels=10_000, min_side=4)
PNG = encode_png(np.zeros((8, 8), np.uint8))


def items_of(spec: object, cache: Path = Path("unused")) -> list[SourceItem]:
    return list(open_source(str(spec), limits=LIMITS, cache=cache))


def labels_of(spec: object) -> dict[str, str | None]:
    return {item.name: item.label for item in items_of(spec)}


def put(root: Path, *names: str, content: bytes = PNG) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def test_class_folders_give_labels_in_the_order_of_names(tmp_path: Path) -> None:
    put(tmp_path, "cat/2.png", "cat/1.png", "boot/x/1.png", "cat-big/1.png", "readme.png")

    assert list(labels_of(tmp_path).items()) == [
        ("boot/x/1.png", "boot"),
        ("cat-big/1.png", "cat-big"),
        ("cat/1.png", "cat"),
        ("cat/2.png", "cat"),
        ("readme.png", None),
    ]
    assert items_of(tmp_path)[0].content == PNG


def test_a_flat_folder_has_no_labels(tmp_path: Path) -> None:
    assert labels_of(put(tmp_path, "b.png", "a.png")) == {"a.png": None, "b.png": None}


def test_split_folders_are_passed_over(tmp_path: Path) -> None:
    put(tmp_path, "train/cat/1.png", "val/cat/2.png", "Test/dog/3.png")

    assert labels_of(tmp_path) == {"Test/dog/3.png": "dog", "train/cat/1.png": "cat", "val/cat/2.png": "cat"}


def test_a_class_called_test_stays_a_class(tmp_path: Path) -> None:
    put(tmp_path / "among", "test/1.png", "cat/2.png")
    put(tmp_path / "flat", "test/1.png", "train/2.png")

    assert labels_of(tmp_path / "among") == {"cat/2.png": "cat", "test/1.png": "test"}
    assert labels_of(tmp_path / "flat") == {"test/1.png": "test", "train/2.png": "train"}


def test_hidden_files_are_passed_over(tmp_path: Path) -> None:
    put(tmp_path, "cat/1.png", ".git/1.png", "cat/.DS_Store", "Thumbs.db", "__MACOSX/cat/1.png")

    assert list(labels_of(tmp_path)) == ["cat/1.png"]


def test_links_pipes_and_oversized_files_are_set_aside_unread(tmp_path: Path) -> None:
    put(tmp_path / "in", "cat/ok.png")
    put(tmp_path / "in", "cat/large.png", content=b"x" * 10_001)
    put(tmp_path / "out", "secret.png")
    (tmp_path / "in/cat/link.png").symlink_to(tmp_path / "out/secret.png")
    (tmp_path / "in/linked").symlink_to(tmp_path / "out")
    os.mkfifo(tmp_path / "in/cat/pipe.png")

    assert {item.name: (item.problem, item.content) for item in items_of(tmp_path / "in")} == {
        "cat/large.png": ("too-many-bytes", b""),
        "cat/link.png": ("symlink", b""),
        "cat/ok.png": (None, PNG),
        "cat/pipe.png": ("unreadable", b""),
        "linked": ("symlink", b""),
    }


def test_a_file_that_vanishes_while_reading_is_missing(tmp_path: Path) -> None:
    entries = list(list_source(str(put(tmp_path, "a.png", "b.png")), limits=LIMITS, cache=tmp_path))
    (tmp_path / "b.png").unlink()

    assert [entry.item().problem for entry in entries] == [None, "missing-file"]


def test_a_name_that_is_not_text_is_written_printably(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9\n.png")).write_bytes(PNG)
    item = items_of(tmp_path)[0]

    assert item.content == PNG
    assert item.name == "caf\\udce9\\n.png"
    item.name.encode("utf-8")


def test_one_image_is_a_source(tmp_path: Path) -> None:
    assert items_of(put(tmp_path, "a.PNG") / "a.PNG") == [SourceItem("a.PNG", PNG)]


@pytest.mark.parametrize("spec", ["nowhere", "", "a\x00b", "nosuch://bucket/x", "notes.txt"])
def test_an_unknown_source_is_an_error_that_lists_what_is_accepted(
    spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("notes.txt").write_text("no images")

    with pytest.raises(ConfigurationError, match=r"accepted are fashion-mnist, digits, torchvision:NAME"):
        open_source(spec, limits=LIMITS, cache=tmp_path)


def test_an_fsspec_url_gives_what_the_folder_gives(tmp_path: Path) -> None:
    filesystem = fsspec.filesystem("memory")
    for name in ("cat/1.png", "dog/2.png", "cat/.hidden"):
        filesystem.pipe_file(f"/sources-test/{name}", PNG)
    filesystem.pipe_file("/sources-test/dog/large.png", b"x" * 10_001)
    put(tmp_path, "cat/1.png", "dog/2.png")
    put(tmp_path, "dog/large.png", content=b"x" * 10_001)

    assert items_of("memory://sources-test") == items_of(tmp_path) == items_of(f"file://{tmp_path}")
    assert items_of("memory://sources-test/cat/1.png") == [SourceItem("1.png", PNG)]
    with pytest.raises(ConfigurationError, match="does not exist"):
        items_of("memory://sources-test/none")


def write_list(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_a_csv_list_gives_labels_groups_and_times(tmp_path: Path) -> None:
    put(tmp_path, "a/1.png", "2.png")
    path = write_list(
        tmp_path / "list.csv",
        "\ufeffpath,label,group,captured_at",
        '2.png,"cat, big",p1,2026-10-05T14:00:00+02:00',
        "a/1.png, dog ,,",
    )

    assert items_of(path) == [
        SourceItem("2.png", PNG, "cat, big", "p1", datetime(2026, 10, 5, 12, tzinfo=UTC)),
        SourceItem("a/1.png", PNG, "dog"),
    ]


def test_a_parquet_list_gives_the_same(tmp_path: Path) -> None:
    put(tmp_path, "1.png", "2.png")
    moment = datetime(2026, 10, 5, 12, tzinfo=UTC)
    table = pa.table({"path": ["2.png", "1.png"], "label": [None, 7], "captured_at": pa.array([moment, None])})
    pq.write_table(table, tmp_path / "list.parquet")

    assert items_of(tmp_path / "list.parquet") == [
        SourceItem("1.png", PNG, "7"),
        SourceItem("2.png", PNG, None, captured_at=moment),
    ]


def test_a_list_behind_a_url_names_files_beside_it() -> None:
    filesystem = fsspec.filesystem("memory")
    filesystem.pipe_file("/list-test/in/1.png", PNG)
    filesystem.pipe_file("/list-test/in/list.csv", b"path,label\n1.png,cat\nnone.png,cat\n../out.png,cat\n")
    filesystem.pipe_file("/list-test/out.png", PNG)

    assert [(i.name, i.problem) for i in items_of("memory://list-test/in/list.csv")] == [
        ("../out.png", "unsafe-path"),
        ("1.png", None),
        ("none.png", "missing-file"),
    ]


def test_a_list_cannot_leave_its_folder(tmp_path: Path) -> None:
    put(tmp_path, "secret.png", "in/ok.png")
    (tmp_path / "in/link").symlink_to(tmp_path)
    (tmp_path / "in/loop").symlink_to("loop")
    names = [
        "../secret.png",
        f"{tmp_path}/secret.png",
        "link/secret.png",
        "a/../../secret.png",
        "loop",
        "no\x00.png",
        "ok.png",
    ]
    path = write_list(tmp_path / "in/list.csv", "path", *names)
    problems = {item.name: item.problem for item in items_of(path)}

    assert problems.pop("ok.png") is None
    assert problems.pop("link/secret.png") == problems.pop("loop") == "symlink"
    assert set(problems.values()) == {"unsafe-path"}
    assert len(problems) == 4


def test_digits_are_1797_images_of_ten_labels() -> None:
    items = items_of("digits")

    assert len(items) == 1797
    assert sorted({item.label for item in items}) == [str(n) for n in range(10)]
    assert decode(items[0].content, LIMITS).size == (8, 8)
    assert max(np.asarray(decode(item.content, LIMITS)).max() for item in items[:10]) == 255
    assert items == items_of("digits")


@pytest.fixture
def torchvision(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """Stands in for torchvision.datasets, whose data sets need a network."""

    class Shapes:
        classes = ("square", "circle")

        def __init__(self, root: str, train: bool = True, download: bool = False) -> None:
            assert Path(root).is_dir()
            assert download
            self.count = 3 if train else 1

        def __len__(self) -> int:
            return self.count

        def __getitem__(self, number: int) -> tuple[Image.Image, int]:
            return Image.new("RGB", (8, 8), (number, 0, 0)), number % 2

    class Unreachable:
        def __init__(self, root: str, split: str = "train", download: bool = False) -> None:
            raise RuntimeError(f"no network for {split} in {root}" if download else "not asked to download")

    class Boxes:
        def __init__(self, root: str, download: bool = False) -> None: ...

        def __len__(self) -> int:
            return 1

        def __getitem__(self, number: int) -> tuple[Image.Image, dict[str, object]]:
            return Image.new("RGB", (8, 8)), {"boxes": []}

    class Local:
        def __init__(self, root: str) -> None: ...

    module = types.ModuleType("torchvision.datasets")
    known = {"Shapes": Shapes, "Unreachable": Unreachable, "Boxes": Boxes, "Local": Local}
    vars(module).update(known, __all__=tuple(known))
    package = types.ModuleType("torchvision")
    package.datasets = module
    monkeypatch.setitem(sys.modules, "torchvision", package)
    monkeypatch.setitem(sys.modules, "torchvision.datasets", module)
    return module


def test_a_torchvision_data_set_gives_its_train_and_test_parts(tmp_path: Path, torchvision: types.ModuleType) -> None:
    items = items_of("torchvision:Shapes", tmp_path)

    assert [(item.name, item.label) for item in items] == [
        ("train/000000.png", "square"),
        ("train/000001.png", "circle"),
        ("train/000002.png", "square"),
        ("test/000000.png", "square"),
    ]
    assert np.asarray(decode(items[1].content, LIMITS))[0, 0].tolist() == [1, 0, 0]


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("Shape", ConfigurationError, "did you mean 'Shapes'"),
        ("Unreachable", ServiceError, "no network"),
        ("Boxes", ConfigurationError, "no classification data set"),
        ("Local", ConfigurationError, "cannot download Local"),
    ],
)
def test_other_torchvision_data_sets_are_refused(
    tmp_path: Path, torchvision: types.ModuleType, name: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        items_of(f"torchvision:{name}", tmp_path)


def test_a_real_torchvision_data_set_is_downloaded_once_and_then_listed_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MNIST itself, with its own code for downloading, from a server that holds three and one of its images."""
    from torchvision.datasets import MNIST

    files = {}
    for part, count in (("train", 3), ("t10k", 1)):
        images = np.full((count, 28, 28), count, np.uint8)
        files[f"{part}-images-idx3-ubyte.gz"] = struct.pack(">4i", 2051, count, 28, 28) + images.tobytes()
        files[f"{part}-labels-idx1-ubyte.gz"] = struct.pack(">2i", 2049, count) + bytes(range(count))
    (tmp_path / "served").mkdir()
    for name, content in files.items():
        (tmp_path / "served" / name).write_bytes(gzip.compress(content))
    resources = [(n, hashlib.md5((tmp_path / "served" / n).read_bytes()).hexdigest()) for n in files]  # noqa: S324
    handler = functools.partial(QuietHandler, directory=str(tmp_path / "served"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(MNIST, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
        monkeypatch.setattr(MNIST, "resources", resources)
        items = items_of("torchvision:MNIST", tmp_path)
        server.shutdown()
    listed = list(list_source("torchvision:MNIST", limits=LIMITS, cache=tmp_path, fetch=False))

    assert [(item.name, item.label) for item in items] == [(entry.name, entry.label) for entry in listed]
    assert [item.label for item in items] == ["0 - zero", "1 - one", "2 - two", "0 - zero"]
    assert [int(np.asarray(decode(item.content, LIMITS)).max()) for item in items] == [3, 3, 3, 1]


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None: ...
