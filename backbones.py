"""torchvision's networks for transfer learning, which the paper names as the state of the art. Nothing to run.

Each is the convolutions of the original, global pooling and one linear layer. The heads of the originals are left out:
VGG's alone has 124 M parameters, and a file of weights stays at 30 MB without it (resnet18 22, efficientnet_b0 8,
mobilenet_v3_small 2). ImageNet weights are fetched by load_imagenet() alone, never when a weights file is read.
"""

import http.client
import pickle
import socket
from collections import OrderedDict
from pathlib import Path

import torch
from torch import nn

PATIENCE = 20  # seconds without an answer after which a download is given up


class Backbone(nn.Module):
    """A torchvision network from random weights: `features` gives [N, channels, 7, 7], `classifier` the logits.

    Input float32 [N, 3, 224, 224], normalised with ImageNet's mean and deviation; output float32 [N, n_classes].
    """

    image_size = 224
    name, channels = None, None  # of torchvision.models; what `features` gives

    def __init__(self, n_classes=2):
        super().__init__()
        self.features = self.convolutions()
        self.classifier = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2),
                                        nn.Linear(self.channels, n_classes))

    def convolutions(self):
        """torchvision's network before its pooling and head, as one module with random weights."""
        from torchvision import models  # only here: not every network needs it

        return models.get_model(self.name, weights=None).features

    def own(self, state):
        """What of torchvision's state dict belongs to `features`, by the names there."""
        return {k.removeprefix("features."): v for k, v in state.items() if k.startswith("features.")}

    def forward(self, x):
        return self.classifier(self.features(x))


class VGG16(Backbone):
    """Simonyan and Zisserman, "Very Deep Convolutional Networks", ICLR 2015: 14.7 M parameters, 15.4 GMAC."""

    name, channels = "vgg16", 512

    def convolutions(self):
        from torchvision.models import vgg

        features = vgg.make_layers(vgg.cfgs["D"])  # the whole network would fill its large head first: half a gigabyte
        for layer in features:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(layer.bias)
        return features


class ResNet18(Backbone):
    """He et al., "Deep Residual Learning for Image Recognition", CVPR 2016: 11.2 M parameters, 1.8 GMAC."""

    name, channels = "resnet18", 512

    def convolutions(self):
        from torchvision import models

        return nn.Sequential(OrderedDict(list(models.resnet18(weights=None).named_children())[:-2]))  # no avgpool, fc

    def own(self, state):
        return {k: v for k, v in state.items() if not k.startswith("fc.")}


class MobileNetV3Small(Backbone):
    """Howard et al., "Searching for MobileNetV3", ICCV 2019: 0.9 M parameters, 0.06 GMAC."""

    name, channels = "mobilenet_v3_small", 576


class EfficientNetB0(Backbone):
    """Tan and Le, "EfficientNet", ICML 2019: 4.0 M parameters, 0.4 GMAC."""

    name, channels = "efficientnet_b0", 1280


def load_imagenet(net):
    """Give the features of a Backbone their ImageNet weights, from torch's cache or the internet.

    Returns None, or where they cannot be had a line that says why; `net` is then as it was.
    """
    from torchvision import models

    weights = models.get_model_weights(net.name).DEFAULT
    patience = socket.getdefaulttimeout()
    socket.setdefaulttimeout(PATIENCE)
    try:
        state = weights.get_state_dict(progress=True, check_hash=True, weights_only=True)
        net.features.load_state_dict(net.own(state))
        return None
    except (OSError, RuntimeError, ValueError, EOFError, AttributeError, TypeError, pickle.UnpicklingError,
            http.client.HTTPException) as error:
        place = Path(torch.hub.get_dir(), "checkpoints", weights.url.rsplit("/", 1)[-1])
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        return (f"no ImageNet weights for {net.name} ({reason[:100]}): it starts from random ones; to have them, put "
                f"{weights.url} at {place}")
    finally:
        socket.setdefaulttimeout(patience)
