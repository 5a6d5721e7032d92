"""A training run that is killed, and one in two processes: both end where an ordinary run ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).with_name("forked_training.py")
EPOCHS = 6


def start(folder: Path, epochs: int, processes: int = 1) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    arguments = [sys.executable, str(SCRIPT), str(folder), str(epochs), str(processes)]
    return subprocess.Popen(
        arguments, cwd=SCRIPT.parents[2], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def run(folder: Path, epochs: int, processes: int = 1) -> dict[str, object]:
    process = start(folder, epochs, processes)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    return json.loads((folder / "fitted.json").read_text())


def weights(folder: Path) -> torch.Tensor:
    """Return those of the last epoch, not of the best: the best may lie before the kill."""
    last = torch.load(folder / "state" / "one" / "last.ckpt", weights_only=True)["state_dict"]
    return torch.cat([value.flatten() for name, value in last.items() if name.startswith("network.")])


def epochs_told(folder: Path) -> list[int]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["epoch"] for line in lines if "epoch_train_loss" in line]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    run(folder, EPOCHS)
    return folder


def test_a_run_killed_in_mid_epoch_goes_on_after_its_last_whole_one_and_ends_with_the_same_weights(whole, tmp_path):
    process = start(tmp_path, EPOCHS)
    assert process.stdout is not None
    for line in process.stdout:
        told = json.loads(line)
        if told["epoch"] == 2 and "train_loss" in told:  # in the middle of the third epoch
            process.send_signal(signal.SIGKILL)
            break
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL

    fitted = run(tmp_path, EPOCHS)
    assert (fitted["resumed_at"], fitted["epochs"]) == (2, EPOCHS)
    assert torch.equal(weights(tmp_path), weights(whole))
    assert epochs_told(tmp_path) == list(range(EPOCHS))
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == sorted(
        p.name for p in (whole / "checkpoints").iterdir()
    )


def test_a_run_that_had_ended_is_not_trained_again(whole):
    before = weights(whole)
    fitted = run(whole, EPOCHS)
    assert (fitted["resumed_at"], fitted["epochs"]) == (EPOCHS, EPOCHS)
    assert torch.equal(weights(whole), before)


def test_two_processes_make_the_steps_that_one_makes(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    alone, together = run(one, 1), run(two, 1, processes=2)
    # 150 steps, whose gradients differ by the order of additions only; another batch or scale would show at once.
    assert torch.allclose(weights(one), weights(two), atol=1e-5)
    assert together["validation"]["validation_accuracy"] == pytest.approx(
        alone["validation"]["validation_accuracy"], abs=0.02
    )
    assert epochs_told(two) == [0]
