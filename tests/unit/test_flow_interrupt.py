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
