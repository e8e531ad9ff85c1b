"""What realtime.py draws on a frame: boxes, labels, numbers and help, at any size of frame. Nothing to run."""

import functools

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from faces import cutting

# ------------------------------------------------------------------------------------------------
FONT = None  # path of a .ttf or .otf with the letters of your LABELS; None: Pillow's own, with Latin letters
COLOURS = ((80, 140, 235), (240, 130, 60), (90, 185, 110), (200, 110, 200), (225, 195, 60))  # RGB, one a class, in turn
UNSURE_COLOUR = (150, 150, 150)
HEAT = 0.45  # weight of the Grad-CAM colours over the face
# ------------------------------------------------------------------------------------------------


def text_size(shape):
    """Height of the letters in pixels for a frame of `shape`: readable on a phone's video and on a 4K screen."""
    return int(np.clip(min(shape[:2]) / 26, 11, 64))


@functools.lru_cache(maxsize=1024)
def text_mask(text, size):
    """The pixels of a line of text, uint8 [h, w]: 255 is ink. Cached, since a label stays for many frames."""
    font = ImageFont.truetype(FONT, size) if FONT else ImageFont.load_default(size)
    left, top, right, bottom = font.getbbox(text + "Ág")
    right = font.getbbox(text)[2]
    pad = max(2, size // 4)
    image = Image.new("L", (max(1, int(right - left)) + 2 * pad, max(1, int(bottom - top)) + pad))
    ImageDraw.Draw(image).text((pad - left, pad // 2 - top), text, fill=255, font=font)
    return np.asarray(image)


def write(image, text, x, y, colour, size, above=False):
    """Write a line on a plate of `colour` (RGB) with its upper (or, `above`, lower) left corner at (x, y).

    The plate is moved, and made smaller if need be, so that it lies within the BGR `image`. Returns its y range.
    """
    mask = text_mask(text, size)
    height, width = image.shape[:2]
    shrink = min(1.0, width / mask.shape[1], height / mask.shape[0])
    if shrink < 1:
        small = (max(1, int(mask.shape[1] * shrink)), max(1, int(mask.shape[0] * shrink)))
        mask = cv2.resize(mask, small, interpolation=cv2.INTER_AREA)
    h, w = mask.shape
    x = int(np.clip(x, 0, width - w))
    y = int(np.clip(y - h if above else y, 0, height - h))
    ink = 0 if np.dot(colour, cutting.LUMA) > 120 else 255
    share = (mask.astype(np.float32) / 255)[:, :, None]
    plate = np.array(colour[::-1], np.float32)
    image[y:y + h, x:x + w] = plate + (ink - plate) * share
    return y, y + h


def add_heat(image, box, heat, margin):
    """Blend a heat map (float32 [S, S], 0..1) over the square that the network saw around `box`."""
    left, top, side = cutting.square_around(box, margin)
    x0, y0, x1, y1 = max(0, left), max(0, top), min(image.shape[1], left + side), min(image.shape[0], top + side)
    if x1 <= x0 or y1 <= y0:
        return
    full = cv2.resize(heat, (side, side))[y0 - top:y1 - top, x0 - left:x1 - left]
    colours = cv2.applyColorMap((np.clip(full, 0, 1) * 255).astype(np.uint8), cv2.COLORMAP_JET)
    image[y0:y1, x0:x1] = cv2.addWeighted(image[y0:y1, x0:x1], 1 - HEAT, colours, HEAT, 0)


def draw(frame, faces, lines=(), mirror=False, margin=0.0):
    """A new BGR frame with faces and lines of text on it.

    `faces`: (box, text, class index or None, heat map or None) each; `lines`: text for the upper left corner.
    """
    image = cv2.flip(frame, 1) if mirror else frame.copy()
    size = text_size(image.shape)
    thick = max(1, size // 8)
    placed = []
    for box, text, index, heat in faces:
        x, y, w, h = (float(v) for v in box)
        if mirror:
            x = image.shape[1] - x - w
        if heat is not None:
            add_heat(image, (x, y, w, h), heat[:, ::-1] if mirror else heat, margin)
        colour = UNSURE_COLOUR if index is None else COLOURS[index % len(COLOURS)]
        x, y, w, h = (int(round(v)) for v in (x, y, w, h))
        cv2.rectangle(image, (x, y), (x + w, y + h), colour[::-1], thick)
        placed.append((x, y, colour, text))
    for x, y, colour, text in placed:  # after all boxes, so that no box crosses a text
        if text:
            write(image, text, x - thick // 2, y, colour, size, above=True)
    write_lines(image, lines)
    return image


def write_lines(image, lines):
    """Write lines of text into the upper left corner of a BGR image."""
    y = 0
    for line in lines:
        y = write(image, line, 0, y, (30, 30, 30), max(10, int(text_size(image.shape) * 0.8)))[1]


def note(image, text):
    """A copy of a BGR image with a line across its middle."""
    image = image.copy()
    write(image, text, 0, image.shape[0] // 2, (30, 30, 30), text_size(image.shape))
    return image
