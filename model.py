"""The networks, their activations and gradients, Grad-CAM, and weights files. Nothing to run.

`Model` is the paper's network to the layer (13.2 M parameters, 0.2 GMAC). It is the default. `Small` is a residual
network of today, which needs a ninth of the parameters and half the work. torchvision's are in backbones.py. Every
network has `features`, whose output Grad-CAM weighs, and `classifier`.
"""

import math
import os
import pickle
import warnings
import zipfile

import torch
from torch import nn
from torch.nn import functional

import backbones
from terminal import script
from terminal.files import atomic


class Model(nn.Module):
    """The paper's CNN: four blocks of convolution, ReLU and overlapping max-pooling, then two linear layers.

    Input float32 [N, 3, 224, 224], normalised; output logits float32 [N, n_classes].
    """

    image_size = 224

    def __init__(self, n_classes=2):
        super().__init__()
        channels = (3, 16, 16, 32, 64)
        layers = []
        for into, out in zip(channels[:3], channels[1:4], strict=True):
            # ReLU and MaxPool2d(4, 2), in an order that gives the same values and gradients for less work: the largest
            # of 16 values is found from 2x2 windows, and what is below 0 is cut off where a quarter is left.
            layers += [nn.Conv2d(into, out, 5, padding=1), nn.MaxPool2d(2),
                       nn.Sequential(nn.MaxPool2d(2, 1), nn.ReLU(inplace=True))]
        # The last ReLU's output is what the hook watches and Grad-CAM weighs, so the last pooling stands apart.
        self.features = nn.Sequential(*layers, nn.Conv2d(channels[3], channels[4], 5, padding=1), nn.ReLU())
        self.pool = nn.MaxPool2d(4, 2)
        self.classifier = nn.Sequential(nn.Flatten(), nn.Linear(6400, 2048), nn.ReLU(), nn.Linear(2048, n_classes))
        self.gradient = None

    def forward(self, x):
        x = self.features(x)
        if x.requires_grad:  # not so under inference_mode, where a hook could not be set
            x.register_hook(self.keep_gradient)
        return self.classifier(self.pool(x))

    def keep_gradient(self, gradient):
        """Hook: remember the gradient of the last activations, as the paper's model does."""
        self.gradient = gradient

    def activations_gradient(self):
        """The gradient of the last activations after a backward pass, [N, 64, 22, 22], or None before one."""
        return self.gradient

    def activations(self, x):
        """The last activations (after the fourth ReLU), [N, 64, 22, 22]."""
        return self.features(x)


class Residual(nn.Module):
    """Two 3x3 convolutions beside a shortcut: float32 [N, into, H, W] -> [N, out, H / stride, W / stride].

    He et al., "Deep Residual Learning for Image Recognition", CVPR 2016.
    """

    def __init__(self, into, out, stride=1):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(into, out, 3, stride, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU(inplace=True),
            nn.Conv2d(out, out, 3, padding=1, bias=False), nn.BatchNorm2d(out))
        self.shortcut = nn.Identity()
        if stride > 1 or into != out:
            self.shortcut = nn.Sequential(nn.AvgPool2d(stride, ceil_mode=True),
                                          nn.Conv2d(into, out, 1, bias=False), nn.BatchNorm2d(out))

    def forward(self, x):
        return functional.relu(self.body(x) + self.shortcut(x), inplace=True)


class Small(nn.Module):
    """A small residual network with batch normalisation and global pooling: 1.5 M parameters, 0.1 GMAC.

    Input float32 [N, 3, 96, 96], normalised; output logits float32 [N, n_classes].
    """

    image_size = 96

    def __init__(self, n_classes=2):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 24, 3, 2, padding=1, bias=False), nn.BatchNorm2d(24), nn.ReLU(inplace=True),
            Residual(24, 48, 2),
            Residual(48, 96, 2), Residual(96, 96),
            Residual(96, 192, 2), Residual(192, 192))
        self.classifier = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2),
                                        nn.Linear(192, n_classes))

    def forward(self, x):
        return self.classifier(self.features(x))


NETWORKS = {"paper": Model, "small": Small, "vgg16": backbones.VGG16, "resnet18": backbones.ResNet18,
            "mobilenet_v3_small": backbones.MobileNetV3Small, "efficientnet_b0": backbones.EfficientNetB0}


def build(name="paper", n_classes=2):
    """A network with random weights. `name` is a key of NETWORKS; raises WeightsError for another."""
    if name not in NETWORKS:
        raise WeightsError(f"no network is called {name!r}: choose one of {', '.join(NETWORKS)}")
    return NETWORKS[name](n_classes)


def image_size(name="paper"):
    """Side of the network's input in pixels."""
    return NETWORKS[name].image_size


def logits_of(net, batch, flip):
    """Logits [N, n_classes] of a normalised batch [N, 3, H, W]; `flip`: the mean of those of the images and of their
    mirror images, twice the work for fewer errors."""
    return (net(batch) + net(batch.flip(3))) / 2 if flip else net(batch)


def grad_cam(model, batch, class_index=None):
    """Where the network looked: float32 [N, H, W] in 0..1, the size of `batch` (float32 [N, 3, H, W], normalised).

    `class_index`: int, or one per image; None takes each image's own prediction. Selvaraju et al., "Grad-CAM:
    Visual Explanations from Deep Networks via Gradient-based Localization", ICCV 2017.
    """
    was_training, device = model.training, batch.device
    model.eval()
    try:
        with torch.inference_mode(False), torch.enable_grad():
            held = []
            hook = model.features.register_forward_hook(lambda module, inputs, output: held.append(output))
            # An input that asks for a gradient keeps the graph alive even where all weights are frozen.
            logits = model(batch.clone().requires_grad_())
            hook.remove()
            if class_index is None:
                class_index = logits.argmax(1)
            index = torch.as_tensor(class_index, device=device).expand(len(batch))
            gradient, = torch.autograd.grad(logits.gather(1, index[:, None]).sum(), held[0])
        maps = functional.relu((held[0] * gradient.mean((2, 3), keepdim=True)).sum(1, keepdim=True)).detach()
        maps = functional.interpolate(maps.float(), batch.shape[2:], mode="bilinear", align_corners=False)[:, 0]
        return maps / maps.amax((1, 2), keepdim=True).clamp_min(1e-12)
    finally:
        model.train(was_training)


class WeightsError(script.Problem):
    """A weights file that cannot be used; the message is one line that says why and what to do."""


FACTS = {"model": str, "classes": list, "image_size": int, "mean": list, "std": list, "margin": float,
         "clahe": float, "flip": bool, "temperature": float, "threshold": float, "epoch": int, "metrics": dict}


def plausible(facts):
    """Whether the facts of a weights file have values that the other scripts can work with."""
    numbers = [*facts["mean"], *facts["std"], facts["margin"], facts["clahe"], facts["temperature"],
               facts["threshold"]]
    return (all(isinstance(v, (int, float)) and math.isfinite(v) for v in numbers)
            and len(facts["mean"]) == len(facts["std"]) == 3 and min(facts["std"]) > 0
            and 0 <= facts["margin"] <= 2 and 0 <= facts["clahe"] <= 100
            and facts["temperature"] > 0 and 16 <= facts["image_size"] <= 1024
            and len(facts["classes"]) > 1 and all(isinstance(name, str) for name in facts["classes"])
            and len(set(facts["classes"])) == len(facts["classes"]))


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
        for name, value in (("clahe", 0.0), ("flip", False)):  # files from before these were options
            checkpoint.setdefault(name, value)
    wrong = wrong or any(not isinstance(checkpoint.get(name), kind) for name, kind in FACTS.items())
    if wrong or not plausible(checkpoint):
        raise WeightsError(f"{path} is no weights file of this project: train with 'python train.py'")
    return checkpoint


def load_weights(path):
    """Read a weights file: (float32 model in evaluation mode, dict of facts). Raises WeightsError."""
    info = load_checkpoint(path)
    try:
        model = build(info["model"], len(info["classes"]))
        model.load_state_dict(info.pop("state"))
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from None
    except (RuntimeError, AttributeError, TypeError):
        raise WeightsError(f"{path} does not fit the network {info['model']!r} with {len(info['classes'])} classes: "
                           "it was made by another version; train again") from None
    if not all(v.isfinite().all() for v in model.state_dict().values()):
        raise WeightsError(f"{path} holds weights that are no numbers: train again, or fetch the file again")
    return model.float().eval(), info


def last_layer(net):
    """The names in a state dict of the last layer's weight and bias."""
    return [f"classifier.{len(net.classifier) - 1}.{name}" for name in ("weight", "bias")]


def trimmed(net, n_classes):
    """The state dict of `net`, on the CPU, with a last layer for `n_classes` alone: without auxiliary outputs."""
    return {k: v.cpu()[:n_classes].clone() if k in last_layer(net) and len(v) > n_classes else v.cpu()
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
            own[:len(classes)] = state[key]
        state[key] = own
    net.load_state_dict(state)
    return same
