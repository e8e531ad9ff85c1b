"""Weights files for the tests: the facts of a good one, bad ones of every kind, and what a network says, plainly."""

import pickle
import zipfile

import numpy as np
import torch

import dataset
import drawn
import model as networks
from faces import cropping
from learn import runs


def facts(net, **changes):
    """The dict of a weights file of the network "small"."""
    return {"model": "small", "classes": ["man", "woman"], "image_size": 96, "mean": [0.5] * 3, "std": [0.2] * 3,
            "margin": 0.2, "temperature": 1.0, "threshold": 0.7, "epoch": 3, "metrics": {}, "state": net.state_dict(),
            **changes}


def plainly(net, facts, crops):
    """What Classifier.predict() must give, one crop after the other and by nothing of ours: float32 [N, C] and [N]."""
    n_classes, answers, children = len(facts["classes"]), [], []
    with torch.no_grad():
        for crop in crops:
            image = torch.from_numpy(np.ascontiguousarray(crop)).permute(2, 0, 1)[None]
            side = (facts["image_size"], facts["image_size"])
            if image.shape[2:] != side:
                image = torch.nn.functional.interpolate(image, side, mode="bilinear", antialias=True)
            mean, std = (torch.tensor(facts[name]).view(1, 3, 1, 1) for name in ("mean", "std"))
            image = (image.float() / 255 - mean) / std
            logits = net(image)[0]
            if facts.get("flip"):
                logits = (logits + net(image.flip(3))[0]) / 2
            ages = logits[n_classes:].softmax(0)
            answers.append((logits[:n_classes] / facts["temperature"]).softmax(0).numpy())
            young = [float(share) for share, age in zip(ages, facts.get("ages", ()), strict=True) if age < 11]
            children.append(sum(young))
    return np.stack(answers), np.array(children, np.float32)


def lively(path, name, seed=0, **changes):
    """A weights file of random weights for three classes, whose answers differ from crop to crop. Returns the path."""
    torch.manual_seed(seed)
    net, size = networks.build(name, 3 + len(changes.get("ages", ()))), networks.image_size(name)
    crops = [cropping.crop_face(drawn.draw_face(i, "hat"), (40, 30, 150, 150), cropping.MARGIN) for i in range(8)]
    batch = dataset.evaluation_transform(size)(dataset.to_batch(crops))
    for layer in net.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = None  # statistics of one pass, as after a training
    head = net.classifier[-1]
    with torch.no_grad():
        torch.nn.init.normal_(head.weight)
        net.train()(batch)
        logits = net.eval()(batch)
        head.weight.div_(logits.std(0)[:, None])
        head.bias.copy_((head.bias - logits.mean(0)) / logits.std(0))
    runs.save_weights(path, {
        "model": name, "classes": ["a", "b", "señor"], "image_size": size, "mean": dataset.MEAN,
        "std": dataset.STD, "margin": 0.2, "clahe": 2.0, "temperature": 1.7, "threshold": 0.7, "epoch": 3,
        "flip": False, "metrics": {}, "state": net.state_dict(), **changes})
    return path


class Bomb:
    def __reduce__(self):
        return print, ("the bomb went off",)


def deflate(path, checkpoint):
    """Write a weights file that is small on the disk and large in memory."""
    torch.save(checkpoint, path)
    with zipfile.ZipFile(path) as archive:
        entries = [(entry, archive.read(entry)) for entry in archive.infolist()]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for entry, data in entries:
            archive.writestr(entry.filename, data)


def bad_files():
    net, state = networks.build("small", 2), networks.build("small", 2).state_dict()
    bias, zeros = list(state)[-1], torch.zeros(2)
    return {
        "pickle": lambda p: p.write_bytes(pickle.dumps(Bomb())),
        "torch pickle": lambda p: torch.save({**facts(net), "x": Bomb()}, p),
        "whole model": lambda p: torch.save(net, p),
        "empty": lambda p: p.write_bytes(b""),
        "text": lambda p: p.write_text("hello"),
        "zip": lambda p: zipfile.ZipFile(p, "w").close(),
        "a state alone": lambda p: torch.save(net.state_dict(), p),
        "a tensor": lambda p: torch.save(torch.zeros(3), p),
        "other classes": lambda p: torch.save(facts(net, classes=["a", "b", "c"]), p),
        "other network": lambda p: torch.save(facts(net, model="vgg99"), p),
        "other shapes": lambda p: torch.save(facts(net, state={"x": torch.zeros(1)}), p),
        "state of strings": lambda p: torch.save(facts(net, state={k: "x" for k in net.state_dict()}), p),
        "a temperature of nearly nothing": lambda p: torch.save(facts(net, temperature=1e-320), p),
        "a deviation of nearly nothing": lambda p: torch.save(facts(net, std=[1e-45] * 3), p),
        "the paper's network at 300 pixels": lambda p: torch.save(
            facts(networks.Model(2), model="paper", image_size=300), p),
        "complex weights": lambda p: torch.save(facts(net, state=state | {bias: zeros.to(torch.cfloat)}), p),
        "sparse weights": lambda p: torch.save(facts(net, state=state | {bias: zeros.to_sparse()}), p),
        "whole numbers": lambda p: torch.save(facts(net, state=state | {bias: zeros.int()}), p),
        "a bomb": lambda p: deflate(p, {**facts(net), "x": torch.zeros(3_000_000)}),
        "no margin": lambda p: torch.save({k: v for k, v in facts(net).items() if k != "margin"}, p),
    }
