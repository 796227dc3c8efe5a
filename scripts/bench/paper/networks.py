"""The paper's six networks in their CIFAR forms: inputs of 3 x 32 x 32, ten classes.

Widths, depths and strides are those of the networks' own papers, with the first strides left out as is usual for
images of 32 x 32 pixels. `NETWORKS` gives the size in MB (2^20 bytes of fp32 state dict) that the Delta-DNN paper
states for each; `scripts/bench/paper/train --sizes` prints ours beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional


class Network(NamedTuple):
    """One of the paper's networks: how it is made, and the paper's size of a snapshot in MB."""

    make: Callable[[], nn.Module]
    paper_mb: float


def conv(
    inside: int, outside: int, kernel: int, stride: int = 1, groups: int = 1, *, act: bool = True
) -> nn.Sequential:
    """Convolution without bias, BatchNorm, and ReLU unless it is said not to be there."""
    layers: list[nn.Module] = [
        nn.Conv2d(inside, outside, kernel, stride, (kernel - 1) // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outside),
    ]
    if act:
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


class Head(nn.Sequential):  # type: ignore[misc]  # torch is not looked at
    """Mean over all places, then one linear layer."""

    def __init__(self, channels: int, classes: int = 10) -> None:
        super().__init__(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


class Residual(nn.Module):  # type: ignore[misc]  # torch is not looked at
    """`body(x) + shortcut(x)`, the shortcut being the identity where the shapes agree; ReLU behind it if asked."""

    def __init__(self, body: nn.Module, shortcut: nn.Module | None, *, act: bool) -> None:
        super().__init__()
        self.body, self.shortcut, self.act = body, shortcut or nn.Identity(), act

    def forward(self, x: Tensor) -> Tensor:
        total: Tensor = self.body(x) + self.shortcut(x)
        return functional.relu(total) if self.act else total


def vgg16() -> nn.Module:
    """VGG-16 (Simonyan, Zisserman 2014) with BatchNorm and one linear layer."""
    layers: list[nn.Module] = []
    inside = 3
    for width, depth in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(depth):
            layers += [nn.Conv2d(inside, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
            inside = width
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, Head(512))


def resnet101() -> nn.Module:
    """ResNet-101 (He et al. 2015)."""
    layers: list[nn.Module] = [conv(3, 64, 3)]
    inside = 64
    for width, depth, first in ((64, 3, 1), (128, 4, 2), (256, 23, 2), (512, 3, 2)):
        for place in range(depth):
            stride, outside = first if place == 0 else 1, 4 * width
            body = nn.Sequential(
                conv(inside, width, 1), conv(width, width, 3, stride), conv(width, outside, 1, act=False)
            )
            shortcut = conv(inside, outside, 1, stride, act=False) if stride != 1 or inside != outside else None
            layers.append(Residual(body, shortcut, act=True))
            inside = outside
    return nn.Sequential(*layers, Head(inside))


class Inception(nn.Module):  # type: ignore[misc]  # torch is not looked at
    """Four branches side by side; the one of 5 x 5 is two of 3 x 3."""

    def __init__(self, inside: int, w1: int, w3: tuple[int, int], w5: tuple[int, int], pool: int) -> None:
        super().__init__()

        def biased(a: int, b: int, kernel: int) -> nn.Sequential:
            return nn.Sequential(nn.Conv2d(a, b, kernel, padding=kernel // 2), nn.BatchNorm2d(b), nn.ReLU(inplace=True))

        self.branches = nn.ModuleList(
            [
                biased(inside, w1, 1),
                nn.Sequential(biased(inside, w3[0], 1), biased(*w3, 3)),
                nn.Sequential(biased(inside, w5[0], 1), biased(*w5, 3), biased(w5[1], w5[1], 3)),
                nn.Sequential(nn.MaxPool2d(3, 1, 1), biased(inside, pool, 1)),
            ]
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


def googlenet() -> nn.Module:
    """GoogLeNet (Szegedy et al. 2014) with BatchNorm and without the auxiliary heads."""
    stem = nn.Sequential(nn.Conv2d(3, 192, 3, padding=1), nn.BatchNorm2d(192), nn.ReLU(inplace=True))
    return nn.Sequential(
        stem,
        Inception(192, 64, (96, 128), (16, 32), 32),
        Inception(256, 128, (128, 192), (32, 96), 64),
        nn.MaxPool2d(3, 2, 1),
        Inception(480, 192, (96, 208), (16, 48), 64),
        Inception(512, 160, (112, 224), (24, 64), 64),
        Inception(512, 128, (128, 256), (24, 64), 64),
        Inception(512, 112, (144, 288), (32, 64), 64),
        Inception(528, 256, (160, 320), (32, 128), 128),
        nn.MaxPool2d(3, 2, 1),
        Inception(832, 256, (160, 320), (32, 128), 128),
        Inception(832, 384, (192, 384), (48, 128), 128),
        Head(1024),
    )


def inverted(inside: int, outside: int, expand: int, stride: int) -> nn.Module:
    """A bottleneck that widens, filters channel by channel and narrows again (MobileNetV2, EfficientNet)."""
    width = inside * expand
    body = nn.Sequential(
        conv(inside, width, 1), conv(width, width, 3, stride, groups=width), conv(width, outside, 1, act=False)
    )
    if stride != 1:
        return body
    return Residual(body, None if inside == outside else conv(inside, outside, 1, act=False), act=False)


def inverted_stack(stem: int, plan: Sequence[tuple[int, int, int, int]], last: int) -> nn.Module:
    """Stem, rows of (expansion, width, depth, first stride), and, if `last` is not 0, a wide last convolution."""
    layers: list[nn.Module] = [conv(3, stem, 3)]
    inside = stem
    for expand, outside, depth, first in plan:
        for place in range(depth):
            layers.append(inverted(inside, outside, expand, first if place == 0 else 1))
            inside = outside
    if last:
        layers.append(conv(inside, last, 1))
    return nn.Sequential(*layers, Head(last or inside))


def efficientnet_b0() -> nn.Module:
    """EfficientNet-B0 (Tan, Le 2019) in the size of the paper: 3 x 3 filters, no squeeze-and-excitation, narrow end."""
    plan = [(1, 16, 1, 1), (6, 24, 2, 1), (6, 40, 2, 2), (6, 80, 3, 2), (6, 112, 3, 1), (6, 192, 4, 2), (6, 320, 1, 1)]
    return inverted_stack(32, plan, 0)


def mobilenet_v2() -> nn.Module:
    """MobileNetV2 (Sandler et al. 2018)."""
    plan = [(1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
    return inverted_stack(32, plan, 1280)


class Shuffle(nn.Module):  # type: ignore[misc]  # torch is not looked at
    """A bottleneck of grouped 1 x 1 convolutions with the channels of the groups shuffled between them."""

    def __init__(self, inside: int, outside: int, stride: int, groups: int) -> None:
        super().__init__()
        own = outside - inside if stride == 2 else outside
        self.stride, middle = stride, own // 4
        self.groups = 1 if inside == 24 else groups
        self.narrow = conv(inside, middle, 1, groups=self.groups)
        self.filter = conv(middle, middle, 3, stride, groups=middle, act=False)
        self.widen = conv(middle, own, 1, groups=groups, act=False)

    def forward(self, x: Tensor) -> Tensor:
        out = self.narrow(x)
        batch, channels, height, width = out.shape
        out = out.view(batch, self.groups, channels // self.groups, height, width).transpose(1, 2)
        out = self.widen(functional.relu(self.filter(out.reshape(batch, channels, height, width))))
        if self.stride == 2:
            return functional.relu(torch.cat([out, functional.avg_pool2d(x, 3, 2, 1)], 1))
        return functional.relu(out + x)


def shufflenet_g2() -> nn.Module:
    """ShuffleNet with two groups (Zhang et al. 2017)."""
    layers: list[nn.Module] = [conv(3, 24, 1)]
    inside = 24
    for outside, depth in ((200, 4), (400, 8), (800, 4)):
        for place in range(depth):
            layers.append(Shuffle(inside, outside, 2 if place == 0 else 1, 2))
            inside = outside
    return nn.Sequential(*layers, Head(inside))


BATCH = 32
"""Images at once where a network is only run. With channels last, milliseconds an image of one AMD Zen 4 core, float32
(in brackets 64 at once, channels first): GoogLeNet 34 (88), MobileNet 3.3 (8.7), EfficientNet 3.8 (10), ResNet101 50
(78), VGG-16 5.8 (6.0), ShuffleNet 2.2 (2.8)."""

NETWORKS = {
    "vgg16": Network(vgg16, 56.2),
    "resnet101": Network(resnet101, 162.6),
    "googlenet": Network(googlenet, 23.6),
    "efficientnet": Network(efficientnet_b0, 11.3),
    "mobilenet": Network(mobilenet_v2, 8.9),
    "shufflenet": Network(shufflenet_g2, 3.5),
}
"""The paper's networks by the names its tables use, in the order of those tables."""
