"""The DVC remote is gone: images are scored as ever, and no retraining begins before it is back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.xdist_group("workspace"), pytest.mark.timeout(900), pytest.mark.slow]


def test_scoring_goes_on_and_a_retraining_ends_before_it_learns_anything(
    product: Any, apart: Any, digits: list[Any], archive: Callable[..., Path], tmp_path: Path, today: Any
) -> None:
    from components.errors import ServiceError
    from components.operations.batches import score_source
    from components.operations.ingestion import exclusive_clone
    from components.operations.retraining import attempt as attempts
    from components.store import champions, requests

    delivery = archive(tmp_path / "delivery.tar", [(f"{n}.png", item.content) for n, item in enumerate(digits[:20])])
    champion = champions.champion(apart.database)
    remote, away = product.state / "dvc-remote", product.state / "away"
    remote.rename(away)
    try:
        scored = score_source(apart, str(delivery), batch_id="without the remote", now=today)
        assert (scored["new_rows"], scored["model_version"]) == (20, champion.version)
        attempt = attempts.begin(apart, cause="forced", reason="to see", force=True, actor="test", now=today)
        with (  # as the flow does
            pytest.raises(ServiceError, match=f"the DVC remote {remote} does not hold the newest dataset version"),
            attempts.finishing(apart, attempt, now=today),
            exclusive_clone(apart, "retrain"),
        ):
            pytest.fail("a clone without its remote was given")
        assert not remote.exists()
    finally:
        away.rename(remote)
    assert champions.champion(apart.database) == champion
    ended = requests.find_request(apart.database, attempt.request)
    assert (ended.state, "Bring it back" in ended.detail) == ("failed", True)
    with exclusive_clone(apart, "retrain") as clone:
        assert clone.root.is_dir()
