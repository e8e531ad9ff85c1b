"""CLAHE is a part of the crop: the same in the files, in test.py, for photos and live, by what the weights say."""

import cv2
import numpy as np
import pytest

import clips
import drawn
import model as networks
import photos
import processed
import realtime
import test as step4
from crops import crop_of
from faces import cropping, detectors
from faces.cropping import MARGIN
from learn import classifier, runs
from live import capture, stills, tracks
from strangers import facts
from watching import StandIn, done, play


@pytest.fixture
def photo(tmp_path):
    """A drawn face in warm, poor light, where equalisation shows: (path, uint8 RGB)."""
    picture = (40 + drawn.draw_face(3, "hat") * np.array([0.45, 0.33, 0.25])).astype(np.uint8)
    return photos.save(tmp_path / "x.png", picture), picture


def difference(a, b):
    return np.abs(a.astype(float) - b).mean()


def test_every_way_to_a_crop_gives_the_same_one(photo, tmp_path, monkeypatch):
    path, picture = photo
    box = detectors.get("haar").main_face(picture).box
    plain, expected = (cropping.crop_face(picture, box, MARGIN, limit) for limit in (0.0, 3.0))
    assert difference(plain, expected) > 8, "too little equalisation to test with"

    status, _, _, crops = step4.prepare(path, [(0.2, 3.0), (0.2, 0.0)], "haar")
    assert status == "ok" and np.array_equal(crops[0], expected) and np.array_equal(crops[1], plain)

    seen = []

    def classify(crops):
        seen.extend(crops)
        return np.repeat([[0.1, 0.9]], len(crops), 0)

    classifier = StandIn(classify, clahe=3.0)
    stills.classify(picture, classifier, detectors.get("haar"))
    assert np.array_equal(seen.pop(0), expected)

    seen.clear()
    tracker = tracks.Tracker(classifier)
    track = tracks.Track(1, np.array([*box, 0.0]), 0.0)
    track.confirmed = True
    tracker.tracks = [track]
    tracker.classify(np.ascontiguousarray(picture[:, :, ::-1]), 0.0, 0.03)  # live frames are BGR
    assert np.array_equal(seen[0], expected)

    monkeypatch.setattr(processed, "CLAHE", 3.0)
    assert processed.one_photo(path, tmp_path / "crop.jpg", "haar", "")[:2] == ("kept", "")
    disk = cropping.read_crop(tmp_path / "crop.jpg")
    assert difference(disk, expected) < 2 < 8 < difference(disk, plain), "the file may differ by JPEG's rounding only"
    again, = step4.prepare(tmp_path / "crop.jpg", [(0.2, 3.0)], None).crops
    assert again.tolist() == disk.tolist(), "and not twice"


def test_it_evens_out_light_and_keeps_colours(photo):
    _, picture = photo
    crop = crop_of(picture)
    equal = cropping.equalise(crop, 3.0)
    assert equal.std() > 1.3 * crop.std() and equal.dtype == np.uint8 and equal.shape == crop.shape
    hue = [cv2.cvtColor(c, cv2.COLOR_RGB2LAB)[:, :, 1:] for c in (crop, equal)]
    assert difference(*hue) < 3
    assert cropping.equalise(crop, 0.0) is crop


def test_another_limit_means_other_crops(monkeypatch):
    before = processed.recipe("haar")
    monkeypatch.setattr(processed, "CLAHE", 2.0)
    assert processed.recipe("haar") != before


def test_weights_without_a_limit_have_no_equalisation(tmp_path):
    old = facts(networks.build("small", 2))
    old.pop("clahe", None)
    runs.save_weights(tmp_path / "old.pt", old)
    runs.save_weights(tmp_path / "new.pt", {**old, "clahe": 2.0})
    assert classifier.load_weights(tmp_path / "old.pt")[1]["clahe"] == 0.0
    assert classifier.load_weights(tmp_path / "new.pt")[1]["clahe"] == 2.0
def test_the_live_loop_takes_the_limit_of_the_weights(tmp_path, monkeypatch):
    """A video through realtime.py: whatever the network was given, it was equalised."""
    clips.write_clip(tmp_path / "clip.mp4", clips.frames_of([clips.person("hat", 3)], 12, noise=0.0))
    given, limits, equalise = [], [], cropping.equalise
    monkeypatch.setattr(cropping, "equalise", lambda crop, limit: limits.append(limit) or equalise(crop, limit))
    monkeypatch.setattr(realtime, "SHOW", False)
    network = StandIn(lambda crops: given.extend(crops) or np.repeat([[0.1, 0.9]], len(crops), 0), clahe=3.0)
    play(capture.Reader(str(tmp_path / "clip.mp4")), done(network))
    assert given and limits.count(3.0) == len(given)
