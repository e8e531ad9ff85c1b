"""Synthetic occluders: masks, sunglasses, scarves and hands, drawn on a crop in their natural place. Nothing to run.

Used by training (the key "occlude" of augment.AUGMENTATIONS) and by the test (judge/corruptions.py). Coordinates are
those of the Haar box, whose width and height are 1: the middle of the face is x = 0, its top y = 0. On UTKFace's crops
the eyes are at y = 0.40, the tip of the nose at 0.61, the mouth at 0.79, the chin at 1.03, the cheeks at x = +-0.39.
`u` are random numbers in 0..1.
"""

import math

import cv2
import numpy as np

DRAWS = 12  # random numbers that an occluder uses
KINDS = ("mask", "sunglasses", "scarf", "hand")
PLACES = {"mask": (0.0, 0.74), "sunglasses": (0.0, 0.40), "scarf": (0.0, 0.80), "hand": (0.0, 0.80)}  # of their middles
REACH = {"mask": 0.05, "sunglasses": 0.04, "scarf": 0.08, "hand": 0.35}  # largest random shift


class Canvas:
    """A transparent picture for an occluder: RGBA, uint8 [side, side, 4], with premultiplied alpha.

    `move` is (x, y) of the occluder's middle in the Haar box; it is drawn `scale` times as large around that.
    """

    def __init__(self, side, margin, colour, move, scale):
        self.picture = np.zeros((side, side, 4), np.uint8)
        self.colour = (*(float(c) for c in colour), 255.0)
        self.move, self.scale = move, scale
        self.unit, self.margin = side / (1 + 2 * margin), margin  # side of the Haar box in pixels; margin around it

    def at(self, points):
        """Points (x, y) relative to the occluder's middle -> sixteenths of a pixel, int32 [N, 2]."""
        points = np.asarray(points, np.float64) * self.scale + self.move + (0.5 + self.margin, self.margin)
        return np.rint(points * self.unit * 16).astype(np.int32)

    def area(self, *points):
        """Fill a polygon."""
        cv2.fillPoly(self.picture, [self.at(points)], self.colour, cv2.LINE_AA, shift=4)

    def line(self, start, end, width):
        """Draw a line between two points."""
        (x0, y0), (x1, y1) = self.at([start, end]).tolist()
        cv2.line(self.picture, (x0, y0), (x1, y1), self.colour, max(1, round(width * self.scale * self.unit)),
                 cv2.LINE_AA, 4)

    def ellipse(self, middle, half_width, half_height, angle=0.0):
        """Fill an ellipse, turned by `angle` in radians."""
        turn = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        x, y = half_width * np.cos(turn), half_height * np.sin(turn)
        c, s = np.cos(angle), np.sin(angle)
        self.area(*np.stack([middle[0] + c * x - s * y, middle[1] + s * x + c * y], 1))


def mask(canvas, u):
    """Draw a medical mask over nose and mouth, with its bands."""
    top, low = -0.26 + 0.08 * u[0], 0.28 + 0.06 * u[1]
    canvas.area((-0.38, top + 0.07), (0, top - 0.03), (0.38, top + 0.07), (0.34, 0.1), (0.16, low), (0, low + 0.02),
               (-0.16, low), (-0.34, 0.1))
    for side in (-1, 1):
        canvas.line((0.37 * side, top + 0.09), (0.5 * side, -0.36), 0.02)
        canvas.line((0.34 * side, 0.1), (0.5 * side, -0.18), 0.02)


def sunglasses(canvas, u):
    """Draw sunglasses: two dark lenses, a bridge and the temples."""
    width, height = 0.16 + 0.04 * u[0], 0.10 + 0.07 * u[1]
    for side in (-1, 1):
        canvas.ellipse((0.2 * side, 0.02), width, height)
        canvas.line((0.3 * side, -0.04), (0.47 * side, -0.06), 0.03)
    canvas.line((-0.1, -0.02), (0.1, -0.02), 0.03)


def scarf(canvas, u):
    """Draw a scarf: cloth from below, up to the mouth or the nose, over the whole width."""
    left, right = -0.12 + 0.1 * u[0], -0.12 + 0.1 * u[1]
    canvas.area((-0.9, 0.15), (-0.42, left), (-0.15, left + 0.07), (0.15, right + 0.07), (0.42, right), (0.9, 0.15),
               (0.9, 1.5), (-0.9, 1.5))


def hand(canvas, u):
    """Draw a hand: palm, four fingers, thumb and arm, from below or from a side."""
    angle = (u[0] - 0.5) * 2.2 + np.pi  # direction of the fingers; pi: up
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    canvas.ellipse((0, 0), 0.15, 0.18, -angle)
    canvas.line((0, 0), np.array([0, -1.6]) @ turn, 0.2)
    for x, length in ((-0.11, 0.33), (-0.04, 0.39), (0.035, 0.37), (0.105, 0.31)):
        spread = 1 + (0.2 + u[1]) * 0.8
        canvas.line(np.array([x, 0.1]) @ turn, np.array([x * spread, length]) @ turn, 0.065)
    thumb = 1 if u[2] < 0.5 else -1
    canvas.line(np.array([0.08 * thumb, -0.05]) @ turn, np.array([0.26 * thumb, 0.1]) @ turn, 0.07)


def colours(kind, u):
    """The colour of an occluder, float [3] in 0..255 RGB, from three random numbers in 0..1."""
    if kind == "hand":
        return np.array([118, 78, 56]) * (1 - u[0]) + np.array([244, 206, 180]) * u[0]
    if kind == "sunglasses":
        return np.full(3, 10 + 45 * u[0]) + 20 * u
    if kind == "mask" and u[0] < 0.7:  # most are white, light blue or black
        return np.array([(235, 235, 232), (165, 205, 225), (30, 30, 32)])[int(u[1] * 3)] + 15 * (u[2] - 0.5)
    return 255 * u


def cover(side, margin, numbers, scale=1.0):
    """One of KINDS on a transparent picture: uint8 [side, side, 4], RGBA with premultiplied alpha, for over().

    `side`: of the crop, in pixels; `margin`: of the crop around the Haar box; `numbers`: float [DRAWS] in 0..1, for all
    random choices; the first one chooses the kind. `scale`: 1.0 is the real size.
    """
    u = np.asarray(numbers, np.float64)
    kind = KINDS[min(int(u[0] * len(KINDS)), len(KINDS) - 1)]
    move = np.add(PLACES[kind], (2 * u[1:3] - 1) * REACH[kind])
    canvas = Canvas(side, margin, np.clip(colours(kind, u[3:6]), 0, 255), move, scale * (0.9 + 0.2 * u[6]))
    {"mask": mask, "sunglasses": sunglasses, "scarf": scarf, "hand": hand}[kind](canvas, u[7:10])
    # Light from a side, and folds or stripes, since a plain colour would be too easy to learn.
    left, top, wide, tall = cv2.boundingRect(cv2.extractChannel(canvas.picture, 3))
    line = np.arange(side, dtype=np.float32) / side
    angle, waves = 2 * math.pi * u[10], 5 + 40 * u[11]
    along = math.cos(angle) * line[left:left + wide] + math.sin(angle) * line[top:top + tall, None]
    light = 0.9 + 0.25 * along + 0.12 * np.sin(float(waves) * along)
    part = canvas.picture[top:top + tall, left:left + wide]
    part[:, :, :3] = np.minimum(part[:, :, :3] * light[:, :, None], part[:, :, 3:])
    return canvas.picture


def over(crop, picture):
    """A uint8 [S, S, 3] RGB crop, covered with a cover() of the same size."""
    clear = 255 - picture[:, :, 3:].astype(np.uint16)
    return ((crop * clear + 127) // 255 + picture[:, :, :3]).clip(0, 255).astype(np.uint8)
