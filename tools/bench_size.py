"""What the data costs as it grows: the stage "size" of bench.py. Nothing to run.

Each step is the script itself, in a process of its own, on 10,000 crops, on 50,000, and so on.
"""

import collections
import contextlib
import csv
import itertools
import math
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np

import drawn
import processed
from faces import cropping, detectors
from terminal import script

ROOT = Path(__file__).resolve().parent.parent

# ------------------------------------------------------------------------------------------------
BASES = 512  # pictures that the crops are mixed from: with few, crops resemble each other more than photos do
STEPS = 40  # batches of an epoch, and of the validation after it, that are measured
# The step in which data weighs most: a network that takes little time, and crops that are decoded in every epoch.
TRAIN = ("EPOCHS=1", "MODEL=small", "IMAGE_SIZE=64", "CACHE_GB=0")
# ------------------------------------------------------------------------------------------------

# train.py as it is, but for the batches after the first ones.
FIRST_STEPS = """
import itertools, runpy, sys
sys.path.insert(0, sys.argv[1])
import dataset
whole, steps = dataset.Batches.__iter__, int(sys.argv[2])
dataset.Batches.__iter__ = lambda self: itertools.islice(whole(self), steps)
sys.argv[:3] = ["train.py"]
if __name__ == "__main__":
    runpy.run_path(dataset.__file__.replace("dataset.py", "train.py"), run_name="__main__")
"""


def mixed(bases, number):
    """A crop that resembles no other closely: two of `bases` over each other, each moved, turned and enlarged in a way
    of its own. `number` seeds it. uint8 [S, S, 3], as the bases are."""
    rng, size = np.random.default_rng((7, number)), len(bases[0])
    parts = []
    for one in rng.choice(len(bases), 2, replace=False):
        warp = cv2.getRotationMatrix2D((size / 2, size / 2), rng.uniform(-25, 25), rng.uniform(1.0, 1.5))
        warp[:, 2] += rng.uniform(-0.1, 0.1, 2) * size
        base = bases[one][:, ::-1] if rng.random() < 0.5 else bases[one]
        parts.append(cv2.warpAffine(base, warp, (size, size), borderMode=cv2.BORDER_REFLECT_101))
    share, light = rng.uniform(0.4, 0.6), rng.uniform(0.8, 1.2)
    return cv2.addWeighted(parts[0], share * light, parts[1], (1 - share) * light, 0)


def make(place, bases, numbers):
    """Write crops as processed.py does, and hard links to them for photos, so that it finds its work done already."""
    def one(number):
        name = Path(drawn.CLASSES[number % 2], f"{number}.jpg")
        cropping.write_crop(place / "faces" / name, mixed(bases, number))
        os.link(place / "faces" / name, place / "raw" / name)

    for folder, name in itertools.product(("faces", "raw"), drawn.CLASSES):
        (place / folder / name).mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for _ in pool.map(one, numbers):
            pass
    (place / "faces" / ".recipe").write_text(processed.recipe(processed.DETECTOR))


def taken(folder):
    """Bytes of all files under a folder; hard links of one file count once."""
    found = {}
    for root, _, names in os.walk(folder):
        for status in (os.stat(os.path.join(root, name)) for name in names):
            found[status.st_dev, status.st_ino] = status.st_size
    return sum(found.values())


def run(command, until=None):
    """Run Python with these arguments: (seconds, seconds of processors, peak of its memory in MB).

    The last two are None where the system does not tell them.
    `until`: the beginning of a line of its output; the seconds count until that line. A command that fails ends the
    program with its own message.
    """
    begun, reached, peak, last = time.perf_counter(), None, [None], collections.deque(maxlen=20)
    used = -sum(os.times()[2:4])  # of processes that have ended
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8", "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen([sys.executable, *map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, encoding="utf-8", errors="replace", env=environment) as process:
        watching = threading.Thread(target=watch, args=(process, peak))
        watching.start()
        for line in process.stdout:
            last.append(line)
            if until and reached is None and line.startswith(until):
                reached = time.perf_counter() - begun
        process.wait()
        seconds = time.perf_counter() - begun
        watching.join()
    if process.returncode:
        script.fail(f"{command[:2]} ended with {process.returncode}: {''.join(last)}")
    return reached or seconds, used + sum(os.times()[2:4]) or None, peak[0]


def watch(process, peak):
    """Note the most memory that a process has held, in MB, until it ends: Linux tells it."""
    while process.poll() is None:
        with contextlib.suppress(OSError, IndexError):  # another system, or it has just ended
            peak[0] = int(Path(f"/proc/{process.pid}/status").read_text().split("VmHWM:")[1].split()[0]) * 1024 / 1e6
        time.sleep(0.05)


def steps(place):
    """Run the steps on the crops in `place`. Yields (what, *run()) of each."""
    sides = [f"TRAIN_DIR={place / 'train'}", f"VALID_DIR={place / 'valid'}"]
    yield "processed.py, all there already", *run([
        ROOT / "processed.py", f"RAW_DIR={place / 'raw'}", f"FACES_DIR={place / 'faces'}",
        f"SKIPPED={place / 'skipped.csv'}"])
    yield "validation.py", *run([ROOT / "validation.py", f"FACES_DIR={place / 'faces'}", *sides])
    seconds, _, peak = run(["-c", FIRST_STEPS, ROOT, STEPS, *TRAIN, *sides, f"WEIGHTS_DIR={place / 'weights'}",
                            f"PLOTS_DIR={place / 'plots'}"], "network:")
    yield "train.py, until its first step", seconds, None, peak


def share_of_data(log):
    """The share of an epoch, 0..1, in which training waits for its data, by plots/log.csv."""
    with open(log, newline="") as file:
        row = next(csv.DictReader(file))
    data, compute = float(row["data_s"]), float(row["compute_s"])
    return data / (data + compute)


def size(place, pictures, sizes):
    """Print what each step takes with so many crops, made in the folder `place` of `pictures`, and how that grows with
    twice as many: the seconds of processors, if known, on which other programs have little influence."""
    bases = [cropping.crop_face(p, face.box, cropping.MARGIN)
             for p in pictures if (face := detectors.get("haar").main_face(p)) is not None]
    line, before = "{:>9}  {:<34}{:>9}{:>12}{:>12}{:>9}{:>9}", {}
    print(line.format("crops", "step", "seconds", "processor s", "a doubling", "peak MB", "disk MB"), flush=True)
    for fewer, count in itertools.pairwise((0, *sorted(sizes))):
        make(place, bases, range(fewer, count))
        held = taken(place)
        crops = f"{taken(place / 'faces') / 1e6:.0f}"
        print(line.format(f"{count:,}", "the crops themselves", "", "", "", "", crops), flush=True)
        for what, seconds, used, peak in steps(place):
            held, disk = taken(place), -held
            cost, growth = used or seconds, ""
            if what in before:
                growth = f"{(cost / before[what]) ** (1 / math.log2(count / fewer)):.2f}"
            before[what] = cost
            used, peak = "-" if used is None else f"{used:.1f}", "-" if peak is None else f"{peak:.0f}"
            disk = f"{(held + disk) / 1e6:.0f}"
            print(line.format(f"{count:,}", what, f"{seconds:.1f}", used, growth, peak, disk), flush=True)
        share = f"{share_of_data(place / 'plots' / 'log.csv'):.0%}"
        print(line.format(f"{count:,}", "... share of an epoch for its data", share, "", "", "", ""), flush=True)
