"""The pictures of test.py: bounded with many classes, and with every name in letters that the machine has."""

import time

import cv2
import matplotlib
import numpy as np
import pytest
from matplotlib import font_manager

from conftest import DPI
from judge import plots, report
from terminal import fonts


@pytest.fixture(autouse=True)
def sharp(monkeypatch):
    """Plots as users get them."""
    monkeypatch.setattr(plots, "DPI", DPI)


@pytest.fixture
def drawn(monkeypatch):
    """The figures that report.py saves, by file name."""
    figures = {}
    monkeypatch.setattr(report, "save", lambda fig, path: figures.update({path.name: fig}) or plots.save(fig, path))
    return figures


def answers(n_classes, n=2000):
    """Made-up probabilities [n, n_classes], labels [n] and class names."""
    rng = np.random.default_rng(3)
    labels = np.arange(n) % n_classes
    probabilities = rng.random((n, n_classes))
    probabilities[np.arange(n), labels] += 0.6
    return probabilities / probabilities.sum(1, keepdims=True), labels, [f"class {i}" for i in range(n_classes)]


def texts(fig):
    return [text.get_text() for text in fig.findobj(matplotlib.text.Text) if text.get_text()]


@pytest.mark.parametrize("n", [12, 200])
def test_pictures_of_many_classes_stay_small_and_quick(n, drawn, tmp_path):
    """One number per cell took 50 s and 3 GB for 100 classes, and four times that for 200."""
    probabilities, labels, classes = answers(n)
    confusion = np.zeros((n, n), int)
    np.add.at(confusion, (labels, probabilities.argmax(1)), 1)
    rows = [{"group": f"20-29, {name}", "n": 30, "accuracy": 0.5, "accuracy_ci": (0.4, 0.6)} for name in classes]
    began = time.process_time()
    report.confusion_matrix(tmp_path / "confusion.png", confusion, classes)
    report.roc(tmp_path / "roc.png", probabilities, labels, classes)
    report.groups(tmp_path / "groups.png", dict.fromkeys(["age", "ethnicity", "age_class", "ethnicity_class"], rows))
    assert time.process_time() - began < 15, "some two seconds on a machine with nothing else to do"
    for name, fig in drawn.items():
        assert max(cv2.imread(str(tmp_path / name)).shape) < 3600 and len(texts(fig)) < 400
    counts = [text for text in texts(drawn["confusion.png"]) if "%" in text]
    assert len(counts) == (n * n if n <= 12 else 0)
    legend = [text.get_text() for text in drawn["roc.png"].axes[0].get_legend().get_texts()]
    assert len(legend) <= 10 and (n < 100 or f"{n - 8} classes with larger areas" in legend)


def test_pictures_are_sharp_and_pdf_where_the_name_says_so(tmp_path):
    probabilities, labels, classes = answers(2)
    report.roc(tmp_path / "a.png", probabilities, labels, classes)
    report.roc(tmp_path / "a.pdf", probabilities, labels, classes)
    assert cv2.imread(str(tmp_path / "a.png")).shape[1] == 1000, "five inches"
    assert (tmp_path / "a.pdf").read_bytes().startswith(b"%PDF")


def test_the_classes_named_in_the_roc_are_the_worst(drawn, tmp_path):
    probabilities, labels, classes = answers(20)
    probabilities[:, 7] = np.random.default_rng(1).random(len(labels))  # knows nothing of class 7
    report.roc(tmp_path / "roc.png", probabilities, labels, classes)
    legend = [text.get_text() for text in drawn["roc.png"].axes[0].get_legend().get_texts()]
    assert any(text.startswith("class 7, area 0.5") or text.startswith("class 7, area 0.4") for text in legend)


def test_a_class_with_an_underscore_is_in_the_legend(drawn, tmp_path):
    probabilities, labels, _ = answers(3)
    report.roc(tmp_path / "roc.png", probabilities, labels, ["man", "woman", "_other"])
    legend = [text.get_text().strip() for text in drawn["roc.png"].axes[0].get_legend().get_texts()]
    assert len(legend) == 4 and sum(text.startswith("_other, area ") for text in legend) == 1


def test_long_names_leave_room_for_the_picture(tmp_path):
    """matplotlib warns, and warnings are errors here, where names leave none."""
    names = ["a" * 200, "b" * 200, "c"]
    probabilities, labels, _ = answers(3)
    report.confusion_matrix(tmp_path / "confusion.png", np.eye(3, dtype=int), names)
    report.roc(tmp_path / "roc.png", probabilities, labels, names)


@pytest.fixture
def letters(tmp_path, monkeypatch):
    """A font file with two letters that no font of this machine has: both are a black square."""
    builder = pytest.importorskip("fontTools.fontBuilder")
    pens = pytest.importorskip("fontTools.pens.ttGlyphPen")
    pen = pens.TTGlyphPen(None)
    for step, corner in enumerate([(0, 0), (0, 900), (900, 900), (900, 0)]):
        (pen.lineTo if step else pen.moveTo)(corner)
    pen.closePath()
    square = pen.glyph()
    font = builder.FontBuilder(1000, isTTF=True)
    names = [".notdef", "one", "two"]
    font.setupGlyphOrder(names)
    font.setupCharacterMap({0xE123: "one", 0xE124: "two"})  # of the private use area, which nobody fills alike
    font.setupGlyf(dict.fromkeys(names, square))
    font.setupHorizontalMetrics(dict.fromkeys(names, (1000, 0)))
    font.setupHorizontalHeader(ascent=900, descent=-100)
    font.setupNameTable({"familyName": "Squares", "styleName": "Regular"})
    font.setupOS2()
    font.setupPost()
    font.save(tmp_path / "squares.ttf")
    manager = font_manager.fontManager
    monkeypatch.setattr(manager, "ttflist", [f for f in manager.ttflist if "dejavu" in f.name.lower()])
    monkeypatch.setattr(plots, "complained", set())
    monkeypatch.setattr(fonts, "chosen", None)
    with matplotlib.rc_context():
        yield tmp_path / "squares.ttf"


def matrix(folder, name):
    """The picture of a confusion matrix with a class of two odd letters."""
    report.confusion_matrix(folder / name, np.eye(2, dtype=int), ["man", "\ue123\ue124"])
    return cv2.imread(str(folder / name))


def test_letters_come_from_a_font_of_the_machine(letters, tmp_path, capsys):
    before = matrix(tmp_path, "before.png")
    assert capsys.readouterr().out.count("all letters of \ue123\ue124: install one, or set FONT=") == 1
    matrix(tmp_path, "again.png")
    assert capsys.readouterr().out == "", "said once"
    font_manager.fontManager.addfont(letters)
    after = matrix(tmp_path, "after.png")
    assert before.shape == after.shape and not np.array_equal(before, after) and capsys.readouterr().out == ""


def test_letters_come_from_the_font_that_the_user_names(letters, tmp_path, capsys):
    plots.use_font(str(letters))
    matrix(tmp_path, "a.png")
    assert capsys.readouterr().out == ""
    (tmp_path / "bad.ttf").write_bytes(b"no font")
    with pytest.raises(SystemExit, match="bad.ttf: not a readable font"):
        plots.use_font(str(tmp_path / "bad.ttf"))
