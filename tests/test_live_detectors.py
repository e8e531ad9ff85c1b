"""Faces of frames: with YuNet small and tilted faces are followed, nobody is seen where nobody is.

Where YuNet's model is not in weights/ (python -m faces.yunet), the tests that need it are skipped.
"""

import itertools
import math
import time
from concurrent.futures import Future

import cv2
import numpy as np
import pytest

import clips
from faces import cropping, detectors, reading, yunet
from faces.boxes import iou
from live import controls, player, results, stills, tracks, window
from test_detectors import needs_model
from watching import Camera, StandIn, loading, reader_of

WIDER = 0.45  # margin of the cut heads


def heads():
    """Square cuts around upright faces, a photo's and two drawn ones: uint8 [300, 300, 3]."""
    photos = [reading.read_photo(stills.portrait()), clips.person("hat", 3), clips.person("beard", 4)]
    faces = [detectors.get("yunet").main_face(photo) for photo in photos]
    return [cropping.crop_face(photo, face.box, WIDER, roll=face.roll, size=300)[:, :, ::-1]  # RGB becomes BGR
            for photo, face in zip(photos, faces, strict=True)]


def paste(frame, head, x, y, side, roll):
    """Put a head into a frame, its middle at (x, y), `side` pixels wide and tilted by `roll` degrees."""
    scale, turn = side / len(head), math.radians(roll)
    cos, sin = scale * math.cos(turn), scale * math.sin(turn)
    reach = side * 0.71 + 10  # half of its diagonal, and the mask's soft edge
    left, top = max(0, int(x - reach)), max(0, int(y - reach))
    part = frame[top:int(y + reach), left:int(x + reach)]
    there = np.array([[cos, -sin, 0], [sin, cos, 0]])
    there[:, 2] = np.array((x - left, y - top)) - there[:, :2] @ np.full(2, len(head) / 2)
    shape = part.shape[1::-1]
    mask = cv2.GaussianBlur(cv2.warpAffine(np.full(head.shape[:2], 1, np.float32), there, shape), (0, 0), 2)
    part[:] = part * (1 - mask[:, :, None]) + cv2.warpAffine(head, there, shape) * mask[:, :, None]


def follow(people, count=36, seed=0, move=(10, 8)):
    """Shares of frames, from the tenth on, in which each of `people` (head, side of the face, roll, x, y) is followed
    and labelled, the rolls measured, and the tracks that are nobody. `move`: pixels that they move each way."""
    rng, share = np.random.default_rng(seed), 1 / (1 + 2 * WIDER)
    back = cv2.GaussianBlur(clips.scene(8 * (seed + 1)), (0, 0), 9)
    tracker = tracks.Tracker(StandIn(lambda crops: np.full((len(crops), 2), 0.5), threshold=0.4), yunet.YuNet())
    noise = rng.normal(0, 3, (back.shape[0] + count, *back.shape[1:]))  # each frame has another part of it
    seen, rolls, nobody = np.zeros(len(people)), [[] for _ in people], 0
    for i in range(count):
        frame, places = back.copy(), []
        for k, (head, side, roll, x, y) in enumerate(people):
            u, v = x + move[0] * math.sin(i / 12 + k), y + move[1] * math.cos(i / 15 + k)
            paste(frame, head, u, v, side / share, roll)
            places.append((u - side / 2, v - side / 2, side, side))
        shown = tracker.step(cv2.add(frame, noise[i:i + len(frame)], dtype=cv2.CV_8U), i / 30)
        for k, place in enumerate(places):
            here = [t for t in shown if iou(t.box, place) > 0.3]
            if here and here[0].label is not None and i >= 9:
                seen[k] += 1
                rolls[k].append(here[0].roll)
        nobody += sum(all(iou(t.box, place) < 0.1 for place in places) for t in shown)
    return seen / (count - 9), [np.median(r) if r else math.nan for r in rolls], nobody


@needs_model
def test_faces_of_40_to_200_pixels_are_followed_and_labelled_upright_and_tilted():
    cuts = heads()
    shares, nobody = [], 0
    for side, roll in itertools.product((40, 64, 110, 200), (0, 30, -30)):
        share, rolls, ghosts = follow([(cuts[0], side, roll, 320, 240)], seed=side % 7)
        assert abs(rolls[0] - roll) < 15, (side, roll, rolls)
        shares += share.tolist()
        nobody += ghosts
    assert np.mean(shares) >= 0.97 and min(shares) >= 0.8 and nobody == 0, shares


@needs_model
def test_five_faces_at_once():
    cuts = heads()
    people = [(cuts[k % 3], side, roll, 640 * (k + 0.5) / 5, 240)
              for k, (side, roll) in enumerate(((60, 0), (80, 20), (48, 0), (70, -20), (90, 0)))]
    share, _, nobody = follow(people)
    assert share.mean() >= 0.97 and nobody == 0, share


@needs_model
@pytest.mark.parametrize(("side", "x", "y"), [(1080, 320, 240), (1250, 320, 240), (200, 12, 240), (90, 320, 475),
                                              (90, 635, 240)])
def test_faces_larger_than_the_frame_or_cut_by_its_edge_are_followed(side, x, y):
    share, _, nobody = follow([(heads()[0], side, 0, x, y)], 30, move=(2, 2))
    assert share[0] >= 0.8 and nobody == 0


@needs_model
def test_nobody_is_seen_where_nobody_is():
    for seed in range(40):
        scene = clips.scene(seed)
        tracker = tracks.Tracker(detector=yunet.YuNet())
        assert not any(tracker.step(scene, i / 30) for i in range(8)), seed


@needs_model
def test_yunet_takes_over_when_it_is_there_and_the_window_does_not_wait():
    detector, names = Future(), []
    reader = reader_of(0, Camera(0), 0.0)
    playing = player.Player(reader, loading(), controls.Controls(), results.Results(), detector,
                            window.Window(False))
    for i, frame in enumerate(clips.frames_of([clips.person("hat", 3)], 6)):
        if i == 3:
            detector.set_result(detectors.get("yunet"))
        playing.step(frame, i / 24, time.perf_counter())
        names.append(playing.tracker.detector.name)
    reader.close()
    assert names == ["haar"] * 3 + ["yunet"] * 3
