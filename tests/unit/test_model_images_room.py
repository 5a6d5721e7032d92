"""Images that would take too much memory lie in a file, and everything made of them is the same."""

from __future__ import annotations

import errno
import gc
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from components.errors import NoSpaceError
from components.model.images import room
from components.model.images.inputs import ImageSet, channel_statistics
from components.model.images.preprocess import PreprocessSpec
from components.model.images.room import room_for, some_of
from components.model.networks.backbones import build
from components.model.training.fit import fit
from components.params import Train

NUMBER = 300


@pytest.fixture
def crowded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(room, "SHARE", 0.0)
    monkeypatch.setattr(room, "ROWS_AT_ONCE", 64)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (NUMBER, 8, 8, 3), dtype=np.uint8)


def spilled() -> np.ndarray:
    found = room_for(NUMBER, 8, 3)
    assert isinstance(found, np.memmap)
    found[:] = images()
    return found


def test_a_few_images_are_in_memory() -> None:
    assert type(room_for(3, 8, 1)) is np.ndarray


def test_rows_and_statistics_are_those_of_the_same_images_in_memory_and_no_file_is_seen(crowded: Path) -> None:
    known, large = images(), spilled()
    mask = np.arange(NUMBER) % 3 > 0
    for rows in (mask, np.array([5, 2, 299, 2])):
        found = some_of(large, rows)
        assert isinstance(found, np.memmap)
        np.testing.assert_array_equal(found, known[rows])
    assert channel_statistics(large, mask) == channel_statistics(known[mask])
    assert list(crowded.iterdir()) == []
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    del large, found
    gc.collect()
    assert len(list(Path("/proc/self/fd").iterdir())) < descriptors  # and with the last one its bytes


def test_a_network_learns_the_same_bits_from_a_file(crowded: Path) -> None:
    labels, weights = np.arange(NUMBER) % 2, np.ones(NUMBER, np.float32)
    spec = PreprocessSpec(8, 3, "stretch", 1.0, "bilinear", (0.5,) * 3, (0.3,) * 3)
    rules = Train(batch_size=64, precision="fp32", augment={"shift": 0.1, "flip": True})
    trained = []
    for pixels in (images(), spilled()):
        network = build("small_cnn", classes=2, channels=3, size=8, dropout=0.1, pretrained="none", seed=3)
        data = ImageSet(pixels, labels, weights).take(np.arange(NUMBER) > 20)
        trained.append(fit(network, data, None, spec=spec, params=rules, epochs=2).network.state_dict())
    assert all(torch.equal(trained[0][name], trained[1][name]) for name in trained[0])


@pytest.mark.usefixtures("crowded")
def test_a_disk_without_room_is_named_before_anything_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_arguments: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(NoSpaceError, match="no room to write"):
        room_for(NUMBER, 8, 3)
