"""Files from outside, opened in processes of their own: what hangs, swells or crashes there is refused here.

`IsolatedDecoder` says what files are; `IsolatedFiles` is what it has in common with whoever wants more of them.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import queue
import select
import signal
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Self, TypeVar

from components import params
from components.data.decoding import decoder_process
from components.data.decoding.decode import ImageLimits
from components.data.decoding.decoder_process import COUNT, LENGTH, PROGRESS_BYTES, READY, REFUSED, USABLE
from components.data.decoding.turns import available_cores
from components.data.descriptor import DESCRIPTOR_BYTES
from components.errors import ServiceError

_Opened = TypeVar("_Opened")

PACKAGE_FOLDER = Path(__file__).resolve().parents[3]

TOO_SLOW = "too-slow"
CRASHED = "decoder-crashed"

PATIENCE = 6.0
"""How many times its seconds of computing one file may take by the clock: the machine may be busy."""

_START_SECONDS = 120.0
_READ_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class IsolationLimits:
    """What one image may take: `seconds` of CPU time, `memory` bytes of address space."""

    seconds: int
    memory: int

    @classmethod
    def of(cls, data: params.Data) -> Self:
        """Return what the `data` section of params.yaml states."""
        return cls(data.decode_seconds, data.decode_bytes)


@dataclass(frozen=True, slots=True)
class Checked:
    """What became of one file: either its size in pixels and its descriptor, or why it cannot be used.

    reason: None, one of ImageRejected, or too-slow | decoder-crashed | too-much-memory.
    """

    width: int
    height: int
    descriptor: bytes
    reason: str | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Opener(Generic[_Opened]):
    """What is run to open files, and how its answers are read.

    module: run with `arguments` and those of `decoder_process.serve`. parse: gives what it says of each of so many
    files. refused: gives what stands for a file that ended the process, from reason and detail.
    """

    module: str
    arguments: tuple[str, ...]
    parse: Callable[[bytes, int], list[_Opened]]
    refused: Callable[[str, str], _Opened]


class IsolatedFiles(Generic[_Opened]):
    """Processes that open files. Use as a context manager; they start with the first files."""

    def __init__(self, opener: Opener[_Opened], isolation: IsolationLimits, processes: int = 0) -> None:
        self.isolation = isolation
        self.processes = processes or available_cores()
        self._opener = opener
        self._threads = ThreadPoolExecutor(self.processes, thread_name_prefix="decoder")
        self._idle: queue.SimpleQueue[_Process[_Opened]] = queue.SimpleQueue()
        self._started: list[_Process[_Opened]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the processes; what is under way is given up."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for process in self._started:
            process.kill()
        self._threads.shutdown()
        for process in self._started:
            process.release()

    def submit(self, contents: Sequence[bytes]) -> Future[list[_Opened]]:
        """Return what becomes of files (their bytes), to come, in their order."""
        return self._threads.submit(self._open, contents)

    def _open(self, contents: Sequence[bytes]) -> list[_Opened]:
        process = self._take()
        try:
            return self._opened(process, contents)
        finally:
            self._idle.put(process)

    def _take(self) -> _Process[_Opened]:
        try:
            return self._idle.get_nowait()
        except queue.Empty:
            process = _Process(self._opener, self.isolation)
            self._started.append(process)
            return process

    def _opened(self, process: _Process[_Opened], contents: Sequence[bytes]) -> list[_Opened]:
        """Return what becomes of `contents`; a file that ends the process is refused, the others lose nothing."""
        if not contents:
            return []
        answer = process.ask(contents)
        if not isinstance(answer, _Ended):
            return answer
        before, after = contents[: answer.number], contents[answer.number + 1 :]
        if answer.reason == CRASHED and len(contents) > 1:
            # Once more, alone: something else may have ended the process.
            ended_it = self._opened(process, contents[answer.number : answer.number + 1])
        else:
            ended_it = [self._opener.refused(answer.reason, answer.detail)]
        return [*self._opened(process, before), *ended_it, *self._opened(process, after)]


class IsolatedDecoder(IsolatedFiles[Checked]):
    """Processes that decode files to check them."""

    def __init__(self, limits: ImageLimits, isolation: IsolationLimits, processes: int = 0) -> None:
        self.limits = limits
        arguments = tuple(map(str, (limits.max_bytes, limits.max_pixels, limits.min_side)))
        super().__init__(Opener(decoder_process.__name__, arguments, _verdicts, _refused), isolation, processes)

    @classmethod
    def of(cls, data: params.Data) -> Self:
        """Return one, a process a core, with the limits that the `data` section of params.yaml states."""
        return cls(ImageLimits.of(data), IsolationLimits.of(data))


@dataclass(frozen=True, slots=True)
class _Ended:
    """A process ended at the file `number` of a batch."""

    number: int
    reason: str
    detail: str


class _Process(Generic[_Opened]):
    """One process, started when it is asked and started again after its end."""

    def __init__(self, opener: Opener[_Opened], isolation: IsolationLimits) -> None:
        self._opener = opener
        self._isolation = isolation
        self._running: subprocess.Popen[bytes] | None = None
        self._ended = False

    def ask(self, contents: Sequence[bytes]) -> list[_Opened] | _Ended:
        """Return what becomes of a batch, or at which of its files the process ended, and how."""
        running = self._running or self._start()
        assert running.stdin is not None  # noqa: S101  (a pipe was asked for)
        lengths = struct.pack(f"<{len(contents)}Q", *map(len, contents))
        try:
            running.stdin.write(b"".join((COUNT.pack(len(contents)), lengths, *contents)))
            running.stdin.flush()
            (length,) = LENGTH.unpack(self._receive(running, LENGTH.size))
            return self._opener.parse(self._receive(running, length), len(contents))
        except (TimeoutError, BrokenPipeError, EOFError) as error:
            return self._told(running, hung=isinstance(error, TimeoutError))

    def kill(self) -> None:
        """Kill the process, if it runs, for good."""
        self._ended = True
        if self._running is not None:
            self._running.kill()

    def release(self) -> int:
        """Close what connects to a process that was killed or ended by itself, and return its exit code."""
        running, self._running = self._running, None
        if running is None:
            return 0
        self._at.close()
        self._complaints.close()
        with contextlib.suppress(BrokenPipeError):  # closing flushes
            running.communicate()
        return running.returncode

    def _start(self) -> subprocess.Popen[bytes]:
        if self._ended:
            raise ServiceError("the decoding processes are closed")
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115  (as long as the process)
        with tempfile.TemporaryFile() as shared:
            shared.write(bytes(PROGRESS_BYTES))  # with its room on the disk: a mapped page without it ends the process
            shared.flush()
            self._at = mmap.mmap(shared.fileno(), PROGRESS_BYTES)
            command = [sys.executable, "-m", self._opener.module, *self._opener.arguments]
            limits = (self._isolation.seconds, self._isolation.memory, shared.fileno())
            self._running = running = subprocess.Popen(
                [*command, *map(str, limits)],
                cwd=PACKAGE_FOLDER, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._complaints,
                pass_fds=[shared.fileno()], env=_environment(), bufsize=-1,
            )  # fmt: skip
        try:
            self._receive(running, len(READY), _START_SECONDS)
        except (TimeoutError, EOFError) as error:
            running.kill()
            self._complaints.seek(0)
            said = self._complaints.read()[-500:].decode(errors="replace")
            raise ServiceError(f"the decoding process did not start: {' '.join(said.split())}") from error
        return running

    def _receive(self, running: subprocess.Popen[bytes], size: int, patience: float | None = None) -> bytes:
        """Return the next `size` bytes it says. Raises EOFError at its end, TimeoutError where it does nothing."""
        assert running.stdout is not None  # noqa: S101  (a pipe was asked for)
        descriptor = running.stdout.fileno()
        received = bytearray()
        at = bytes(self._at)
        while len(received) < size:
            if not select.select([descriptor], [], [], patience or PATIENCE * self._isolation.seconds)[0]:
                if at == (at := bytes(self._at)):
                    raise TimeoutError
                continue
            part = os.read(descriptor, min(size - len(received), _READ_BYTES))
            if not part:
                raise EOFError
            received += part
        return bytes(received)

    def _told(self, running: subprocess.Popen[bytes], *, hung: bool) -> _Ended:
        number = int.from_bytes(self._at[:], "little")
        if hung:
            running.kill()
        code = self.release()
        if hung or code == -signal.SIGPROF:
            return _Ended(number, TOO_SLOW, f"not decoded within {self._isolation.seconds} s of computing")
        how = signal.Signals(-code).name if code < 0 else f"exit {code}"
        return _Ended(number, CRASHED, f"the decoder ended with {how}")


def _verdicts(answer: bytes, files: int) -> list[Checked]:
    verdicts = []
    place = 0
    for _ in range(files):
        if answer[place]:
            _, width, height = USABLE.unpack_from(answer, place)
            place += USABLE.size + DESCRIPTOR_BYTES
            verdicts.append(Checked(width, height, answer[place - DESCRIPTOR_BYTES : place]))
        else:
            reason, detail, place = read_refusal(answer, place)
            verdicts.append(_refused(reason, detail))
    return verdicts


def _refused(reason: str, detail: str) -> Checked:
    return Checked(0, 0, b"", reason, detail)


def read_refusal(answer: bytes, place: int) -> tuple[str, str, int]:
    """Return reason and detail of a refused file that `answer` tells of at `place`, and where that ends."""
    _, reason, detail = REFUSED.unpack_from(answer, place)
    start = place + REFUSED.size
    end = start + reason + detail
    said = answer[start:end]
    return said[:reason].decode(), said[reason:].decode(errors="replace"), end


def _environment() -> dict[str, str]:
    """Return what the process needs of ours, and no secrets: it opens files from strangers."""
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH", "LANG", "TMPDIR") if name in os.environ}
    # What this interpreter imports from, in its order; threads of numerical libraries would only take address space.
    return {**kept, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OPENBLAS_NUM_THREADS": "1"}
