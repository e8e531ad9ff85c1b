"""Device and precision, distributed training, moving average, calibration: what train.py runs on. Nothing to run.

`torchrun --nproc-per-node=N train.py` starts N processes ("ranks"). Each takes every N-th image of a batch, gradients
are averaged, and losses and accuracies are summed over all ranks. Without torchrun a program is rank 0 of 1.
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
LOCAL_RANK = int(os.environ.get("LOCAL_RANK", 0))  # the rank on this machine
HIGHEST_THRESHOLD = 0.95  # above it, few faces would get a label


class Hardware(NamedTuple):
    """The device and the precision of a training."""

    device: torch.device
    bf16: bool  # True: autocast to bfloat16

    def autocast(self):
        """torch.autocast to bfloat16 if `bf16`, else a context without effect."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)


def first_only(function):
    """Decorator: the function runs in the first process only, and returns None."""
    @functools.wraps(function)
    def in_first(*arguments, **more):
        if IS_FIRST:
            function(*arguments, **more)

    return in_first


@first_only
def say(text):
    """Print a text in the first process; None: print nothing."""
    if text is not None:
        print(text, flush=True)


def progress(batches, **settings):
    """tqdm over `batches`: one bar for all processes, which disappears at the end."""
    return tqdm(batches, leave=False, disable=None if IS_FIRST else True, **settings)


def hardware(device="auto", precision="auto"):
    """The Hardware for train.py's DEVICE and PRECISION; "auto" chooses the fastest of this machine."""
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device == "auto":  # not mps, where some operations of the training fail or fall back to the CPU
        device = "cuda" if available["cuda"] else "cpu"
    if not available[device]:
        script.fail(f"DEVICE={device}: this machine has none that PyTorch can use; set DEVICE=auto")
    chosen = torch.device(device)
    if "OMP_NUM_THREADS" not in os.environ:  # PyTorch does not know a container's limit of cores
        torch.set_num_threads(min(torch.get_num_threads(), workers.cores()))
    if chosen.type == "cuda":
        chosen = torch.device("cuda", LOCAL_RANK)
        torch.cuda.set_device(chosen)
    if precision != "auto":
        return Hardware(chosen, precision == "bfloat16")
    if chosen.type == "cuda":
        return Hardware(chosen, torch.cuda.is_bf16_supported(including_emulation=False))
    # On a CPU without bfloat16 instructions it is emulated: eight times slower than float32, measured with AVX2.
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()  # older PyTorch has no such function
    has_bf16 = bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    return Hardware(chosen, chosen.type == "cpu" and has_bf16)


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


@contextlib.contextmanager
def ranks(device):
    """Context of the process group of WORLD ranks: gloo on CPUs, nccl on GPUs. No effect if WORLD is 1."""
    if WORLD == 1:
        yield
        return
    # torchrun sets OMP_NUM_THREADS=1 unless the user has set it, which would leave cores idle.
    if device.type == "cpu" and os.environ.get("OMP_NUM_THREADS", "1") == "1":
        torch.set_num_threads(max(1, workers.cores() // int(os.environ.get("LOCAL_WORLD_SIZE", WORLD))))
    # Sums and logits are reduced on the CPU, gradients on their device.
    processes.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        processes.destroy_process_group()


def distributed_model(net, device):
    """`net`, in DistributedDataParallel (which averages the gradients) if there are several processes."""
    if WORLD == 1:
        return net
    return DistributedDataParallel(net, device_ids=[device] if device.type == "cuda" else None)


def check_shares(net, image_size, sizes):
    """End the program if a process would get too few images of a batch to train `net`. `sizes`: of the batches.

    Batch normalisation needs two values per channel. One image has them unless its last features are 1x1. `net` is in
    evaluation mode afterwards.
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
    """The block runs first on rank 0 of each machine, then on the others, which find the files that it has written."""
    if WORLD > 1 and LOCAL_RANK:
        processes.barrier()
    yield
    if WORLD > 1 and not LOCAL_RANK:
        processes.barrier()


def total(tensor):
    """Sum `tensor` over all ranks, in place, and return it."""
    if WORLD > 1:
        processes.all_reduce(tensor)
    return tensor


def share_statistics(net):
    """Broadcast the batch normalisation statistics of rank 0; ranks differ in them after a training step."""
    if WORLD > 1:
        for buffer in net.buffers():
            processes.broadcast(buffer, 0)


def update_ema(ema, net, decay, step):
    """Update the moving average `ema` of `net`, batch statistics too, with `decay`, or less in the first steps.
    `step`: counted from 0."""
    update = get_ema_multi_avg_fn(min(decay, (1 + step) / (10 + step)))
    averages = [v for v in ema.state_dict().values() if v.is_floating_point()]
    values = [v for v in net.state_dict().values() if v.is_floating_point()]
    update(averages, values, None)


def calibrate(logits, labels, target_accuracy, few=False):
    """(temperature, threshold, accuracy): the temperature with the lowest validation loss; the lowest confidence, at
    most HIGHEST_THRESHOLD, from which the accuracy is at least `target_accuracy`; and the accuracy from there on, nan
    if no prediction is so confident.

    `logits`: float32 [N, C], `labels`: int64 [N], of the validation crops. `few`: they are few, and may all be right by
    luck, so that any threshold would do: it is then at least half way from chance to 1.

    Guo et al., "On Calibration of Modern Neural Networks", ICML 2017.
    """
    # Not below 0.5: if all of a few crops are right, the lower the temperature, the lower the loss.
    temperatures = torch.logspace(math.log10(0.5), 1, 261)
    losses = torch.stack([functional.cross_entropy(logits / t, labels) for t in temperatures])
    temperature = temperatures[losses.argmin()].item()
    confidence, predicted = (logits / temperature).softmax(1).max(1)
    correct = (predicted == labels).float()
    chance = 1 / logits.shape[1]
    lowest = (chance + 1) / 2 if few else chance
    for threshold in torch.arange(math.ceil(lowest * 100) / 100, HIGHEST_THRESHOLD + 0.005, 0.01).tolist():
        chosen = confidence >= threshold
        if chosen.any() and correct[chosen].mean() >= target_accuracy:
            return temperature, threshold, correct[chosen].mean().item()
    return temperature, HIGHEST_THRESHOLD, correct[confidence >= HIGHEST_THRESHOLD].mean().item()
