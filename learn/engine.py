"""What train.py runs on: the machine's fast path, several processes as one, calibration. Nothing to run.

`torchrun --nproc-per-node=N train.py` starts N processes ("ranks"). Each takes every N-th image of a batch, gradients
are averaged, and losses and accuracies are sums over all ranks. Without torchrun a program is rank 0 of 1.
"""

import contextlib
import ctypes
import functools
import math
import os
import sys
from typing import NamedTuple

import torch
from torch import distributed as processes
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import get_ema_multi_avg_fn
from tqdm import tqdm

from terminal import script, workers

RANK, WORLD = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
IS_FIRST = RANK == 0  # the process that prints and writes files
LOCAL_RANK = int(os.environ.get("LOCAL_RANK", 0))  # the rank among those of this machine
MOST = 0.95  # confidence: a higher threshold would leave few answers


class Hardware(NamedTuple):
    """What a training computes on."""

    device: torch.device
    bf16: bool  # whether in bfloat16

    def autocast(self):
        """A context in which networks compute in bfloat16 where they may."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)


def first_only(function):
    """A function that does something in the first process only, and returns None."""
    @functools.wraps(function)
    def in_first(*arguments, **more):
        if IS_FIRST:
            function(*arguments, **more)

    return in_first


@first_only
def say(text):
    """Print a text, once for all processes; None: nothing."""
    if text is not None:
        print(text, flush=True)


def progress(batches, **settings):
    """tqdm over `batches`: one bar for all processes, which goes when it is full."""
    return tqdm(batches, leave=False, disable=None if IS_FIRST else True, **settings)


def hardware(device="auto", precision="auto"):
    """The Hardware: the machine's fast way, or what train.py's constants say."""
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device == "auto":  # not mps: an operation or two that training uses fall back to the CPU there, or fail
        device = "cuda" if there["cuda"] else "cpu"
    if not there[device]:
        script.fail(f"DEVICE={device}: this machine has none that PyTorch can use; set DEVICE=auto")
    chosen = torch.device(device)
    if "OMP_NUM_THREADS" not in os.environ:  # PyTorch knows nothing of what a container may use
        torch.set_num_threads(min(torch.get_num_threads(), workers.cores()))
    if chosen.type == "cuda":
        chosen = torch.device("cuda", LOCAL_RANK)
        torch.cuda.set_device(chosen)
    if precision != "auto":
        return Hardware(chosen, precision == "bfloat16")
    if chosen.type == "cuda":
        return Hardware(chosen, torch.cuda.is_bf16_supported(including_emulation=False))
    # Without instructions for it, bfloat16 on a CPU is emulated: eight times slower than float32, measured with AVX2.
    facts = getattr(torch.cpu, "get_capabilities", dict)()
    return Hardware(chosen, chosen.type == "cpu" and bool(facts.get("avx512_bf16") or facts.get("amx_bf16")))


def keep_memory():
    """Keep freed memory for the next batch, where Linux's C library would give it back and ask anew (mallopt(3)).

    A step of the paper's network (64 images, float32, one thread) then takes 0.77 of the CPU time; predict() of 64
    crops on two threads 0.54 of the time with the paper's network, and 0.79 with `small`.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            library, trim_threshold, mmap_max = ctypes.CDLL(None), -1, -4
            library.mallopt(mmap_max, 0)
            library.mallopt(trim_threshold, -1)


@contextlib.contextmanager
def ranks(device):
    """In the block this program is one of WORLD ranks, which talk by gloo on a CPU, and on GPUs by nccl."""
    if WORLD == 1:
        yield
        return
    # torchrun sets 1 where the user has set nothing, which would leave cores idle.
    if device.type == "cpu" and os.environ.get("OMP_NUM_THREADS", "1") == "1":
        torch.set_num_threads(max(1, workers.cores() // int(os.environ.get("LOCAL_WORLD_SIZE", WORLD))))
    # Sums and logits are exchanged from the CPU, gradients from where they are.
    processes.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        processes.destroy_process_group()


def distributed_model(net, device):
    """`net` as a training step calls it: processes average their gradients."""
    if WORLD == 1:
        return net
    return DistributedDataParallel(net, device_ids=[device] if device.type == "cuda" else None)


def check_shares(net, image_size, sizes):
    """End the program where a process would get too few images of a batch to train `net` on. `sizes`: of the batches.

    Batch normalisation needs two values of a channel, which one image has unless its last features are 1x1.
    """
    least = 1
    if any(isinstance(module, torch.nn.BatchNorm2d) for module in net.modules()):
        with torch.inference_mode():
            image = torch.zeros(1, 3, image_size, image_size, device=next(net.parameters()).device)
            least = 2 if net.eval().features(image)[0, 0].numel() == 1 else 1
    if min(sizes) // WORLD < least:
        script.fail(f"a step has {min(sizes)} crops for {WORLD} process(es), which need at least {least} each: set "
                    f"BATCH_SIZE (at least {least} per process) or IMAGE_SIZE higher, or add photos")


@contextlib.contextmanager
def one_at_first():
    """The block runs on one rank of each machine, and on its others after that: they find the files it made."""
    if WORLD > 1 and LOCAL_RANK:
        processes.barrier()
    yield
    if WORLD > 1 and not LOCAL_RANK:
        processes.barrier()


def total(tensor):
    """The sum of `tensor` over all ranks, in place and returned."""
    if WORLD > 1:
        processes.all_reduce(tensor)
    return tensor


def share_statistics(net):
    """Give every rank the batch statistics of rank 0; each has its own after a training step."""
    if WORLD > 1:
        for buffer in net.buffers():
            processes.broadcast(buffer, 0)


def update_ema(ema, net, decay, step):
    """Move the averaged network `ema`, batch statistics too, towards `net`: by 1 - `decay`, and further in the first
    steps (`step`: from 0)."""
    old, new = ([v for v in model.state_dict().values() if v.is_floating_point()] for model in (ema, net))
    get_ema_multi_avg_fn(min(decay, (1 + step) / (10 + step)))(old, new, None)


def calibrate(logits, labels, sure, few=False):
    """(temperature, threshold, accuracy): the temperature that makes the validation loss least; the confidence, at most
    MOST, from which the accuracy is `sure`; and the accuracy from there on, nan where no prediction is so confident.

    `few`: whether the crops are too few to choose a threshold by. If all of them are right, any confidence would do: so
    it is at least half way from a guess to certainty.

    Guo et al., "On Calibration of Modern Neural Networks", ICML 2017.
    """
    # Not below 0.5: a few crops, all of them right, would ask for ever sharper answers.
    temperatures = torch.logspace(math.log10(0.5), 1, 261)
    losses = torch.stack([functional.cross_entropy(logits / t, labels) for t in temperatures])
    temperature = temperatures[losses.argmin()].item()
    confidence, predicted = (logits / temperature).softmax(1).max(1)
    right = (predicted == labels).float()
    guess = 1 / logits.shape[1]
    floor = (guess + 1) / 2 if few else guess
    for threshold in torch.arange(math.ceil(floor * 100) / 100, MOST + 0.005, 0.01).tolist():
        chosen = confidence >= threshold
        if chosen.any() and right[chosen].mean() >= sure:
            return temperature, threshold, right[chosen].mean().item()
    return temperature, MOST, right[confidence >= MOST].mean().item()
