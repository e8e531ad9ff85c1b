"""Cuts faces out as upright square crops, and writes and reads crops. Nothing to run."""

import math
from pathlib import Path

import cv2
import numpy as np

from faces import reading
from terminal.files import atomic

IMAGE_SIZE = 224  # side of a crop in pixels, as in the paper
MARGIN = 0.20  # share of the Haar box that is added on each side, since chin and hair are informative
JPEG_QUALITY = 95
LUMA = (0.299, 0.587, 0.114)  # weights of red, green and blue in luma: ITU-R BT.601, as in JPEG and OpenCV


def square_around(box, margin):
    """(left, top, side), in pixels, of the square around a box (x, y, width, height), with `margin` on each side."""
    x, y, width, height = (float(v) for v in box)
    side = max(2, round(max(width, height) * (1 + 2 * margin)))
    return round(x + width / 2 - side / 2), round(y + height / 2 - side / 2), side


def equalise(crop, limit):
    """Contrast-limited adaptive histogram equalisation (CLAHE) of the lightness of a uint8 [H, W, 3] RGB crop.

    `limit`: the clip limit; 0.0 returns the crop unchanged. Zuiderveld, "Contrast Limited Adaptive Histogram
    Equalization", Graphics Gems IV, 1994.
    """
    if not limit > 0:
        return crop
    lightness, a, b = cv2.split(cv2.cvtColor(crop, cv2.COLOR_RGB2LAB))
    lightness = cv2.createCLAHE(limit, (8, 8)).apply(lightness)
    return cv2.cvtColor(cv2.merge((lightness, a, b)), cv2.COLOR_LAB2RGB)


def cut_square(image, left, top, side):
    """A square of an image, uint8 [H, W, 3], given by its corner and side in pixels, int: uint8 [side, side, 3]. Pixels
    beyond the image's edge repeat the edge. Raises ValueError if the square lies outside the image."""
    height, width = image.shape[:2]
    x0, x1 = (min(max(v, 0), width) for v in (left, left + side))
    y0, y1 = (min(max(v, 0), height) for v in (top, top + side))
    if x0 == x1 or y0 == y1:
        raise ValueError(f"the square {left}, {top}, {side} lies outside the {width}x{height} image")
    return cv2.copyMakeBorder(image[y0:y1, x0:x1], y0 - top, top + side - y1, x0 - left, left + side - x1,
                              cv2.BORDER_REPLICATE)


def turned_square(image, left, top, side, roll, size):
    """cut_square() of a square that is turned by `roll` degrees about its middle, shown upright: uint8 [size, size, 3].
    """
    turn = math.radians(roll)
    reach = math.ceil(side * (abs(math.cos(turn)) + abs(math.sin(turn))))
    wide = cut_square(image, left - (reach - side) // 2, top - (reach - side) // 2, reach)
    if side > size:  # a large square is reduced first, since a warp reads only four pixels for each of its own
        wide = cv2.resize(wide, [round(reach * size / side)] * 2, interpolation=cv2.INTER_AREA)
    scale = side / size * len(wide) / reach
    cos, sin = math.cos(turn) * scale, math.sin(turn) * scale
    # The square's middle in `wide`: half of an odd difference is rounded down.
    middle = ((reach - side) // 2 + side / 2) * len(wide) / reach - 0.5
    to_middle = (size - 1) / 2
    back = np.array([[cos, -sin, middle - (cos - sin) * to_middle], [sin, cos, middle - (sin + cos) * to_middle]])
    return cv2.warpAffine(wide, back, (size, size), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                          borderMode=cv2.BORDER_REPLICATE)


def crop_face(image, box, margin, clahe=0.0, roll=0.0, size=IMAGE_SIZE):
    """Cut a face out: uint8 [size, size, 3] from the square around `box`, widened by `margin` on each side.

    `roll`: tilt in degrees, positive if the person's left eye is lower; the crop is upright. Pixels beyond the image
    repeat its edge. `clahe`: the limit of equalise(), for which `image` must be RGB. Raises ValueError if the square
    lies outside the image.
    """
    left, top, side = square_around(box, margin)
    if roll:
        crop = turned_square(image, left, top, side, roll, size)
    else:
        square = cut_square(image, left, top, side)
        crop = cv2.resize(square, (size, size), interpolation=cv2.INTER_AREA if side > size else cv2.INTER_LINEAR)
    return equalise(crop, clahe)


def resized(image, scale):
    """An image resized by `scale`, to at least one pixel in width and height."""
    if scale == 1:
        return image
    size = [max(1, round(v * scale)) for v in image.shape[1::-1]]
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)


def turned(image, degrees, whole=True):
    """An image turned clockwise by `degrees`, and float64 [2, 3], which maps its pixels to those of `image`. `whole`:
    enlarge the canvas to hold the whole image; otherwise the size stays, and the corners are cut off."""
    height, width = image.shape[:2]
    there = cv2.getRotationMatrix2D((width / 2, height / 2), -degrees, 1.0)
    cos, sin = np.abs(there[0, :2]) if whole else (1.0, 0.0)
    size = round(width * cos + height * sin), round(width * sin + height * cos)
    there[:, 2] += (size[0] - width) / 2, (size[1] - height) / 2
    return cv2.warpAffine(image, there, size, borderMode=cv2.BORDER_REPLICATE), cv2.invertAffineTransform(there)


def crop_frame(frame, box, margin, clahe, roll):
    """crop_face() of a BGR frame of a camera or video: uint8 [IMAGE_SIZE, IMAGE_SIZE, 3] RGB."""
    # equalise() comes last: it needs RGB, and swapping the channels of a crop is faster than of a frame.
    return equalise(crop_face(frame, box, margin, roll=roll)[:, :, ::-1], clahe)


def recut(crop, made_with, margin):
    """A square crop with the margin `made_with` -> the crop that crop_face() would give with `margin`: uint8 of the
    same shape."""
    if margin == made_with:
        return crop
    side = len(crop)
    box = side / (1 + 2 * made_with)
    return crop_face(crop, ((side - box) / 2, (side - box) / 2, box, box), margin, size=side)


def encode(crop):
    """The bytes of an RGB crop as JPEG, without chroma subsampling, so that crops on disk equal live ones."""
    settings = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY,
                cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    _, data = cv2.imencode(".jpg", cv2.cvtColor(crop, cv2.COLOR_RGB2BGR), settings)
    return data.tobytes()


def write_crop(path, crop):
    """Save an RGB crop as JPEG, whole or not at all."""
    with atomic(path) as temporary:
        temporary.write_bytes(encode(crop))


def read_crop(path):
    """Read a crop written by write_crop: uint8 [size, size, 3] RGB. Raises reading.PhotoError."""
    try:
        pixels = cv2.imdecode(np.frombuffer(Path(path).read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    except (OSError, cv2.error) as error:
        raise reading.PhotoError(f"unreadable ({error})") from None
    if pixels is None:
        raise reading.PhotoError("not an image")
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
