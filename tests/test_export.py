"""export.py: the network in OpenCV's dnn gives what it gives in PyTorch, for any number of crops."""

import importlib.util
import json
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest

import drawn
import photos
import running
import strangers
from faces import cropping, detectors
from learn import classifier
from running import ROOT
from tools import export

needs_onnx = pytest.mark.skipif(importlib.util.find_spec("onnx") is None, reason="the package onnx is not installed")


@needs_onnx
@pytest.mark.parametrize(("name", "flip", "ages"), [
    ("paper", False, []), ("small", True, [5, 40, 60]), ("resnet18", True, []),
    ("mobilenet_v3_small", False, [5, 40]), ("efficientnet_b0", False, [])])
def test_opencv_gives_the_same_probabilities(name, flip, ages, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(export, "WEIGHTS", str(strangers.lively(tmp_path / "w.pt", name, flip=flip, ages=ages)))
    monkeypatch.setattr(export, "OUTPUT", str(tmp_path / "out" / "model.onnx"))
    export.main()
    facts = json.loads((tmp_path / "out" / "model.json").read_text(encoding="utf-8"))
    assert facts["classes"] == ["a", "b", "señor"] and facts["clahe"] == 2.0 and facts["threshold"] == 0.7
    net, info = classifier.load_weights(tmp_path / "w.pt")
    size = facts["image_size"]
    pictures = [drawn.draw_face(i, kind) for i in range(2) for kind in ("beard", "hat")]
    crops = [cropping.crop_face(p, (40, 30, 150, 150), facts["margin"], size=size) for p in pictures]
    other = cv2.dnn.readNetFromONNX(str(tmp_path / "out" / "model.onnx"))
    assert facts["ages"] == ages
    for some in (crops[:1], crops[:3], crops[3:]):  # one, several, one again: the batch is free
        probabilities, child = strangers.plainly(net, info, some)
        expected = np.column_stack([probabilities, child])
        other.setInput(cv2.dnn.blobFromImages(some))
        np.testing.assert_allclose(other.forward(), expected, atol=2e-5)
    assert np.ptp(strangers.plainly(net, info, crops)[0], axis=0).max() > 1e-3, "too alike to tell a wrong input"


@needs_onnx
def test_the_lines_of_the_documents_run(tmp_path):
    """The Python that docs/onnx.md shows for OpenCV, run as it stands on a photo, agrees with the live path."""
    text = (ROOT / "docs" / "onnx.md").read_text(encoding="utf-8")
    code = next(block.split("```")[0] for block in text.split("```python\n")[1:] if "readNetFromONNX" in block)
    for name in ("paper", "small"):
        folder = tmp_path / name
        strangers.lively(folder / "weights" / "best_weights.pt", name, flip=name == "small")
        if name == "paper":
            status, _, err = running.run("tools/export.py", cwd=folder)
        else:
            status, _, err = running.call(export, cwd=folder)
        assert status == 0, err
        picture = drawn.draw_face(1, "hat")
        photos.save(folder / "photo.png", picture)
        program = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n" + code.replace("photo.jpg", "photo.png")
        done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True,
                              env={**os.environ, "PYTHONIOENCODING": "utf-8"}, encoding="utf-8")
        assert done.returncode == 0, done.stderr
        net, info = classifier.load_weights(folder / "weights" / "best_weights.pt")
        crop = cropping.crop_face(picture, detectors.get("yunet").main_face(picture).box, 0.2, 2.0)
        expected = strangers.plainly(net, info, [crop])[0][0]
        said, share = done.stdout.splitlines()[-1].split()  # without YuNet's model a line on that comes before
        wanted = info["classes"][expected.argmax()] if expected.max() >= info["threshold"] else "unsure"
        assert said == wanted and float(share) == pytest.approx(expected.max(), abs=0.03)
    photos.save(folder / "photo.png", np.full((200, 200, 3), 120, np.uint8))
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "no face")


def test_errors_are_one_line(tmp_path, monkeypatch):
    done = subprocess.run([sys.executable, "-m", "tools.export", "WEIGHTS=none.pt"], cwd=ROOT, text=True,
                          capture_output=True)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="package onnx is not installed: pip install"):
        export.main()
