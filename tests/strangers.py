"""Weights files for the tests: the facts of a good one, and bad ones of every kind."""

import pickle
import zipfile

import torch

import model as networks


def facts(net, **changes):
    return {"model": "paper", "classes": ["man", "woman"], "image_size": 224, "mean": [0.5] * 3, "std": [0.2] * 3,
            "margin": 0.2, "temperature": 1.0, "threshold": 0.7, "epoch": 3, "metrics": {}, "state": net.state_dict(),
            **changes}


class Bomb:
    def __reduce__(self):
        return print, ("the bomb went off",)


def bad_files():
    net = networks.Model(2)
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
        "no margin": lambda p: torch.save({k: v for k, v in facts(net).items() if k != "margin"}, p),
    }
