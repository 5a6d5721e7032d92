import os

import pytest

from flows.environment import keep_proxies_off_this_machine


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({}, "127.0.0.1,localhost"),
        ({"no_proxy": "10.0.0.1, localhost"}, "10.0.0.1,localhost,127.0.0.1"),
        ({"NO_PROXY": ".example.org"}, ".example.org,127.0.0.1,localhost"),
    ],
)
def test_a_proxy_is_not_asked_for_this_machine(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], kept: str
) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, given.get(name, ""))
    keep_proxies_off_this_machine()
    assert os.environ["no_proxy"] == os.environ["NO_PROXY"] == kept


def test_a_proxy_that_is_off_stays_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("NO_PROXY", "*")
    keep_proxies_off_this_machine()
    assert os.environ["NO_PROXY"] == "*"
