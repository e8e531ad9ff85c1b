"""What augment.py does to images, for a GPU: the whole batch at once, in few kernels. Nothing to run.

It works on any device, a CPU too, where augment.py's own way is faster and gives the same to within rounding.
"""

import functools
import math

import numpy as np
import torch
from torch.nn import functional

from dataset import MARGIN, MEAN, STD
from faces import covers
from faces.cropping import LUMA

SMALL_SIDES = (40, 56, 80)  # faces of this many pixels, enlarged again
LEVEL_STEP = 4  # of the rows and columns, those that tell how bright an image is: a sixteenth of the pixels is enough

# What is done to an image is a row of a table, float32 [N, WIDTH]. These are its columns, by name, in their order.
COLUMNS = {
    "matrix": 6,  # affine, two rows of three: from a place in what is seen to one in the crop, both in -1..1
    "quality": 1,  # of JPEG, 1..100
    "sigma": 1,  # of the noise, in 0..255
    "rectangle": 4,  # what is erased: left, right, top, bottom as shares of the side
    "colour": 3,  # of that rectangle, in 0..255
    "gain": 3,  # of light, contrast and colour cast together: each channel becomes gain * value + lift * level,
    "lift": 3,  # where the level is the mean of the image
}
WIDTH = sum(COLUMNS.values())


def columns(table):
    """{name of COLUMNS: its part of a table [N, WIDTH], float32 [N, count]}."""
    return dict(zip(COLUMNS, table.split(list(COLUMNS.values()), 1), strict=True))


def augment(rules, images, table, hit, things, pattern, lengths):
    """Change images [N, 3, S, S] as augment.augment() promises, all on their device but `table`, `hit` and `things`.

    `table`: float32 [N, WIDTH]; `hit`: {effect: which images undergo it, bool numpy [N]}; `things`: draws of
    covers.thing(), [N, covers.DRAWS]; `pattern`: noise [1, 3, S, S] or None; `lengths`: {effect: how many images may
    undergo it at most}.
    """
    hit, device = dict(hit), images.device
    if "occlude" in hit:  # before the face turns, so that what it wears turns with it
        images = images.float()
        for i in hit.pop("occlude").nonzero()[0].tolist():
            thing = torch.from_numpy(covers.thing(len(images[i, 0]), MARGIN, things[i].tolist()))
            thing = thing.to(device).permute(2, 0, 1)
            images[i].mul_(1 - thing[3:] / 255).add_(thing[:3])
    index = {effect: np.flatnonzero(mask) for effect, mask in hit.items() if mask.any()}
    if device.type == "cuda" and rules and len(index) == len(hit):
        return replayed(rules, images, table, index, pattern, lengths)
    index = {effect: torch.from_numpy(one).to(device) for effect, one in index.items()}
    return change_all(rules, images, table.to(device), index, pattern)


def change_all(rules, images, table, index, pattern):
    """Do to images [N, 3, S, S], 0..255, what `table` [N, WIDTH] says, and normalise them: float32, channels last.

    `index`: {effect: indices of the images that undergo it}; `pattern`: noise [1, 3, S, S], or None.
    """
    told, side, (mean, scale, luma) = columns(table), images.shape[-1], constants(images.device)
    x = images.float()
    if rules:
        x = warp(x, told["matrix"], rules.get("border", "border"))
    for pixels in SMALL_SIDES:
        if (part := index.get(pixels)) is not None:
            little = functional.interpolate(x[part], (pixels, pixels), mode="area")
            x[part] = functional.interpolate(little, (side, side), mode="bilinear", align_corners=False)
    if (part := index.get("jpeg")) is not None:
        x[part] = jpeg(x[part], told["quality"][part])
    if (part := index.get("gray")) is not None:
        x[part] = (x[part] * luma).sum(1, keepdim=True).expand(-1, 3, -1, -1)
    if (part := index.get("noise")) is not None:
        x[part] = torch.addcmul(x[part], pattern, told["sigma"][part][:, :, None, None])
    if (part := index.get("erase")) is not None:
        x[part] = erase(x[part], told["rectangle"][part], told["colour"][part])
    if "light" in rules:  # and with it contrast and colour cast
        level = x[:, :, ::LEVEL_STEP, ::LEVEL_STEP].mean((1, 2, 3))[:, None]
        x.mul_(told["gain"][:, :, None, None]).add_((told["lift"] * level)[:, :, None, None]).clamp_(0, 255)
    return ((x - mean) * scale).contiguous(memory_format=torch.channels_last)


def replayed(rules, images, table, index, pattern, lengths):
    """change_all() on a CUDA GPU at one go: a processor takes longer to start its kernels than they take.

    A recorded graph changes the same number of images each time, so the last index of an effect is repeated up to its
    length: an image may be put into its place more than once.
    """
    padded = [np.pad(one, (0, lengths[effect] - len(one)), "edge") for effect, one in index.items()]
    inputs = [images, table, torch.from_numpy(np.concatenate(padded or [np.arange(0)]))]
    inputs += [] if pattern is None else [pattern]
    lengths = tuple((effect, lengths[effect]) for effect in index)
    return recorded(tuple(rules.items()), images.shape, images.dtype, images.device, lengths)(*inputs)


@functools.cache
def recorded(rules, shape, dtype, device, lengths):
    """A function that copies its inputs (images, table, index, pattern) to where a CUDA graph looks for them, and runs
    the graph. `rules`: pairs; `lengths`: pairs of an effect and the number of its images."""
    side = shape[-1]
    still = [torch.zeros(shape, dtype=dtype, device=device).contiguous(memory_format=torch.channels_last),
             torch.ones(shape[0], WIDTH, device=device),
             torch.zeros(sum(n for _, n in lengths), dtype=torch.int64, device=device),
             torch.zeros(1, 3, side, side, device=device)]

    def run():
        index = dict(zip((effect for effect, _ in lengths), still[2].split([n for _, n in lengths]), strict=True))
        return change_all(dict(rules), still[0], still[1], index, still[3])

    run()  # what is made once is made now
    torch.cuda.synchronize(device)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = run()

    def replay(*inputs):
        for place, value in zip(still, inputs, strict=False):
            place.copy_(value, non_blocking=True)
        graph.replay()
        return out.clone()

    return replay


@functools.cache
def constants(device):
    """(mean, 1 / standard deviation, shares of brightness) of values in 0..255, each [1, 3, 1, 1] on `device`."""
    mean, std, luma = (torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD, LUMA))
    return (255 * mean).to(device), (1 / (255 * std)).to(device), luma.to(device)


def warp(x, matrix, border):
    """Images [N, 3, S, S] seen through affine matrices [N, 6]."""
    n, side = len(x), x.shape[-1]
    line = centres(side, x.device) * 2 - 1  # as grid_sample counts
    # functional.affine_grid() is a matrix product that takes as long as the sampling itself.
    grid = torch.empty(n, side, side, 2, device=x.device)
    for k, row in enumerate(matrix[:, :, None, None].split(3, 1)):
        torch.add(row[:, 0] * line, (row[:, 1] * line + row[:, 2]).mT, out=grid[..., k])
    return functional.grid_sample(x, grid, mode="bilinear", padding_mode=border, align_corners=False)


@functools.cache
def centres(side, device):
    """Where the middles of the pixels of a row are, as shares of its length: [1, 1, side]."""
    return ((torch.arange(side) + 0.5) / side).view(1, 1, side).to(device)


def erase(x, rectangle, colour):
    """Images [N, 3, S, S] with a rectangle (left, right, top, bottom as shares of the side, [N, 4]) of one colour
    ([N, 3]) each."""
    left, right, top, bottom = rectangle[:, :, None, None].unbind(1)
    line = centres(x.shape[-1], x.device)
    box = ((line >= left) & (line < right)) & ((line >= top) & (line < bottom)).mT
    return torch.where(box[:, None], colour[:, :, None, None], x)


# The tables that JPEG encoders divide by, brightness and colour: ITU-T T.81, tables K.1 and K.2.
BRIGHTNESS = (16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56,
              14, 17, 22, 29, 51, 87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92,
              49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99)
COLOUR = (17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99, 24, 26, 56, 99, 99, 99, 99, 99,
          47, 66, 99, 99, 99, 99, 99, 99) + (99,) * 32


@functools.cache
def jpeg_constants(device):
    """(cosine transform [8, 8], tables [2, 8, 8], RGB to YCbCr [3, 3], its inverse) on `device`."""
    k = torch.arange(8)
    cosines = torch.cos((2 * k + 1) * k[:, None] * math.pi / 16) * torch.where(k == 0, 0.125, 0.25).sqrt()[:, None]
    tables = torch.tensor([BRIGHTNESS, COLOUR], dtype=torch.float32).view(2, 8, 8)
    # Brightness and the two differences of colour: ITU-T T.871 (JFIF), section 7.
    planes = torch.tensor([LUMA, (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312)])
    return tuple(v.to(device) for v in (cosines, tables, planes, planes.inverse()))


def jpeg(x, quality):
    """Images (float32 [N, 3, S, S] in 0..255) as JPEG compression at `quality` (float [N], 1..100) leaves them.

    The lossy half of the format, colour at half the resolution, without the coding that loses nothing: a whole batch
    at once, on any device, where an encoder would take one image after the other on the CPU.
    """
    cosines, tables, to_planes, to_rgb = jpeg_constants(x.device)
    n, side = len(x), x.shape[-1]
    quality = quality.floor()  # from here to the tables: as the Independent JPEG Group's library, and OpenCV with it
    scale = torch.where(quality < 50, 5000 / quality, 200 - 2 * quality).view(n, 1, 1, 1)
    tables = ((tables * scale + 50) / 100).floor_().clamp_(1, 255)
    more = -side % 16
    if more:
        x = functional.pad(x, (0, more, 0, more), mode="replicate")

    def coded(planes, table):
        c, high, wide = planes.shape[1:]
        blocks = cosines @ planes.reshape(n, c, high // 8, 8, wide)  # along columns
        blocks = blocks.view(n, c, high // 8, 8, wide // 8, 8) @ cosines.T  # along rows
        table = table[:, None, None, :, None, :]
        blocks = blocks.div_(table).round_().mul_(table) @ cosines
        return (cosines.T @ blocks.view(n, c, high // 8, 8, wide)).view_as(planes)

    planes = (to_planes @ x.flatten(2)).view_as(x)
    light = coded(planes[:, :1] - 128, tables[:, 0])
    colour = coded(functional.avg_pool2d(planes[:, 1:], 2), tables[:, 1])
    colour = functional.interpolate(colour, scale_factor=2, mode="bilinear", align_corners=False)
    planes = torch.cat([light + 128, colour], 1).flatten(2)
    return (to_rgb @ planes).view_as(x).clamp_(0, 255)[:, :, :side, :side]
