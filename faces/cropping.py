"""From a face to an upright square crop, and crops written and read. Nothing to run."""

import math
from pathlib import Path

import cv2
import numpy as np

from faces import reading
from terminal.files import atomic

IMAGE_SIZE = 224  # pixels a side of a crop, the paper's
MARGIN = 0.20  # added on each side of the Haar box, as a share of the box; chin and hair tell a lot
JPEG_QUALITY = 95
LUMA = (0.299, 0.587, 0.114)  # shares of red, green and blue in brightness: ITU-R BT.601, as in JPEG and OpenCV


def square_around(box, margin):
    """(left, top, side), pixels, of the square cut for a box (x, y, width, height), `margin` more on each side."""
    x, y, width, height = (float(v) for v in box)
    side = max(2, round(max(width, height) * (1 + 2 * margin)))
    return round(x + width / 2 - side / 2), round(y + height / 2 - side / 2), side


def equalise(crop, limit):
    """Contrast-limited adaptive histogram equalisation (CLAHE) of the lightness of a uint8 [H, W, 3] RGB crop.

    `limit`: the clip limit, 0.0 gives the crop back as it is. Zuiderveld, "Contrast Limited Adaptive Histogram
    Equalization", Graphics Gems IV, 1994.
    """
    if not limit > 0:
        return crop
    lightness, a, b = cv2.split(cv2.cvtColor(crop, cv2.COLOR_RGB2LAB))
    lightness = cv2.createCLAHE(limit, (8, 8)).apply(lightness)
    return cv2.cvtColor(cv2.merge((lightness, a, b)), cv2.COLOR_LAB2RGB)


def cut_square(image, left, top, side):
    """The square of an image, uint8 [side, side, 3]; pixels beyond the image's edge repeat the edge."""
    height, width = image.shape[:2]
    x0, x1 = (min(max(v, 0), width) for v in (left, left + side))
    y0, y1 = (min(max(v, 0), height) for v in (top, top + side))
    if x0 == x1 or y0 == y1:
        raise ValueError(f"the square {left}, {top}, {side} lies outside the {width}x{height} image")
    return cv2.copyMakeBorder(image[y0:y1, x0:x1], y0 - top, top + side - y1, x0 - left, left + side - x1,
                              cv2.BORDER_REPLICATE)


def turned_square(image, left, top, side, roll, size):
    """The square turned by `roll` degrees about its middle, upright: uint8 [size, size, 3]."""
    turn = math.radians(roll)
    reach = math.ceil(side * (abs(math.cos(turn)) + abs(math.sin(turn))))
    wide = cut_square(image, left - (reach - side) // 2, top - (reach - side) // 2, reach)
    if side > size:  # a warp reads four pixels only, so that a large square is reduced first
        wide = cv2.resize(wide, [round(reach * size / side)] * 2, interpolation=cv2.INTER_AREA)
    scale = side / size * len(wide) / reach
    cos, sin = math.cos(turn) * scale, math.sin(turn) * scale
    # In `wide` the square's middle lies where half of an odd difference puts it.
    middle = ((reach - side) // 2 + side / 2) * len(wide) / reach - 0.5
    to_middle = (size - 1) / 2
    back = np.array([[cos, -sin, middle - (cos - sin) * to_middle], [sin, cos, middle - (sin + cos) * to_middle]])
    return cv2.warpAffine(wide, back, (size, size), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                          borderMode=cv2.BORDER_REPLICATE)


def crop_face(image, box, margin, clahe=0.0, roll=0.0, size=IMAGE_SIZE):
    """Cut a face out: uint8 [size, size, 3] from the square around `box`, widened by `margin` on each side.

    `roll`: degrees that the face is tilted, positive where its own left eye is lower; the crop shows it upright.
    Pixels beyond the image repeat its edge. `clahe`: the limit of equalise(), for which `image` must be RGB.
    Raises ValueError where the square lies outside the image.
    """
    left, top, side = square_around(box, margin)
    if roll:
        crop = turned_square(image, left, top, side, roll, size)
    else:
        square = cut_square(image, left, top, side)
        crop = cv2.resize(square, (size, size), interpolation=cv2.INTER_AREA if side > size else cv2.INTER_LINEAR)
    return equalise(crop, clahe)


def resized(image, scale):
    """An image made `scale` times as large, at least a pixel wide and high."""
    if scale == 1:
        return image
    size = [max(1, round(v * scale)) for v in image.shape[1::-1]]
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)


def turned(image, degrees, whole=True):
    """An image turned clockwise by `degrees`, and float64 [2, 3], which leads from its pixels to those of `image`.
    `whole`: large enough for all of the image; else as large as the image, without its corners."""
    height, width = image.shape[:2]
    there = cv2.getRotationMatrix2D((width / 2, height / 2), -degrees, 1.0)
    cos, sin = np.abs(there[0, :2]) if whole else (1.0, 0.0)
    size = round(width * cos + height * sin), round(width * sin + height * cos)
    there[:, 2] += (size[0] - width) / 2, (size[1] - height) / 2
    return cv2.warpAffine(image, there, size, borderMode=cv2.BORDER_REPLICATE), cv2.invertAffineTransform(there)


def crop_frame(frame, box, margin, clahe=0.0, roll=0.0):
    """crop_face() of a BGR frame, as cameras and videos give it: uint8 [IMAGE_SIZE, IMAGE_SIZE, 3] RGB."""
    # Lightness is equalised last: that needs RGB, and the channels of a crop are swapped faster than those of a frame.
    return equalise(crop_face(frame, box, margin, roll=roll)[:, :, ::-1], clahe)


def recut(crop, made_with, margin):
    """What crop_face() would have made with `margin`, of a square crop `made_with` another: uint8 of the same shape."""
    if margin == made_with:
        return crop
    side = len(crop)
    box = side / (1 + 2 * made_with)
    return crop_face(crop, ((side - box) / 2, (side - box) / 2, box, box), margin, size=side)


def encode(crop):
    """The bytes of an RGB crop as JPEG, of full colour resolution, so that disk and live agree."""
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
