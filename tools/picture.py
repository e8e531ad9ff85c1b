"""The picture of the live window in the README: nobody real, and the whole pipeline in one command.

    python -m tools.picture        ->  plots/readme_window.png, in some two minutes on two cores

Runs the steps in a temporary folder: 400 drawn faces, their crops, the split, a short training. Then realtime.py
plays a clip of eight drawn people whom the training has not seen, in the tiles of a video call. The picture is the
last frame that it writes. Needs no photos, no camera and no display.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "data")]  # so that it runs from any folder
from terminal import script  # isort: skip  # first, see terminal/script.py

# ruff: noqa: E402
import subprocess
import tempfile

import cv2
import numpy as np
from PIL import Image

import drawn
from live import overlay
from terminal.files import atomic

# ------------------------------------------------------------------------------------------------
OUTPUT = str(ROOT / "plots" / "readme_window.png")
TRAINING = ("MODEL=small", "IMAGE_SIZE=64", "EPOCHS=6", "BATCH_SIZE=32")  # constants of train.py
SEED = 7  # of the people in the tiles
FRAMES = 45  # of the clip, 30 per second: all faces have their labels by then
# ------------------------------------------------------------------------------------------------

COLUMNS, ROWS, TILE, GAP = 4, 2, (232, 290), 6  # TILE: width and height, pixels
BAR, PLATE = 34, (58, 60, 66)  # height of the title bar, pixels, and its colour, RGB
SHADES = 256  # of the palette: enough for the eye, and a third of the file


def step(folder, name, *constants):
    """Run one of the project's scripts in `folder`."""
    done = subprocess.run([sys.executable, str(ROOT / name), *constants], cwd=folder)
    if done.returncode:
        script.fail(f"{name} ended with status {done.returncode}: its last line says why")


def clip(path):
    """Write a video of drawn people in tiles, who move a little."""
    people = []
    for i in range(COLUMNS * ROWS):
        picture = drawn.draw_face(np.random.default_rng((SEED, i)), drawn.CLASSES[(i + i // COLUMNS) % 2])
        picture = cv2.bilateralFilter(picture, 7, 30, 3)  # a camera's noise would be most of the file
        people.append(cv2.resize(picture[:, :, ::-1], (TILE[0] + 16, TILE[1] + 16), interpolation=cv2.INTER_AREA))
    width, height = (n * (side + GAP) + GAP for n, side in zip((COLUMNS, ROWS), TILE, strict=True))
    video = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 30, (width, height))
    for moment in range(FRAMES):
        frame = np.full((height, width, 3), 24, np.uint8)
        for i, picture in enumerate(people):
            x, y = (GAP + n * (side + GAP) for n, side in zip((i % COLUMNS, i // COLUMNS), TILE, strict=True))
            dx, dy = (8 + np.rint(7 * np.sin(moment / 12 + i + turn)).astype(int) for turn in (0, 2))
            frame[y:y + TILE[1], x:x + TILE[0]] = picture[dy:dy + TILE[1], dx:dx + TILE[0]]
        video.write(frame)
    video.release()


def last_frame(path):
    """The last frame of a video, BGR."""
    video, frame = cv2.VideoCapture(str(path)), None
    while True:
        done, more = video.read()
        if not done:
            return frame
        frame = more


def framed(frame):
    """A BGR frame with the title bar of a window above it."""
    image = cv2.copyMakeBorder(frame, BAR, 0, 0, 0, cv2.BORDER_CONSTANT, value=PLATE[::-1])
    overlay.write(image, "realtime", 12, 6, PLATE, 19)
    for i, colour in enumerate(((236, 106, 94), (244, 191, 79), (98, 197, 84))):  # RGB
        cv2.circle(image, (image.shape[1] - 24 - 24 * i, BAR // 2), 7, colour[::-1], -1, cv2.LINE_AA)
    return image


def main():
    with tempfile.TemporaryDirectory() as folder:
        step(folder, "data/drawn.py")
        step(folder, "processed.py")
        step(folder, "validation.py")
        step(folder, "train.py", *TRAINING)
        clip(Path(folder, "clip.avi"))
        step(folder, "realtime.py", "SOURCE=clip.avi", "OUTPUT=window.avi", "SHOW=False",
             "WEIGHTS=weights/best_weights.pt")
        frame = framed(last_frame(Path(folder, "window.avi")))
    small = Image.fromarray(frame[:, :, ::-1]).quantize(SHADES, dither=Image.Dither.NONE)
    with atomic(OUTPUT) as temporary:
        small.save(temporary, "PNG", optimize=True)
    print(f"{OUTPUT}: {frame.shape[1]}x{frame.shape[0]} pixels, {Path(OUTPUT).stat().st_size / 1000:.0f} KB")


if __name__ == "__main__":
    script.override(globals())
    script.run(main)
