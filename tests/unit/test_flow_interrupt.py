"""Ctrl-C while garbage is collected: without us Python would drop it and go on."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import gc, os, signal, sys, time
from flows.interrupt import hear_interrupts
signal.signal(signal.SIGINT, signal.default_int_handler)
if sys.argv[1] == "heard":
    hear_interrupts()

class Pressed:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        sum(range(10))

pressed = Pressed()
pressed.itself = pressed
del pressed
try:
    gc.collect()
    for _ in range(500):
        time.sleep(0.01)
    print("went on")
except KeyboardInterrupt:
    print("stopped")
"""


@pytest.mark.parametrize(("how", "said"), [("heard", "stopped"), ("plain", "went on")])
def test_an_interrupt_that_falls_into_a_collection_is_heard_after_it(how: str, said: str) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == said


ENDED_IN_ORDER = """
import asyncio, os, signal
from flows.interrupt import hear_interrupts, interrupts_of_asyncio
signal.signal(signal.SIGINT, signal.default_int_handler)
hear_interrupts()

async def work():
    try:
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.sleep(30)
    except asyncio.CancelledError:
        print("ended in order")
        raise

try:
    with interrupts_of_asyncio():
        asyncio.run(work())
except KeyboardInterrupt:
    print(signal.getsignal(signal.SIGINT).__module__)
"""


def test_an_event_loop_ends_its_tasks_in_order_and_interrupts_are_heard_afterwards() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ENDED_IN_ORDER], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split("\n")[:2] == ["ended in order", "flows.interrupt"]
    assert done.stderr == ""
