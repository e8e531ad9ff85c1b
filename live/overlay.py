"""Draws what the live window shows: a frame with boxes and labels, and lines of text beneath it. Nothing to run."""

import functools
import math

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from faces import cropping
from faces.boxes import around
from terminal import fonts

# ------------------------------------------------------------------------------------------------
COLOURS = ((80, 140, 235), (240, 130, 60), (90, 185, 110), (200, 110, 200), (225, 195, 60))  # RGB, by class, repeated
UNSURE_COLOUR = (150, 150, 150)
NOTE_COLOUR = (30, 30, 30)
BLANK, BLANK_SIZE = 90, (480, 640)  # gray level and (height, width) of a picture without a frame
NARROWEST = 480  # pixels; narrower pictures are enlarged, so that the lines beneath them can be read
TALLEST = 1200  # pixels, the greatest height of an enlarged picture
BETWEEN = "   "  # separates the parts of a line; a line is broken there if it is too long
HEAT = 0.45  # weight of the Grad-CAM colours over the face
BLUR_FIELDS = 4  # fields along each side of a blurred face, too few to tell eyes, nose and mouth apart
BLUR_AROUND = 0.25  # share of the box that is blurred too on each side, since ears, chin and hair identify a person
SIZES = (1.0, 0.8, 0.65, 0.5)  # relative sizes of a face's text, tried in turn until it finds a free place
SMALLEST = 9  # pixels; smaller letters are illegible
OWN, OTHERS, PLATES = 4.0, 3.0, 2.0  # cost of each pixel that a text covers of its own face, other faces, other texts
# ------------------------------------------------------------------------------------------------


def text_size(shape):
    """Height of the letters in pixels for a frame of `shape`: legible on a phone's video and on a 4K screen."""
    return int(np.clip(min(shape[:2]) / 26, 11, 64))


def caption_size(shape):
    """The same for the lines beneath a picture, which have about the same size on the screen for all frames."""
    return int(np.clip((shape[0] + shape[1]) / 80, 13, 64))


@functools.lru_cache(maxsize=2048)
def text_mask(text, size):
    """A line of text as uint8 [h, w], 255: letters. Cached, since a label stays for many frames."""
    path = fonts.find(text)
    font = ImageFont.truetype(path, size) if path else ImageFont.load_default(size)
    text = text if path else text.replace(" ", "  ")  # spaces of Pillow's own font are too narrow to separate words
    left, top, right, bottom = font.getbbox(text + "\u00c1[$fgj(|")  # so that all lines have the same height
    left, _, right, _ = font.getbbox(text)
    pad = max(2, size // 4)
    image = Image.new("L", (max(1, int(right - left)) + 2 * pad, max(1, int(bottom - top)) + pad))
    ImageDraw.Draw(image).text((pad - left, pad // 2 - top), text, fill=255, font=font)
    return np.asarray(image)


def beside(box, width, height):
    """Top left corners (x, y) for a plate of this size beside a box (x, y, w, h), the best first: int [12, 2]."""
    x, y, w, h = box
    rows, columns = (y, y + h - height, y + (h - height) // 2), (x, x + w - width, x + (w - width) // 2)
    above_below = [(column, row) for row in (y - height, y + h) for column in columns]
    return np.array(above_below + [(column, row) for column in (x + w, x - width) for row in rows])


def covered(places, width, height, boxes):
    """How many pixels of each box, [M, 4], a plate of this size covers at each of the places, [K, 2]: [K, M]."""
    x, y = places[:, :1], places[:, 1:]
    wide = np.minimum(x + width, boxes[:, 0] + boxes[:, 2]) - np.maximum(x, boxes[:, 0])
    high = np.minimum(y + height, boxes[:, 1] + boxes[:, 3]) - np.maximum(y, boxes[:, 1])
    return wide.clip(0) * high.clip(0)


def place(boxes, texts, shape, size):
    """The place of each face's text: list of (x, y, mask), None for a face without text.

    `boxes`: (x, y, width, height) of each face, int pixels; `shape`: of the frame; `size`: of the letters, in pixels.
    A plate stays within the frame, and covers no face and no other plate if there is room for it, at a smaller size if
    necessary; if there is no room, it covers as little as possible.
    """
    height, width = shape[:2]
    taken, plates = np.array(boxes, np.int64).reshape(-1, 4), []
    for i, (box, text) in enumerate(zip(boxes, texts, strict=True)):
        if not text:
            plates.append(None)
            continue
        costs = np.full(len(taken), PLATES)
        costs[:len(boxes)] = OTHERS
        costs[i] = OWN
        minimum = math.inf
        for letters in dict.fromkeys(max(SMALLEST, int(size * share)) for share in SIZES):
            mask = fitted(text_mask(text, letters), width, height)
            h, w = mask.shape
            at = beside(box, w, h).clip(0, (width - w, height - h))
            cost = (covered(at, w, h, taken) * costs).sum(1)
            if cost.min() < minimum:
                minimum, best = cost.min(), (*at[cost.argmin()].tolist(), mask)
            if minimum == 0:
                break
        x, y, mask = best
        plates.append(best)
        taken = np.concatenate([taken, [(x, y, *mask.shape[::-1])]])
    return plates


def fitted(mask, width, height):
    """A mask, reduced if necessary to fit into a frame of this size."""
    image = Image.fromarray(mask)
    image.thumbnail((width, height), Image.BOX)
    return np.asarray(image)


def stamp(image, mask, x, y, colour):
    """Draw the text of a mask, on a plate of `colour` (RGB), at (x, y) into a BGR image; it must fit."""
    h, w = mask.shape
    ink = 0 if np.dot(colour, cropping.LUMA) > 120 else 255
    share = (mask.astype(np.float32) / 255)[:, :, None]
    plate = np.array(colour[::-1], np.float32)
    image[y:y + h, x:x + w] = plate + (ink - plate) * share


def add_heat(image, box, heat, margin, roll=0.0):
    """Blend a heat map (float32 [S, S], 0..1) into a BGR image, in place, over the square that the network saw: around
    `box`, with `margin`, turned by `roll` degrees."""
    left, top, side = cropping.square_around(box, margin)
    x, y, reach = left + side / 2, top + side / 2, math.ceil(side * math.sqrt(0.5))  # reach: half a square's diagonal
    x0, y0 = max(0, math.floor(x) - reach), max(0, math.floor(y) - reach)
    piece = image[y0:max(0, math.ceil(y) + reach), x0:max(0, math.ceil(x) + reach)]
    if not piece.size:
        return
    half = (len(heat) - 1) / 2
    there = cv2.getRotationMatrix2D((half, half), -roll, side / len(heat))
    there[:, 2] += x - x0 - 0.5 - half, y - y0 - 0.5 - half
    colours = cv2.applyColorMap((np.clip(heat, 0, 1) * 255).astype(np.uint8), cv2.COLORMAP_JET)
    colours = cv2.warpAffine(colours, there, piece.shape[1::-1])
    weights = cv2.warpAffine(np.full(heat.shape, HEAT, np.float32), there, piece.shape[1::-1])[:, :, None]
    piece[:] = piece + (colours - piece.astype(np.float32)) * weights


def blur(frame, boxes):
    """A copy of a BGR frame in which nobody can be recognised: the boxes, widened by BLUR_AROUND, are blurred."""
    image = frame.copy()
    for box in boxes:
        x0, y0, x1, y1 = around(box, BLUR_AROUND, image.shape)
        face = image[y0:max(0, y1), x0:max(0, x1)]
        if face.size:  # the means of a few fields cannot be reversed, unlike a weaker blur
            fields = cv2.resize(face, (BLUR_FIELDS, BLUR_FIELDS), interpolation=cv2.INTER_AREA)
            face[:] = cv2.resize(fields, face.shape[1::-1], interpolation=cv2.INTER_CUBIC)
    return image


def draw(frame, faces, mirror=False, margin=0.0):
    """A copy of a BGR frame with faces: (box, text, class index or None, heat map or None, roll in degrees) each."""
    image = frame.copy()
    for box, _, _, heat, roll in faces:
        if heat is not None:
            add_heat(image, box, heat, margin, roll)
    image = cv2.flip(image, 1) if mirror else image
    size = text_size(image.shape)
    thick = max(1, size // 8)
    boxes, colours = [], []
    for (x, y, w, h), _, index, *_ in faces:
        x = image.shape[1] - x - w if mirror else x
        boxes.append(tuple(int(round(float(v))) for v in (x, y, w, h)))
        colours.append(UNSURE_COLOUR if index is None else COLOURS[index % len(COLOURS)])
    for (x, y, w, h), colour in zip(boxes, colours, strict=True):
        cv2.rectangle(image, (x, y), (x + w, y + h), colour[::-1], thick)
    framed = [(x - thick, y - thick, w + 2 * thick, h + 2 * thick) for x, y, w, h in boxes]
    plates = place(framed, [text for _, text, *_ in faces], image.shape, size)
    for plate, colour in zip(plates, colours, strict=True):  # after all boxes, so that no box covers a text
        if plate is not None:
            x, y, mask = plate
            stamp(image, mask, x, y, colour)
    return image


def caption(image, lines):
    """A BGR picture as the window shows it: enlarged if it is small, with lines of text beneath it, so that they cover
    nobody. `image`: None for an empty picture, with the lines across its middle.
    """
    if image is None:
        image = np.full((*BLANK_SIZE, 3), BLANK, np.uint8)
        text = text_block(lines, image.shape[1], text_size(image.shape))
        top = max(0, (image.shape[0] - len(text)) // 2)
        stamp(image, text[:image.shape[0]], 0, top, NOTE_COLOUR)
        return image
    height, width = image.shape[:2]
    times = min(math.ceil(NARROWEST / width), max(1, TALLEST // height))
    if times > 1:
        image = cv2.resize(image, None, fx=times, fy=times, interpolation=cv2.INTER_LINEAR)
    text = text_block(lines, image.shape[1], caption_size(image.shape))
    whole = cv2.copyMakeBorder(image, 0, len(text), 0, 0, cv2.BORDER_CONSTANT, value=NOTE_COLOUR[::-1])
    stamp(whole, text, 0, len(image), NOTE_COLOUR)
    return whole


def text_block(lines, width, size):
    """Lines of text on a plate of this width, uint8 [h, width]; longer lines are broken."""
    masks = []
    for line in lines:
        for part in broken(line, width, size):
            mask = text_mask(part, size)
            mask = fitted(mask, width, len(mask))
            masks.append(np.pad(mask, ((0, 0), (0, width - mask.shape[1]))))
    return np.concatenate(masks)


def broken(line, width, size):
    """Yield a line in pieces of at most `width` pixels, each with as many of its parts (see BETWEEN) as fit. A longer
    part is broken between words; a longer word stays whole.
    """
    for gap in (BETWEEN, " "):
        if text_mask(line, size).shape[1] <= width:
            break
        parts = line.split(gap)
        count = 1  # parts that fit
        while count < len(parts) and text_mask(gap.join(parts[:count + 1]), size).shape[1] <= width:
            count += 1
        if count < len(parts):
            yield from broken(gap.join(parts[:count]), width, size)
            yield from broken(gap.join(parts[count:]), width, size)
            return
    yield line
