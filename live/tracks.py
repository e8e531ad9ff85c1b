"""Tracks faces over time: detection, association, classification at intervals, smoothing. Nothing to run.

A single detection is unreliable: Haar's cascade fires on walls too, boxes jump, and predictions flicker. So a track is
confirmed after several detections and a verification, and its box and its probabilities are averages over time. The
surroundings of known faces are searched in every frame; the whole frame, which costs far more, a few times a second.
"""

import copy
import math
from typing import NamedTuple

import cv2
import numpy as np

from faces import cropping, detectors
from faces.boxes import around, inside, iou

# ------------------------------------------------------------------------------------------------
MATCH = 0.3  # minimum intersection over union (IoU) of a detection with its track
ONE_FACE = 0.6  # IoU from which two detections are one face
CONFIRM_DETECTIONS = 3  # detections before a face can be confirmed and labelled
CONFIRM_MISSES = 2  # misses in a row that end an unconfirmed track
KEEP = 0.5  # seconds that a confirmed face stays without a detection
REFRESH = 0.19  # maximum seconds between two classifications of a face: at least five per second
MAX_PER_FRAME = 6  # maximum classifications in a frame, so that a crowd does not slow it down; longest wait first
EAGER = 4  # classifications of a new or changed face in successive frames
ENOUGH = 3  # classifications after which a new average replaces the old one
AVERAGE = 2.0  # seconds: time constant of the average of the probabilities; another person starts a new average
RETURN = 5.0  # seconds within which a face that returns to its place keeps its number
RETURN_OVERLAP = 0.2  # minimum IoU of its box with the lost one; people move a little meanwhile
SURER = 0.03  # hysteresis: a face becomes sure at the threshold plus this, and unsure below the threshold
SAME_PERSON = 0.75  # minimum correlation of a face with the same face one frame before; less means another person
SAME_SCENE = 0.6  # minimum correlation of a frame with the one before; less means a cut
FLAT = 4  # of 255: contrast of mere noise, so that two flat pictures count as equal
SIDE = 16  # pixels of the copy that appearance() describes
# ------------------------------------------------------------------------------------------------


def match(tracks, found):
    """(pairs (track, detection), best IoU first, each once; the detections without a track). `found`: the detections,
    float64 [N, 5]: x, y, width, height in pixels, and roll in degrees."""
    overlaps = [(iou(t.box, f), i, j) for i, t in enumerate(tracks) for j, f in enumerate(found)]
    pairs, used_tracks, used = [], set(), set()  # used: detections
    for overlap, i, j in sorted(overlaps, reverse=True):
        if overlap >= MATCH and i not in used_tracks and j not in used:
            used_tracks.add(i)
            # Two tracks may have moved to one face: only one of them gets it.
            used |= {k for k, other in enumerate(found) if iou(other, found[j]) > ONE_FACE}
            pairs.append((tracks[i], found[j]))
    return pairs, [f for j, f in enumerate(found) if j not in used]


def appearance(gray, box, share=0.15):
    """A descriptor of a face, or a frame: float32 [SIDE * SIDE + 1] of unit length. `gray`: uint8 [H, W]; `box`: x, y,
    width, height; `share`: of its sides, which is added around it.

    The product of two is nearly their correlation; the last number keeps the noise of flat pictures from counting.
    """
    x0, y0, x1, y1 = around(box, share, gray.shape)
    if x1 - x0 < 2 or y1 - y0 < 2:
        return np.zeros(SIDE * SIDE + 1, np.float32)
    pixels = cv2.resize(gray[y0:y1, x0:x1], (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32).ravel()
    pixels = np.append(pixels - pixels.mean(), np.float32(FLAT * SIDE))
    return pixels / np.linalg.norm(pixels)


class LabelledFace(NamedTuple):
    """A face of a clip or a photo, for drawing and logging."""

    number: int
    box: tuple  # x, y, width, height, pixels
    roll: float  # degrees
    label: int | None  # index of the class; None: unsure
    confidence: float | None  # None: not classified yet
    heat: np.ndarray | None = None  # Grad-CAM of its crop, float32 [S, S], 0..1


class Track:
    """A face over time. `box` is its last detection and `smooth` the one to draw, both (x, y, width, height) in pixels;
    `number` is 0 until it is confirmed.
    """

    def __init__(self, number, detection, now):
        self.number, self.box, self.smooth = number, detection[:4], detection[:4].copy()
        self.roll = float(detection[4])  # degrees
        self.detections, self.misses, self.detected, self.confirmed = 1, 0, now, False  # detected: time of the last one
        self.appearance = None  # returned by appearance(), at the last detection
        self.heat = None  # Grad-CAM of the last crop, if Tracker.heat
        self.label = None  # index of the class; None: unsure, or not classified yet
        self.probabilities = None  # float64 [n_classes], averaged
        self.fresh = None  # the current average; it becomes `probabilities` after ENOUGH
        self.child = 0.0  # probability that it is a child's face, averaged
        self.classified = -math.inf  # time of the last classification
        self.averaged = 0  # classifications in the current average
        self.shot = 0  # of a lost face: the number of cuts before it was lost

    def face(self):
        """The LabelledFace, for drawing and logging."""
        confidence = None if self.probabilities is None else float(self.probabilities.max())
        return LabelledFace(self.number, self.smooth, self.roll, self.label, confidence, self.heat)

    def update(self, detection, now):
        """Add a detection. The smooth box follows slowly while the face is still, since boxes jump, else fast."""
        self.box, self.roll = detection[:4], float(detection[4])
        moved = np.abs(self.box - self.smooth).max() / self.smooth[2]
        self.smooth += (self.box - self.smooth) * min(1.0, 0.2 + 3 * moved)
        self.detections, self.misses, self.detected = self.detections + 1, 0, now

    def stays(self, now):
        """Whether the face stays, although it has not been detected at time `now`."""
        return now - self.detected <= KEEP if self.confirmed else self.misses < CONFIRM_MISSES

    def add(self, probabilities, child, now, classifier):
        """Add a prediction (float [n_classes], and the probability of a child) to the average, and choose the label."""
        self.averaged += 1
        if self.averaged == 1:
            self.fresh, self.child = probabilities.astype(np.float64), float(child)
        else:
            share = max(1 / self.averaged, 1 - math.exp((self.classified - now) / AVERAGE))
            self.fresh = self.fresh + (probabilities - self.fresh) * share
            self.child += (float(child) - self.child) * share
        self.classified = now
        if self.averaged < ENOUGH and self.probabilities is not None:
            return  # the old label stays until then
        self.probabilities = self.fresh
        threshold = classifier.threshold
        if self.label != int(self.fresh.argmax()):  # hysteresis; not above 0.99, unless the threshold is
            threshold = min(threshold + SURER, max(threshold, 0.99))
        self.label = classifier.label(self.fresh, self.child, threshold)


class Tracker:
    """Detects, tracks and classifies the faces of successive frames.

    `classifier`: a learn.classifier.Classifier; None while it loads. `detector`: see detectors.get(); by default
    Haar's. Both may be replaced at any time. `heat`: whether each face gets its Grad-CAM.
    """

    def __init__(self, classifier=None, detector=None):
        self.classifier, self.detector, self.heat = classifier, detector or detectors.Haar(), False
        self.tracks, self.count, self.classifications = [], 0, 0  # count: of different faces so far
        self.gone, self.shot = [], 0  # copies of the confirmed tracks lost in the last RETURN seconds; cuts so far
        self.scene, self.before = None, math.inf  # appearance() and time of the previous frame
        self.last_search, self.searches = -math.inf, 0  # time of the last search of a whole frame; their number

    def step(self, frame, now, brief=False):
        """Process a BGR frame (uint8 [H, W, 3]) at time `now` (seconds, rising). Returns the confirmed tracks.

        `brief`: the source has fewer frames than CONFIRM_DETECTIONS, so one detection is enough, as in a photo.
        """
        view = detectors.View(frame)
        interval = max(0.0, now - self.before)
        self.before = now
        cut = self.is_cut(view)
        if cut:
            self.shot += 1
        pairs, searched, new = self.detect(view, now, interval, cut)
        for track, detection in pairs:
            self.update(track, detection, view, now, cut)
        self.remove_lost(searched, {track for track, _ in pairs}, now, cut)
        self.add_new(new, view, now)
        self.confirm(view, 1 if brief else CONFIRM_DETECTIONS)
        self.classify(frame, now, interval)
        return [track for track in self.tracks if track.confirmed]

    def is_cut(self, view):
        """Whether a detectors.View shows another scene than the frame before."""
        scene = appearance(view.gray, (0, 0, *view.gray.shape[::-1]), 0)
        before, self.scene = self.scene, scene
        return before is not None and float(scene @ before) < SAME_SCENE

    def detect(self, view, now, interval, cut):
        """Detect the known faces, and all faces if it is time for that, or after a `cut`. `interval`: seconds since the
        frame before.

        Returns (pairs (track, detection), the tracks that were searched for, the detections without a track).
        """
        # Not more tracks than the detector follows, those first whose last detection is the oldest.
        searched = sorted(self.tracks, key=lambda track: track.detected)[:self.detector.followed]
        pairs, _ = match(searched, self.detector.detect_near(view, searched))
        any_confirmed = any(track.confirmed for track in self.tracks)
        wait = self.detector.interval_known if any_confirmed else self.detector.interval
        if not cut and now - self.last_search < wait - interval / 2:
            return pairs, searched, []
        matched = {track for track, _ in pairs}
        others = [track for track in self.tracks if track not in matched]
        more, new = match(others, self.detector.detect(view, self.searches))
        self.last_search, self.searches = now, self.searches + 1
        return pairs + more, self.tracks, new

    def update(self, track, detection, view, now, cut):
        """Add a detection to its track, which may be of another person now: then a new average starts."""
        track.update(detection, now)
        here = appearance(view.gray, track.smooth * view.scale)
        alike = float(here @ track.appearance) >= SAME_PERSON
        if cut or not alike:
            track.averaged, track.classified = 0, -math.inf
        if cut and not alike and track.confirmed:
            self.replace(track, here)
        track.appearance = here

    def remove_lost(self, searched, matched, now, cut):
        """Count the misses of the tracks that were `searched` for and not `matched`, and remove those that do not stay;
        after a cut, all of them."""
        for track in searched:
            if track not in matched:
                track.misses += 1
        kept = [track for track in self.tracks if track in matched or (not cut and track.stays(now))]
        for track in self.tracks:
            if track.confirmed and track not in kept:
                self.lose(track, cut)
        self.tracks, self.gone = kept, [track for track in self.gone if now - track.detected <= RETURN]

    def add_new(self, detections, view, now):
        """Start a track for each detection that lies in no known face."""
        for detection in detections:
            if all(inside(detection, track.box) < 0.5 for track in self.tracks):
                track = Track(0, detection, now)
                track.appearance = appearance(view.gray, detection[:4] * view.scale)
                self.tracks.append(track)

    def confirm(self, view, needed):
        """Verify the faces that have been detected `needed` times, and number those that are faces."""
        for track in self.tracks:
            if not track.confirmed and track.detections >= needed and track.misses == 0:
                roll = self.detector.verify(view, track.box, track.roll)
                if roll is not None:
                    track.confirmed, track.roll, track.number = True, roll, self.number_for(track)

    def lose(self, track, cut):
        """Remember a confirmed face that has disappeared; with `cut`, before that cut."""
        lost = copy.copy(track)
        lost.shot = self.shot - 1 if cut else self.shot
        self.gone.append(lost)

    def replace(self, track, here):
        """After a cut another person is in the place of a face: the track continues with a new number and no label."""
        self.lose(track, cut=True)
        track.appearance, track.label, track.probabilities = here, None, None
        track.number = self.number_for(track)

    def number_for(self, track):
        """The number of a face that was lost here in the last RETURN seconds, or a new one. After a cut, the face must
        also look the same.
        """
        here = [g for g in self.gone if iou(g.box, track.box) >= RETURN_OVERLAP
                and (g.shot == self.shot or float(g.appearance @ track.appearance) >= SAME_PERSON)]
        if not here:
            self.count += 1
            return self.count
        known = max(here, key=lambda g: iou(g.box, track.box))
        self.gone = [g for g in self.gone if g is not known]
        return known.number

    def classify(self, frame, now, interval):
        """Classify the confirmed faces that are due, at most MAX_PER_FRAME in one batch. `interval`: seconds since the
        frame before."""
        classifier = self.classifier
        due = [t for t in self.tracks if t.confirmed and t.detected == now
               and (t.averaged < EAGER or now - t.classified + interval > REFRESH)]
        if classifier is None or not due:
            return
        due = sorted(due, key=lambda track: track.classified)[:MAX_PER_FRAME]
        crops = [cropping.crop_frame(frame, track.box, classifier.margin, classifier.clahe, track.roll)
                 for track in due]
        for track, probabilities, child in zip(due, *classifier.predict(crops), strict=True):
            track.add(probabilities, child, now, classifier)
        if self.heat:
            for track, heat in zip(due, classifier.explain(crops), strict=True):
                track.heat = heat
        self.classifications += len(due)
