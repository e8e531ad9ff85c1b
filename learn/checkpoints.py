"""Weights files, read without running code in them, and what a network answers with them. Nothing to run.

A weights file is a plain dict: FACTS, `state` (the network's state dict), and whatever else training leaves.
"""

import glob
import math
import os
import pickle
import re
import warnings
import zipfile
from pathlib import Path

import numpy as np
import torch

import dataset
import model as networks
from learn import engine
from terminal import script
from terminal.files import atomic, normal


class WeightsError(script.Problem):
    """A weights file that cannot be used; the message is one line that says why and what to do."""


FACTS = {"model": str, "classes": list, "image_size": int, "mean": list, "std": list, "margin": float,
         "clahe": float, "finders": list, "flip": bool, "temperature": float, "threshold": float, "epoch": int,
         "metrics": dict, "ages": list}
# What weights files may lack, and what holds then. `finders` names the detector that made the crops which the weights
# learnt from, and no more: processed.DETECTOR finds the faces, since the crops of either detector lie alike.
OPTIONAL = {"clahe": 0.0, "finders": ("haar",), "flip": False, "ages": ()}
# A face that is guessed to be younger tells too little: on UTKFace's test small.pt is right about 69 % up to the age of
# two and 82 % from three to nine, and about 97 % from fifteen on (weights/shipped/README.md).
CHILD = 11  # years
OWN = "weights/best_weights.pt"  # what train.py makes
SHIPPED = "weights/shipped/small.pt"  # the better of the weights that ship


def choose(chosen):
    """`chosen`, or where it is None: what train.py has made here, or else SHIPPED."""
    if chosen is not None:
        if not isinstance(chosen, str) or not chosen:
            script.fail(f"WEIGHTS={chosen!r}: must be None or the name of a file")
        return chosen
    return OWN if Path(OWN).exists() else SHIPPED


def plausible(facts):
    """Whether the facts of a weights file have values that the other scripts can work with."""
    numbers = [*facts["mean"], *facts["std"], facts["margin"], facts["clahe"], facts["temperature"],
               facts["threshold"]]
    return (all(isinstance(v, (int, float)) and math.isfinite(v) for v in numbers)
            and len(facts["mean"]) == len(facts["std"]) == 3 and min(facts["std"]) > 0
            and 0 <= facts["margin"] <= 2 and 0 <= facts["clahe"] <= 100
            and facts["temperature"] > 0 and 16 <= facts["image_size"] <= 1024
            and len(facts["classes"]) > 1 and all(isinstance(name, str) for name in facts["classes"] + facts["finders"])
            and len(set(map(normal, facts["classes"]))) == len(facts["classes"])
            and all(isinstance(age, int) for age in facts["ages"]) and len(facts["ages"]) <= 200)


def save_weights(path, checkpoint):
    """Write a plain dict of tensors and Python values: the facts named in FACTS, `state`, and whatever else.

    The file is written under a temporary name and renamed, so that a stop or a full disk leaves the old one whole.
    """
    with atomic(path) as temporary:
        try:
            torch.save(checkpoint, temporary)
        except RuntimeError as error:  # torch reports a failed write so
            raise OSError(28, f"cannot write the weights, is the disk full? ({str(error).splitlines()[0]})",
                          str(path)) from None
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())


def load_checkpoint(path):
    """The dict of a weights file, on the CPU, without running any code in it. Raises WeightsError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a stranger's file may draw warnings; what it is worth is decided below
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise WeightsError(f"no weights at {path}: run 'python train.py', or name a file with WEIGHTS=...") from None
    except pickle.UnpicklingError:
        raise WeightsError(f"{path} is damaged or holds more than plain weights, and is not loaded: train again, "
                           "or fetch the file again") from None
    except (RuntimeError, OSError, EOFError, AssertionError, ValueError, LookupError, AttributeError, TypeError,
            zipfile.BadZipFile):
        raise WeightsError(f"{path} is damaged or no weights file: train again, or fetch the file again") from None
    wrong = not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("state"), dict)
    if not wrong:
        for name, value in OPTIONAL.items():
            checkpoint.setdefault(name, list(value) if isinstance(value, tuple) else value)
    wrong = wrong or any(not isinstance(checkpoint.get(name), kind) for name, kind in FACTS.items())
    if wrong or not plausible(checkpoint):
        raise WeightsError(f"{path} is no weights file of this project: train with 'python train.py'")
    checkpoint["classes"] = [normal(name) for name in checkpoint["classes"]]
    return checkpoint


def load_weights(path):
    """Read a weights file: (float32 model in evaluation mode, dict of facts). Raises WeightsError.

    The outputs of the model are the logits of the classes and, after these, those of the ages that it tells.
    """
    info = load_checkpoint(path)
    try:
        model = networks.build(info["model"], len(info["classes"]) + len(info["ages"]))
        model.load_state_dict(info.pop("state"))
    except script.Problem as error:
        raise WeightsError(f"{path}: {error}") from None
    except (RuntimeError, AttributeError, TypeError):
        raise WeightsError(f"{path} does not fit the network {info['model']!r} with {len(info['classes'])} classes: "
                           "it was made by another version; train again") from None
    if not all(v.isfinite().all() for v in model.state_dict().values()):
        raise WeightsError(f"{path} holds weights that are no numbers: train again, or fetch the file again")
    return model.float().eval(), info


def load_all(chosen):
    """The weights files that WEIGHTS names (a file, a pattern, or None: see choose()), in natural order.

    Returns a list of (path, net, info) with equal classes, on the GPU where there is one. One that cannot be used ends
    the program with one line.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    pattern = choose(chosen)
    paths = [pattern] if Path(pattern).is_file() else glob.glob(pattern, recursive=True)
    paths = [p for p in paths if Path(p).is_file()]
    if not paths:
        script.fail(f"no weights match {pattern}: run 'python train.py' first, or set WEIGHTS=<file or pattern>")
    paths.sort(key=lambda p: [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", p)])
    loaded = []
    for path in paths:
        try:
            net, info = load_weights(path)
            loaded.append((path, net.to(device), info))
        except WeightsError as error:
            script.fail(error)
        if loaded[-1][2]["classes"] != loaded[0][2]["classes"]:
            script.fail(f"{loaded[0][0]} knows the classes {', '.join(loaded[0][2]['classes'])} and {path} knows "
                        f"{', '.join(loaded[-1][2]['classes'])}: compare weights of the same classes only")
    return loaded


def last_layer(net):
    """The names in a state dict of the last layer's weight and bias."""
    return [f"classifier.{len(net.classifier) - 1}.{name}" for name in ("weight", "bias")]


def trimmed(net, outputs):
    """The state dict of `net`, on the CPU, with the first `outputs` of its last layer, without those of other tasks."""
    return {k: v.cpu()[:outputs].clone() if k in last_layer(net) and len(v) > outputs else v.cpu()
            for k, v in net.state_dict().items()}


def start_from(net, path, name, classes):
    """Give `net` (of NETWORKS[name], for `classes` and maybe more) the weights of a file, without its last layer where
    that is for other classes. Returns whether all were taken; raises WeightsError.
    """
    model, info = load_weights(path)
    if info["model"] != name:
        raise WeightsError(f"START={path} is a {info['model']} network and this run trains {name}: choose another "
                           f"START, or MODEL={info['model']}")
    state, same = model.state_dict(), info["classes"] == classes
    for key in last_layer(net):
        own = net.state_dict()[key].clone()
        if same:
            own[:len(classes)] = state[key][:len(classes)]
        state[key] = own
    net.load_state_dict(state)
    return same


def initialise(net, name, classes, start, pretrained):
    """Give `net` (of NETWORKS[name], for `classes` and maybe more) what a run starts from: the weights file `start`, or
    where it is None and `pretrained` is true ImageNet's, for a network that has such.

    Returns whether all but the last layer has learned before.
    """
    if start:
        return not start_from(net, start, name, classes)
    if not pretrained or not isinstance(net, networks.Backbone):
        return False
    with engine.one_at_first():
        problem = networks.load_imagenet(net)
    if problem and not engine.RANK:
        print(problem, flush=True)
    return not problem


def prepare(info, crops, device="cpu"):
    """RGB crops (uint8 [H, W, 3]) as the network of `info` takes them: normalised float32 [N, 3, S, S] on `device`."""
    transform = dataset.evaluation_transform(info["image_size"], info["mean"], info["std"])
    return transform(dataset.to_batch(crops).to(device))


def answers(model, info, crops, device="cpu"):
    """What a network says of RGB crops (list of uint8 [H, W, 3]): class probabilities, float32 numpy [N, n_classes],
    and how likely each is the face of a child younger than CHILD, float32 numpy [N]; 0 where it tells no age.

    `model` and `info` come from load_weights(); the logits are divided by the temperature chosen in training.
    """
    n, ages = len(info["classes"]), torch.tensor(info["ages"])
    if not len(crops):
        return np.zeros((0, n), np.float32), np.zeros(0, np.float32)
    with torch.inference_mode():
        logits = networks.logits_of(model, prepare(info, crops, device), info["flip"]).float().cpu()
        child = logits[:, n:].softmax(1)[:, ages < CHILD].sum(1) if len(ages) else torch.zeros(len(logits))
        return (logits[:, :n] / info["temperature"]).softmax(1).numpy(), child.numpy()


def probabilities(model, info, crops, device="cpu"):
    """The class probabilities of answers() alone: float32 numpy [N, n_classes]."""
    return answers(model, info, crops, device)[0]


