"""Decoding in processes of their own: what hangs, crashes or swells there costs one image."""

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from components.data.decoding.decode import ImageLimits, decode
from components.data.decoding.isolation import PACKAGE_FOLDER, Checked, IsolatedDecoder, IsolationLimits
from components.data.descriptor import DESCRIPTOR_BYTES, descriptor
from components.data.png import encode_png
from components.errors import ServiceError

LIMITS = ImageLimits(max_bytes=1_000_000, max_pixels=1_000_000, min_side=4)
GIB = 1024**3


def image(number: int) -> bytes:
    return encode_png(np.random.default_rng(number).integers(0, 256, (9, 16), dtype=np.uint8))


GOOD = [image(number) for number in range(20)]


def decoding_processes() -> list[psutil.Process]:
    """The decoders among this process's children; fixtures of other tests may have left some of their own."""
    module = "components.data.decoding.decoder_process"
    return [child for child in psutil.Process().children() if module in child.cmdline()]


@pytest.fixture
def decoder() -> Iterator[IsolatedDecoder]:
    with IsolatedDecoder(LIMITS, IsolationLimits(seconds=1, memory=2 * GIB), processes=1) as decoder:
        yield decoder


def test_verdicts_come_in_order_and_are_those_of_the_decoder(decoder: IsolatedDecoder) -> None:
    verdicts = decoder.submit([GOOD[0], b"", b"rubbish", GOOD[1][:200], GOOD[2]]).result()

    assert [verdict.reason for verdict in verdicts] == [None, "empty", "not-an-image", "truncated", None]
    assert (verdicts[0].width, verdicts[0].height) == (16, 9)
    assert verdicts[0].descriptor == descriptor(decode(GOOD[0], LIMITS)).tobytes()
    assert len(verdicts[4].descriptor) == DESCRIPTOR_BYTES
    assert "rubbish" in verdicts[2].detail


def test_nothing_in_nothing_out(decoder: IsolatedDecoder) -> None:
    assert decoder.submit([]).result() == []


@pytest.mark.usefixtures("misbehaving")
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"hang", "too-slow"),
        (b"crash", "decoder-crashed"),
        (b"swell", "too-much-memory"),
    ],
)
def test_a_file_that_takes_the_decoder_down_is_refused_and_the_others_are_not(
    decoder: IsolatedDecoder, content: bytes, reason: str
) -> None:
    verdicts = decoder.submit([*GOOD[:3], content, *GOOD[3:6], content]).result()

    assert [verdict.reason for verdict in verdicts] == [None, None, None, reason, None, None, None, reason]


@pytest.mark.usefixtures("misbehaving")
def test_a_decoder_that_sleeps_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("components.data.decoding.isolation.PATIENCE", 1.0)
    with IsolatedDecoder(LIMITS, IsolationLimits(seconds=1, memory=2 * GIB), processes=1) as decoder:
        verdicts = decoder.submit([GOOD[0], b"sleep", GOOD[1]]).result()

    assert [verdict.reason for verdict in verdicts] == [None, "too-slow", None]


@pytest.mark.usefixtures("misbehaving")
def test_a_good_file_at_which_the_decoder_was_killed_by_chance_is_not_lost(
    decoder: IsolatedDecoder, tmp_path: Path
) -> None:
    unlucky = b"once " + bytes(tmp_path / "mark")
    verdicts = decoder.submit([GOOD[0], unlucky, GOOD[1]]).result()

    assert (tmp_path / "mark").exists()
    assert [verdict.reason for verdict in verdicts] == [None, "not-an-image", None]


def test_the_process_has_no_secrets_and_can_write_no_large_file(
    decoder: IsolatedDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://somebody:secret@host/db")
    decoder.submit(GOOD[:1]).result()
    (child,) = decoding_processes()

    assert "DATABASE_URL" not in child.environ()
    assert child.rlimit(psutil.RLIMIT_AS) == (2 * GIB, 2 * GIB)
    assert child.rlimit(psutil.RLIMIT_FSIZE)[0] <= 1_000_000


def test_what_cannot_start_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import os; os.write(2, b'no room here'); os._exit(1)")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    with (
        IsolatedDecoder(LIMITS, IsolationLimits(1, 2 * GIB), processes=1) as decoder,
        pytest.raises(ServiceError, match="did not start: no room here"),
    ):
        decoder.submit(GOOD[:1]).result()


def test_closing_ends_the_processes_and_what_is_asked_later_fails(decoder: IsolatedDecoder) -> None:
    decoder.submit(GOOD).result()
    (child,) = decoding_processes()
    decoder.close()

    assert not child.is_running()
    with pytest.raises(RuntimeError):
        decoder.submit(GOOD)


def test_a_killed_parent_leaves_no_process_behind(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        textwrap.dedent("""
        import sys, time, psutil
        from components.data.decoding.isolation import IsolatedDecoder
        from components.params import Data
        decoder = IsolatedDecoder.of(Data())
        decoder.submit([b"x"]).result()
        print(psutil.Process().children()[0].pid, flush=True)
        time.sleep(3600)
        """)
    )
    with subprocess.Popen(
        [sys.executable, str(script)], cwd=PACKAGE_FOLDER, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        os.kill(parent.pid, signal.SIGKILL)
    child.wait(timeout=30)


def test_many_batches_from_several_processes_keep_their_verdicts() -> None:
    with IsolatedDecoder(LIMITS, IsolationLimits(1, 2 * GIB), processes=3) as decoder:
        expected: list[Checked] = decoder.submit(GOOD).result()
        futures = [decoder.submit(GOOD[number % 20 :]) for number in range(60)]
        for number, future in enumerate(futures):
            assert future.result() == expected[number % 20 :]
