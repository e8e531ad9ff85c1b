"""Augmentation of training crops, on a CPU or a GPU. Nothing to run.

Each image of a batch gets its own random parameters; torchvision's v2 transforms would use one set for all of them.
"""

import cv2
import torch
from torch.nn import functional

from dataset import MEAN, STD
from faces import occluders
from faces.cropping import LUMA, MARGIN

# {name: parameters}, one per effect: angles in degrees, shift as a share of the crop's side, zoom as a factor,
# light, contrast and cast as the largest relative change, probabilities in 0..1.
AUGMENTATIONS = {
    "none": {},
    # Upright faces on webcams: Haar boxes jump, light changes, small faces are blurred, objects cover faces.
    "face": {"mirror": 0.5, "rotate": (-15, 15), "zoom": (0.85, 1.2), "shift": 0.08, "light": 0.3, "contrast": 0.3,
             "cast": 0.1, "gray": 0.15, "small": 0.25, "jpeg": 0.25, "noise": 0.2, "erase": 0.25},
    "paper": {"mirror": 0.5, "upside_down": 0.5, "rotate": (0, 90), "border": "zeros"},
}
# The same, with a mask, sunglasses, a scarf or a hand on a quarter of the faces: one of the paper's open problems.
AUGMENTATIONS["occlusion"] = {**AUGMENTATIONS["face"], "occlude": 0.25}
SMALL_SIDES = (40, 56, 80)  # pixels a side that a face is reduced to, then enlarged again
JPEG_QUALITIES = (20, 80)
NOISE = 0.08  # largest standard deviation, for values in 0..1
ERASED = (0.1, 0.4)  # smallest and largest side of the erased rectangle, as shares of the crop
# How many random numbers in 0..1 each effect uses per image.
DRAWS = {"mirror": 1, "upside_down": 1, "rotate": 1, "zoom": 1, "shift": 2, "light": 1, "contrast": 1, "cast": 3,
         # These are applied to some images only: the first number decides whether, the others how.
         "occlude": 1 + occluders.DRAWS, "small": 2, "jpeg": 2, "gray": 1, "noise": 2, "erase": 8}


def augment(images, augmentation, generator, rows=slice(None), size=None):
    """Augment each image of a uint8 batch [N, 3, S, S], RGB, with its own random parameters, and normalise it as
    dataset.evaluation_transform() does: float32 [N, 3, S, S], channels last.

    `augmentation` is a key of AUGMENTATIONS; all random numbers come from `generator` (a CPU torch.Generator). If
    `images` are only the `rows` (a slice) of a batch of `size`, the result is the same as for those rows of the whole.
    """
    params, device, side = AUGMENTATIONS[augmentation], images.device, images.shape[-1]
    # The numbers of all effects are drawn, so that switching one effect off does not change the others.
    numbers = torch.rand(size or len(images), sum(DRAWS.values()), generator=generator)[rows]
    draws = dict(zip(DRAWS, numbers.split(list(DRAWS.values()), 1), strict=True))  # {effect: its numbers, [N, DRAWS]}
    # Sampling is faster channel by channel than with channels last.
    x = images.to(torch.float32, memory_format=torch.contiguous_format)
    some_images(x, params, draws, "occlude", occlude)  # before the rotation, so that a mask turns with the face
    if params:
        grid = sampling_grid(placement(params, draws).to(device), side)
        x = functional.grid_sample(x, grid, padding_mode=params.get("border", "border"), align_corners=False)
    some_images(x, params, draws, "small", shrink)
    some_images(x, params, draws, "jpeg", compress)
    some_images(x, params, draws, "gray", gray)
    if params.get("noise"):  # one pattern for all images, scaled for each
        some_images(x, params, draws, "noise", add_noise, torch.randn((3, side, side), generator=generator).to(device))
    some_images(x, params, draws, "erase", erase)
    if "light" in params:
        relight(x, params, draws)
    mean = 255 * torch.tensor(MEAN, device=device).view(3, 1, 1)
    std = 255 * torch.tensor(STD, device=device).view(3, 1, 1)
    return x.clamp_(0, 255).sub_(mean).div_(std).contiguous(memory_format=torch.channels_last)


def some_images(x, params, draws, effect, function, *more):
    """Apply an effect to some images of `x` [N, 3, S, S], in place. `params`, `draws`: as in augment().

    `function` takes an image, float32 [3, S, S] in 0..255, a list of its random numbers, and `more`, and returns the
    new image. The numbers stay on the CPU, where they decide what is done; of the effects only compress() waits for a
    GPU.
    """
    for i, (luck, *numbers) in enumerate(draws[effect].tolist()):
        if luck < params.get(effect, 0):
            x[i] = function(x[i], numbers, *more)


def placement(params, draws):
    """Rotation, zoom, mirror and shift as affine matrices, float32 [N, 2, 3], which map the new image to the crop."""
    low, high = params.get("rotate", (0, 0))
    angle = torch.deg2rad(low + (high - low) * draws["rotate"])
    low, high = params.get("zoom", (1, 1))
    reach = 1 / (low + (high - low) * draws["zoom"])  # visible share of the crop's side
    mirror = 1 - 2 * (draws["mirror"] < params.get("mirror", 0)).float()  # -1: mirrored, else 1
    upside_down = 1 - 2 * (draws["upside_down"] < params.get("upside_down", 0)).float()
    shift = 2 * params.get("shift", 0) * (2 * draws["shift"] - 1)
    cosine, sine = angle.cos() * reach, angle.sin() * reach
    across = torch.cat([cosine * mirror, sine * mirror], 1)
    down = torch.cat([-sine * upside_down, cosine * upside_down], 1)
    return torch.stack([across, down, shift], 2)


def sampling_grid(matrix, side):
    """A faster functional.affine_grid() of matrices [N, 2, 3]: float32 [N, side, side, 2] in -1..1."""
    line = (2 * torch.arange(side, device=matrix.device) + 1) / side - 1
    across, down, shift = matrix[:, :, :, None, None].unbind(2)
    return (across * line + (down * line[:, None] + shift)).permute(0, 2, 3, 1)


def relight(x, params, draws):
    """Change brightness, contrast and colour cast of images [N, 3, S, S] in 0..255, in place."""
    def factor(effect):
        numbers = draws[effect].to(x.device)[:, :, None, None]
        return 1 + params.get(effect, 0) * (2 * numbers - 1)

    light, contrast, cast = factor("light"), factor("contrast"), factor("cast")
    level = x.mean((1, 2, 3), keepdim=True)
    x.mul_(light * cast * contrast).add_(light * cast * (1 - contrast) * level)


def occlude(image, numbers):
    """A mask, sunglasses, a scarf or a hand drawn over the face."""
    drawn = torch.from_numpy(occluders.cover(image.shape[-1], MARGIN, numbers)).to(image.device).permute(2, 0, 1)
    return image * (1 - drawn[3] / 255) + drawn[:3]


def shrink(image, numbers):
    """Reduce an image to one of SMALL_SIDES, and enlarge it again."""
    little = SMALL_SIDES[int(numbers[0] * len(SMALL_SIDES))]
    small = functional.interpolate(image[None], (little, little), mode="bilinear", antialias=True)
    return functional.interpolate(small, image.shape[1:], mode="bilinear")[0]


def compress(image, numbers):
    """Encode and decode an image as JPEG. OpenCV's encoder needs it on the CPU, channels last, BGR."""
    low, high = JPEG_QUALITIES
    pixels = image.round().clamp_(0, 255).to("cpu", torch.uint8).flip(0).permute(1, 2, 0).contiguous().numpy()
    data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, int(low + (high - low) * numbers[0])])[1]
    return torch.from_numpy(cv2.imdecode(data, cv2.IMREAD_COLOR)).permute(2, 0, 1).flip(0).to(image.device)


def gray(image, numbers):
    """The luma of an image, [S, S], which becomes each of its channels."""
    return sum(share * channel for share, channel in zip(LUMA, image, strict=True))


def add_noise(image, numbers, pattern):
    """Add a `pattern`, float32 [3, S, S] with a standard deviation of 1, at a random strength."""
    return image.add(pattern, alpha=255 * NOISE * numbers[0])


def erase(image, numbers):
    """Fill a rectangle with one colour."""
    low, high = ERASED
    wide, tall = (low + (high - low) * number for number in numbers[:2])
    left, top = numbers[2] * (1 - wide), numbers[3] * (1 - tall)
    side = image.shape[-1]
    rows = slice(round(side * top), round(side * (top + tall)))
    columns = slice(round(side * left), round(side * (left + wide)))
    for channel, value in zip(image, numbers[4:], strict=True):
        channel[rows, columns] = 255 * value
    return image
