"""model.py: the paper's network to the layer, its gradients, Grad-CAM, and weights files from friends and strangers."""

import pytest
import torch
from torch import nn

import model as networks
from learn import classifier, runs
from strangers import facts


def reference(n_classes):
    """The paper's table written down once more, independently of model.py."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 5, padding=1), nn.ReLU(), nn.MaxPool2d(4, stride=2),
        nn.Conv2d(16, 16, 5, padding=1), nn.ReLU(), nn.MaxPool2d(4, stride=2),
        nn.Conv2d(16, 32, 5, padding=1), nn.ReLU(), nn.MaxPool2d(4, stride=2),
        nn.Conv2d(32, 64, 5, padding=1), nn.ReLU(), nn.MaxPool2d(4, stride=2),
        nn.Flatten(), nn.Linear(6400, 2048), nn.ReLU(), nn.Linear(2048, n_classes))


@pytest.mark.parametrize("n_classes", [2, 10])
def test_model_is_the_papers(n_classes):
    net, other = networks.Model(n_classes), reference(n_classes)
    other.load_state_dict(dict(zip(other.state_dict(), net.state_dict().values(), strict=True)))
    x = torch.randn(2, 3, 224, 224)
    with torch.inference_mode():
        torch.testing.assert_close(net(x), other(x))
    gradients = [torch.autograd.grad(n(x)[:, 1].sum(), n.parameters()) for n in (net, other)]
    for one, two in zip(*gradients, strict=True):  # where ReLU and pooling change places
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-4)
    if n_classes == 2:
        assert sum(p.numel() for p in net.parameters()) == 13_185_074


@pytest.mark.parametrize("side", [6, 7, 8, 21, 22])
def test_a_block_is_convolution_relu_and_pooling(side):
    """The values of ReLU and then MaxPool2d(4, 2), at even and odd sizes, whatever order they are worked out in."""
    layers, x = networks.block(3, 5), torch.randn(2, 3, side, side)
    with torch.no_grad():
        layers[0].bias[0] = -9.0  # so that ReLU has something to cut off
    with torch.inference_mode():
        values = nn.Sequential(*layers)(x)
        assert torch.equal(values, nn.MaxPool2d(4, 2)(layers[0](x).relu()))
    assert (values == 0).any() and (values > 0).any(), "a test of nothing otherwise"


def test_the_names_of_the_papers_network_stay():
    """Weights files of users hold them."""
    layers = ("features.0", "features.3", "features.6", "features.9", "classifier.1", "classifier.3")
    assert set(networks.Model(2).state_dict()) == {f"{n}.{k}" for n in layers for k in ("weight", "bias")}


def test_small_is_small_and_looks_where_grad_cam_says():
    net = networks.build("small", 3).eval()
    assert sum(p.numel() for p in net.parameters()) < 3_000_000
    x = torch.randn(2, 3, networks.image_size("small"), networks.image_size("small"))
    with torch.inference_mode():
        assert net(x).shape == (2, 3)
    heat = networks.grad_cam(net, x)
    assert heat.shape == (2, 96, 96) and 0 <= heat.min() and heat.max() <= 1


def test_hook_sees_the_gradient_of_the_last_activations():
    net, x, seen = networks.Model(2), torch.randn(2, 3, 224, 224), []
    activations = net.activations(x)
    activations.register_hook(seen.append)
    net.logits(activations)[:, 1].sum().backward()
    apart = activations.detach().requires_grad_()
    expected, = torch.autograd.grad(net.classifier(net.pool(apart))[:, 1].sum(), apart)
    assert activations.shape == (2, 64, 22, 22)
    torch.testing.assert_close(seen[0], expected)
    torch.testing.assert_close(net(x), net.logits(activations))


def test_grad_cam_points_at_what_decides():
    net = networks.Model(2).eval()
    x = torch.zeros(1, 3, 224, 224)
    x[:, :, 120:180, 120:180] = 3.0

    class Corner(nn.Module):
        """Class 1 is how bright the activations of channel 0 are: only the bright square speaks for it."""

        def forward(self, pooled):
            return torch.stack([-pooled[:, 0].sum((1, 2)), pooled[:, 0].sum((1, 2))], 1)

    net.classifier = Corner()
    for layer in net.features:
        if isinstance(layer, nn.Conv2d):
            nn.init.constant_(layer.weight, 0.01)
            nn.init.zeros_(layer.bias)
    cam = networks.grad_cam(net, x, 1)
    assert cam.shape == (1, 224, 224) and cam.min() >= 0 and cam.max() == 1
    assert cam[0, 110:190, 110:190].mean() > 5 * cam[0, :90, :90].mean()


def test_grad_cam_works_inside_inference_mode_and_with_frozen_weights():
    net = networks.Model(2).train().requires_grad_(False)
    with torch.inference_mode():
        x = torch.randn(2, 3, 224, 224)
    assert networks.grad_cam(net, x.clone()).shape == (2, 224, 224)
    assert net.training


def test_weights_come_back_as_they_were(tmp_path):
    net = networks.Model(2)
    runs.save_weights(tmp_path / "a.pt", facts(net, model="paper", image_size=224))
    again, info = classifier.load_weights(tmp_path / "a.pt")
    assert info["classes"] == ["man", "woman"] and info["epoch"] == 3 and "state" not in info and not again.training
    for old, new in zip(net.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(old, new)


def test_half_precision_is_loaded_as_float32(tmp_path):
    net = networks.Model(2)
    half = {k: v.half() for k, v in net.state_dict().items()}
    runs.save_weights(tmp_path / "a.pt", facts(net, model="paper", image_size=224, state=half))
    again, _ = classifier.load_weights(tmp_path / "a.pt")
    x = torch.randn(4, 3, 224, 224)
    assert next(again.parameters()).dtype == torch.float32 and (tmp_path / "a.pt").stat().st_size < 30e6
    with torch.inference_mode():
        torch.testing.assert_close(again(x), net(x), atol=2e-3, rtol=0.01)
