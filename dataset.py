"""Crops -> batches: one transform for evaluation and live use, one augmentation for training. Nothing to run.

Crops are decoded once into a file of raw uint8 pixels beside them and read from there batch by batch, so that
memory stays small and no epoch decodes a JPEG. Augmentation works on whole batches with its own draw for every
sample: torchvision's v2 transforms draw once a call, which would change all images of a batch alike.
"""

import hashlib
import json
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision.transforms import v2
from tqdm import tqdm

import covers
import model as networks
import processed
import reading
import script

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]  # ImageNet's, as in the paper

# What a training image may become. Angles in degrees; shift and scale as shares of the crop; chances in 0..1.
AUGMENTATIONS = {
    "none": {},
    # Upright faces on webcams: Haar boxes jump, light changes, small faces are blurred, things cover faces.
    "face": {"mirror": 0.5, "rotate": (-15, 15), "zoom": (0.85, 1.2), "shift": 0.08, "light": 0.3, "contrast": 0.3,
             "cast": 0.1, "gray": 0.15, "small": 0.25, "jpeg": 0.25, "noise": 0.2, "erase": 0.25,
             "occlude": 0.0},
    "paper": {"mirror": 0.5, "upside_down": 0.5, "rotate": (0, 90)},
}
# The same, and a quarter of the faces with a mask, sunglasses, a scarf or a hand: the paper's open problem.
AUGMENTATIONS["occlusion"] = {**AUGMENTATIONS["face"], "occlude": 0.25}
SMALL_SIDES = (40, 56, 80)  # faces of this many pixels, enlarged again
JPEG_QUALITIES = (20, 80)


def evaluation_transform(image_size, mean=MEAN, std=STD):
    """The one way to see a crop: uint8 [N, 3, H, W] RGB -> normalised float32 [N, 3, image_size, image_size]."""
    return v2.Compose([v2.Resize((image_size, image_size), antialias=True), v2.ToDtype(torch.float32, scale=True),
                       v2.Normalize(mean, std)])


def to_batch(crops):
    """A list of uint8 [H, W, 3] RGB crops of one size as a uint8 tensor [N, 3, H, W] (channels last in memory)."""
    return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2)


def prepare(info, crops, device="cpu"):
    """RGB crops (uint8 [H, W, 3]) as the network of `info` takes them: normalised float32 [N, 3, S, S] on `device`."""
    return evaluation_transform(info["image_size"], info["mean"], info["std"])(to_batch(crops).to(device))


def probabilities(model, info, crops, device="cpu"):
    """Class probabilities of RGB crops (list of uint8 [H, W, 3]): float32 numpy [N, n_classes].

    `model` and `info` come from model.load_weights; the logits are divided by the temperature chosen in training.
    """
    if not len(crops):
        return np.zeros((0, len(info["classes"])), np.float32)
    with torch.inference_mode():
        batch = prepare(info, crops, device)
        batch = batch.contiguous(memory_format=torch.channels_last)
        logits = networks.logits_of(model, batch, info["flip"]).float()
        return (logits / info["temperature"]).softmax(1).cpu().numpy()


def augment(images, kind, generator, rows=slice(None), size=None):
    """Change each image of a uint8 batch [N, 3, S, S] by its own draw. Returns float32 [N, 3, S, S] in 0..1.

    `kind` names one of AUGMENTATIONS; every draw comes from `generator` (a CPU torch.Generator). Where `images` are
    only the `rows` (a slice) of a batch of `size`, they become what they would have become among the others.
    """
    rules, n, side = AUGMENTATIONS[kind], len(images), images.shape[-1]
    device, size = images.device, size or len(images)

    def draw(low=0.0, high=1.0, *shape):
        return torch.empty(size, *shape).uniform_(low, high, generator=generator)[rows].to(device)

    def chance(name):
        return draw() < rules.get(name, 0)

    x = images.contiguous().float().div_(255)  # planes, not pixels: twice as fast in what follows on a CPU
    if not rules:
        return x
    if rules.get("occlude"):  # before the face turns, so that what it wears turns with it
        worn, numbers = chance("occlude").nonzero()[:, 0], draw(0.0, 1.0, covers.DRAWS)
        if len(worn):
            things = np.stack([covers.thing(side, numbers[i].tolist()) for i in worn.tolist()])
            things = torch.from_numpy(things).to(device).permute(0, 3, 1, 2).float().div_(255)
            x[worn] = x[worn] * (1 - things[:, 3:]) + things[:, :3]
    angle = draw(*rules.get("rotate", (0, 0))) * (math.pi / 180)
    low, high = rules.get("zoom", (1, 1))
    reach = 1 / draw(low, high)  # how much of the crop is seen
    mirror = 1 - 2 * chance("mirror").float()
    upside_down = 1 - 2 * chance("upside_down").float()
    shift = rules.get("shift", 0)
    cosine, sine = angle.cos() * reach, angle.sin() * reach
    line = (torch.arange(side, device=device) * 2 + 1) / side - 1  # pixel centres, as grid_sample counts them
    across, down = line.view(1, 1, side), line.view(1, side, 1)

    def mix(x_part, y_part):
        return x_part.view(n, 1, 1) * across + y_part.view(n, 1, 1) * down + 2 * draw(-shift, shift).view(n, 1, 1)

    grid = torch.stack([mix(cosine * mirror, -sine * upside_down), mix(sine * mirror, cosine * upside_down)], 3)
    padding = "zeros" if kind == "paper" else "border"
    x = functional.grid_sample(x, grid, mode="bilinear", padding_mode=padding, align_corners=False)
    if kind == "paper":
        return x
    small, choice = chance("small"), draw(0, len(SMALL_SIDES))
    for number, pixels in enumerate(SMALL_SIDES):
        some = (small & (choice.long() == number)).nonzero()[:, 0]
        if len(some):
            little = functional.interpolate(x[some], (pixels, pixels), mode="area")
            x[some] = functional.interpolate(little, (side, side), mode="bilinear", align_corners=False)
    quality = draw(*JPEG_QUALITIES)
    for i in chance("jpeg").nonzero()[:, 0].tolist():
        x[i] = jpeg(x[i], int(quality[i]))
    weights = torch.tensor([0.299, 0.587, 0.114], device=device).view(3, 1, 1)
    for i in chance("gray").nonzero()[:, 0].tolist():
        x[i] = (x[i] * weights).sum(0, keepdim=True)
    # Light, colour cast and contrast are one multiplication and one addition a pixel.
    gain = (1 + draw(-rules["light"], rules["light"], 1)) * (1 + draw(-rules["cast"], rules["cast"], 3))
    contrast = 1 + draw(-rules["contrast"], rules["contrast"], 1)
    level = x.mean((1, 2, 3)).view(n, 1)
    scale, offset = gain * contrast, gain * level * (1 - contrast)
    x.mul_(scale[:, :, None, None]).add_(offset[:, :, None, None])
    noisy, sigma = chance("noise"), draw(0.0, 0.08)
    pattern = torch.randn((3, side, side), generator=generator).to(device)
    for i in noisy.nonzero()[:, 0].tolist():
        x[i].add_(pattern * sigma[i])
    erased, fill = chance("erase"), draw(0.0, 1.0, 3)
    height, width = draw(0.1, 0.4), draw(0.1, 0.4)
    corner = [draw() * (1 - height), draw() * (1 - width), height, width]
    for i in erased.nonzero()[:, 0].tolist():
        top, left, tall, wide = (int(v[i] * side) for v in corner)
        x[i, :, top:top + tall, left:left + wide] = fill[i].view(3, 1, 1)
    return x.clamp_(0, 1)


def jpeg(image, quality):
    """An image (float32 [3, S, S] in 0..1) after JPEG compression at `quality` (0..100), of the same form."""
    pixels = image.mul(255).clamp_(0, 255).byte().permute(1, 2, 0).cpu().numpy()
    # Red and blue in each other's place would be coded with the other's care: BGR is what the encoder expects.
    _, data = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    pixels = cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    return torch.from_numpy(pixels).permute(2, 0, 1).float().div_(255).to(image.device)


class Crops(Dataset):
    """The crops of a split as raw pixels on disk. `crops[[3, 1, 2]]` is (uint8 [3, 3, S, S], labels int64 [3], weights
    float32 [3], auxiliary int64 [3, tasks]); `weights`, ones at first, are what the crops count for in the training
    loss, `auxiliary` the labels of groups.auxiliary_labels(), of no task at first.
    """

    def __init__(self, folder, image_size):
        folder = Path(folder)
        self.classes = script.classes_of(folder, "run 'python validation.py' (and 'python processed.py' before it)")
        self.files = [p for name in self.classes for p in reading.list_photos(folder / name)]
        self.labels = torch.tensor([self.classes.index(p.relative_to(folder).parts[0]) for p in self.files])
        empty = [name for i, name in enumerate(self.classes) if not (self.labels == i).any()]
        if empty:
            script.fail(f"{folder}: no crops of {', '.join(empty)}; add photos to data/raw, then run "
                        "'python processed.py' and 'python validation.py'")
        self.weights = torch.ones(len(self.files))
        self.auxiliary, self.auxiliary_sizes = torch.empty(len(self.files), 0, dtype=torch.int64), []
        self.shape = (len(self.files), image_size, image_size, 3)
        self.path = folder.parent / f".{folder.name}_{image_size}.pixels"
        self.held = None
        self.fill()

    def fill(self):
        """Decode the crops into the file of pixels, unless it holds these very files already."""
        stats = [(p.as_posix(), p.stat().st_size, p.stat().st_mtime_ns) for p in self.files]
        mark = hashlib.sha256(json.dumps([self.shape, stats]).encode()).hexdigest()
        note = self.path.with_suffix(".json")
        if self.path.is_file() and note.is_file() and note.read_text() == mark:
            return
        note.unlink(missing_ok=True)
        script.sweep(self.path.parent)
        resize = v2.Resize((self.shape[1], self.shape[1]), antialias=True)

        def decode(path):
            try:
                return resize(to_batch([processed.read_crop(path)])).permute(0, 2, 3, 1).numpy()
            except reading.PhotoError as error:
                script.fail(f"{path}: {error}; delete it and run 'python processed.py' and 'python validation.py'")

        with script.atomic(self.path) as temporary, open(temporary, "wb") as file, ThreadPoolExecutor() as pool:
            for start in tqdm(range(0, len(self.files), 256), desc=f"decoding {self.path.stem[1:]}", unit="batch"):
                for pixels in pool.map(decode, self.files[start:start + 256]):
                    file.write(pixels.tobytes())
        with script.atomic(note) as temporary:
            temporary.write_text(mark)

    def hold(self, device, free):
        """Keep all pixels in the memory of `device` where they take no more than half of its `free` bytes."""
        if math.prod(self.shape) <= free / 2:
            self.held = torch.from_numpy(np.fromfile(self.path, np.uint8)).view(self.shape).to(device)

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        facts = self.labels[index], self.weights[index], self.auxiliary[index]
        if self.held is not None:
            return self.held[index].permute(0, 3, 1, 2), *facts
        # Mapped anew each time: pages that stay mapped would count as this process's memory for ever.
        pixels = np.memmap(self.path, np.uint8, "r", shape=self.shape)
        return torch.from_numpy(np.ascontiguousarray(pixels[index])).permute(0, 3, 1, 2), *facts


def balance(crops, sources):
    """Set crops.weights so that within each source every class counts the same, 1 on average.

    `sources` are what file names begin with (`("news-",)`); the crops with none of these are one source more.
    """
    source = torch.tensor([next((i for i, s in enumerate(sources) if p.name.startswith(s)), -1) for p in crops.files])
    for one in source.unique():
        counts = torch.bincount(crops.labels[source == one], minlength=len(crops.classes)).float()
        weights = counts.sum() / (counts.clamp_min(1) * (counts > 0).sum())
        crops.weights[source == one] = weights[crops.labels[source == one]]


class Batches(Sampler):
    """Lists of indices, a batch each. Shuffled by (seed, epoch) alone: epoch 7 is the same after a resume.

    Of `world` processes that share the batches, the one of number `rank` gets every world-th image of each.
    """

    def __init__(self, n, batch_size, seed=None, rank=0, world=1):
        self.n, self.batch_size, self.seed, self.epoch = n, batch_size, seed, 0
        self.rank, self.world = rank, world

    def share(self, step):
        """(rows, size): the size of a whole batch, and which of its rows are this process's, a slice."""
        return slice(self.rank, None, self.world), min(self.batch_size, self.n - step * self.batch_size)

    def __iter__(self):
        order = torch.arange(self.n)
        if self.seed is not None:
            order = torch.randperm(self.n, generator=generator_for(self.seed, self.epoch))
        for step, batch in enumerate(order.split(self.batch_size)):
            yield batch[self.share(step)[0]].tolist()

    def __len__(self):
        return math.ceil(self.n / self.batch_size)


def generator_for(*numbers):
    """A torch.Generator seeded by all the numbers together."""
    digest = hashlib.sha256(repr(numbers).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def loader(folder, image_size, batch_size, seed=None, rank=0, world=1):
    """DataLoader of Crops' (uint8 [N, 3, S, S], labels int64 [N], weights float32 [N], auxiliary int64 [N, tasks]).

    `seed` shuffles, None keeps the files' order. Set `loader.sampler.epoch` before each epoch. No worker processes: a
    batch is a copy out of the pixels' file. `rank` and `world`: see Batches.
    """
    crops = Crops(folder, image_size)
    return DataLoader(crops, batch_size=None, sampler=Batches(len(crops), batch_size, seed, rank, world))
