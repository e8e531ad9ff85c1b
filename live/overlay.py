"""What realtime.py draws on a frame: boxes, labels, numbers and help, at any size of frame. Nothing to run."""

import math

import cv2
import numpy as np

from faces import cropping
from live import places

# ------------------------------------------------------------------------------------------------
COLOURS = ((80, 140, 235), (240, 130, 60), (90, 185, 110), (200, 110, 200), (225, 195, 60))  # RGB, one a class, in turn
UNSURE_COLOUR = (150, 150, 150)
NOTE_COLOUR = (30, 30, 30)
BLANK = 90  # gray level of a picture without a frame
HEAT = 0.45  # weight of the Grad-CAM colours over the face
BLUR_FIELDS = 5  # of a blurred face, along each side: eyes, nose and mouth run into each other
BLUR_AROUND = 0.25  # a blurred face is widened by this share of its box on each side: ears, chin and hair tell a lot
# ------------------------------------------------------------------------------------------------


def text_size(shape):
    """Height of the letters in pixels for a frame of `shape`: readable on a phone's video and on a 4K screen."""
    return int(np.clip(min(shape[:2]) / 26, 11, 64))


def small_size(shape):
    """The same of the lines in the corner."""
    return max(10, int(text_size(shape) * 0.8))


def write(image, text, x, y, colour, size):
    """Write a line on a plate of `colour` (RGB) with its upper left corner at (x, y).

    The plate is moved, and made smaller if need be, so that it lies within the BGR `image`. Returns its y range.
    """
    height, width = image.shape[:2]
    mask = places.fitted(places.text_mask(text, size), width, height)
    h, w = mask.shape
    x, y = int(np.clip(x, 0, width - w)), int(np.clip(y, 0, height - h))
    stamp(image, mask, x, y, colour)
    return y, y + h


def stamp(image, mask, x, y, colour):
    """Put the text of a mask, on a plate of `colour` (RGB), at (x, y) into a BGR image that has room for it."""
    h, w = mask.shape
    ink = 0 if np.dot(colour, cropping.LUMA) > 120 else 255
    share = (mask.astype(np.float32) / 255)[:, :, None]
    plate = np.array(colour[::-1], np.float32)
    image[y:y + h, x:x + w] = plate + (ink - plate) * share


def add_heat(image, box, heat, margin, roll=0.0):
    """Blend a heat map (float32 [S, S], 0..1) over the square around `box`, turned by `roll`, that the network saw."""
    left, top, side = cropping.square_around(box, margin)
    scale, turn = side / len(heat), math.radians(roll)
    cos, sin = math.cos(turn) * scale, math.sin(turn) * scale
    reach = math.ceil(len(heat) * (abs(cos) + abs(sin)) / 2)  # from the middle of the turned square to its edges
    x, y, half = left + side / 2, top + side / 2, (len(heat) - 1) / 2
    x0, y0 = max(0, math.floor(x) - reach), max(0, math.floor(y) - reach)
    piece = image[y0:max(0, math.ceil(y) + reach), x0:max(0, math.ceil(x) + reach)]
    if not piece.size:
        return
    there = np.array([[cos, -sin, x - x0 - 0.5 - (cos - sin) * half], [sin, cos, y - y0 - 0.5 - (sin + cos) * half]])
    colours = cv2.applyColorMap((np.clip(heat, 0, 1) * 255).astype(np.uint8), cv2.COLORMAP_JET)
    colours = cv2.warpAffine(colours, there, piece.shape[1::-1])
    weights = cv2.warpAffine(np.full(heat.shape, HEAT, np.float32), there, piece.shape[1::-1])[:, :, None]
    piece[:] = piece + (colours - piece.astype(np.float32)) * weights


def blur(frame, boxes):
    """A copy of a BGR frame in which nobody can be recognised within the boxes, widened by BLUR_AROUND."""
    image = frame.copy()
    for box in boxes:
        x, y, w, h = box
        x0, y0, x1, y1 = (round(v) for v in (x - BLUR_AROUND * w, y - BLUR_AROUND * h, x + (1 + BLUR_AROUND) * w,
                                             y + (1 + BLUR_AROUND) * h))
        face = image[max(0, y0):max(0, y1), max(0, x0):max(0, x1)]
        if face.size:  # means of a few fields hold too little to be undone, as a weaker blur can be
            fields = cv2.resize(face, (BLUR_FIELDS, BLUR_FIELDS), interpolation=cv2.INTER_AREA)
            face[:] = cv2.resize(fields, face.shape[1::-1], interpolation=cv2.INTER_CUBIC)
    return image


def draw(frame, faces, lines=(), mirror=False, margin=0.0, corner=(0, 0)):
    """A new BGR frame with faces and lines of text on it.

    `faces`: (box, text, class index or None, heat map or None, roll in degrees) each; `lines`: text for the upper left
    corner; `corner`: (width, height) there that is kept free of the faces' texts, for lines that come later.
    """
    image = cv2.flip(frame, 1) if mirror else frame.copy()
    size = text_size(image.shape)
    thick = max(1, size // 8)
    boxes, colours = [], []
    for box, _, index, heat, roll in faces:
        x, y, w, h = (float(v) for v in box)
        if mirror:
            x = image.shape[1] - x - w
        if heat is not None:
            flipped = (heat[:, ::-1], -roll) if mirror else (heat, roll)
            add_heat(image, (x, y, w, h), flipped[0], margin, flipped[1])
        boxes.append(tuple(int(round(v)) for v in (x, y, w, h)))
        colours.append(UNSURE_COLOUR if index is None else COLOURS[index % len(COLOURS)])
    for (x, y, w, h), colour in zip(boxes, colours, strict=True):
        cv2.rectangle(image, (x, y), (x + w, y + h), colour[::-1], thick)
    around = [(x - thick, y - thick, w + 2 * thick, h + 2 * thick) for x, y, w, h in boxes]
    if lines:
        corner = lines_size(lines, image.shape)
    plates = places.place(around, [text for _, text, *_ in faces], image.shape, size, (0, 0, *corner))
    for plate, colour in zip(plates, colours, strict=True):  # after all boxes, so that no box crosses a text
        if plate is not None:
            x, y, mask = plate
            stamp(image, mask, x, y, colour)
    write_lines(image, lines)
    return image


def lines_size(lines, shape):
    """(width, height) in pixels that write_lines() takes in a frame of `shape`."""
    masks = [places.text_mask(line, small_size(shape)) for line in lines]
    return max((m.shape[1] for m in masks), default=0), sum(m.shape[0] for m in masks)


def write_lines(image, lines):
    """Write lines of text into the upper left corner of a BGR image."""
    y = 0
    for line in lines:
        y = write(image, line, 0, y, NOTE_COLOUR, small_size(image.shape))[1]


def blank(text):
    """A picture without a frame, with a line across its middle: BGR uint8 [480, 640, 3]."""
    return note(np.full((480, 640, 3), BLANK, np.uint8), text)


def note(image, text):
    """A copy of a BGR image with a line across its middle."""
    image = image.copy()
    write(image, text, 0, image.shape[0] // 2, NOTE_COLOUR, text_size(image.shape))
    return image
