"""Where the texts beside the faces stand: never on a face, at a size that leaves room for all. Nothing to run."""

import functools

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from terminal import fonts

# ------------------------------------------------------------------------------------------------
SIZES = (1.0, 0.8, 0.65, 0.5)  # of the text, tried in turn until a place is free
SMALLEST = 9  # pixels; smaller letters cannot be read
OWN, OTHERS, PLATES = 4.0, 3.0, 2.0  # what a covered pixel of the own face, of another, of another text costs
# ------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=2048)
def text_mask(text, size):
    """The pixels of a line of text, uint8 [h, w]: 255 is ink. Cached, since a label stays for many frames."""
    path = fonts.find(text)
    font = ImageFont.truetype(path, size) if path else ImageFont.load_default(size)
    left, top, right, bottom = font.getbbox(text + "\u00c1g")  # as high as any line
    left, _, right, _ = font.getbbox(text)
    pad = max(2, size // 4)
    image = Image.new("L", (max(1, int(right - left)) + 2 * pad, max(1, int(bottom - top)) + pad))
    ImageDraw.Draw(image).text((pad - left, pad // 2 - top), text, fill=255, font=font)
    return np.asarray(image)


def around(box, width, height):
    """Places of a plate of this size beside a box (x, y, w, h), the best first: int [12, 2] of (x, y)."""
    x, y, w, h = box
    rows, columns = (y, y + h - height, y + (h - height) // 2), (x, x + w - width, x + (w - width) // 2)
    beside = [(column, row) for row in (y - height, y + h) for column in columns]
    return np.array(beside + [(column, row) for column in (x + w, x - width) for row in rows])


def covered(places, width, height, boxes):
    """Pixels of each of the boxes, [M, 4], that a plate of this size covers at each of the places, [K, 2]: [K, M]."""
    x, y = places[:, :1], places[:, 1:]
    wide = np.minimum(x + width, boxes[:, 0] + boxes[:, 2]) - np.maximum(x, boxes[:, 0])
    high = np.minimum(y + height, boxes[:, 1] + boxes[:, 3]) - np.maximum(y, boxes[:, 1])
    return wide.clip(0) * high.clip(0)


def place(boxes, texts, shape, size, corner=(0, 0, 0, 0)):
    """Where the text of each face stands: list of (x, y, mask), or None where there is no text.

    `boxes`: (x, y, width, height) of each face, int pixels; `shape`: of the frame; `size`: of the letters, in pixels;
    `corner`: a box that is taken already. A plate keeps within the frame, and off all faces and other plates if there
    is any room for it, smaller if need be; where there is none, it covers as little as can be.
    """
    height, width = shape[:2]
    taken = np.array([corner, *boxes], np.int64).reshape(-1, 4)
    plates = []
    for i, (box, text) in enumerate(zip(boxes, texts, strict=True)):
        if not text:
            plates.append(None)
            continue
        best = None
        costs = np.full(len(taken), PLATES)
        costs[1:1 + len(boxes)] = OTHERS
        costs[1 + i] = OWN
        for letters in dict.fromkeys(max(SMALLEST, int(size * share)) for share in SIZES):
            mask = fitted(text_mask(text, letters), width, height)
            h, w = mask.shape
            at = around(box, w, h).clip(0, (width - w, height - h))
            cost = (covered(at, w, h, taken) * costs).sum(1)
            first = int(cost.argmin())
            if best is None or cost[first] < best[0]:
                best = (cost[first], *at[first].tolist(), mask)
            if best[0] == 0:
                break
        _, x, y, mask = best
        plates.append((x, y, mask))
        taken = np.concatenate([taken, [(x, y, *mask.shape[::-1])]])
    return plates


def fitted(mask, width, height):
    """A mask, made smaller if need be, so that it fits into a frame of this size."""
    shrink = min(1.0, width / mask.shape[1], height / mask.shape[0])
    if shrink == 1:
        return mask
    return np.asarray(Image.fromarray(mask).resize((max(1, int(mask.shape[1] * shrink)),
                                                    max(1, int(mask.shape[0] * shrink))), Image.BOX))
