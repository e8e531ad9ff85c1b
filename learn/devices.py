"""The device, its precision, threads and memory. Nothing to run."""

import contextlib
import ctypes
import os
import sys
from typing import NamedTuple

import torch

from terminal import script, workers


class Hardware(NamedTuple):
    """The device and the precision of a training."""

    device: torch.device
    bf16: bool  # True: autocast to bfloat16

    def autocast(self):
        """torch.autocast to bfloat16 if `bf16`, else a context without effect."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)


def choose(device, precision, local_rank=0):
    """The Hardware for train.py's DEVICE and PRECISION; "auto" is the fastest of this machine. `local_rank`: the number
    of the GPU if there are several."""
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device == "auto":  # not mps, where some operations of the training fail or fall back to the CPU
        device = "cuda" if available["cuda"] else "cpu"
    if not available[device]:
        script.fail(f"DEVICE={device}: this machine has none that PyTorch can use; set DEVICE=auto")
    chosen = torch.device(device)
    if chosen.type == "cuda":
        chosen = torch.device("cuda", local_rank)
        torch.cuda.set_device(chosen)
    if precision != "auto":
        return Hardware(chosen, precision == "bfloat16")
    if chosen.type == "cuda":
        return Hardware(chosen, torch.cuda.is_bf16_supported(including_emulation=False))
    return Hardware(chosen, chosen.type == "cpu" and cpu_has_bf16())


def cpu_has_bf16():
    """Whether the CPU has instructions for bfloat16. Without them it is emulated: eight times slower than float32,
    measured with AVX2."""
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()  # older PyTorch has no such function
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def limit_threads():
    """Use no more threads than the cores of a container, whose limit PyTorch does not know."""
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(min(torch.get_num_threads(), workers.cores()))


def keep_memory():
    """Make Linux's C library keep freed memory for the next batch instead of returning it to the system (mallopt(3)).

    A step of the paper's network (64 images, float32, one thread) then takes 0.77 of the CPU time; predict() of 64
    crops on two threads takes 0.54 of the time with the paper's network, and 0.79 with `small`.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            library = ctypes.CDLL(None)
            m_trim_threshold, m_mmap_max = -1, -4  # names of these two parameters in malloc.h
            library.mallopt(m_mmap_max, 0)  # 0: no block has a mapping of its own
            library.mallopt(m_trim_threshold, -1)  # -1: never return memory
