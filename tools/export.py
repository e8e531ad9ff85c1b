"""Exports weights as ONNX, for programs without PyTorch: OpenCV, ONNX Runtime, a phone.

    python -m tools.export      the weights that realtime.py uses  ->  weights/model.onnx, weights/model.json

The graph has everything after the crop. Its input is RGB crops, not normalised, float32 [N, 3, S, S] in 0..255, for any
N; its output is float32 [N, n_classes + 1]: the probabilities of the classes and, last, that of a child, who is
"unsure" from 0.5 on. Normalisation, the mirror image, the temperature and softmax are part of the graph. model.json has
the classes, the size S, the margin and CLAHE limit of the crop, and the threshold of confidence for "unsure". It needs
the package onnx (pip install -r requirements-dev.txt).
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # so that it runs from any folder
from terminal import script  # isort: skip  # first, so that Ctrl-C during the other imports is one line

# ruff: noqa: E402
import importlib.util
import json
import warnings

from terminal import rules
from terminal.files import atomic
from terminal.records import claim_file

# ------------------------------------------------------------------------------------------------
WEIGHTS = None  # a weights file; None: as in realtime.py
OUTPUT = "weights/model.onnx"
# ------------------------------------------------------------------------------------------------

OPSET = 17  # version of ONNX operators; OpenCV 4.10 reads it
# Attributes of a Classifier that model.json has.
FIELDS = ("classes", "ages", "image_size", "margin", "clahe", "threshold", "name", "epoch")


def whole(classifier):
    """A module that does what Classifier.predict() does: from crops (float32 [N, 3, S, S], RGB, 0..255) to one tensor
    [N, C + 1], the probabilities of the classes and, last, that of a child.
    """
    import torch

    from learn.classifier import CHILD

    class Whole(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = classifier.net.cpu()
            self.register_buffer("mean", 255 * torch.tensor(classifier.mean).view(1, 3, 1, 1))
            self.register_buffer("backwards", torch.arange(classifier.image_size).flip(0))
            self.register_buffer("scale", 1 / (255 * torch.tensor(classifier.std).view(1, 3, 1, 1)))
            young = [1.0 if age < CHILD else 0.0 for age in classifier.ages]
            self.register_buffer("young", torch.tensor(young).view(-1, 1))

        def forward(self, crops):
            crops, count = (crops - self.mean) * self.scale, len(classifier.classes)
            logits = self.net(crops)
            if classifier.flip:  # by indexing, since OpenCV cannot read a flip of the last axis
                logits = (logits + self.net(crops.index_select(3, self.backwards))) / 2
            probabilities = (logits[:, :count] / classifier.temperature).softmax(1)
            if classifier.ages:
                child = logits[:, count:].softmax(1) @ self.young
            else:
                child = probabilities[:, :1] * 0  # zeros [N, 1], in a form that OpenCV can read
            return torch.cat([probabilities, child], 1)

    return Whole().eval()


RULES = dict(WEIGHTS=rules.optional(str), OUTPUT=rules.ends_in(".onnx"))


def main():
    rules.check(globals())
    if importlib.util.find_spec("onnx") is None:
        script.fail("the package onnx is not installed: pip install -r requirements-dev.txt, or pip install onnx")
    import torch

    from learn.classifier import Classifier

    description = Path(OUTPUT).with_suffix(".json")
    for path in (OUTPUT, description):
        claim_file(path)
    classifier = Classifier(WEIGHTS)
    size = classifier.image_size
    with atomic(OUTPUT) as temporary, warnings.catch_warnings():
        # The newer exporter needs another package, and writes graphs that OpenCV may not read.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(whole(classifier), (torch.zeros(2, 3, size, size),), str(temporary), dynamo=False,
                          opset_version=OPSET, input_names=["crops"], output_names=["probabilities"],
                          dynamic_axes={"crops": {0: "n"}, "probabilities": {0: "n"}})
    with atomic(description) as temporary:
        fields = {name: getattr(classifier, name) for name in FIELDS}
        temporary.write_text(json.dumps(fields, indent=1, ensure_ascii=False), encoding="utf-8")
    print(f"{classifier}, {size}x{size} pixels -> {OUTPUT}, "
          f"{Path(OUTPUT).stat().st_size / 1e6:.1f} MB, and {description.as_posix()}")


if __name__ == "__main__":
    rules.override(globals())
    script.run(main)
