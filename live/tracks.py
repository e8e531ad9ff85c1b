"""Faces over time: found in each frame, followed, classified when due, smoothed. Nothing to run.

One Haar hit says little: the cascade fires on walls too, boxes jump, and a network's answer flickers with the noise.
So hits become tracks, a track is confirmed after several hits and a second look at it, and its box and its
probabilities are averages over time. The surroundings of the known faces are searched in every frame, and the whole
frame, which costs several times as much, a few times a second.
"""

import math
from typing import NamedTuple

import cv2
import numpy as np

from faces import cropping, detectors

# ------------------------------------------------------------------------------------------------
MATCH = 0.3  # least overlap (intersection over union) of a hit with its track
ONE_FACE = 0.6  # overlap from which two hits are one face
CONFIRM_HITS = 3  # hits before a face is labelled
CONFIRM_MISSES = 2  # misses in a row that end a track not yet confirmed
KEEP = 0.5  # seconds that a confirmed face stays without a hit
REFRESH = 0.19  # seconds at most between two classifications of a face: five a second and more
MOST = 6  # classifications in a frame: of a crowd those that have waited longest, so that no frame takes a second
EAGER = 4  # classifications of a new face, or a changed one, in successive frames
AVERAGE = 2.0  # seconds: time constant of the average of the probabilities; someone else starts a new one
RETURN = 5.0  # seconds within which a face that comes back to its place is the same one, with the same number
RETURN_OVERLAP = 0.2  # least overlap of its box with the one that was lost; people move a little meanwhile
SURER = 0.03  # a face becomes sure at the threshold plus this, and unsure below the threshold: no flicker at it
SAME_FACE = 0.75  # least correlation of a face with itself a frame before; less means someone else
SAME_SCENE = 0.6  # least correlation of the frame with the one before; less is a cut
FLAT = 4  # of 255: a contrast that is noise, so that two flat pictures are alike
# ------------------------------------------------------------------------------------------------


def match(tracks, hits):
    """(pairs of a track and its hit, best overlap first, each once; the hits that are no known face's)."""
    order = sorted(((detectors.iou(t.box, h), i, j) for i, t in enumerate(tracks) for j, h in enumerate(hits)),
                   reverse=True)
    pairs, used_tracks, used_hits = [], set(), set()
    for value, i, j in order:
        if value >= MATCH and i not in used_tracks and j not in used_hits:
            used_tracks.add(i)
            # Two tracks that came to follow one face: only one of them has it.
            used_hits |= {k for k, other in enumerate(hits) if detectors.iou(other, hits[j]) > ONE_FACE}
            pairs.append((tracks[i], hits[j]))
    return pairs, [h for j, h in enumerate(hits) if j not in used_hits]


def appearance(gray, box, share=0.15, size=16):
    """What a face, or a frame, looks like, in few numbers: float32 [size * size + 1] of length 1. `gray`: uint8 [H, W].

    The product of two is their correlation, nearly: the last number keeps the noise of a flat picture from counting.
    """
    x0, y0, x1, y1 = detectors.around(box, share, gray.shape)
    if x1 - x0 < 2 or y1 - y0 < 2:
        return np.zeros(size * size + 1, np.float32)
    few = cv2.resize(gray[y0:y1, x0:x1], (size, size), interpolation=cv2.INTER_AREA).astype(np.float32).ravel()
    few = np.append(few - few.mean(), np.float32(FLAT * size))
    return few / np.linalg.norm(few)


class Gone(NamedTuple):
    """A confirmed face that was lost."""

    number: int
    box: np.ndarray
    appearance: np.ndarray
    seen: float  # when last
    shot: int  # between which cuts


class Track:
    """A face over time. `box` is its last hit and `smooth` the one to draw, both (x, y, width, height) in pixels.

    `number` is 0 until it is confirmed.
    """

    def __init__(self, number, hit, now):
        self.number, self.box, self.smooth = number, hit[:4], hit[:4].copy()
        self.roll = float(hit[4])  # degrees
        self.hits, self.misses, self.last_hit, self.confirmed = 1, 0, now, False
        self.appearance = None  # of appearance(), at the last hit
        self.heat = None  # Grad-CAM of the last crop, where it is asked for
        self.label = None  # index of the class; None: unsure, or not classified yet
        self.probabilities = None  # float64 [n_classes], averaged
        self.child = 0.0  # how likely it is a child's face, averaged
        self.classified = -math.inf  # when
        self.seen = 0  # classifications since it was new, or changed

    def hit(self, hit, now):
        """Take a hit. The smooth box follows slowly where the face rests (Haar boxes jump) and fast where it moves."""
        box, self.roll = hit[:4], float(hit[4])
        self.box = box
        moved = np.abs(box - self.smooth).max() / self.smooth[2]
        self.smooth += (box - self.smooth) * min(1.0, 0.2 + 3 * moved)
        self.hits, self.misses, self.last_hit = self.hits + 1, 0, now

    def changed(self):
        """Someone else is here: what was averaged does not count any more."""
        self.seen, self.classified = 0, -math.inf

    def add(self, probabilities, child, now, classifier):
        """Average a classifier's prediction (float [n_classes], and how likely it is a child's face) in, and choose the
        label.
        """
        self.seen += 1
        if self.seen == 1:
            self.fresh, self.child = probabilities.astype(np.float64), float(child)
        else:
            share = max(1 / self.seen, 1 - math.exp((self.classified - now) / AVERAGE))
            self.fresh = self.fresh + (probabilities - self.fresh) * share
            self.child += (float(child) - self.child) * share
        self.classified = now
        if self.seen < min(3, EAGER) and self.probabilities is not None:
            return  # after a change, the old label stays for the two frames that a new average takes
        self.probabilities = self.fresh
        threshold = classifier.threshold
        if self.label != int(self.fresh.argmax()):
            threshold = min(threshold + SURER, max(threshold, 0.99))
        self.label = classifier.label(self.fresh, self.child, threshold)


class Tracker:
    """Finds, follows and classifies the faces of successive frames.

    `classifier`: a learn.classifier.Classifier; None while it still loads. `detector`: see detectors.get(); by default
    Haar's. Others may take their places at any time. `heat`: whether each face gets its Grad-CAM.
    """

    def __init__(self, classifier=None, detector=None):
        self.classifier, self.detector, self.heat = classifier, detector or detectors.Haar(), False
        self.tracks, self.count, self.classifications = [], 0, 0  # count: of different faces so far
        self.gone, self.shot = [], 0  # faces lost within RETURN seconds; cuts so far
        self.scene, self.before, self.searched = None, None, -math.inf
        self.looks = 0  # everywhere, so far

    def step(self, frame, now):
        """Take a BGR frame (uint8 [H, W, 3]) of time `now` (seconds, rising). Returns the confirmed tracks."""
        view = detectors.View(frame)
        small, scale = view.gray, view.scale
        interval = 0.0 if self.before is None else max(0.0, now - self.before)
        self.before = now
        scene = appearance(small, (0, 0, *small.shape[::-1]), 0)
        cut = self.scene is not None and float(scene @ self.scene) < SAME_SCENE
        self.scene = scene
        self.shot += cut

        wait = self.detector.interval_known if any(t.confirmed for t in self.tracks) else self.detector.interval
        full = cut or now - self.searched >= wait - interval / 2
        asked = sorted(self.tracks, key=lambda t: t.last_hit)[:self.detector.followed]
        pairs, new = match(asked, self.detector.near(view, asked))[0], []
        if full:
            self.searched, asked = now, self.tracks
            known = {id(track) for track, _ in pairs}
            more, new = match([t for t in asked if id(t) not in known], self.detector.everywhere(view, self.looks))
            pairs += more
            self.looks += 1
        hit = {id(track) for track, _ in pairs}
        for track, found in pairs:
            track.hit(found, now)
            here = appearance(small, track.smooth * scale)
            alike = float(here @ track.appearance) >= SAME_FACE
            if cut or not alike:
                track.changed()
            if cut and not alike and track.confirmed:
                self.replace(track, here)
            track.appearance = here
        for track in asked:
            if id(track) not in hit:
                track.misses += 1
        kept = [t for t in self.tracks if id(t) in hit or not cut and (
            now - t.last_hit <= KEEP if t.confirmed else t.misses < CONFIRM_MISSES)]
        for track in self.tracks:
            if track.confirmed and track not in kept:
                self.lose(track, self.shot - cut)
        self.tracks, self.gone = kept, [g for g in self.gone if now - g.seen <= RETURN]
        for found in new:
            if all(detectors.inside(found, t.box) < 0.5 for t in self.tracks):
                self.tracks.append(Track(0, found, now))
                self.tracks[-1].appearance = appearance(small, found[:4] * scale)
        for track in self.tracks:
            if not track.confirmed and track.hits >= CONFIRM_HITS and track.misses == 0:
                roll = self.detector.confirm(view, track.box, track.roll)
                if roll is not None:
                    track.confirmed, track.roll, track.number = True, roll, self.number_for(track)
        self.label(frame, now, interval)
        return [t for t in self.tracks if t.confirmed]

    def lose(self, track, shot):
        """Remember a confirmed face that is not there any more."""
        self.gone.append(Gone(track.number, track.box, track.appearance, track.last_hit, shot))

    def replace(self, track, here):
        """After a cut someone else is where a face was: the track goes on under another number, without a label."""
        self.lose(track, self.shot - 1)
        track.appearance, track.label, track.probabilities = here, None, None
        track.number = self.number_for(track)

    def number_for(self, track):
        """The number of a face that was lost here within RETURN seconds, or a new one.

        Between two cuts the place is enough to know it by. After a cut it has to look the same, too.
        """
        here = [g for g in self.gone if detectors.iou(g.box, track.box) >= RETURN_OVERLAP
                and (g.shot == self.shot or float(g.appearance @ track.appearance) >= SAME_FACE)]
        if not here:
            self.count += 1
            return self.count
        known = max(here, key=lambda g: detectors.iou(g.box, track.box))
        self.gone = [g for g in self.gone if g is not known]
        return known.number

    def label(self, frame, now, interval):
        """Classify the confirmed faces that are due, at most MOST in one batch; frames without such cost no network.
        """
        classifier = self.classifier
        if classifier is None:
            return
        due = [t for t in self.tracks if t.confirmed and t.last_hit == now
               and (t.seen < EAGER or now - t.classified + interval > REFRESH)]
        if not due:
            return
        due = sorted(due, key=lambda track: track.classified)[:MOST]
        crops = [cropping.crop_frame(frame, track.box, classifier.margin, classifier.clahe, track.roll)
                 for track in due]
        for track, probabilities, child in zip(due, *classifier.predict(crops), strict=True):
            track.add(probabilities, child, now, classifier)
        if self.heat:
            for track, heat in zip(due, classifier.explain(crops), strict=True):
                track.heat = heat
        self.classifications += len(due)
