from pathlib import Path

import pytest

from components.data.sources import fashion_mnist
from components.errors import ServiceError
from flows.demo import _built_in_scenario


def test_without_fashion_mnist_the_demo_runs_on_digits_and_promises_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(_cache: Path) -> None:
        raise ServiceError("no network")

    monkeypatch.setattr(fashion_mnist, "load_fashion_mnist", unreachable)
    scenario, note = _built_in_scenario(quick=False, directory=tmp_path)
    assert scenario.source == "digits"
    assert (scenario.initial_images, [month.images for month in scenario.months]) == (600, [190] * 6)
    assert "no network" in note
    assert "too small for a verdict" in note
