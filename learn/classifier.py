"""Reads weights files without running code in them, and classifies crops with them. Nothing to run.

A weights file is a plain dict: METADATA, which includes `state` (the network's state dict), and what training adds.
"""

import copy
import glob
import itertools
import math
import re
import warnings
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

import dataset
import model as networks
from learn import devices
from terminal import script
from terminal.names import UNSURE, normal


class WeightsError(script.Problem):
    """A weights file that cannot be used; the message is one line that says why and what to do."""


# {key of a weights file: its type}
METADATA = {"model": str, "classes": list, "image_size": int, "mean": list, "std": list, "margin": float,
            "clahe": float, "flip": bool, "temperature": float, "threshold": float, "epoch": int,
            "metrics": dict, "ages": list, "state": dict}
# Keys that older weights files lack, and their defaults.
OPTIONAL = {"clahe": 0.0, "flip": False, "ages": []}
CHILD = 11  # years; faces that are estimated to be younger are "unsure": see weights/shipped/README.md
# Networks that run in bfloat16 if the CPU has instructions for it: small.pt then takes two thirds of the time, and its
# probabilities differ by 0.003 at most. Those of resnet18 differ by more than 0.01; other networks gain little.
BFLOAT16 = ("small",)
OWN = "weights/best_weights.pt"  # written by train.py
SHIPPED = "weights/shipped/small.pt"  # the better one of the shipped weights


def plausible(metadata):
    """Whether the metadata of a weights file has types and values that the scripts can use."""
    if not all(isinstance(metadata.get(name), kind) for name, kind in METADATA.items()):
        return False
    mean, std, classes, ages = (metadata[name] for name in ("mean", "std", "classes", "ages"))
    scalars = [metadata[name] for name in ("margin", "clahe", "temperature", "threshold")]
    if not all(isinstance(value, (int, float)) and math.isfinite(value) for value in [*mean, *std, *scalars]):
        return False
    if not len(mean) == len(std) == 3 or min(std) < 1e-3 or max(map(abs, mean + std)) > 1000:
        return False
    if not (0 <= metadata["margin"] <= 2 and 0 <= metadata["clahe"] <= 100 and 0.01 <= metadata["temperature"] <= 1000
            and 16 <= metadata["image_size"] <= 1024):
        return False
    if metadata["model"] == "paper" and metadata["image_size"] != networks.image_size("paper"):
        return False
    if not all(isinstance(age, int) for age in ages) or len(ages) > 200:
        return False
    return (len(classes) > 1 and all(isinstance(name, str) for name in classes)
            and len(set(map(normal, classes))) == len(classes))


def load_checkpoint(path):
    """The dict of a weights file, on the CPU, without running any code in it. Raises WeightsError."""
    if not Path(path).is_file():  # reading a pipe might never end
        raise WeightsError(f"no weights at {path}: check the name, or run 'python train.py' first")
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > Path(path).stat().st_size + 1_000_000:  # torch.save() compresses nothing
            raise ValueError("it would fill the memory")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a stranger's file may cause warnings; it is validated below
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # damaged bytes can make torch raise anything
        raise WeightsError(f"{path} is damaged, or holds more than plain weights, and is not loaded: train again, or "
                           "fetch the file again") from None
    if isinstance(checkpoint, dict):
        checkpoint = {**copy.deepcopy(OPTIONAL), **checkpoint}
    if not isinstance(checkpoint, dict) or not plausible(checkpoint):
        raise WeightsError(f"{path} is no weights file of this project: train with 'python train.py'")
    checkpoint["classes"] = [normal(name) for name in checkpoint["classes"]]
    if UNSURE in map(str.casefold, checkpoint["classes"]):
        raise WeightsError(f"{path} has a class called {UNSURE}, which is the label of faces below the threshold: "
                           "rename its folder, and train again")
    return checkpoint


def load_weights(path):
    """Read a weights file: (float32 model in evaluation mode, dict of metadata). Raises WeightsError.

    The model's outputs are the logits of the classes, followed by those of its age classes, if any.
    """
    metadata = load_checkpoint(path)
    try:
        with torch.device("meta"):  # a network without weights, which are those of the file
            model = networks.build(metadata["model"], len(metadata["classes"]) + len(metadata["ages"]))
        model.load_state_dict(metadata.pop("state"), assign=True)
    except script.Problem as error:
        raise WeightsError(f"{path}: {error}") from None
    except (RuntimeError, AttributeError, TypeError):
        raise WeightsError(f"{path} does not fit the network {metadata['model']!r} with {len(metadata['classes'])} "
                           "classes: train again") from None
    if any(v.is_complex() or v.layout != torch.strided or not v.isfinite().all() for v in model.state_dict().values()):
        raise WeightsError(f"{path} holds weights that are not finite real numbers: train again, or fetch the file "
                           "again")
    return model.float().eval(), metadata


def choose(path):
    """`path`, or if it is None: OWN if that file exists, else SHIPPED. Raises WeightsError."""
    if path is None:
        return OWN if Path(OWN).exists() else SHIPPED
    if not isinstance(path, (str, Path)) or not str(path):
        raise WeightsError(f"WEIGHTS={path!r}: must be None or the name of a file")
    return path


def folded(net):
    """A copy of a network for evaluation, with each batch normalisation fused into the convolution before it."""
    net = copy.deepcopy(net).eval()
    for module in list(net.modules()):
        for (name, layer), (next_name, next_layer) in itertools.pairwise(list(module.named_children())):
            if isinstance(layer, nn.Conv2d) and isinstance(next_layer, nn.BatchNorm2d):
                setattr(module, name, fuse_conv_bn_eval(layer, next_layer))
                setattr(module, next_name, nn.Identity())
    return net


def in_bfloat16(net):
    """A copy of a folded network that computes its features in bfloat16 and its last layers in float32."""
    net = copy.deepcopy(net)
    net.features.to(torch.bfloat16)
    net.features.register_forward_pre_hook(lambda module, inputs: inputs[0].to(torch.bfloat16))
    net.features.register_forward_hook(lambda module, inputs, output: output.float())
    return net


class Classifier:
    """A trained network: from crops to class probabilities, heat maps and labels.

    `path`: a weights file; None: see choose(). Raises WeightsError. Crops are lists of uint8 [S, S, 3], RGB, made by
    faces/cropping.py with this classifier's `margin` and `clahe`; S is cropping.IMAGE_SIZE.
    """

    def __init__(self, path=None):
        self.path = Path(choose(path))
        net, metadata = load_weights(self.path)
        self.classes, self.ages = metadata["classes"], metadata["ages"]
        self.name, self.epoch = metadata["model"], metadata["epoch"]
        self.margin, self.clahe, self.image_size = metadata["margin"], metadata["clahe"], metadata["image_size"]
        self.threshold, self.temperature, self.flip = metadata["threshold"], metadata["temperature"], metadata["flip"]
        self.mean, self.std = metadata["mean"], metadata["std"]
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        devices.keep_memory()
        self.net = folded(net).to(self.device, memory_format=torch.channels_last)
        self.predict_net = self.net  # explain() needs gradients in float32
        if self.name in BFLOAT16 and self.device.type == "cpu" and devices.cpu_has_bf16():
            self.predict_net = in_bfloat16(self.net)
        self.transform = dataset.evaluation_transform(self.image_size, self.mean, self.std)

    def __str__(self):
        """'weights/shipped/small.pt, which ships: network small, classes man, woman'"""
        ships = ", which ships" if self.path.parent.name == Path(SHIPPED).parent.name else ""
        return f"{self.path.as_posix()}{ships}: network {self.name}, classes {', '.join(self.classes)}"

    def prepare(self, crops):
        """The network's input for crops: normalised float32 [N, 3, image_size, image_size] on its device."""
        return self.transform(dataset.to_batch(crops).to(self.device))

    def predict(self, crops):
        """Class probabilities, float32 numpy [N, C], and the probability that each crop shows a child younger than
        CHILD, float32 numpy [N], 0 if the network was not trained to estimate ages.
        """
        n_classes, young = len(self.classes), torch.tensor(self.ages) < CHILD
        if not len(crops):
            return np.zeros((0, n_classes), np.float32), np.zeros(0, np.float32)
        with torch.inference_mode():
            batch = self.prepare(crops)
            logits = self.predict_net(torch.cat([batch, batch.flip(3)]) if self.flip else batch).cpu()
            if self.flip:  # the mean of an image and its mirror image
                logits = sum(logits.chunk(2)) / 2
            child = logits[:, n_classes:].softmax(1)[:, young].sum(1)
            return (logits[:, :n_classes] / self.temperature).softmax(1).numpy(), child.numpy()

    def explain(self, crops, classes=None):
        """Grad-CAM: where the network looked, float32 numpy [N, image_size, image_size] in 0..1.

        `classes`: the index of the class to explain for each crop; None: the most probable class.
        """
        if not len(crops):
            return np.zeros((0, self.image_size, self.image_size), np.float32)
        return networks.grad_cam(self.net, self.prepare(crops), classes, len(self.classes)).cpu().numpy()

    def trusted(self, probabilities, child):
        """What is compared with the threshold, float [N]: the largest of the `probabilities` (float [N, C]), or 0 if
        the face is more likely a child's than not (`child`, float [N])."""
        return np.where(np.asarray(child) < 0.5, np.asarray(probabilities).max(-1), 0)

    def label(self, probabilities, child, threshold=None):
        """The index of the most probable class, or None ("unsure") if trusted() is below `threshold` (None: that of
        the weights file). `probabilities`: float [C]; `child`: float."""
        threshold = self.threshold if threshold is None else threshold
        sure = self.trusted(probabilities, child) >= threshold
        return int(np.argmax(probabilities)) if sure else None


def load_all(pattern):
    """The Classifiers of all weights files that match `pattern` (a file, a pattern, or None: see choose()), in natural
    order. Raises WeightsError if one cannot be used, or has other classes than the first.
    """
    pattern = str(choose(pattern))
    paths = [pattern] if Path(pattern).is_file() else glob.glob(pattern, recursive=True)
    paths = [p for p in paths if Path(p).is_file()]
    if not paths:
        raise WeightsError(f"no weights match {pattern}: run 'python train.py' first, or set WEIGHTS=<file or pattern>")
    paths.sort(key=lambda p: [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", p)])
    loaded = [Classifier(path) for path in paths]
    for other in loaded:
        if other.classes != loaded[0].classes:
            raise WeightsError(f"{loaded[0].path} has the classes {', '.join(loaded[0].classes)} and {other.path} "
                               f"has {', '.join(other.classes)}: compare weights of the same classes only")
    return loaded
