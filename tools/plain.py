"""The paper's plain way of every stage, which bench.py measures beside ours. Nothing to run."""

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
    """The paper's way to look for faces: the cascade as it comes, on the whole picture."""
    return haar.cascade().detectMultiScale(cv2.cvtColor(bgr, cv2.COLOR_BGR2GRAY), 1.1, 5)


def crops(paths, folder):
    """One photo after the other: read, find, cut, resize, write."""
    for i, path in enumerate(paths):
        image = cv2.imread(str(path))
        for x, y, w, h in boxes(image)[:1]:
            cv2.imwrite(str(folder / f"{i}.jpg"), cv2.resize(image[y:y + h, x:x + w], (224, 224)))


def loader(folder):
    """torchvision's transforms, image by image, over the files; batches of 16."""
    turns = [transforms.RandomRotation((0, 90)), transforms.RandomHorizontalFlip(), transforms.RandomVerticalFlip()]
    steps = [transforms.Resize((224, 224)), *turns, transforms.ToTensor(),
             transforms.Normalize(dataset.MEAN, dataset.STD)]
    return DataLoader(datasets.ImageFolder(folder, transforms.Compose(steps)), 16, shuffle=True)


class Model(nn.Sequential):
    """The paper's network, layer after layer as the paper has them."""

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
        loss.item()


@functools.cache
def kept(folder):
    """(network, optimizer, batches) for crops in `folder`, made once."""
    net = Model().to(DEVICE)
    return net, torch.optim.Adam(net.parameters(), 1e-4), loader(folder)


def train(folder):
    """An epoch over the crops in `folder`."""
    epoch(*kept(folder))


@torch.no_grad()
def answer(net, info, crop):
    """The index of the class of one RGB crop."""
    steps = transforms.Compose([transforms.ToPILImage(), transforms.Resize((info["image_size"],) * 2),
                                transforms.ToTensor(), transforms.Normalize(info["mean"], info["std"])])
    return net(steps(crop)[None])[0, :len(info["classes"])].argmax().item()


def live(path, net, info):
    """The paper's live loop on a video: every frame searched whole, each face classified by itself."""
    video = cv2.VideoCapture(str(path))
    while True:
        done, frame = video.read()
        if not done:
            video.release()
            return
        for x, y, w, h in boxes(frame):
            name = info["classes"][answer(net, info, cv2.cvtColor(frame[y:y + h, x:x + w], cv2.COLOR_BGR2RGB))]
            cv2.rectangle(frame, (x, y), (x + w, y + h), (0, 255, 0), 2)
            cv2.putText(frame, name, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 1, (0, 255, 0), 2)
