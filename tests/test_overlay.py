"""What stands on the picture: texts that keep off faces, letters of any language, blurred faces, twenty people."""

import shutil

import cv2
import numpy as np
import pytest
from matplotlib import font_manager
from PIL import ImageFont

import clips
import realtime
from faces import cropping, detectors
from faces.boxes import iou
from judge import plots
from live import controls, overlay
from terminal import fonts


def rectangles(boxes, texts, shape=(480, 640, 3), size=18):
    """(x, y, width, height) of each plate."""
    return [(x, y, *mask.shape[::-1]) for x, y, mask in overlay.place(boxes, texts, shape, size)]


def crossing(a, b):
    """Whether two rectangles share a pixel."""
    return min(a[0] + a[2], b[0] + b[2]) > max(a[0], b[0]) and min(a[1] + a[3], b[1] + b[3]) > max(a[1], b[1])


def grid(columns, rows, side):
    """Boxes of side `side`, evenly over a frame of 640x480."""
    return [(int(640 * (i + 0.5) / columns - side / 2), int(480 * (j + 0.5) / rows - side / 2), side, side)
            for j in range(rows) for i in range(columns)]


@pytest.mark.parametrize("boxes", [
    [(200, 100, 200, 200)], [(0, 0, 300, 300)], [(100, 0, 480, 470)], [(0, 200, 250, 280)], [(-40, -30, 200, 200)],
    [(500, 300, 200, 200)], [(100, 100, 120, 120), (220, 100, 120, 120), (340, 100, 120, 120)],
    [(100, 100, 120, 120), (100, 225, 120, 120), (100, 350, 120, 120)],
    grid(5, 4, 80), grid(7, 3, 70), grid(10, 2, 50)])
def test_no_text_covers_a_face_or_another_text(boxes):
    plates = rectangles(boxes, ["woman 100%"] * len(boxes))
    for i, plate in enumerate(plates):
        assert plate[0] >= 0 and plate[1] >= 0 and plate[0] + plate[2] <= 640 and plate[1] + plate[3] <= 480
        assert not any(crossing(plate, box) for box in boxes)
        assert not any(crossing(plate, other) for other in plates[:i])
        x, y, w, h = boxes[i]
        assert crossing(plate, (x - 1, y - 1, w + 2, h + 2)) or plate[1] == 0, "it stands beside its own face"
        assert plate[3] >= 9, "it can be read"


def test_where_there_is_no_room_as_little_as_can_be_is_covered():
    plate, = rectangles([(-10, -10, 660, 500)], ["woman 100%"])
    assert plate[3] <= 14 and (plate[1] == 0 or plate[1] + plate[3] == 480)


def test_random_crowds_keep_faces_free():
    rng = np.random.default_rng(0)
    for _ in range(40):
        boxes = []
        while len(boxes) < 12:
            side = int(rng.integers(40, 90))
            box = (int(rng.integers(0, 640 - side)), int(rng.integers(0, 480 - side)), side, side)
            if not any(crossing((box[0] - 24, box[1] - 24, side + 48, side + 48), b) for b in boxes[-1:]) \
                    and all(iou(box, b) == 0 for b in boxes):
                boxes.append(box)
        plates = rectangles(boxes, ["man 99%"] * 12)
        assert sum(crossing(p, b) for p in plates for b in boxes) <= 1


def test_a_face_without_a_text_has_no_plate():
    assert overlay.place([(0, 0, 50, 50)], [""], (480, 640, 3), 18) == [None]


def test_a_blurred_face_is_not_found_and_the_rest_stays():
    picture = cv2.cvtColor(clips.person("hat", 3), cv2.COLOR_RGB2BGR)
    box = [round(v) for v in detectors.get("haar").main_face(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)).box]
    blurred = overlay.blur(picture, [box])
    assert detectors.get("haar").main_face(cv2.cvtColor(blurred, cv2.COLOR_BGR2RGB)) is None
    x, y, w, h = box
    assert np.abs(blurred[y:y + h, x:x + w].astype(int) - picture[y:y + h, x:x + w]).mean() > 5
    outside = np.ones(picture.shape[:2], bool)
    outside[max(0, y - h // 3):y + h + h // 3, max(0, x - w // 3):x + w + w // 3] = False
    np.testing.assert_array_equal(blurred[outside], picture[outside])
    for edge in ((-50, -50, 100, 100), (600, 440, 100, 100), (700, 500, 50, 50)):
        assert overlay.blur(picture, [edge]).shape == picture.shape


@pytest.mark.parametrize("roll", [0.0, 30.0, -50.0, 180.0])
@pytest.mark.parametrize("mirror", [False, True])
def test_grad_cam_lies_on_the_face_as_the_network_saw_it(roll, mirror):
    """Cut out as the network's crop is, the drawn picture shows the heat map: hot above left, cold elsewhere."""
    box, frame = (250, 150, 120, 120), np.full((480, 640, 3), 120, np.uint8)
    heat = np.zeros((224, 224), np.float32)
    heat[:112, :112] = 1
    picture = overlay.draw(frame, [(box, "", 0, heat, roll)], mirror=mirror, margin=0.2)
    if mirror:
        picture = picture[:, ::-1].copy()
    crop = cropping.crop_face(picture, box, 0.2, roll=roll).astype(int)
    warm = cv2.blur((crop[:, :, 2] - crop[:, :, 0]).astype(np.float32), (25, 25))
    assert warm[60, 60] > 20 > -20 > max(warm[60, 164], warm[164, 60], warm[164, 164])
    assert (picture[:20] == 120).all()


def test_letters_are_told_from_missing_ones():
    font = ImageFont.load_default(20)
    assert fonts.has(font, "Mujer 93%") and not fonts.has(font, "niña") and not fonts.has(font, "男")


def test_class_names_of_most_alphabets_have_a_font():
    """matplotlib brings one that has them."""
    for text in ("niña 93%", "امرأة", "γυναίκα", "мужчина"):
        path = fonts.find(text)
        assert path is not None and fonts.has(ImageFont.truetype(path, 20), text)
        assert overlay.text_mask(text, 20).max() == 255
    assert fonts.find("woman 93%") is None


def test_letters_without_a_font_are_said_once(monkeypatch, capsys):
    monkeypatch.setattr(fonts, "installed", lambda: ["/nowhere/gone.ttf"])
    fonts.search.cache_clear()
    assert fonts.find("女 93%") is fonts.find("女 94%") is None
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and "FONT=" in said and "女" in said
    fonts.search.cache_clear()


def test_the_font_that_was_chosen_counts(tmp_path):
    other = next(path for path in fonts.installed() if "DejaVuSans" in path)
    try:
        fonts.choose(other)
        assert fonts.find("woman") == other
    finally:
        fonts.choose(None)
    (tmp_path / "a.ttf").write_text("no font")
    with pytest.raises(SystemExit, match="FONT="):
        fonts.choose(tmp_path / "a.ttf")


@pytest.mark.parametrize("shape", [(60, 80), (480, 640), (2160, 3840), (400, 50)])
@pytest.mark.parametrize("mirror", [False, True])
def test_no_text_leaves_the_frame(shape, mirror):
    height, width = shape
    frame = np.zeros((*shape, 3), np.uint8)
    for x, y in ((-20, -20), (width - 20, height - 20), (width // 2, -30), (0, height - 5)):
        picture = overlay.draw(frame, [((x, y, 40, 40), "HOMBRE ñandú 100%", 0, None, 0.0)], mirror)
        assert picture.shape == frame.shape and picture.any()


@pytest.mark.parametrize("shape", [(250, 250), (240, 320), (480, 640), (1364, 720), (1440, 2560), (400, 50), (48, 64)])
def test_lines_stand_beneath_the_picture_on_one_plate(shape):
    """So that they cover nobody, can be read on small frames, and lack no word on narrow ones."""
    picture = np.random.default_rng(0).integers(0, 255, (*shape, 3), np.uint8)
    shown = overlay.caption(picture, [controls.CLIP_HELP, "31 frames/s"])
    times = max(1, min(-(-480 // shape[1]), 1200 // shape[0]))
    height, width = shape[0] * times, shape[1] * times
    assert shown.shape[1] == width and (times > 1 or np.array_equal(shown[:height], picture))
    beneath = shown[height:]
    assert len(beneath) >= 2 * 13 and (beneath[:, -1] == overlay.NOTE_COLOUR[::-1]).all()
    size = overlay.caption_size((height, width))
    pieces = list(overlay.broken(controls.CLIP_HELP, width, size))
    assert "".join(pieces).replace(" ", "") == controls.CLIP_HELP.replace(" ", "")
    assert all(overlay.text_mask(piece, size).shape[1] <= width for piece in pieces if " " in piece)
    assert overlay.caption(None, ["there is no camera 0 " * 9]).shape == (480, 640, 3)


def test_all_lines_are_equally_high():
    """A window whose height changed with each word would tremble."""
    texts = ["no face", "3 man, 1 woman", "eau", *map(chr, range(33, 127))]
    for size in range(9, 40):
        assert len({len(overlay.text_mask(text, size)) for text in texts}) == 1, size


def test_words_of_small_letters_stand_apart():
    for size in (9, 10, 11, 13, 18):
        columns = np.flatnonzero(overlay.text_mask("31 frames/s", size).any(0))
        assert np.diff(columns).max() > size / 4, size


def test_a_class_has_its_colour_and_its_text(monkeypatch):
    monkeypatch.setattr(realtime, "LABELS", {"woman": "MUJER"})
    text_of = realtime.controls_of(False).text_of
    assert text_of(1, 0.934, ["man", "woman"]) == "MUJER 93%"
    assert text_of(0, 0.7, ["man", "woman"]) == "man 70%" and text_of(None, 0.5, []) == "unsure"
    frame = np.zeros((100, 100, 3), np.uint8)
    for index in (0, 1):
        edge = overlay.draw(frame, [((20, 30, 40, 40), "", index, None, 0.0)])[70, 40]
        assert tuple(edge[::-1]) == overlay.COLOURS[index]


def test_a_font_that_was_installed_since_is_found(tmp_path, monkeypatch):
    """matplotlib's list of fonts is of before."""
    path = shutil.copy(font_manager.findfont("DejaVu Sans"), tmp_path / "New.ttf")
    manager = font_manager.fontManager
    without = [f for f in manager.ttflist if f.name.startswith(("cm", "STIXSiz"))]
    assert without
    monkeypatch.setattr(manager, "ttflist", without)
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda *_: [str(path), str(tmp_path / "none.ttf")])
    fonts.search.cache_clear()
    assert fonts.find("жена") == str(path)
    fonts.search.cache_clear()
    assert plots.families_with("ж") == ["DejaVu Sans"]
