"""What training does to crops before the network sees them. Nothing to run.

Every image has its own draw: torchvision's v2 transforms draw once per call, which would change all images of a batch
alike. All draws of a batch are made on the CPU before anything else happens, so that a GPU never waits for them and no
draw depends on another. A CPU then takes one image after the other, as bytes and with OpenCV, on as many threads as
PyTorch uses; a GPU takes the batch at once (augment_gpu.py). Both do the same, to within rounding.

An effect is one thing that may be done to an image: a key of the rules in AUGMENTATIONS.
"""

import functools
import math
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import torch

from dataset import MARGIN, MEAN, STD
from faces import covers
from learn import augment_gpu
from learn.augment_gpu import LEVEL_STEP, SMALL_SIDES

# What a training image may become. Angles in degrees; shift and scale as shares of the crop; chances in 0..1.
AUGMENTATIONS = {
    "none": {},
    # Upright faces on webcams: Haar boxes jump, light changes, small faces are blurred, things cover faces.
    "face": {"mirror": 0.5, "rotate": (-15, 15), "zoom": (0.85, 1.2), "shift": 0.08, "light": 0.3, "contrast": 0.3,
             "cast": 0.1, "gray": 0.15, "small": 0.25, "jpeg": 0.25, "noise": 0.2, "erase": 0.25,
             "occlude": 0.0},
    "paper": {"mirror": 0.5, "upside_down": 0.5, "rotate": (0, 90), "border": "zeros"},
}
# The same, and a quarter of the faces with a mask, sunglasses, a scarf or a hand, one of the paper's open problems.
AUGMENTATIONS["occlusion"] = {**AUGMENTATIONS["face"], "occlude": 0.25}
JPEG_QUALITIES = (20, 80)
NOISE = 0.08  # the largest standard deviation, of values in 0..1
ERASED = (0.1, 0.4)  # sides of what is erased, as shares of the crop

# How many random numbers an image takes for each effect, in the order in which they are drawn.
DRAWS = {"mirror": 1, "upside_down": 1, "rotate": 1, "zoom": 1, "shift": 2, "jpeg": 1, "light": 1, "cast": 3,
         "contrast": 1, "noise": 1, "erase": 7, "occlude": covers.DRAWS}
SOME = ("occlude", "small", "jpeg", "gray", "noise", "erase")  # effects that only a share of the images undergoes

# The pattern of noise as bytes: 0 and 255 lie four standard deviations from the middle.
PATTERN_MIDDLE, PATTERN_SIGMA = 128, 32
PIXELS_AT_ONCE = 110_000  # normalised by a thread at a time: 1.3 MB of float32, which stay in its core's cache


def augment(images, augmentation, generator, rows=slice(None), size=None):
    """Change each image of a uint8 batch [N, 3, S, S], RGB, by its own draw, and normalise it.

    Returns float32 [N, 3, S, S], channels last: what dataset.evaluation_transform() makes of a crop, had it looked so.
    `augmentation` is a key of AUGMENTATIONS; every draw comes from `generator` (a CPU torch.Generator). Where `images`
    are only the `rows` (a slice) of a batch of `size`, they become what they would have become among the others.
    """
    rules, device, side = AUGMENTATIONS[augmentation], images.device, images.shape[-1]
    size = size or len(images)
    hit, u = draw(rules, generator, size, rows)
    table = table_of(rules, u)
    # One pattern of noise for all, from a generator of the device: it need not travel.
    own = torch.Generator(device).manual_seed(int(torch.randint(2 ** 62, (), generator=generator)))
    if device.type == "cpu":
        return by_image(rules, images, table, hit, u["occlude"].numpy(), own)
    pattern = torch.randn((1, 3, side, side), generator=own, device=device) if "noise" in hit else None
    lengths = {effect: min(len(images), int(share * size) + 1) for effect, share in shares(rules).items()}
    return augment_gpu.augment(rules, images, table, hit, u["occlude"], pattern, lengths)


def by_image(rules, images, table, hit, things, generator):
    """augment() on a CPU: change_one() for one image after the other, then normalise() for all."""
    crops, side, threads = images.permute(0, 2, 3, 1).contiguous().numpy(), images.shape[-1], torch.get_num_threads()
    seen, told = np.empty_like(crops), augment_gpu.columns(table)
    arrays = {name: column.numpy() for name, column in told.items()}
    pattern = None
    if "noise" in hit:
        pattern = torch.empty(side, side, 3)
        # byte() cuts off the fraction, half on average.
        pattern.normal_(PATTERN_MIDDLE + 0.5, PATTERN_SIGMA, generator=generator)
        pattern = pattern.clamp_(0, 255).byte().numpy()

    def work(part):
        for i in part:
            effects = [effect for effect, mask in hit.items() if mask[i]]
            row = {name: column[i] for name, column in arrays.items()}
            change_one(rules, crops[i], row, effects, things[i], pattern, seen[i])

    list(pool(threads).map(work, [range(start, len(crops), threads) for start in range(threads)]))
    few = threads * max(1, PIXELS_AT_ONCE // side ** 2)
    return normalise(rules, torch.from_numpy(seen), told["gain"], told["lift"], few)


@functools.cache
def pool(threads):
    """Threads that change images, which OpenCV lets run beside each other."""
    return ThreadPoolExecutor(threads, "augment")


def change_one(rules, crop, row, effects, thing, pattern, out):
    """Do to a crop, uint8 [S, S, 3], all that its row of the table says but for the light, and put it into `out`.

    `row`: {name of augment_gpu.COLUMNS: float32 [count]}; `effects`: which of SOME it undergoes; `thing`: draws of
    covers.thing(); `pattern`: noise, uint8 [S, S, 3], or None.
    """
    side = len(crop)
    if "occlude" in effects:  # before the face turns, so that what it wears turns with it
        crop = covers.over(crop, covers.thing(side, MARGIN, thing))
    if rules:  # places of pixels' middles in -1..1, as grid_sample counts them, become OpenCV's, from 0 to side - 1
        a, b, c, d, e, f = row["matrix"].tolist()
        across, down = ((side - 1) * (1 - turn) + side * move for turn, move in ((a + b, c), (d + e, f)))
        border = cv2.BORDER_CONSTANT if rules.get("border") == "zeros" else cv2.BORDER_REPLICATE
        crop = cv2.warpAffine(crop, np.array([[a, b, across / 2], [d, e, down / 2]]), (side, side), out,
                              cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, border)
    for pixels in SMALL_SIDES:
        if pixels in effects:
            crop = cv2.resize(cv2.resize(crop, (pixels, pixels), interpolation=cv2.INTER_AREA), (side, side))
    if "jpeg" in effects:
        quality = cv2.IMWRITE_JPEG_QUALITY, int(row["quality"][0])
        data = cv2.imencode(".jpg", cv2.cvtColor(crop, cv2.COLOR_RGB2BGR), quality)[1]
        crop = cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    if "gray" in effects:
        crop = cv2.cvtColor(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    if "noise" in effects:
        strength = float(row["sigma"][0]) / PATTERN_SIGMA
        crop = cv2.addWeighted(crop, 1, pattern, strength, -strength * PATTERN_MIDDLE)
    if "erase" in effects:
        left, right, top, bottom = np.ceil(side * row["rectangle"] - 0.5).astype(int)
        crop[top:bottom, left:right] = np.rint(row["colour"])
    if crop is not out:
        out[:] = crop


def normalise(rules, seen, gain, lift, few):
    """What is left to do to `seen`, uint8 [N, S, S, 3]: light, contrast and colour cast by `gain` and `lift` [N, 3],
    about each image's own level; and augment()'s mean and deviation. Returns float32 [N, 3, S, S].

    `few` images at a time stay in a processor's cache from one step to the next.
    """
    side, mean, std = seen.shape[1], 255 * torch.tensor(MEAN), 255 * torch.tensor(STD)
    lift = lift * seen[:, ::LEVEL_STEP, ::LEVEL_STEP].float().mean((1, 2, 3))[:, None]
    # Whole rows of pixels: with three channels as the last axis, vector instructions would idle.
    rows = [v.repeat(1, side)[:, None] for v in (gain / std, (lift - mean) / std)]
    low, high = (-mean / std).repeat(side), ((255 - mean) / std).repeat(side)
    out = torch.empty(len(seen), side, 3 * side)
    for part, pixels, times, plus in zip(*(v.split(few) for v in (out, seen.flatten(2), *rows)), strict=True):
        torch.addcmul(plus, pixels, times, out=part)
        if "light" in rules:
            torch.clamp(part, low, high, out=part)
    return out.unflatten(2, (side, 3)).permute(0, 3, 1, 2)


def shares(rules):
    """{effect: share of the images that undergo it}: those of SOME, but "small" by its number of pixels."""
    each = {effect: rules[effect] for effect in SOME if rules.get(effect)}
    small = each.pop("small", 0)
    return {**each, **{pixels: small / len(SMALL_SIDES) for pixels in SMALL_SIDES if small}}


def draw(rules, generator, size, rows):
    """({effect: which images of a batch undergo it, bool [N]}, {effect: random numbers in 0..1, float32 [N, count]}).

    Images that undergo an effect are neighbours in the batch, and strangers, since batches are shuffled. Each image
    has the same chance, whatever else is done to it, and the same number of images of every batch is changed (give or
    take one), which is what lets augment_gpu.py record it.
    """
    starts = dict(zip(SOME, torch.rand(len(SOME), 2, generator=generator).tolist(), strict=True))
    place, hit, position = np.arange(size)[rows], {}, 0
    for effect, share in shares(rules).items():
        start, luck = starts["small" if effect in SMALL_SIDES else effect]
        count = int(share * size + luck)
        hit[effect] = (place - int(start * size) - position) % size < count
        position = position + count if effect in SMALL_SIDES else 0  # an image is made small to one size only
    drawn = torch.rand(size, sum(DRAWS.values()), generator=generator)[rows]
    return hit, dict(zip(DRAWS, drawn.split(list(DRAWS.values()), 1), strict=True))


def table_of(rules, u):
    """What is done to each image, by its random numbers `u`: float32 [N, augment_gpu.WIDTH]."""
    light, cast, contrast = (1 + rules.get(k, 0) * (2 * u[k] - 1) for k in ("light", "cast", "contrast"))
    low, high = JPEG_QUALITIES
    rectangle, colour = rectangles(u["erase"])
    told = {"matrix": placement(u, rules), "quality": low + (high - low) * u["jpeg"], "sigma": 255 * NOISE * u["noise"],
            "rectangle": rectangle, "colour": colour,
            "gain": light * cast * contrast, "lift": light * cast * (1 - contrast)}
    return torch.cat([told[name] for name in augment_gpu.COLUMNS], 1)


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


def rectangles(u):
    """What is erased, by random numbers [N, 7]: (left, right, top, bottom as shares of the side, [N, 4]; colour in
    0..255, [N, 3])."""
    size, place, colour = u.split([2, 2, 3], 1)
    sides = ERASED[0] + (ERASED[1] - ERASED[0]) * size
    starts = place * (1 - sides)
    (left, top), (right, bottom) = starts.split(1, 1), (starts + sides).split(1, 1)
    return torch.cat([left, right, top, bottom], 1), 255 * colour
