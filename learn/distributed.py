"""Distributed training: what differs if several processes train one network. Nothing to run.

`torchrun --nproc-per-node=N train.py` starts N processes ("ranks"). Each takes every N-th image of a batch, gradients
are averaged, and losses and accuracies are summed over all ranks. Without torchrun a program is rank 0 of 1.
"""

import contextlib
import functools
import os

import torch
from torch import distributed as processes
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from terminal import script, workers

WORLD, RANK, LOCAL_RANK = 1, 0, 0  # number of processes; the rank of this one, and its rank on this machine
if "WORLD_SIZE" in os.environ:  # set by torchrun, with the others
    WORLD, RANK, LOCAL_RANK = (int(os.environ[name]) for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"))
IS_FIRST = RANK == 0  # the process that prints and writes files


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


def progress_bar(batches, **settings):
    """tqdm over `batches`: one bar for all processes, which disappears at the end."""
    return tqdm(batches, leave=False, disable=None if IS_FIRST else True, **settings)


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


def data_parallel(net, device):
    """`net`, in DistributedDataParallel (which averages the gradients) if there are several processes."""
    if WORLD == 1:
        return net
    return DistributedDataParallel(net, device_ids=[device] if device.type == "cuda" else None)


def check_batch_sizes(net, image_size, sizes):
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
def first_process_first():
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


def broadcast_buffers(net):
    """Broadcast the batch normalisation statistics of rank 0; ranks differ in them after a training step."""
    if WORLD > 1:
        for buffer in net.buffers():
            processes.broadcast(buffer, 0)
