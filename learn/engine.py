"""What train.py runs on: the machine's fast path, several processes as one, evaluation, calibration. Nothing to run.

`torchrun --nproc-per-node=N train.py` starts N processes ("ranks"). Each takes every N-th image of a batch, gradients
are averaged, and losses and accuracies are sums over all ranks, so that N ranks train as one process would. A program
started without torchrun is rank 0 of 1, and nothing here then costs anything.
"""

import contextlib
import ctypes
import math
import os
import sys
import warnings

import torch
from torch import distributed
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import get_ema_multi_avg_fn

from terminal import script

RANK, WORLD = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
LOCAL_RANK = int(os.environ.get("LOCAL_RANK", 0))  # the rank among those of this machine


def hardware(device="auto", precision="auto"):
    """(torch.device, whether to compute in bfloat16): the machine's fast way, or what train.py's constants say."""
    found = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    chosen = torch.device(found if device == "auto" else device)
    if chosen.type != "cpu" and chosen.type != found:
        script.fail(f"DEVICE={device}: this machine has none that PyTorch can use; DEVICE=auto takes {found}")
    if chosen.type == "cuda":
        chosen = torch.device("cuda", LOCAL_RANK)
        torch.cuda.set_device(chosen)
    if precision != "auto":
        return chosen, precision == "bfloat16"
    if chosen.type == "cuda":
        return chosen, torch.cuda.is_bf16_supported(including_emulation=False)
    # Without instructions for it, bfloat16 on a CPU is emulated: eight times slower than float32, measured with AVX2.
    facts = getattr(torch.cpu, "get_capabilities", dict)()
    return chosen, chosen.type == "cpu" and bool(facts.get("avx512_bf16") or facts.get("amx_bf16"))


def keep_memory():
    """Keep memory that was freed for the next training step, where C's library would give it back and ask anew.

    A step of the paper's network (64 images, float32, one thread) then takes 0.77 of the CPU time, 0.76 to 0.80 in
    five pairs of processes: 3,000 new pages instead of 150,000. MODEL=small and evaluation take the same time with it
    and without. Linux's C library alone has this
    (mallopt(3)); elsewhere nothing happens.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            library, trim_threshold, mmap_max = ctypes.CDLL(None), -1, -4
            library.mallopt(mmap_max, 0)
            library.mallopt(trim_threshold, -1)


def join(device):
    """Become one of WORLD ranks: gloo carries what they tell each other on a CPU, nccl on GPUs."""
    if WORLD > 1:
        # torchrun sets 1 where the user has set nothing, which would leave cores idle.
        if device.type == "cpu" and os.environ.get("OMP_NUM_THREADS", "1") == "1":
            torch.set_num_threads(max(1, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", WORLD))))
        # Sums and logits are told from the CPU, gradients from where they are.
        distributed.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")


def leave():
    """Part from the other ranks."""
    if WORLD > 1:
        distributed.destroy_process_group()


def spread(net, images, bf16):
    """`net` as a training step calls it: over all ranks, or at one go on a CUDA GPU.

    Ranks average their gradients as they appear. On one GPU both passes are recorded for batches like `images` (float32
    [N, 3, S, S]) and replayed: a small network's kernels end sooner than a processor can start them one by one.
    """
    if WORLD > 1:
        return DistributedDataParallel(net, device_ids=[images.device] if images.device.type == "cuda" else None)
    if images.device.type != "cuda" or not all(p.requires_grad for p in net.parameters()):
        return net
    # PyTorch warns of what recording entails: gradients that were first asked for on another stream.
    warnings.filterwarnings("ignore", "The AccumulateGrad node's stream|Attempting to run cuBLAS")
    net.train()
    buffers = [v.clone() for v in net.buffers()]
    with torch.autocast("cuda", torch.bfloat16, enabled=bf16, cache_enabled=False):
        recorded = torch.cuda.make_graphed_callables(torch.nn.Sequential(net), (images,))
    for buffer, value in zip(net.buffers(), buffers, strict=True):
        buffer.copy_(value)  # recording has counted `images` in
    return lambda batch: recorded(batch) if batch.shape == images.shape else net(batch)


def outputs_of(forward, images, bf16):
    """Outputs float32 [N, outputs] of a network, or of what spread() makes of it, for images [N, 3, S, S].

    Raises script.Problem where batch normalisation has one value per channel alone to learn from.
    """
    try:
        with torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
            return forward(images).float()
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise script.Problem("a network with batch normalisation cannot learn from batches of one image of this size: "
                             "set BATCH_SIZE (at least 2 per process) or IMAGE_SIZE higher") from None


def ahead(prepare, batches, device):
    """prepare(step, batch), a tuple of tensors, for all batches; on a CUDA GPU beside the step before."""
    if device.type != "cuda":
        yield from (prepare(step, batch) for step, batch in enumerate(batches))
        return
    own, main, before = torch.cuda.Stream(device), torch.cuda.current_stream(device), None
    own.wait_stream(main)
    steps = enumerate(batches)
    while True:
        with torch.cuda.stream(own):
            step = next(steps, None)
            tensors, done = step and prepare(*step), own.record_event()
        if before is not None:
            main.wait_event(before[1])
            yield before[0]
        if step is None:
            return
        for tensor in tensors:
            tensor.record_stream(main)  # its memory is free again only when `main` is done with it
        before = tensors, done


def hold(batches, device):
    """Keep the crops of a loader in the memory of a CUDA GPU that has the room."""
    if device.type == "cuda":
        batches.dataset.hold(device, torch.cuda.mem_get_info(device)[0])


@contextlib.contextmanager
def one_at_first():
    """The block runs on one rank of each machine, and on its others after that: they find the files it made."""
    if WORLD > 1 and LOCAL_RANK:
        distributed.barrier()
    yield
    if WORLD > 1 and not LOCAL_RANK:
        distributed.barrier()


def total(tensor):
    """The sum of `tensor` over all ranks, in place and returned."""
    if WORLD > 1:
        distributed.all_reduce(tensor)
    return tensor


def share_statistics(net):
    """Give every rank the batch statistics of rank 0; each has its own after a training step."""
    if WORLD > 1:
        for buffer in net.buffers():
            distributed.broadcast(buffer, 0)


def blend(old, new, step, most):
    """Move averaged weights (lists of tensors) a little towards new ones; less so late, when there is much to average.

    `most` (0..1): the share of the old that is kept at most.
    """
    get_ema_multi_avg_fn(min(most, (1 + step) / (10 + step)))(old, new, None)


def floats(net):
    """All parameters and batch statistics of a network, as a list of floating-point tensors."""
    return [v for v in net.state_dict().values() if v.is_floating_point()]


class Tally:
    """Losses and right answers of an epoch. `loss`: the sum of those known by now, of this rank's images."""

    def __init__(self, device):
        # To read a result is to wait for a GPU, which meanwhile has nothing to do: so only every 50 steps.
        self.every, self.waiting = 1 if device.type == "cpu" else 50, []
        self.sums, self.loss = torch.zeros(3, dtype=torch.float64), 0.0  # sums: loss, right answers, images

    @torch.no_grad()
    def add(self, logits, labels):
        """Count a step in: logits [N, n_classes] and labels [N], on the device."""
        self.sums[2] += len(labels)
        loss = functional.cross_entropy(logits, labels, reduction="sum")
        self.waiting.append(torch.stack([loss, (logits.argmax(1) == labels).sum()]))
        if len(self.waiting) == self.every:
            self.read()

    def read(self):
        """Wait for the steps that are not known yet, and count their results in."""
        if self.waiting:
            self.sums[:2] += torch.stack(self.waiting).cpu().double().sum(0)
            self.waiting, self.loss = [], self.sums[0].item()

    def means(self):
        """(loss, accuracy) per image, over all steps and ranks."""
        self.read()
        loss, right, images = total(self.sums).tolist()
        return loss / images, right / images


def calibrate(logits, labels, sure):
    """(temperature, threshold): the temperature that makes the validation loss least, and the confidence from which
    the predictions are right with the share `sure`. Guo et al., "On Calibration of Modern Neural Networks", ICML 2017.
    """
    temperatures = torch.logspace(-1, 1, 401)
    losses = torch.stack([functional.cross_entropy(logits / t, labels) for t in temperatures])
    temperature = temperatures[losses.argmin()].item()
    confidence, predicted = (logits / temperature).softmax(1).max(1)
    right = (predicted == labels).float()
    floor = 1 / logits.shape[1]
    for threshold in torch.arange(math.ceil(floor * 100) / 100, 0.96, 0.01).tolist():
        chosen = confidence >= threshold
        if chosen.any() and right[chosen].mean() >= sure:
            return temperature, threshold
    return temperature, 0.95
