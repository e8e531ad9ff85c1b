"""Crops -> batches, and the one transform for evaluation and live use. Nothing to run.

Crops are decoded once into a file of raw uint8 pixels beside them and read from there batch by batch, so that memory
stays small and no epoch decodes a JPEG. Where that file would be too large, each batch is decoded when its turn comes.
"""

import contextlib
import glob
import hashlib
import json
import math
import os
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision.transforms import v2
from tqdm import tqdm

from faces import cropping, reading
from faces.cropping import MARGIN
from terminal import script
from terminal.files import SPLIT, atomic, class_folders, classes_of, sweep

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]  # ImageNet's, as in the paper
KEEP_FREE = 1e9  # bytes of a disk that pixels leave to weights files and everybody else


def evaluation_transform(image_size, mean=MEAN, std=STD):
    """The one way to see a crop: a function from uint8 [N, 3, H, W] RGB, as to_batch() gives it, to normalised float32
    [N, 3, image_size, image_size], channels last in memory. `mean` and `std` are those of values in 0..1."""
    resize = v2.Resize((image_size, image_size), antialias=True)
    mean, std = (255 * torch.tensor(v).repeat(image_size) for v in (mean, std))

    def transform(images):
        # Whole rows of pixels at once: with three channels as the last axis, vector instructions would idle.
        rows = resize(images).permute(0, 2, 3, 1).flatten(2)
        rows = torch.sub(rows, mean.to(rows.device)).div_(std.to(rows.device))
        return rows.unflatten(2, (image_size, 3)).permute(0, 3, 1, 2)

    return transform


def to_batch(crops):
    """A list of uint8 [H, W, 3] RGB crops of one size as a uint8 tensor [N, 3, H, W] (channels last in memory)."""
    return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2)


class Crops(Dataset):
    """The crops of a split: raw pixels on disk once decode() has put them there, or else decoded as they are asked for.

    `crops[[3, 1, 2]]` is (images uint8 [3, 3, S, S], labels int64 [3], weights float32 [3], auxiliary int64
    [3, tasks]). `weights` are what the crops count for in the training loss, all ones unless weigh() sets them;
    `auxiliary` are the labels of learn/auxiliary.py, of no task unless train.py sets them. `margin`: see
    cropping.recut().
    """

    def __init__(self, folder, image_size, margin=MARGIN):
        self.folder = folder = Path(folder)
        hint = "run 'python validation.py' (and 'python processed.py' before it)"
        if not complete(folder):
            script.fail(f"{folder} is half a split, since 'python validation.py' was stopped: run it again")
        self.classes, places = classes_of(folder, hint), class_folders(folder, hint)
        found = [[p for place in places[name] for p in reading.list_photos(place)] for name in self.classes]
        empty = [name for name, files in zip(self.classes, found, strict=True) if not files]
        if empty:
            script.fail(f"{folder}: no crops of {', '.join(empty)}; add photos of several people to data/raw, "
                        "then run 'python processed.py' and 'python validation.py'")
        self.files = [path for files in found for path in files]
        self.labels = torch.arange(len(found)).repeat_interleave(torch.tensor([len(files) for files in found]))
        self.weights = torch.ones(len(self.files))
        self.auxiliary, self.auxiliary_sizes = torch.empty(len(self.files), 0, dtype=torch.int64), []
        self.ages = []
        self.shape, self.margin = (len(self.files), image_size, image_size, 3), margin
        self.resize = v2.Resize((image_size, image_size), antialias=True)
        # One split may be read with two margins, as training and validation do.
        cut = "" if margin == MARGIN else f"_{margin:g}"
        self.path = folder.parent / f".{folder.name}_{image_size}{cut}.pixels"
        self.held, self.cached, self.pool = None, False, ThreadPoolExecutor(os.cpu_count() or 1)

    def plan(self, budget=math.inf):
        """Decide whether all pixels are to be kept in a file, for which there are `budget` bytes. Returns one line that
        says it, and where caches that no run would use again are removed."""
        size, name = math.prod(self.shape), self.folder.name
        own = self.path.stat().st_size if self.path.is_file() else 0
        room = own + max(0, shutil.disk_usage(self.path.parent).free - KEEP_FREE)
        self.cached = size <= min(budget, room)
        for path in self.path.parent.glob(f".{glob.escape(name)}_*.pixels"):
            made = re.fullmatch(r"_(\d+)(_(0(\.\d+)?|1|[\d.]+e-\d+))?", path.stem[1 + len(name):])
            if made and (int(made[1]) != self.shape[1] or path == self.path and not self.cached):
                with contextlib.suppress(OSError):  # on Windows, while another run reads it
                    path.unlink()
                    path.with_suffix(".json").unlink(missing_ok=True)
        said = f"{name}: {len(self):,} crops are {size / 1e9:.2f} GB of pixels"
        if self.cached:
            return f"{said}, kept in {self.path}"
        short = f"{budget / 1e9:.2f} GB are allowed" if budget < size else f"{room / 1e9:.2f} GB are free"
        return f"{said}, and {short}: decoded batch by batch in every epoch instead"

    def decode(self):
        """Decode the crops into the file of pixels, unless it holds these very files already. Returns self."""
        stats = [(path.as_posix(), status.st_size, status.st_mtime_ns)
                 for path, status in zip(self.files, map(os.stat, self.files), strict=True)]
        mark = hashlib.sha256(json.dumps([self.shape, stats]).encode()).hexdigest()
        note = self.path.with_suffix(".json")
        self.cached = True
        if self.path.is_file() and note.is_file() and note.read_text() == mark:
            return self
        for path in (note, self.path):  # its room may be needed
            path.unlink(missing_ok=True)
        sweep(self.path.parent)
        with atomic(self.path) as temporary, open(temporary, "wb") as file:
            for start in tqdm(range(0, len(self), 256), desc=f"decoding {self.path.stem[1:]}", unit="batch"):
                file.write(self.decoded(range(start, min(start + 256, len(self)))).tobytes())
        with atomic(note) as temporary:
            temporary.write_text(mark)
        return self

    def decoded(self, index):
        """The pixels of crops, from their own files: uint8 [N, S, S, 3]."""
        def one(i):
            try:
                crop = cropping.recut(cropping.read_crop(self.files[i]), MARGIN, self.margin)
                return self.resize(to_batch([crop]))
            except reading.PhotoError as error:
                script.fail(f"{self.files[i]}: {error}; delete it and run 'python processed.py' and "
                            "'python validation.py'")

        return torch.cat(list(self.pool.map(one, index))).permute(0, 2, 3, 1).contiguous().numpy()

    def pixels(self, index):
        """The pixels of crops, from where they are: uint8 [N, S, S, 3]."""
        if self.cached:
            try:
                # Mapped anew each time: pages that stay mapped would count as this process's memory for ever.
                return np.memmap(self.path, np.uint8, "r", shape=self.shape)[index]
            except FileNotFoundError:  # a run of another size has removed it
                self.cached = False
        return self.decoded(index)

    def hold(self, device, free):
        """Keep all pixels, and what is known of them by now, in the memory of `device` where they take no more than
        half of its `free` bytes."""
        if math.prod(self.shape) <= free / 2:
            pixels = torch.empty(self.shape, dtype=torch.uint8, device=device)
            for index in torch.arange(len(self)).split(4096):
                pixels[index[0]:index[-1] + 1] = torch.from_numpy(self.pixels(index.tolist())).to(device)
            self.held = [pixels, *(v.to(device) for v in (self.labels, self.weights, self.auxiliary))]

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        if self.held is not None:
            index = torch.as_tensor(index).to(self.held[0].device, non_blocking=True)
            pixels, *facts = (v[index] for v in self.held)
            return pixels.permute(0, 3, 1, 2), *facts
        pixels = torch.from_numpy(np.ascontiguousarray(self.pixels(index)))
        return pixels.permute(0, 3, 1, 2), self.labels[index], self.weights[index], self.auxiliary[index]


def complete(folder):
    """Whether a folder holds a whole split, as validation.py notes it; so does one without a note, made by hand."""
    try:
        return json.loads(Path(folder, SPLIT).read_text("utf-8")).get("complete", True)
    except (OSError, ValueError):
        return True


def sources_of(crops, sources):
    """Which of `sources` each crop is from, int64 [N]: the first that its name begins with, as "news-"; -1 for none."""
    return torch.tensor([next((i for i, s in enumerate(sources) if p.name.startswith(s)), -1) for p in crops.files])


def weigh(crops, source, even):
    """Set crops.weights so that all classes of a source count the same, and all crops 1 on average.

    `source`: int64 [N], see sources_of(). `even` (0..1): how nearly sources count the same, from as many crops as each
    has (0) to all alike (1).
    """
    for one in source.unique():
        here = source == one
        counts = torch.bincount(crops.labels[here], minlength=len(crops.classes)).float()
        weights = counts.sum() / (counts.clamp_min(1) * (counts > 0).sum())
        crops.weights[here] = weights[crops.labels[here]] * (len(source) / here.sum()) ** even
    crops.weights /= crops.weights.mean()


class Batches(Sampler):
    """Lists of indices, one list per batch. Shuffled by (seed, epoch) alone: epoch 7 is the same after a resume.

    For training, with a seed, a last batch of one image joins the batch before it: batch normalisation needs more
    than one value, and a step of a single image would be noise. Of `world` processes that share the batches, number
    `rank` gets every world-th image of each.
    """

    def __init__(self, n, batch_size, seed=None, rank=0, world=1):
        self.n, self.batch_size, self.seed, self.epoch = n, batch_size, seed, 0
        self.rank, self.world = rank, world
        self.sizes = [min(batch_size, n - start) for start in range(0, n, batch_size)]
        if seed is not None and len(self.sizes) > 1 and self.sizes[-1] == 1 < batch_size:
            self.sizes[-2:] = [batch_size + 1]

    def share(self, step):
        """(rows, size): which rows of a batch are this process's, a slice; and the size of the whole batch."""
        return slice(self.rank, None, self.world), self.sizes[step]

    def __iter__(self):
        order = torch.arange(self.n)
        if self.seed is not None:
            order = torch.randperm(self.n, generator=generator_for(self.seed, self.epoch))
        for step, batch in enumerate(order.split(self.sizes)):
            yield batch[self.share(step)[0]].tolist()

    def __len__(self):
        return len(self.sizes)


def generator_for(*numbers):
    """A torch.Generator seeded by all the numbers together."""
    digest = hashlib.sha256(repr(numbers).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def loader(folder, image_size, batch_size, seed=None, rank=0, world=1, margin=MARGIN, budget=math.inf):
    """DataLoader of the crops of a split. Each batch is what Crops gives: (images uint8 [N, 3, S, S], labels int64 [N],
    weights float32 [N], auxiliary int64 [N, tasks]).

    `seed` shuffles, None keeps the files' order. Set `loader.sampler.epoch` before each epoch. No worker processes: a
    batch is a copy out of the pixels' file, or is decoded by threads in its own time where that file would take more
    than `budget` bytes. `rank` and `world`: see Batches; `margin`: see cropping.recut().
    """
    crops = Crops(folder, image_size, margin)
    said = crops.plan(budget)
    if rank == 0:
        print(said, flush=True)
    if crops.cached:
        crops.decode()
    return DataLoader(crops, batch_size=None, sampler=Batches(len(crops), batch_size, seed, rank, world))
