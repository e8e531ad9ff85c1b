"""The weights as ONNX, for programs without PyTorch: OpenCV, ONNX Runtime, a phone.

    python -m tools.export      the weights that realtime.py takes  ->  weights/model.onnx, weights/model.json

The graph holds everything after the crop: it takes RGB crops as they are, float32 [N, 3, S, S] in 0..255, N any number,
and gives probabilities, float32 [N, n_classes]; mean and deviation, the temperature and softmax are inside. model.json
has the classes, the size S, the margin and CLAHE limit of the crop, and the confidence below which to say "unsure".
Needs the package onnx (pip install -r requirements-dev.txt).
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # so that it runs from any folder
from terminal import script  # isort: skip  # first, see terminal/script.py

# ruff: noqa: E402
import importlib.util
import json
import warnings

from terminal.files import atomic

# ------------------------------------------------------------------------------------------------
WEIGHTS = None  # None: your own weights/best_weights.pt if train.py has made one here, else those that ship
OUTPUT = "weights/model.onnx"
# ------------------------------------------------------------------------------------------------

OPSET = 17  # of ONNX; OpenCV 4.10 reads it
TOLD = ("classes", "image_size", "margin", "clahe", "threshold", "model", "epoch")


def whole(net, info):
    """A module from crops (float32 [N, 3, S, S], RGB, 0..255) to what Classifier.predict() makes of them."""
    import torch

    class Whole(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net
            self.register_buffer("mean", 255 * torch.tensor(info["mean"]).view(1, 3, 1, 1))
            self.register_buffer("backwards", torch.arange(info["image_size"]).flip(0))
            self.register_buffer("scale", 1 / (255 * torch.tensor(info["std"]).view(1, 3, 1, 1)))

        def forward(self, crops):
            crops = (crops - self.mean) * self.scale
            logits = self.net(crops)
            if info["flip"]:  # as model.logits_of, with a gather: OpenCV reads no flip of the last axis
                logits = (logits + self.net(crops.index_select(3, self.backwards))) / 2
            return (logits[:, :len(info["classes"])] / info["temperature"]).softmax(1)

    return Whole().eval()


def main():
    if importlib.util.find_spec("onnx") is None:
        script.fail("the package onnx is not installed: pip install -r requirements-dev.txt, or pip install onnx")
    import torch

    from learn import classifier

    weights = classifier.choose(WEIGHTS)
    net, info = classifier.load_weights(weights)
    size = info["image_size"]
    with atomic(OUTPUT) as temporary, warnings.catch_warnings():
        # The newer exporter needs one package more and writes graphs that OpenCV may not read.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(whole(net, info), (torch.zeros(2, 3, size, size),), str(temporary), dynamo=False,
                          opset_version=OPSET, input_names=["crops"], output_names=["probabilities"],
                          dynamic_axes={"crops": {0: "n"}, "probabilities": {0: "n"}})
    facts = Path(OUTPUT).with_suffix(".json")
    with atomic(facts) as temporary:
        temporary.write_text(json.dumps({name: info[name] for name in TOLD}, indent=1, ensure_ascii=False),
                             encoding="utf-8")
    print(f"{weights} ({info['model']}, {size}x{size}, classes {', '.join(info['classes'])}) -> {OUTPUT}, "
          f"{Path(OUTPUT).stat().st_size / 1e6:.1f} MB, and {facts}")


if __name__ == "__main__":
    script.override(globals())
    script.run(main)
