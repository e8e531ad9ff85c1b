"""tracks.py: what is followed, what is labelled, and what is smoothed away."""


import cv2
import numpy as np
import pytest

import clips
from faces import haar
from faces.boxes import inside, iou
from live import tracks
from watching import StandIn, by_brightness, detects

FRAME = np.zeros((480, 640, 3), np.uint8)
BOX = (200, 100, 120, 120)


def new_tracker(classify=lambda crops: np.full((len(crops), 2), 0.5), threshold=0.0):
    """A Tracker with a stand-in for the network."""
    return tracks.Tracker(StandIn(classify, threshold=threshold))


def run(tracker, boxes_by_frame, answers=None, rate=30):
    """Step through frames whose detections are given in the frame's pixels; returns the labels shown after each."""
    labels = []
    for i, boxes in enumerate(boxes_by_frame):
        detects(tracker, boxes)
        if answers is not None:
            tracker.classifier.answer = lambda crops, p=answers[i]: np.repeat([[p, 1 - p]], len(crops), 0)
        labels.append([t.label for t in tracker.step(FRAME, i / rate)])
    return labels


def test_overlap_against_a_count_of_pixels():
    rng = np.random.default_rng(0)
    for _ in range(50):
        a, b = (np.r_[rng.integers(0, 30, 2), rng.integers(1, 30, 2)] for _ in range(2))
        masks = np.zeros((2, 70, 70), bool)
        for mask, (x, y, w, h) in zip(masks, (a, b), strict=True):
            mask[y:y + h, x:x + w] = True
        both = (masks[0] & masks[1]).sum()
        assert iou(a, b) == pytest.approx(both / (masks[0] | masks[1]).sum())
        assert inside(a, b) == pytest.approx(both / min(m.sum() for m in masks))


def test_a_lone_detection_is_never_labelled():
    tracker = new_tracker()
    shown = run(tracker, [[BOX]] + [[]] * 20, [0.9] * 21)
    assert shown == [[]] * 21 and tracker.classifications == 0


def test_detections_that_jump_about_are_never_labelled():
    tracker = new_tracker()
    shown = run(tracker, [[(130 * (i % 4), 90 * (i % 3), 100, 100)] for i in range(40)], [0.9] * 40)
    assert not any(shown) and tracker.classifications == 0


def test_confirmed_after_several_hits_and_kept_through_a_short_miss():
    tracker = new_tracker(threshold=0.6)
    shown = run(tracker, [[BOX]] * 10 + [[]] * 8 + [[BOX]] * 5 + [[]] * 30, [0.9] * 53)
    assert shown[0] == shown[1] == [] and shown[tracks.CONFIRM_DETECTIONS - 1] == [0]
    assert all(s == [0] for s in shown[3:23])
    assert shown[-1] == [] and tracker.count == 1


@pytest.mark.parametrize("rate", [10, 24, 30, 60, 240])
def test_a_label_is_refreshed_five_times_a_second_but_not_in_each_frame(rate):
    tracker, seconds = new_tracker(), 6
    run(tracker, [[BOX]] * (rate * seconds), [0.9] * (rate * seconds), rate)
    count = tracker.classifications
    assert 5 * (seconds - 1) <= count <= 10 * seconds


def test_all_faces_of_a_frame_are_one_batch():
    sizes = []
    tracker = new_tracker(classify=lambda crops: sizes.append(len(crops)) or np.full((len(crops), 2), 0.5))
    run(tracker, [[(20, 50, 100, 100), (250, 60, 110, 110), (450, 70, 90, 90)]] * 6)
    assert set(sizes) == {3} and tracker.count == 3


def test_of_a_crowd_a_few_are_classified_in_each_frame_and_each_in_its_turn():
    sizes, boxes = [], [(60 * i, 80 * j, 50, 50) for i in range(5) for j in range(4)]
    tracker = new_tracker(classify=lambda crops: sizes.append(len(crops)) or np.full((len(crops), 2), 0.5))
    shown = run(tracker, [boxes] * 60)[-1]
    assert len(shown) == 20 and max(sizes) == tracks.MAX_PER_FRAME
    assert all(t.averaged >= tracks.EAGER and 59 / 30 - t.classified < 0.3 for t in tracker.tracks)


def test_unsure_below_the_threshold():
    tracker = new_tracker(threshold=0.8)
    assert run(tracker, [[BOX]] * 8, [0.7] * 8)[-1] == [None]
    assert run(new_tracker(threshold=0.8), [[BOX]] * 8, [0.9] * 8)[-1] == [0]


def test_a_child_is_unsure_once_the_network_guesses_it():
    tracker = new_tracker(threshold=0.6)
    detects(tracker, [BOX])
    for child, label in ((0.9, None), (0.2, 0)):
        tracker.classifier.answer = lambda crops, child=child: (np.array([[0.9, 0.1]]), np.array([child]))
        for i in range(90):
            shown = tracker.step(FRAME, (i if label is None else 90 + i) / 30)
        assert [t.label for t in shown] == [label]


def test_flips_of_a_noisy_answer_fall_to_a_tenth():
    rng = np.random.default_rng(0)
    answers = np.clip(rng.normal(0.62, 0.25, 1800), 0.01, 0.99)  # a minute at 30 frames a second
    shown = [s[0] for s in run(new_tracker(), [[BOX]] * 1800, answers) if s]
    plain = np.count_nonzero(np.diff(answers > 0.5))
    smooth = sum(a != b for a, b in zip(shown, shown[1:], strict=False))
    assert plain > 100 and smooth <= plain / 10


def test_boxes_are_smoothed_but_follow():
    rng = np.random.default_rng(0)
    still = [np.array(BOX) + rng.integers(-5, 6, 4) for _ in range(60)]
    tracker, shown = new_tracker(), []
    for i, box in enumerate(still):
        detects(tracker, [box])
        shown += [t.smooth.copy() for t in tracker.step(FRAME, i / 30)]
    assert np.diff(shown, axis=0)[5:].std() < 0.6 * np.diff(still, axis=0).std()
    place, = haar.upright_detections(np.array([BOX], float))
    track = tracks.Track(1, place, 0)
    for i in range(1, 30):
        track.update(place + (8 * i, 0, 0, 0, 0), i / 30)
    assert abs(track.smooth[0] - track.box[0]) < 20


def test_someone_else_after_a_cut_shows_within_half_a_second():
    light, dark = clips.person("hat", 1), (clips.person("beard", 2) * 0.4).astype(np.uint8)
    light = np.clip(light * 0.5 + 130, 0, 255).astype(np.uint8)
    frames = [*clips.frames_of([light], 45, 1, 0), *clips.frames_of([dark], 45, 1, 0)]
    tracker = new_tracker(classify=by_brightness)
    shown = [[t.label for t in tracker.step(frame, i / 30)] for i, frame in enumerate(frames)]
    assert shown[44] == [1]
    assert [0] in shown[45:60] and all(s == [0] for s in shown[60:])


def test_no_label_on_pictures_without_people():
    tracker, labelled = new_tracker(classify=by_brightness), []
    moment = 0
    for seed in range(60):
        picture = clips.scene(seed)
        for _ in range(4):  # still long enough to be confirmed, were it taken for a face
            labelled += tracker.step(picture, moment / 30)
            moment += 1
    assert not labelled


def test_frames_of_any_size():
    for height, width in ((48, 64), (90, 1000), (1000, 120), (1080, 1920)):
        tracker = new_tracker(classify=by_brightness)
        image = cv2.resize(clips.scene(3), (width, height))
        for i in range(5):
            tracker.step(image, i / 30)


def test_no_label_on_real_pictures_without_people():
    """Views of a palace and of a flower, the two photos that come with scikit-learn."""
    pictures = pytest.importorskip("sklearn.datasets").load_sample_images().images
    rng, tracker, labelled = np.random.default_rng(0), new_tracker(classify=by_brightness), []
    grain = [rng.normal(0, 3, (*clips.SIZE[::-1], 3)) for _ in range(6)]
    for view in range(40):
        picture, size = pictures[view % 2], rng.uniform(0.25, 0.95)
        height, width = int(427 * size), int(640 * size)
        y, x = rng.integers(0, 427 - height), rng.integers(0, 640 - width)
        frame = cv2.resize(picture[y:y + height, x:x + width, ::-1], clips.SIZE)
        for i in range(6):
            labelled += tracker.step(cv2.add(frame, grain[i], dtype=cv2.CV_8U), view + i / 30)
    assert not labelled
