"""The networks, and Grad-CAM. Nothing to run.

`Model` is the paper's network, `Small` a residual network, and `Backbone` a network of torchvision's, for transfer
learning. Each has `features`, whose output Grad-CAM uses, and `classifier`, whose last layer gives the logits.
"""

import functools
import os
import socket
from collections import OrderedDict
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from terminal import script

PATIENCE = 20  # seconds of timeout for the download of ImageNet weights


def block(into, out):
    """Conv2d k5 p1, ReLU, MaxPool2d(4, 2): a block of the paper's table, as a list of modules. `into`, `out`: channels.

    Pooling in two steps, with ReLU after the first one has left a quarter of the values, gives the same values and
    gradients for less work. Three modules in all, as the names of the weights in saved files count them.
    """
    return [nn.Conv2d(into, out, 5, padding=1), nn.MaxPool2d(2),
            nn.Sequential(nn.MaxPool2d(2, 1), nn.ReLU(inplace=True))]


class Model(nn.Module):
    """The paper's CNN: four blocks of convolution, ReLU and overlapping max-pooling, then two linear layers; 13.2 M
    parameters, 0.2 GMAC.

    Input float32 [N, 3, 224, 224], normalised; output logits float32 [N, n_classes].
    """

    image_size = 224

    def __init__(self, n_classes=2):
        super().__init__()
        self.features = nn.Sequential(
            *block(3, 16),
            *block(16, 16),
            *block(16, 32),
            nn.Conv2d(32, 64, 5, padding=1), nn.ReLU())
        self.pool = nn.MaxPool2d(4, 2)  # of the fourth block; not in `features`, since Grad-CAM needs what comes before
        self.classifier = nn.Sequential(nn.Flatten(), nn.Linear(6400, 2048), nn.ReLU(), nn.Linear(2048, n_classes))

    def forward(self, x):
        return self.logits(self.activations(x))

    def activations(self, x):
        """The last activations (after the fourth ReLU), [N, 64, 22, 22]. A hook on them gets their gradient, as in the
        paper: `a = net.activations(x); a.register_hook(print); net.logits(a)[0, 1].backward()`."""
        return self.features(x)

    def logits(self, activations):
        """The logits, float32 [N, n_classes], from activations()."""
        return self.classifier(self.pool(activations))


class Residual(nn.Module):
    """Two 3x3 convolutions and a shortcut: float32 [N, into, H, W] -> [N, out, H / stride, W / stride].

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


class Pooled(nn.Module):
    """Features, global average pooling, and one linear layer."""

    def __init__(self, features, channels, n_classes):
        super().__init__()
        self.features = features
        self.classifier = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2),
                                        nn.Linear(channels, n_classes))

    def forward(self, x):
        return self.classifier(self.features(x))


class Small(Pooled):
    """A small residual network with batch normalisation: 1.5 M parameters, 0.1 GMAC.

    Input float32 [N, 3, 96, 96], normalised; output logits float32 [N, n_classes].
    """

    image_size = 96

    def __init__(self, n_classes=2):
        w = 24  # channels of the first layer
        features = nn.Sequential(
            nn.Conv2d(3, w, 3, 2, padding=1, bias=False), nn.BatchNorm2d(w), nn.ReLU(inplace=True),
            Residual(w, 2 * w, 2),
            Residual(2 * w, 4 * w, 2), Residual(4 * w, 4 * w),
            Residual(4 * w, 8 * w, 2), Residual(8 * w, 8 * w))
        super().__init__(features, 8 * w, n_classes)


# {name: channels of its features}
BACKBONES = {"vgg16": 512, "resnet18": 512, "mobilenet_v3_small": 576, "efficientnet_b0": 1280}


class Backbone(Pooled):
    """The convolutions of a torchvision network, with random weights.

    `name`: a key of BACKBONES. Input float32 [N, 3, 224, 224], normalised; output logits float32 [N, n_classes].
    """

    image_size = 224

    def __init__(self, name, n_classes=2):
        from torchvision import models  # here, since its import is slow and other networks do not need it

        whole = models.get_model(name, weights=None)
        if hasattr(whole, "features"):
            features = whole.features
        else:  # ResNet's layers without its pooling and head
            features = nn.Sequential(OrderedDict(list(whole.named_children())[:-2]))
        super().__init__(features, BACKBONES[name], n_classes)
        self.name = name


NETWORKS = {"paper": Model, "small": Small, **{name: functools.partial(Backbone, name) for name in BACKBONES}}


def build(name, n_classes):
    """A network with random weights. `name`: a key of NETWORKS; raises script.Problem if it is not."""
    if name not in NETWORKS:
        raise script.Problem(f"no network is called {name!r}: choose one of {', '.join(NETWORKS)}")
    return NETWORKS[name](n_classes)


def image_size(name):
    """The usual side of a network's input in pixels; only the paper's network takes no other. `name`: a key of
    NETWORKS."""
    return getattr(NETWORKS[name], "image_size", Backbone.image_size)


def grad_cam(model, batch, class_index=None, n_classes=None):
    """Where the network looked: float32 [N, H, W] in 0..1, the size of `batch` (float32 [N, 3, H, W], normalised).

    `class_index`: int, or one per image; None: each image's own prediction, among the first `n_classes` outputs (None:
    all outputs).
    Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization", ICCV 2017.
    """
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode(False), torch.enable_grad():
            held = []
            with model.features.register_forward_hook(lambda module, inputs, output: held.append(output)):
                # With an input that requires a gradient, there is a graph even if all weights are frozen.
                logits = model(batch.clone().requires_grad_())
            if class_index is None:
                class_index = logits[:, :n_classes].argmax(1)
            index = torch.as_tensor(class_index, device=batch.device).expand(len(batch))
            gradient, = torch.autograd.grad(logits.gather(1, index[:, None]).sum(), held[0])
        maps = functional.relu((held[0] * gradient.mean((2, 3), keepdim=True)).sum(1, keepdim=True)).detach()
        maps = functional.interpolate(maps.float(), batch.shape[2:], mode="bilinear", align_corners=False)[:, 0]
        return maps / maps.amax((1, 2), keepdim=True).clamp_min(1e-12)
    finally:
        model.train(was_training)


def load_imagenet(net):
    """Load ImageNet weights, from torch's cache or the internet, into the features of a Backbone.

    Returns None, or a line that says why that failed; `net` is then unchanged.
    """
    from torchvision import models

    weights = models.get_model_weights(net.name).DEFAULT
    place = Path(torch.hub.get_dir(), "checkpoints", weights.url.rsplit("/", 1)[-1])
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(PATIENCE)
    try:
        if os.environ.get("NO_FETCH") and not place.is_file():
            raise OSError("NO_FETCH is set")
        state = weights.get_state_dict(progress=True, check_hash=True, weights_only=True)
        state = {key.removeprefix("features."): value for key, value in state.items()}
        net.features.load_state_dict({key: state[key] for key in net.features.state_dict()})
        return None
    except Exception as error:  # of the internet connection, the disk, or a damaged file
        reason = str(error).partition("\n")[0] or type(error).__name__
        return (f"no ImageNet weights for {net.name} ({reason[:100]}): it starts from random weights; to use them, "
                f"save {weights.url} as {place}")
    finally:
        socket.setdefaulttimeout(before)
