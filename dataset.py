"""From crops to batches, and the transform that evaluation and live use share. Nothing to run.

Crops are decoded once into an array on disk, and read from there batch by batch. If that array would be too large, each
batch is decoded when it is needed.
"""

import contextlib
import hashlib
import json
import math
import os
import re
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, Sampler
from tqdm import tqdm

from faces import cropping, people, reading, splits
from faces.cropping import MARGIN
from terminal import script, workers
from terminal.files import atomic
from terminal.names import normal
from terminal.records import claim, remove_ours, written

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]  # ImageNet's, as in the paper
CACHE_GB = 10.0  # maximum of disk for the pixels of a split; a larger split is decoded again in every epoch
KEEP_FREE = 1e9  # bytes of the disk that the arrays of pixels leave free
UNUSED = 3600  # seconds after which an array of pixels that no run has read is removed


def resize(images, side):
    """uint8 [N, 3, H, W] -> uint8 [N, 3, side, side], bilinear with antialiasing."""
    if images.shape[2:] == (side, side):
        return images
    # The same as torchvision's Resize, whose import would take as long as that of PyTorch.
    pixels = images if images.device.type == "cpu" else images.float()  # on a GPU, interpolate() takes no uint8
    return functional.interpolate(pixels, (side, side), mode="bilinear", antialias=True).round().to(torch.uint8)


def evaluation_transform(image_size, mean=MEAN, std=STD):
    """The only transform of crops without augmentation: a function from uint8 [N, 3, H, W] RGB, as of to_batch(), to
    normalised float32 [N, 3, image_size, image_size], channels last in memory. `mean`, `std`: for values in 0..1."""
    # For whole rows of pixels: a last axis of three channels would leave vector instructions mostly unused.
    row_mean = 255 * torch.tensor(mean).repeat(image_size)
    row_std = 255 * torch.tensor(std).repeat(image_size)

    def transform(images):
        rows = resize(images, image_size).permute(0, 2, 3, 1).flatten(2)
        rows = torch.sub(rows, row_mean.to(rows.device)).div_(row_std.to(rows.device))
        return rows.unflatten(2, (image_size, 3)).permute(0, 3, 1, 2)

    return transform


def to_batch(crops):
    """A list of uint8 [H, W, 3] RGB crops of one size as a uint8 tensor [N, 3, H, W] (channels last in memory)."""
    return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2)


class Crops(Dataset):
    """The crops of a split, in the order of their paths, cut to `margin` (see cropping.recut()).

    `crops[[3, 1, 2]]` is (images uint8 [3, 3, S, S], labels int64 [3], sample weights float32 [3], task labels
    int64 [3, tasks]). `sample_weights` are what the crops count for in the training loss: 1 unless balance() sets them.
    `task_labels`, `task_sizes` and `ages` are those of auxiliary.labels(); without tasks unless train.py sets them.
    `known` is a people.Person per crop, as validation.py has noted it; `clahe` is the clip limit of the crops'
    equalisation. `sources` are the names of the sources, ["all"] if none is known, and `source_index`, int64 [N], has
    the source of each crop. `n_people` is the number of known people and takes; each other crop counts as one more.
    """

    def __init__(self, folder, image_size, margin=MARGIN):
        self.folder = folder = Path(folder)
        split = splits.read(folder)
        if split and split.problem:
            script.fail(f"{folder}: {split.problem}")
        hint = "run 'python validation.py' (and 'python processed.py' before it)"
        by_class = reading.class_photos(folder, hint, "crops")
        self.classes, found = list(by_class), list(by_class.values())
        self.paths = [path for paths in found for path in paths]
        self.labels = torch.arange(len(found)).repeat_interleave(torch.tensor([len(paths) for paths in found]))
        self.sample_weights = torch.ones(len(self.paths))
        self.task_labels, self.task_sizes, self.ages = torch.empty(len(self.paths), 0, dtype=torch.int64), [], []
        names = [normal(path.relative_to(folder).as_posix()) for path in self.paths]
        noted = split.crops if split else dict.fromkeys(names, people.Person())  # nothing, if it was made by hand
        strange = [name for name in names if name not in noted]
        if strange:
            script.fail(f"{folder / strange[0]} is not in the split that validation.py has made: move it elsewhere, or "
                        "run 'python validation.py' again")
        self.known = [noted[name] for name in names]
        self.clahe = split.clahe if split else 0.0
        self.sources, self.source_index = sources_of(self.known)
        self.n_people = len(set(people.clusters(self.known).tolist()))
        self.image_size, self.margin = image_size, margin
        self.shape = (len(self.paths), image_size, image_size, 3)  # of all pixels
        self.cache = None  # path of the array of pixels on disk
        self.on_gpu = None  # all pixels in the memory of a GPU, uint8 [N, S, S, 3]
        self.pool = ThreadPoolExecutor(workers.cores())

    def balance(self):
        """Set `sample_weights` so that all classes of a source count the same; their mean stays 1."""
        for number in range(len(self.sources)):
            own = self.source_index == number
            counts = torch.bincount(self.labels[own], minlength=len(self.classes)).float()
            share = counts.sum() / (counts > 0).sum()  # crops of each class that the source has, were they balanced
            self.sample_weights[own] = (share / counts.clamp_min(1))[self.labels[own]]

    def prepare(self, quiet=False):
        """Decode the crops into an array on disk, unless it is there already or would be too large. Prints a line
        unless `quiet`. Returns self."""
        stats = [(path.as_posix(), status.st_size, status.st_mtime_ns)
                 for path, status in zip(self.paths, map(os.stat, self.paths), strict=True)]
        mark = hashlib.sha256(json.dumps([self.shape, self.margin, stats]).encode()).hexdigest()[:16]
        self.cache = self.folder.parent / f".{self.folder.name}_{self.image_size}_{mark}.npy"
        self.remove_unused()
        size, cached = math.prod(self.shape), self.is_cached()
        problem = None if cached else self.why_no_cache(size)
        if problem:
            self.cache = None
            how = f"and {problem}: decoded batch by batch in every epoch instead"
        else:
            how = f"kept in {self.cache.as_posix()}"
        if not quiet:
            print(f"{self.folder.name}: {len(self):,} crops are {size / 1e6:,.0f} MB of pixels, {how}", flush=True)
        if self.cache and not cached:
            self.write_cache()
        return self

    def why_no_cache(self, size):
        """Why an array of `size` bytes cannot be written, or None."""
        folder = self.folder.parent
        if not os.access(folder, os.W_OK):
            return f"{folder.as_posix()} is read-only"
        room = max(0, min(CACHE_GB * 1e9, shutil.disk_usage(folder).free - KEEP_FREE))
        if size > room:
            return f"{room / 1e9:.2f} GB may be used (dataset.CACHE_GB, and free space)"
        return None

    def is_cached(self):
        """Whether the array on disk is there and has its full length, which a power cut may have prevented."""
        try:
            return np.load(self.cache, mmap_mode="r").shape == self.shape
        except (OSError, ValueError, EOFError):
            return False

    def write_cache(self):
        """Decode all crops into the array on disk."""
        claim(self.cache.parent, [self.cache.name])
        header = {"descr": "|u1", "fortran_order": False, "shape": self.shape}
        # Written as a file, since a full disk would kill a program that writes through a memory map, without a message.
        with atomic(self.cache) as temporary, open(temporary, "wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            for start in tqdm(range(0, len(self), 256), desc=f"decoding {self.folder.name}", unit="batch"):
                file.write(self.decode(range(start, min(start + 256, len(self)))).tobytes())

    def remove_unused(self):
        """Delete the other arrays of this split, if no run has read them for UNUSED seconds."""
        folder = self.folder.parent
        pattern = re.compile(rf"\.{re.escape(self.folder.name)}_\d+_[0-9a-f]{{16}}\.npy")
        for name in filter(pattern.fullmatch, written(folder) - {self.cache.name}):
            with contextlib.suppress(OSError):  # already deleted; or, on Windows, open in another run
                if time.time() - (folder / name).stat().st_mtime > UNUSED:
                    remove_ours(folder, [name])

    def decode(self, index):
        """The pixels of crops, decoded from their files: uint8 [N, S, S, 3]."""
        def one(i):
            try:
                crop = cropping.recut(cropping.read_crop(self.paths[i]), MARGIN, self.margin)
                return resize(to_batch([crop]), self.image_size)
            except reading.PhotoError as error:
                script.fail(f"{self.paths[i]}: {error}; delete it and run 'python processed.py' and "
                            "'python validation.py'")

        if not len(index):  # a small batch may have no rows for this process
            return np.empty((0, *self.shape[1:]), np.uint8)
        return torch.cat(list(self.pool.map(one, index))).permute(0, 2, 3, 1).contiguous().numpy()

    def pixels(self, index):
        """The pixels of crops, from the array on disk if there is one: uint8 [N, S, S, 3]."""
        if self.cache is None or not self.cache.is_file():  # too large, or deleted meanwhile
            return self.decode(index)
        with contextlib.suppress(OSError):  # the file may belong to another user
            os.utime(self.cache)  # marks it as used, see remove_unused()
        # Mapped for each batch only, since pages that stay mapped count as memory of this process.
        return np.load(self.cache, mmap_mode="r")[index]

    def move_to(self, device):
        """Copy all pixels into the memory of a CUDA GPU, if they need at most half of what is free."""
        if device.type != "cuda" or math.prod(self.shape) > torch.cuda.mem_get_info(device)[0] / 2:
            return
        self.on_gpu = torch.empty(self.shape, dtype=torch.uint8, device=device)
        for index in torch.arange(len(self)).split(4096):
            self.on_gpu[index[0]:index[-1] + 1] = torch.from_numpy(self.pixels(index.tolist()))

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        if self.on_gpu is not None:
            rows = torch.as_tensor(index, dtype=torch.int64)  # the type of an empty list would be float
            pixels = self.on_gpu[rows.to(self.on_gpu.device, non_blocking=True)]
        else:
            pixels = torch.from_numpy(np.ascontiguousarray(self.pixels(index)))
        return pixels.permute(0, 3, 1, 2), self.labels[index], self.sample_weights[index], self.task_labels[index]


def sources_of(known):
    """(list of the names of the sources; index of each crop's source, int64 [N]). `known`: a people.Person per crop."""
    names, index = np.unique([person.source or "others" for person in known], return_inverse=True)
    names = names.tolist()
    return ["all"] if names == ["others"] else names, torch.from_numpy(index).long()


class Batches(Sampler):
    """Yields lists of indices, one per batch: shuffled by (seed, epoch) only, so that epoch 7 is the same after a
    resume; without a seed in order. If `world` processes share each batch, process `rank` gets every world-th image.

    With a seed, a last batch that is too small is merged into the one before: batch normalisation needs more than one
    image, and each process at least one.
    """

    def __init__(self, n, batch_size, seed=None, rank=0, world=1):
        self.n, self.batch_size, self.seed, self.epoch = n, batch_size, seed, 0
        self.rows = slice(rank, None, world)  # of each batch, those of this process
        self.sizes = [min(batch_size, n - start) for start in range(0, n, batch_size)]  # of batches, over all processes
        smallest = max(2, world)
        if seed is not None and len(self.sizes) > 1 and self.sizes[-1] < smallest <= batch_size:
            last = self.sizes.pop()
            self.sizes[-1] += last

    def __iter__(self):
        order = torch.arange(self.n)
        if self.seed is not None:
            order = torch.randperm(self.n, generator=generator_for(self.seed, self.epoch))
        for batch in order.split(self.sizes):
            yield batch[self.rows].tolist()

    def __len__(self):
        return len(self.sizes)


def seed_of(*numbers):
    """A seed that is a hash of all the numbers: int of 56 bits."""
    return int.from_bytes(hashlib.sha256(repr(numbers).encode()).digest()[:7], "big")


def generator_for(*numbers):
    """A torch.Generator with seed_of() the numbers."""
    return torch.Generator().manual_seed(seed_of(*numbers))


def loader(crops, batch_size, seed=None, rank=0, world=1):
    """A DataLoader of Crops; see Batches for the arguments. Set `loader.sampler.epoch` before each epoch.

    It needs no worker processes: a batch is copied from an array, or decoded by threads.
    """
    return DataLoader(crops, batch_size=None, sampler=Batches(len(crops), batch_size, seed, rank, world))
