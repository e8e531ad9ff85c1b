"""What training does to crops before the network sees them. Nothing to run.

It works on whole batches, on whatever device they are, with its own draw for every image: torchvision's v2 transforms
draw once a call, which would change all images of a batch alike. All draws of a batch come from the CPU before
anything else happens, so that a GPU never waits for them and no draw depends on another.
"""

import functools
import math

import numpy as np
import torch
from torch.nn import functional

import covers
from dataset import MEAN, STD

# What a training image may become. Angles in degrees; shift and scale as shares of the crop; chances in 0..1.
AUGMENTATIONS = {
    "none": {},
    # Upright faces on webcams: Haar boxes jump, light changes, small faces are blurred, things cover faces.
    "face": {"mirror": 0.5, "rotate": (-15, 15), "zoom": (0.85, 1.2), "shift": 0.08, "light": 0.3, "contrast": 0.3,
             "cast": 0.1, "gray": 0.15, "small": 0.25, "jpeg": 0.25, "noise": 0.2, "erase": 0.25,
             "occlude": 0.0},
    "paper": {"mirror": 0.5, "upside_down": 0.5, "rotate": (0, 90), "border": "zeros"},
}
# The same, and a quarter of the faces with a mask, sunglasses, a scarf or a hand: the paper's open problem.
AUGMENTATIONS["occlusion"] = {**AUGMENTATIONS["face"], "occlude": 0.25}
SMALL_SIDES = (40, 56, 80)  # faces of this many pixels, enlarged again
JPEG_QUALITIES = (20, 80)
NOISE = 0.08  # the largest standard deviation, of values in 0..1
ERASED = (0.1, 0.4)  # sides of what is erased, as shares of the crop

# How many random numbers an image takes, in the order in which they are drawn; and what only some images undergo.
NUMBERS = {"mirror": 1, "upside_down": 1, "rotate": 1, "zoom": 1, "shift": 2, "jpeg": 1, "light": 1, "cast": 3,
           "contrast": 1, "noise": 1, "erase": 7, "occlude": covers.DRAWS}
SOME = ("occlude", "small", "jpeg", "gray", "noise", "erase")
LUMA = (0.299, 0.587, 0.114)


def augment(images, kind, generator, rows=slice(None), size=None):
    """Change each image of a uint8 batch [N, 3, S, S], RGB, by its own draw, and normalise it.

    Returns float32 [N, 3, S, S], channels last: what dataset.evaluation_transform() makes of a crop, had it looked so.
    `kind` names one of AUGMENTATIONS; every draw comes from `generator` (a CPU torch.Generator). Where `images` are
    only the `rows` (a slice) of a batch of `size`, they become what they would have become among the others.
    """
    rules, device, side = AUGMENTATIONS[kind], images.device, images.shape[-1]
    size = size or len(images)
    hit, u = draw(rules, generator, size, rows)
    # One pattern of noise for all, of the device's own generator: it need not travel.
    own = torch.Generator(device).manual_seed(int(torch.randint(2 ** 62, (), generator=generator)))
    pattern = torch.randn((1, 3, side, side), generator=own, device=device) if "noise" in hit else None
    if "occlude" in hit:  # before the face turns, so that what it wears turns with it
        images = images.float()
        for i in hit.pop("occlude").nonzero()[0].tolist():
            thing = torch.from_numpy(covers.thing(side, u["occlude"][i].tolist())).to(device).permute(2, 0, 1).float()
            images[i].mul_(1 - thing[3:] / 255).add_(thing[:3])
    table = numbers(rules, u)
    if device.type == "cuda" and rules and all(mask.any() for mask in hit.values()):
        return replayed(kind, images, table, hit, pattern, size)
    # A few images at a time stay in a processor's cache from one step to the next; a GPU takes them all at once.
    step = torch.get_num_threads() * max(1, 110_000 // side ** 2) if device.type == "cpu" else size
    parts = {}
    for name, mask in {**hit, "all": np.full(len(images), True)}.items():
        edges = np.flatnonzero(np.diff(mask, prepend=False, append=False)).tolist()
        parts[name] = [slice(i, min(i + step, high)) for low, high in zip(edges[::2], edges[1::2], strict=True)
                       for i in range(low, high, step)]
    return change(rules, images, table.to(device), parts, pattern)


def shares(rules):
    """{change: share of the images that undergo it}: SOME, but "small" by the number of pixels."""
    each = {name: rules[name] for name in SOME if rules.get(name)}
    small = each.pop("small", 0)
    return {**each, **{pixels: small / len(SMALL_SIDES) for pixels in SMALL_SIDES if small}}


def draw(rules, generator, size, rows):
    """The draws of a batch: ({change: which images undergo it, bool [N]}, {what for: numbers in 0..1, [N, count]}).

    Those that are changed alike are neighbours, which are strangers, since batches are shuffled: each image has the
    same chance, apart from its other changes, and nothing has to be gathered or put back.
    """
    starts = dict(zip(SOME, torch.rand(len(SOME), 2, generator=generator).tolist(), strict=True))
    place, hit, position = np.arange(size)[rows], {}, 0
    for name, share in shares(rules).items():
        start, luck = starts["small" if name in SMALL_SIDES else name]
        count = int(share * size + luck)
        hit[name] = (place - int(start * size) - position) % size < count
        position = position + count if name in SMALL_SIDES else 0  # one size or another
    drawn = torch.rand(size, sum(NUMBERS.values()), generator=generator)[rows]
    return hit, dict(zip(NUMBERS, drawn.split(list(NUMBERS.values()), 1), strict=True))


def numbers(rules, u):
    """What change() takes of each image's draws, [N, 21]: see there."""
    light, cast, contrast = (1 + rules.get(k, 0) * (2 * u[k] - 1) for k in ("light", "cast", "contrast"))
    low, high = JPEG_QUALITIES
    return torch.cat([placement(u, rules), low + (high - low) * u["jpeg"], 255 * NOISE * u["noise"],
                      rectangles(u["erase"]), light * cast * contrast, light * cast * (1 - contrast)], 1)


def change(rules, images, table, parts, pattern):
    """Do to images [N, 3, S, S], 0..255, what `table` says, a part of them after the other, and normalise them.

    `parts`: {change: indices of images, each a slice or a tensor}, "all" of them among these; `pattern`: noise
    [1, 3, S, S] or None.
    """
    matrix, quality, sigma, rectangle, gain, lift = table.split([6, 1, 1, 7, 3, 3], 1)
    side, (mean, scale, luma) = images.shape[-1], constants(images.device)
    x = torch.empty(images.shape, device=images.device)
    for part in parts["all"]:
        x[part] = warp(images[part].float(), matrix[part], rules.get("border", "border")) if rules else images[part]
    for pixels in SMALL_SIDES:
        for part in parts.get(pixels, ()):
            little = functional.interpolate(x[part], (pixels, pixels), mode="area")
            x[part] = functional.interpolate(little, (side, side), mode="bilinear", align_corners=False)
    for part in parts.get("jpeg", ()):
        x[part] = jpeg(x[part], quality[part])
    for part in parts.get("gray", ()):
        x[part] = (x[part] * luma).sum(1, keepdim=True).expand(-1, 3, -1, -1)
    for part in parts.get("noise", ()):
        x[part] = torch.addcmul(x[part], pattern, sigma[part][:, :, None, None])
    for part in parts.get("erase", ()):
        x[part] = erase(x[part], rectangle[part])
    out = torch.empty_like(x, memory_format=torch.channels_last)
    for part in parts["all"]:
        y = x[part]
        if "light" in rules:  # and colour cast and contrast, about the image's own level, which few pixels tell
            level = y[:, :, ::4, ::4].mean((1, 2, 3))[:, None]
            y.mul_(gain[part][:, :, None, None]).add_((lift[part] * level)[:, :, None, None]).clamp_(0, 255)
        out[part] = y.sub_(mean).mul_(scale)
    return out


def replayed(kind, images, table, hit, pattern, size):
    """change() on a CUDA GPU at one go, for a processor takes longer to start its kernels than they take.

    Images to be changed are told by index here, always as many: the last one stands for those that are missing, since
    it may be put into its place more than once.
    """
    lengths = [min(len(images), int(share * size) + 1) for name, share in shares(AUGMENTATIONS[kind]).items()
               if name in hit]
    index = [np.flatnonzero(mask) for mask in hit.values()]
    index = [np.pad(i, (0, length - len(i)), "edge") for i, length in zip(index, lengths, strict=True)]
    inputs = [images, table, torch.from_numpy(np.concatenate(index or [np.arange(0)]))]
    inputs += [] if pattern is None else [pattern]
    return recorded(kind, images.shape, images.dtype, images.device, tuple(zip(hit, lengths, strict=True)))(*inputs)


@functools.cache
def recorded(kind, shape, dtype, device, lengths):
    """A function that copies its inputs (images, table, index, pattern) to where a CUDA graph looks for them, and lets
    it run; `lengths`: pairs of a change and the number of its images."""
    side = shape[-1]
    still = [torch.zeros(shape, dtype=dtype, device=device).contiguous(memory_format=torch.channels_last),
             torch.ones(shape[0], 21, device=device),
             torch.zeros(sum(n for _, n in lengths), dtype=torch.int64, device=device),
             torch.zeros(1, 3, side, side, device=device)]

    def run():
        parts = {name: [part] for (name, _), part in zip(lengths, still[2].split([n for _, n in lengths]), strict=True)}
        return change(AUGMENTATIONS[kind], still[0], still[1], {**parts, "all": [slice(None)]}, still[3])

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


def placement(u, rules):
    """Where each image is looked at: affine matrices, float32 [N, 6], from what is seen to the crop, as -1..1."""
    low, high = rules.get("rotate", (0, 0))
    angle = (low + (high - low) * u["rotate"]) * (math.pi / 180)
    low, high = rules.get("zoom", (1, 1))
    reach = 1 / (low + (high - low) * u["zoom"])  # how much of the crop is seen
    mirror, upside_down = (1 - 2 * (u[k] < rules.get(k, 0)).float() for k in ("mirror", "upside_down"))
    shift_x, shift_y = (2 * rules.get("shift", 0) * (2 * u["shift"] - 1)).split(1, 1)
    cosine, sine = angle.cos() * reach, angle.sin() * reach
    return torch.cat([cosine * mirror, -sine * upside_down, shift_x, sine * mirror, cosine * upside_down, shift_y], 1)


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


def rectangles(u):
    """Left, right, top, bottom as shares of the side, and a colour (0..255), [N, 7], of random numbers [N, 7]."""
    sides = ERASED[0] + (ERASED[1] - ERASED[0]) * u[:, :2]
    starts = u[:, 2:4] * (1 - sides)
    (left, top), (right, bottom) = starts.split(1, 1), (starts + sides).split(1, 1)
    return torch.cat([left, right, top, bottom, 255 * u[:, 4:]], 1)


def erase(x, rectangle):
    """Images [N, 3, S, S] with a rectangle of one colour each, as rectangles() gives it."""
    left, right, top, bottom, *_ = rectangle[:, :, None, None].unbind(1)
    line = centres(x.shape[-1], x.device)
    box = ((line >= left) & (line < right)) & ((line >= top) & (line < bottom)).mT
    return torch.where(box[:, None], rectangle[:, 4:, None, None], x)


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
    luma = torch.tensor([LUMA, (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312)])
    return tuple(v.to(device) for v in (cosines, tables, luma, luma.inverse()))


def jpeg(x, quality):
    """Images (float32 [N, 3, S, S] in 0..255) as JPEG compression at `quality` (float [N], 1..100) leaves them.

    The lossy half of the format, colour at half the resolution, without the coding that loses nothing: a whole batch
    at once, on any device, where an encoder would take one image after the other on the CPU.
    """
    cosines, tables, to_luma, to_rgb = jpeg_constants(x.device)
    n, side = len(x), x.shape[-1]
    quality = quality.floor()
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

    planes = (to_luma @ x.flatten(2)).view_as(x)
    light = coded(planes[:, :1] - 128, tables[:, 0])
    colour = coded(functional.avg_pool2d(planes[:, 1:], 2), tables[:, 1])
    colour = functional.interpolate(colour, scale_factor=2, mode="bilinear", align_corners=False)
    planes = torch.cat([light + 128, colour], 1).flatten(2)
    return (to_rgb @ planes).view_as(x).clamp_(0, 255)[:, :, :side, :side]
