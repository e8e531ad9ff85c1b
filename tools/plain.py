"""The paper's plain way of every stage, which bench.py measures beside ours. Nothing to run."""

import functools
import itertools

import cv2
import torch
from torch import nn
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

import dataset
from faces import detectors

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def boxes(bgr):
    """The paper's way to look for faces: the cascade as it comes, on the whole picture."""
    return detectors.cascade().detectMultiScale(cv2.cvtColor(bgr, cv2.COLOR_BGR2GRAY), 1.1, 5)


def crops(paths, folder):
    """One photo after the other: read, find, cut, resize, write."""
    for i, path in enumerate(paths):
        image = cv2.imread(str(path))
        for x, y, w, h in boxes(image)[:1]:
            cv2.imwrite(str(folder / f"{i}.jpg"), cv2.resize(image[y:y + h, x:x + w], (224, 224)))


def loader(folder, training):
    """torchvision's transforms, image by image, over the files; batches of 16."""
    turns = [transforms.RandomRotation((0, 90)), transforms.RandomHorizontalFlip(), transforms.RandomVerticalFlip()]
    steps = [transforms.Resize((224, 224)), *(turns if training else []), transforms.ToTensor(),
             transforms.Normalize(dataset.MEAN, dataset.STD)]
    return DataLoader(datasets.ImageFolder(folder, transforms.Compose(steps)), 16, shuffle=training)


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
    """(network, optimizer, batches to train on, batches to judge) for crops in `folder`, made once a process."""
    net = Model().to(DEVICE)
    return net, torch.optim.Adam(net.parameters(), 1e-4), loader(folder, True), loader(folder, False)


def train(folder):
    """An epoch over the crops in `folder`."""
    net, optimizer, batches, _ = kept(folder)
    epoch(net, optimizer, batches)


def evaluate(folder):
    """Every crop in `folder` judged."""
    net, _, _, batches = kept(folder)
    net.eval()
    with torch.no_grad():
        for images, _ in batches:
            net(images.to(DEVICE)).argmax(1)


def live(path, net, info):
    """The paper's live loop on a video: every frame searched whole, each face classified by itself. Returns frames."""
    video, frames = cv2.VideoCapture(str(path)), 0
    transform = transforms.Compose([transforms.ToPILImage(), transforms.Resize((info["image_size"],) * 2),
                                    transforms.ToTensor(), transforms.Normalize(info["mean"], info["std"])])
    while True:
        done, frame = video.read()
        if not done:
            video.release()
            return frames
        for x, y, w, h in boxes(frame):
            face = cv2.cvtColor(frame[y:y + h, x:x + w], cv2.COLOR_BGR2RGB)
            with torch.no_grad():
                answer = net(transform(face)[None]).argmax(1).item()
            cv2.rectangle(frame, (x, y), (x + w, y + h), (0, 255, 0), 2)
            cv2.putText(frame, info["classes"][answer], (x, y), cv2.FONT_HERSHEY_SIMPLEX, 1, (0, 255, 0), 2)
        frames += 1
