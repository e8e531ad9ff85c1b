"""The paper's simple implementation of each stage, with which bench.py compares ours. Nothing to run."""

import functools
import itertools

import cv2
import torch
from torch import nn
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

import dataset
from faces import haar

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def boxes(bgr):
    """Face detection as in the paper: OpenCV's cascade on the whole picture."""
    return haar.cascade().detectMultiScale(cv2.cvtColor(bgr, cv2.COLOR_BGR2GRAY), 1.1, 5)


def crops(paths, folder):
    """Read, detect, crop, resize and write one photo after the other."""
    for i, path in enumerate(paths):
        image = cv2.imread(str(path))
        for x, y, w, h in boxes(image)[:1]:
            cv2.imwrite(str(folder / f"{i}.jpg"), cv2.resize(image[y:y + h, x:x + w], (224, 224)))


def loader(folder):
    """A DataLoader of the files with torchvision's transforms, image by image; batches of 16."""
    turns = [transforms.RandomRotation((0, 90)), transforms.RandomHorizontalFlip(), transforms.RandomVerticalFlip()]
    steps = [transforms.Resize((224, 224)), *turns, transforms.ToTensor(),
             transforms.Normalize(dataset.MEAN, dataset.STD)]
    return DataLoader(datasets.ImageFolder(folder, transforms.Compose(steps)), 16, shuffle=True)


class Model(nn.Sequential):
    """The paper's network, layer by layer as in the paper."""

    def __init__(self):
        blocks = [(nn.Conv2d(a, b, 5, padding=1), nn.ReLU(), nn.MaxPool2d(4, 2))
                  for a, b in ((3, 16), (16, 16), (16, 32), (32, 64))]
        super().__init__(*itertools.chain(*blocks), nn.Flatten(), nn.Linear(6400, 2048), nn.ReLU(), nn.Linear(2048, 2))


def epoch(net, optimizer, batches):
    """The paper's training loop."""
    net.train()
    for images, labels in batches:
        images, labels = images.to(DEVICE), labels.to(DEVICE)
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(images), labels)
        loss.backward()
        optimizer.step()
        loss.item()  # the paper's loop reads the loss in each step


@functools.cache
def kept(folder):
    """(network, optimizer, batches) for crops in `folder`, cached."""
    net = Model().to(DEVICE)
    return net, torch.optim.Adam(net.parameters(), 1e-3), loader(folder)


def train(folder):
    """Train an epoch on the crops in `folder`."""
    epoch(*kept(folder))


@torch.no_grad()
def answer(net, metadata, crop):
    """The predicted class index of one RGB crop."""
    steps = transforms.Compose([transforms.ToPILImage(), transforms.Resize((metadata["image_size"],) * 2),
                                transforms.ToTensor(), transforms.Normalize(metadata["mean"], metadata["std"])])
    return net(steps(crop)[None])[0, :len(metadata["classes"])].argmax().item()


def live(path, net, metadata):
    """The paper's live loop on a video: detection in the whole of each frame, each face classified separately."""
    video = cv2.VideoCapture(str(path))
    while True:
        ok, frame = video.read()
        if not ok:
            video.release()
            return
        for x, y, w, h in boxes(frame):
            crop = cv2.cvtColor(frame[y:y + h, x:x + w], cv2.COLOR_BGR2RGB)
            name = metadata["classes"][answer(net, metadata, crop)]
            cv2.rectangle(frame, (x, y), (x + w, y + h), (0, 255, 0), 2)
            cv2.putText(frame, name, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 1, (0, 255, 0), 2)
