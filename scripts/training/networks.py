"""Convolutional networks for images of 32 x 32, in the forms that are trained on CIFAR.

ShuffleNet (Zhang et al., CVPR 2018, arXiv:1707.01083, section 3), ResNet (He et al., CVPR 2016, arXiv:1512.03385,
section 3.3 and table 1) and MobileNetV2 (Sandler et al., CVPR 2018, arXiv:1801.04381, table 2). As is usual for small
images, the first convolution has stride 1 and no pooling follows it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

CLASSES = 10


def convolution(before: int, after: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Return a convolution without bias, and batch normalisation."""
    return nn.Sequential(
        nn.Conv2d(before, after, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(after)
    )


class ShuffleUnit(nn.Module):
    """Grouped 1x1, shuffle, depthwise 3x3, grouped 1x1; of stride 2 it is joined to its pooled input."""

    def __init__(self, before: int, after: int, stride: int, groups: int) -> None:
        super().__init__()
        made = after - before if stride == 2 else after
        middle = made // 4
        self.groups = groups
        self.squeeze = convolution(before, middle, groups=1 if before == 24 else groups)
        self.depthwise = convolution(middle, middle, 3, stride, middle)
        self.expand = convolution(middle, made, groups=groups)
        self.pooled = stride == 2

    def forward(self, images: Tensor) -> Tensor:
        found = functional.relu(self.squeeze(images))
        count, channels, height, width = found.shape
        found = found.view(count, self.groups, channels // self.groups, height, width).transpose(1, 2)
        found = self.expand(self.depthwise(found.reshape(count, channels, height, width)))
        if self.pooled:
            return functional.relu(torch.cat((found, functional.avg_pool2d(images, 3, 2, 1)), 1))
        return functional.relu(found + images)


def shufflenet() -> nn.Module:
    """Return ShuffleNet, 2 groups, widths 200, 400, 800."""
    layers: list[nn.Module] = [convolution(3, 24), nn.ReLU()]
    width = 24
    for after, units in ((200, 4), (400, 8), (800, 4)):
        for place in range(units):
            layers.append(ShuffleUnit(width, after, 1 if place else 2, 2))
            width = after
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, CLASSES))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.first = convolution(before, after, 3, stride)
        self.second = convolution(after, after, 3)
        self.shortcut = nn.Identity() if before == after else convolution(before, after, 1, stride)

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.second(functional.relu(self.first(images)))
        return functional.relu(found + self.shortcut(images))


def resnet18() -> nn.Module:
    """Return ResNet-18: 11.2 million parameters."""
    layers: list[nn.Module] = [convolution(3, 64, 3), nn.ReLU()]
    width = 64
    for after in (64, 128, 256, 512):
        layers += [BasicBlock(width, after, 1 if after == 64 else 2), BasicBlock(after, after, 1)]
        width = after
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, CLASSES))


class InvertedResidual(nn.Module):
    """Widen by 1x1, depthwise 3x3, narrow by 1x1 without a non-linearity."""

    def __init__(self, before: int, after: int, stride: int, factor: int) -> None:
        super().__init__()
        middle = before * factor
        self.widen = convolution(before, middle)
        self.depthwise = convolution(middle, middle, 3, stride, middle)
        self.narrow = convolution(middle, after)
        self.joined = stride == 1 and before == after

    def forward(self, images: Tensor) -> Tensor:
        found = functional.relu6(self.depthwise(functional.relu6(self.widen(images))))
        found = self.narrow(found)
        return images + found if self.joined else found


def mobilenet() -> nn.Module:
    """Return MobileNetV2: 2.3 million parameters."""
    layers: list[nn.Module] = [convolution(3, 32, 3), nn.ReLU6()]
    width = 32
    stages = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    for factor, after, blocks, stride in stages:
        for place in range(blocks):
            layers.append(InvertedResidual(width, after, 1 if place else stride, factor))
            width = after
    layers += [convolution(width, 1280), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1280, CLASSES)]
    return nn.Sequential(*layers)
