"""torchvision's classifiers, fitted to the data: as many classes, as many channels, and published weights if wanted.

Each name of the table is a callable of this module: `resnet18(in_channels=1, num_classes=10)`. It owns the fit, which
is the same for every family because torchvision builds them alike: the first convolution is the only one that sees the
image, and the layers with 1,000 outputs are the classifier and, in two models, its auxiliary ones. A test holds every
model against that.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import models as published

from dljobs.errors import UsageError

from .published_weights import load_published
from .torchvision_table import NO_WEIGHTS, TABLE, image_size_of

NUM_CLASSES = 1000
CHANNELS = 3
WITH_AUXILIARY = ("googlenet", "inception_v3")


def __getattr__(name: str) -> Callable[..., nn.Module]:
    """The model of that name, as a function of its options."""
    if name not in TABLE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    made = functools.partial(build, name)
    made.__doc__ = published.get_model_builder(name).__doc__
    return made


def build(
    name: str,
    in_channels: int = CHANNELS,
    num_classes: int = NUM_CLASSES,
    weights: str = NO_WEIGHTS,
    image_size: int | None = None,
) -> nn.Module:
    """A model of torchvision: [n, in_channels, h, w] images in [-1, 1] to [n, num_classes] logits.

    In training GoogLeNet and Inception also give auxiliary logits, as a named tuple; the loss takes them into account.

    Args:
        weights: "none", "DEFAULT" or a name that torchvision knows for this model.
        image_size: for vision transformers, whose positions are numbered.

    Raises:
        UsageError: a number of channels or a size that the published weights are not for.
        DataError: the file of the weights cannot be had.
    """
    if in_channels < 1 or num_classes < 1:
        raise UsageError(f"{name} needs at least one channel and one class, not {in_channels} and {num_classes}")
    if weights == NO_WEIGHTS:
        model = _construct(name, num_classes, image_size)
        if in_channels != CHANNELS:
            _replace_first_convolution(model, in_channels)
        return model
    return _pretrained(name, in_channels, num_classes, weights, image_size)


def _construct(name: str, num_classes: int, image_size: int | None) -> nn.Module:
    builder = published.get_model_builder(name)
    options: dict[str, Any] = {"num_classes": num_classes}
    if image_size is not None:
        options["image_size"] = image_size
    if name in WITH_AUXILIARY:
        options["init_weights"] = True  # else torchvision warns that this default will change
    model: nn.Module = builder(**options)
    return model


def _pretrained(name: str, in_channels: int, num_classes: int, weights: str, image_size: int | None) -> nn.Module:
    chosen = published.get_model_weights(name)[weights]
    if in_channels not in (1, CHANNELS):
        raise UsageError(
            f"the published weights of {name} are for images of 3 channels or 1, and the data have {in_channels}",
            hint="train from the beginning: leave the option weights out",
        )
    size = chosen.meta["min_size"][0] if name.startswith("vit_") else image_size_of(name)
    if image_size is not None and image_size != size:
        raise UsageError(
            f"the weights {chosen.name} of {name} are for images of {size}×{size}, and these are {image_size} wide",
            hint=f"resize the images, where the data can: --set data.image_size={size}",
        )
    model = _construct(name, NUM_CLASSES, None if image_size is None else size)
    load_published(model, f"{name} with the weights {chosen.name}", chosen.url)
    if num_classes != NUM_CLASSES:
        _replace_classifiers(model, num_classes)
    transforms = chosen.transforms()
    # These two were trained on images in [-1, 1], and torchvision converts to that; ours are so already.
    if name not in WITH_AUXILIARY:
        model.register_forward_pre_hook(Normalised(transforms.mean, transforms.std))
    elif in_channels == 1:
        model.register_forward_pre_hook(Normalised([0.5] * CHANNELS, [0.5] * CHANNELS))
    return model


class Normalised:
    """Turns images in [-1, 1] into what the weights were trained on; a grey image into three equal channels."""

    def __init__(self, mean: list[float], deviation: list[float]) -> None:
        self.scale = [0.5 / each for each in deviation]
        self.shift = [(0.5 - m) / d for m, d in zip(mean, deviation, strict=True)]

    def __call__(self, _module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        x = inputs[0]
        scale, shift = (x.new_tensor(values).view(CHANNELS, 1, 1) for values in (self.scale, self.shift))
        return (x * scale + shift, *inputs[1:])


def _replace_first_convolution(model: nn.Module, in_channels: int) -> None:
    """For images with another number of channels: drawn so that its outputs spread as far as the original's do."""
    name, old = next((name, each) for name, each in model.named_modules() if isinstance(each, nn.Conv2d))
    new = nn.Conv2d(
        in_channels,
        old.out_channels,
        old.kernel_size,  # type: ignore[arg-type]
        old.stride,  # type: ignore[arg-type]
        old.padding,  # type: ignore[arg-type]
        old.dilation,  # type: ignore[arg-type]
        bias=old.bias is not None,
        device=old.weight.device,
    )
    with torch.no_grad():
        new.weight.normal_().mul_(old.weight.std() * (CHANNELS / in_channels) ** 0.5)
        if old.bias is not None and new.bias is not None:
            new.bias.copy_(old.bias)
    _put(model, name, new)


def _replace_classifiers(model: nn.Module, num_classes: int) -> None:
    """New last layers, also of the auxiliary classifiers."""
    for name, old in list(model.named_modules()):
        if isinstance(old, nn.Linear) and old.out_features == NUM_CLASSES:
            _put(model, name, nn.Linear(old.in_features, num_classes, bias=old.bias is not None))
        elif isinstance(old, nn.Conv2d) and old.out_channels == NUM_CLASSES:
            _put(model, name, nn.Conv2d(old.in_channels, num_classes, kernel_size=1))


def _put(model: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, layer)
