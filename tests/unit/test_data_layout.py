"""The usual shapes of class folders give the same labels from a folder, an archive and a URL."""

import io
import tarfile
import uuid
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import fsspec
import pytest

from components.data.decoding.decode import ImageLimits
from components.data.sources.opening import open_source

LIMITS = ImageLimits(max_bytes=10_000, max_pixels=10_000, min_side=4)

# Name of the shape: the labels that its files get.
SHAPES: dict[str, Mapping[str, str | None]] = {
    "classes": {"cat/1.png": "cat", "dog/2.png": "dog"},
    "classes with files beside": {"cat/1.png": "cat", "dog/2.png": "dog", "readme.png": None},
    "folders below the class": {"cat/a/1.png": "cat", "cat/b/c/2.png": "cat", "dog/3.png": "dog"},
    "splits": {"train/cat/1.png": "cat", "val/cat/2.png": "cat", "Test/dog/3.png": "dog"},
    "splits with files beside": {"train/cat/1.png": "cat", "test/dog/2.png": "dog", "LICENSE": None},
    "splits, folders below the class": {"train/cat/a/1.png": "cat", "test/dog/2.png": "dog"},
    "splits in a folder": {"pets/train/cat/1.png": "cat", "pets/test/dog/2.png": "dog"},
    "splits in a folder with files beside": {
        "pets/train/cat/1.png": "cat",
        "pets/test/dog/2.png": "dog",
        "pets/README.md": None,
    },
    "a class called like a split": {"cat/1.png": "cat", "test/2.png": "test"},
    "splits without classes": {"test/1.png": "test", "train/2.png": "train"},
    "flat": {"1.png": None, "2.png": None},
    "accents in two spellings": {"caf\u00e9/1.png": "caf\u00e9", "cafe\u0301/2.png": "caf\u00e9"},
}
WRAPPED: dict[str, Mapping[str, str | None]] = {
    "classes in a folder": {"pets/cat/1.png": "cat", "pets/dog/2.png": "dog"},
    "classes in a folder with files beside": {"pets/cat/1.png": "cat", "pets/dog/2.png": "dog", "pets/README": None},
    "folders below classes in a folder": {"pets/cat/a/1.png": "cat", "pets/dog/2.png": "dog"},
}


def folder(root: Path, names: list[str]) -> str:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return str(root)


def zipped(root: Path, names: list[str]) -> str:
    with zipfile.ZipFile(root / "in.zip", "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    return str(root / "in.zip")


def tarred(root: Path, names: list[str], mode: str = "w", suffix: str = "tar") -> str:
    with tarfile.open(root / f"in.{suffix}", mode) as archive:
        for name in names:
            entry = tarfile.TarInfo("./" + name)
            entry.size = 1
            archive.addfile(entry, io.BytesIO(b"x"))
    return str(root / f"in.{suffix}")


def compressed(root: Path, names: list[str]) -> str:
    return tarred(root, names, "w:gz", "tar.gz")


def remote(_: Path, names: list[str]) -> str:
    root = f"memory://{uuid.uuid4().hex}"
    for name in names:
        fsspec.filesystem("memory").pipe_file(f"{root}/{name}", b"x")
    return root


def remote_zip(root: Path, names: list[str]) -> str:
    content = Path(zipped(root, names)).read_bytes()
    url = f"memory://{uuid.uuid4().hex}/in.zip"
    fsspec.filesystem("memory").pipe_file(url, content)
    return url


KINDS: dict[str, Callable[[Path, list[str]], str]] = {
    "folder": folder, "zip": zipped, "tar": tarred, "tar.gz": compressed, "remote": remote, "remote zip": remote_zip,
}  # fmt: skip


def labels_of(spec: str) -> dict[str, str | None]:
    return {item.name: item.label for item in open_source(spec, limits=LIMITS, cache=Path("unused"))}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_shape_gives_its_labels_wherever_it_lies(tmp_path: Path, kind: str, shape: str) -> None:
    expected = SHAPES[shape]
    if kind == "tar":  # its names start with "./", as `tar -c .` writes them
        expected = {name.removeprefix("./"): label for name, label in expected.items()}

    assert labels_of(KINDS[kind](tmp_path, list(SHAPES[shape]))) == expected


@pytest.mark.parametrize("shape", WRAPPED)
@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "remote zip"])
def test_an_archive_may_have_a_folder_around_its_classes(tmp_path: Path, kind: str, shape: str) -> None:
    assert labels_of(KINDS[kind](tmp_path, list(WRAPPED[shape]))) == WRAPPED[shape]


@pytest.mark.parametrize("kind", ["folder", "remote"])
def test_a_folder_in_a_folder_is_a_class_of_its_own(tmp_path: Path, kind: str) -> None:
    # Whoever names a folder can name the inner one; one class with folders below it could not be named otherwise.
    names = ["pets/cat/1.png", "pets/dog/2.png"]

    assert set(labels_of(KINDS[kind](tmp_path, names)).values()) == {"pets"}
