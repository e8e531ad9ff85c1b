"""A network that has learned already, as a second opinion on every image of a training. Nothing to run.

Labels are wrong now and then, and some faces could be either. A network that is taught what another one says of an
image, beside the image's label, learns how sure to be. Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural
Network", 2015.
"""

import torch
from torch.nn import functional

from dataset import MEAN, STD
from learn.classifier import WeightsError, load_weights


def ask(path, classes, device, bf16):
    """A function: images as training sees them (float32 [N, 3, S, S] on `device`, as augment() gives them) -> what the
    weights file `path` says of each, class probabilities float32 [N, n_classes].

    Raises WeightsError where the file cannot be used, or is for other classes or another normalisation.
    """
    net, info = load_weights(path)
    if info["classes"] != classes:
        raise WeightsError(f"TEACHER={path} knows the classes {', '.join(info['classes'])} and this run learns "
                           f"{', '.join(classes)}: choose another TEACHER, or None")
    if (info["mean"], info["std"]) != (MEAN, STD):
        raise WeightsError(f"TEACHER={path} normalises images in another way: choose another TEACHER, or None")
    net, side = net.to(device, memory_format=torch.channels_last), info["image_size"]

    @torch.no_grad()
    def answers(images):
        if images.shape[-1] != side:
            images = functional.interpolate(images, (side, side), mode="bilinear", antialias=True)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
            logits = net(images)[:, :len(classes)]  # without the ages that it may tell
        return (logits.float() / info["temperature"]).softmax(1)

    return answers
