"""From Python: the README's example as it stands, and a script that a notebook or another program runs."""

import os
import subprocess
import sys

import numpy as np

import clips
import photos
import strangers
from faces import detectors
from learn.classifier import Classifier
from live import stills
from running import ROOT


def python(code, folder, *arguments):
    """What Python prints of this code, with the project's folder in its path."""
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n" + code
    done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=folder, capture_output=True, text=True,
                          env={**os.environ, "PYTHONIOENCODING": "utf-8"}, encoding="utf-8", timeout=100)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    return done.stdout


def test_the_lines_of_the_readme_run(tmp_path):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    code = next(block.split("```")[0] for block in text.split("```python\n")[1:] if "import Classifier" in block)
    weights = strangers.lively(tmp_path / "weights" / "best_weights.pt", "small")
    photo = clips.person("hat", 3)
    photos.save(tmp_path / "photo.png", photo)
    out = python(code.replace("photo.jpg", "photo.png") + "\nprint(0 < heat.max() <= 1)", tmp_path)
    classifier, detector = Classifier(weights), detectors.get("yunet")
    box = [round(side) for side in detector.main_face(photo).box]
    face, = stills.classify(photo, classifier, detector)
    said = "unsure" if face.label is None else classifier.classes[face.label]
    size = classifier.image_size
    assert out == f"{box} {said} {face.confidence:.0%} ({size}, {size})\nTrue\n"


def test_another_program_that_runs_a_script_goes_on(tmp_path):
    """Though it has threads of its own that never end, as IPython has."""
    photos.save(tmp_path / "photo.png", np.full((90, 90, 3), 90, np.uint8))
    out = python(f"""
import runpy, threading
threading.Thread(target=threading.Event().wait, daemon=True).start()
try:
    runpy.run_path({str(ROOT / "realtime.py")!r}, run_name="__main__")
except SystemExit as stop:
    print("went on after", stop.code)
""", tmp_path, "SOURCE=photo.png", "SHOW=False", f"WEIGHTS={ROOT / 'weights/shipped/small.pt'}")
    assert "no face found" in out and out.endswith("went on after 0\n")
    assert "small.pt, which ships: network small, classes man, woman" in out
