import json
import os
from pathlib import Path

import pytest

from components.errors import DataError
from components.registry.metrics_file import MetricPoint, MetricsFile


def line(step: int, **values: float | None) -> str:
    return json.dumps({"step": step, "epoch": 1, "time": "2026-10-01T00:00:01.500+00:00", **values}) + "\n"


def steps(points: list[MetricPoint]) -> list[int]:
    return [point.step for point in points]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "metrics.jsonl"


def test_only_whole_new_lines_are_read(path):
    file = MetricsFile(path)
    assert file.unread() == []
    path.write_text(line(1, loss=1.0) + line(2, loss=0.5)[:-5])
    assert file.unread() == [MetricPoint("loss", 1.0, 1_790_812_801_500, 1)]
    assert file.unread() == []
    path.write_text(line(1, loss=1.0) + line(2, loss=0.5))
    assert steps(file.unread()) == [2]


def test_what_lies_there_from_an_earlier_run_is_held_back_until_it_changes(path):
    path.write_text(line(1, loss=9.0))
    file = MetricsFile(path)
    assert file.unread() == []
    path.unlink()
    assert file.unread() == []
    path.write_text(line(5, loss=1.0))
    assert steps(file.unread()) == [5]


def test_a_file_nobody_changed_is_read_at_the_end(path):
    path.write_text(line(1, loss=1.0))
    file = MetricsFile(path)
    assert file.unread() == []
    assert steps(file.unread(last=True)) == [1]


def test_a_replaced_file_is_read_from_its_start(path, tmp_path):
    file = MetricsFile(path)
    path.write_text(line(1, loss=1.0))
    assert steps(file.unread()) == [1]
    (tmp_path / "new").write_text(line(7, loss=1.0) + line(8, loss=1.0))
    (tmp_path / "new").replace(path)
    assert steps(file.unread()) == [7, 8]


def test_a_shorter_file_under_the_same_inode_is_read_from_its_start(path):
    file = MetricsFile(path)
    path.write_text(line(1, loss=1.0) + line(2, loss=1.0))
    assert steps(file.unread()) == [1, 2]
    inode = path.stat().st_ino
    os.truncate(path, 0)
    path.write_text(line(3, loss=1.0))
    assert path.stat().st_ino == inode
    assert steps(file.unread()) == [3]


def test_numbers_that_do_not_exist_are_left_out(path):
    file = MetricsFile(path)
    path.write_text(line(1, loss=float("nan"), f1=None, top=float("inf"), rate=0.1))
    assert [point.key for point in file.unread()] == ["rate"]


@pytest.mark.parametrize("wrong", ["{", "[]", '{"step": 1}', '{"step": 1, "time": "noon"}', '{"time": "2026-10-01"}'])
def test_a_line_that_is_no_metric_is_an_error_naming_it(path, wrong):
    file = MetricsFile(path)
    path.write_text(line(1, loss=1.0) + wrong + "\n")
    with pytest.raises(DataError, match=r"metrics\.jsonl:2"):
        file.unread()
