"""Clips for the tests of live use: drawn faces that move, pairs, cuts, noise; scenes without anyone."""

import itertools

import cv2
import numpy as np

import drawn

SIZE = (640, 480)


def scene(seed):
    """A background without people: uint8 [480, 640, 3] BGR; stripes, tiles, blobs, gradients, noise, text."""
    rng = np.random.default_rng(seed)
    kind, width, height = seed % 8, *SIZE
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    if kind == 0:  # clouds
        few = rng.integers(0, 255, (rng.integers(3, 30), rng.integers(3, 30), 3)).astype(np.uint8)
        return cv2.resize(few, SIZE, interpolation=cv2.INTER_CUBIC)
    if kind == 1:  # waves
        waves = np.sin(x / rng.uniform(3, 60) + np.sin(y / rng.uniform(5, 60)) * rng.uniform(0, 6))
        return np.repeat(((waves + 1) * 127)[:, :, None], 3, 2).astype(np.uint8)
    image = np.full((height, width, 3), rng.integers(0, 255, 3), np.uint8)
    if kind == 2:  # bricks
        w, h = int(rng.integers(20, 90)), int(rng.integers(10, 50))
        for j, i in itertools.product(range(height // h + 1), range(-1, width // w + 1)):
            left = i * w + (j % 2) * w // 2
            shade = rng.integers(60, 200, 3).tolist()
            cv2.rectangle(image, (left + 2, j * h + 2), (left + w - 2, j * h + h - 2), shade, -1)
    elif kind in (3, 4, 5):
        for _ in range(int(rng.integers(10, 120))):
            draw_thing(image, kind, rng)
    elif kind == 6:  # a page
        for j in range(20, height, 28):
            line = "".join(rng.choice(list("abcdefgh ijklm nopqrs tuvw xyz"), 50))
            cv2.putText(image, line, (5, j), cv2.FONT_HERSHEY_SIMPLEX, 0.7, (20, 20, 20), 2, cv2.LINE_AA)
    else:  # grain at several sizes
        total = np.zeros((height, width, 3), np.float32)
        for size in (8, 32, 128):
            grain = rng.normal(0, 40, (size * 3 // 4, size, 3)).astype(np.float32)
            total += cv2.resize(grain, SIZE)
        image = np.clip(total + 128, 0, 255).astype(np.uint8)
    return image


def draw_thing(image, kind, rng):
    """Draw a rectangle, an ellipse or a line at random, for scene()."""
    a, b = rng.integers(0, 640, 2).tolist(), rng.integers(0, 480, 2).tolist()
    colour, size = rng.integers(0, 255, 3).tolist(), rng.integers(5, 90, 2).tolist()
    if kind == 3:
        cv2.rectangle(image, (a[0], b[0]), (a[0] + size[0], b[0] + size[1]), colour, -1)
    elif kind == 4:
        cv2.ellipse(image, (a[0], b[0]), size, float(rng.uniform(0, 180)), 0, 360, colour, -1, cv2.LINE_AA)
    else:
        cv2.line(image, (a[0], b[0]), (a[1], b[1]), colour, int(rng.integers(1, 12)), cv2.LINE_AA)


def frames_of(people, count, seed=0, noise=3.0):
    """`count` BGR frames in which `people` (RGB pictures) move before a scene."""
    rng = np.random.default_rng(seed)
    back = cv2.GaussianBlur(scene(8 * (seed + 1)), (0, 0), 9)
    grain = rng.normal(0, noise, (2 * SIZE[1], SIZE[0], 3))
    for i in range(count):
        frame = back.copy()
        for k, picture in enumerate(people):
            size = 1.0 + 0.12 * np.sin(i / 20 + k)
            face = cv2.cvtColor(cv2.resize(picture, None, fx=size, fy=size), cv2.COLOR_RGB2BGR)[:470]
            x = int(640 * (k + 0.5) / len(people) + 20 * np.sin(i / 15 + k)) - face.shape[1] // 2
            x, y = int(np.clip(x, 0, 640 - face.shape[1])), (480 - face.shape[0]) // 2
            frame[y:y + face.shape[0], x:x + face.shape[1]] = face
        if noise:
            start = rng.integers(SIZE[1])  # each frame has another part of the grain
            frame = cv2.add(frame, grain[start:start + SIZE[1]], dtype=cv2.CV_8U)
        yield frame


def person(name, number=0):
    """An RGB picture of a drawn face that is found in live use."""
    return drawn.draw_face((number, drawn.CLASSES.index(name)), name)


def read_clip(path):
    """The BGR frames of a video: a list."""
    video, frames = cv2.VideoCapture(str(path)), []
    while (got := video.read())[0]:
        frames.append(got[1])
    video.release()
    return frames


def write_clip(path, frames, rate=30.0, code="mp4v"):
    """Write BGR frames of one size as a video. Returns the path."""
    frames = iter(frames)
    first = next(frames)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*code), rate, first.shape[1::-1])
    assert writer.isOpened()
    for frame in (first, *frames):
        writer.write(frame)
    writer.release()
    return path
