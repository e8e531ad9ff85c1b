"""The live stages of bench.py: realtime.py on clips, with its time by function, and through an hour of frames.
Nothing to run."""

import contextlib
import cProfile
import os
import threading
from concurrent.futures import Future
from pathlib import Path

import cv2
import numpy as np
import torch

import processed
import realtime
from faces import cropping, detectors
from learn import classifier
from live import capture, overlay, player, results
from tools import plain

RATE = 30  # frames per second of the clips


def clip(path, pictures, people, frames):
    """Write a video of 640x480 pixels in which people move before a blurred wall; `people`: how many, by frame."""
    rng = np.random.default_rng(0)
    wall = cv2.GaussianBlur(rng.integers(0, 255, (480, 640, 3)).astype(np.uint8), (0, 0), 31)
    wall = cv2.normalize(wall, None, 60, 200, cv2.NORM_MINMAX)
    video = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), RATE, (640, 480))
    for i in range(frames):
        frame, count = wall.copy(), people(i)
        columns = min(count, 5)
        size = min(230, 640 // columns - 2)
        for k in range(count):
            box = detectors.get("haar").main_face(pictures[k]).box
            head = cv2.cvtColor(cropping.crop_face(pictures[k], box, 0.3, size=size), cv2.COLOR_RGB2BGR)
            x = round(640 * (k % columns + 0.5) / columns - size / 2 + 8 * np.sin(i / 15 + k))
            x, y = int(np.clip(x, 0, 640 - size)), 20 + 235 * (k // columns) + round(8 * np.cos(i / 20 + k))
            frame[y:y + size, x:x + size] = head
        video.write(cv2.add(frame, rng.normal(0, 3, frame.shape), dtype=cv2.CV_8U))
    video.release()


def follow(opened, loaded, log=None):
    """realtime.py on an opened video, without a window; `log`: its LOG. Returns its dict of results."""
    ready, detector = Future(), Future()
    ready.set_result(loaded)
    detector.set_result(detectors.get(processed.DETECTOR))
    reader = capture.Reader("clip.mp4", opened=opened)
    with open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing):
        return player.Player(reader, ready, realtime.controls_of(show=False), results.Results(log),
                             detector).play()


def seconds_in(profile, functions):
    """Seconds that a cProfile.Profile saw in the functions and in what these called."""
    codes = {function.__code__ for function in functions}
    return sum(entry.totaltime for entry in profile.getstats() if entry.code in codes)


def live(place, pictures, compare, frames, weights):
    """realtime.py beside the plain loop on one clip, then where its time goes with 1, 3 and 10 faces."""
    loaded = realtime.load(weights)
    net, info = classifier.load_weights(classifier.choose(weights))
    clip(place / "clip.mp4", pictures, lambda i: 1 + i * 3 // frames, frames)

    def plainly():
        for share in (torch.set_num_threads, cv2.setNumThreads):
            share(os.cpu_count() or 1)
        plain.live(place / "clip.mp4", net, info)
        for share in (torch.set_num_threads, cv2.setNumThreads):
            share(realtime.THREADS)

    compare("live, 1 to 3 faces: realtime.py, plain", "frames/s", frames,
            lambda: follow(capture.open_capture(place / "clip.mp4"), loaded), plainly)
    stages = {"grab": [capture.Reader.read], "model": [loaded.predict], "crop": [cropping.crop_frame],
              "detect": [getattr(kind, name) for kind in detectors.DETECTORS.values()
                         for name in ("everywhere", "near", "confirm")],
              "draw": [overlay.draw]}
    for count in (1, 3, 10):
        clip(place / "faces.mp4", pictures, lambda i, count=count: count, frames)
        with cProfile.Profile() as profile:  # of this thread alone, which does all but the reading
            result = follow(capture.open_capture(place / "faces.mp4"), loaded)
        spent = {name: 1000 * seconds_in(profile, functions) / frames for name, functions in stages.items()}
        shares = ", ".join(f"{name} {value:.2f}" for name, value in spent.items())
        often = RATE * result["classified"] / frames / count
        print(f"    {count:>2} face(s), {result['faces']} followed: {1000 * result['seconds'] / frames:.2f} ms per "
              f"frame ({shares}), each labelled {often:.1f} times per second of the clip")


class Endless:
    """Stands in for cv2.VideoCapture: the frames given, over and over, `total` of them; notes memory on the way."""

    def __init__(self, frames, total):
        self.frames, self.total, self.count, self.noted = frames, total, 0, []

    def read(self):
        if self.count == self.total:
            return False, None
        self.count += 1
        if self.count % max(1, self.total // 20) == 0:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            self.noted.append(pages * os.sysconf("SC_PAGE_SIZE") / 1e6)
        return True, self.frames[self.count % len(self.frames)].copy()

    def get(self, name):
        return 0.0  # tells nothing of itself

    def release(self):
        self.frames = []


def hour(place, pictures, frames, weights, total):
    """realtime.py through an hour of frames (`total`): people, nobody, people in the mirror, in turn."""
    clip(place / "clip.mp4", pictures, lambda i: 1 + i * 3 // frames, frames)
    video = cv2.VideoCapture(str(place / "clip.mp4"))
    shown = [video.read()[1] for _ in range(frames)]
    shown += [cv2.GaussianBlur(f, (0, 0), 40) for f in shown[:frames // 5]] + [f[:, ::-1].copy() for f in shown]
    before, endless = threading.active_count(), Endless(shown, total)
    result = follow(endless, realtime.load(weights), place / "faces.csv")
    noted = endless.noted[1:]  # the first note still has what starting took
    rate = result["frames"] / result["seconds"]
    print(f"{result['frames']:,} frames at {rate:.0f} per second, {result['faces']} faces followed; memory "
          f"{noted[0]:.0f} MB after a tenth of them, {noted[-1]:.0f} MB at the end, {min(noted):.0f} to "
          f"{max(noted):.0f} MB between; threads {before} before, {threading.active_count()} after; LOG has "
          f"{(place / 'faces.csv').read_bytes().count(10) - 1:,} rows")
