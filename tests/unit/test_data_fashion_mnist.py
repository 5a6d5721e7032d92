"""Fashion-MNIST is found, fetched or refused; only files of the right shape are believed."""

import gzip
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from components.data.sources import fashion_mnist
from components.data.sources.fashion_mnist import load_fashion_mnist, read_idx
from components.errors import DataError, ServiceError

SHAPES = {
    "train-images-idx3-ubyte.gz": (6, 28, 28),
    "train-labels-idx1-ubyte.gz": (6,),
    "t10k-images-idx3-ubyte.gz": (2, 28, 28),
    "t10k-labels-idx1-ubyte.gz": (2,),
}


def idx(values: np.ndarray) -> bytes:
    return np.array([0x0800 + values.ndim, *values.shape], ">u4").tobytes() + values.tobytes()


def write_files(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, shape in SHAPES.items():
        (folder / name).write_bytes(
            gzip.compress(idx((np.arange(np.prod(shape)) % 10).astype(np.uint8).reshape(shape)))
        )
    return folder


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fashion_mnist, "_FILES", SHAPES)


@pytest.fixture
def no_apt(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(command: list[str], **options: object) -> None:
        raise FileNotFoundError(command[0])

    monkeypatch.setattr(subprocess, "run", missing)


@pytest.fixture
def no_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(root: str, download: bool) -> None:
        raise RuntimeError("no network")

    stub(monkeypatch, unreachable)


def stub(monkeypatch: pytest.MonkeyPatch, builder: object) -> None:
    module = types.ModuleType("torchvision.datasets")
    module.FashionMNIST = builder
    monkeypatch.setitem(sys.modules, "torchvision.datasets", module)


def test_the_installed_package_is_used_and_nothing_is_fetched(
    tmp_path: Path, small: None, no_apt: None, no_torchvision: None
) -> None:
    data = load_fashion_mnist(tmp_path / "cache", write_files(tmp_path / "system"))

    assert data.train_images.shape == (6, 28, 28)
    assert data.test_labels.tolist() == [0, 1]
    assert not (tmp_path / "cache").exists()


def test_apt_fetches_once_into_the_cache_without_touching_the_system(
    tmp_path: Path, small: None, no_torchvision: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []

    def run(command: list[str], *, cwd: Path, **options: object) -> None:
        commands.append(command)
        if command[:1] == ["dpkg-deb"]:
            write_files(Path(command[-1]) / "usr/share/datasets/fashion-mnist")
        elif "download" in command:
            (cwd / "dataset-fashion-mnist_1_all.deb").write_bytes(b"package")

    monkeypatch.setattr(subprocess, "run", run)
    for _ in range(2):
        assert load_fashion_mnist(tmp_path / "cache", tmp_path / "none").train_labels.tolist() == [0, 1, 2, 3, 4, 5]

    assert [command[0] for command in commands] == ["apt-get", "apt-get", "dpkg-deb"]
    assert all(any("Dir::State::lists=" in part for part in command) for command in commands[:2])
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["fashion-mnist"]


def test_torchvision_is_asked_where_apt_is_missing(
    tmp_path: Path, small: None, no_apt: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub(monkeypatch, lambda root, **_: write_files(Path(root) / "FashionMNIST" / "raw"))

    assert load_fashion_mnist(tmp_path, tmp_path / "none").test_images.shape == (2, 28, 28)


def test_all_reasons_are_given_when_nothing_works(
    tmp_path: Path, small: None, no_apt: None, no_torchvision: None
) -> None:
    with pytest.raises(
        ServiceError, match=r"does not exist.*apt-get is not installed.*no network.*Install the package"
    ):
        load_fashion_mnist(tmp_path, tmp_path / "none")


def test_a_damaged_cache_is_fetched_again(
    tmp_path: Path, small: None, no_apt: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = write_files(tmp_path / "fashion-mnist")
    (kept / "t10k-labels-idx1-ubyte.gz").write_bytes(b"damaged")
    stub(monkeypatch, lambda root, **_: write_files(Path(root) / "FashionMNIST" / "raw"))

    assert load_fashion_mnist(tmp_path, tmp_path / "none").test_labels.tolist() == [0, 1]
    assert load_fashion_mnist(tmp_path, tmp_path / "none").test_labels.tolist() == [0, 1]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not gzip",
        gzip.compress(b"\x00\x00\x08\x01\x00\x00\x00\x03\x01\x02", mtime=0),
        gzip.compress(b"\x00\x00\x08\x01\x00\x00\x00\x03\x01\x02\x03\x04", mtime=0),
        gzip.compress(b"\x00\x00\x08\x01\x00\x00\x00\x04\x01\x02\x03", mtime=0),
        gzip.compress(b"\x00\x00\x0d\x01\x00\x00\x00\x03\x01\x02\x03", mtime=0),
        gzip.compress(b"\x00\x00\x08\x01\x00\x00\x00\x03\x01\x02\x03", mtime=0)[:-5],
    ],
)
def test_a_file_that_is_not_what_it_should_be_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.gz").write_bytes(content)

    with pytest.raises(DataError, match="remove it"):
        read_idx(tmp_path / "x.gz", (3,))


def test_labels_outside_the_ten_classes_are_refused(
    tmp_path: Path, small: None, no_apt: None, no_torchvision: None
) -> None:
    folder = write_files(tmp_path / "system")
    (folder / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(np.full(6, 10, np.uint8))))

    with pytest.raises(ServiceError, match="holds label 10"):
        load_fashion_mnist(tmp_path / "cache", folder)
