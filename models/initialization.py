"""Initial weights: carrying out the rules of `init_rule.py` on a model that was just built.

It owns what each rule does to which parameter. It draws from torch's global RNG, which the caller has seeded: the same
weights follow on every rank and for every strategy. As in D2L 6.3, weights follow the rule and biases begin at zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from dljobs.errors import UsageError

from .init_rule import InitRule

# Their weights scale, they do not mix: one and zero are right for them whatever the rule.
NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
FILLED: dict[str, Callable[[Tensor, float], Tensor]] = {
    "zeros": lambda weight, _: nn.init.zeros_(weight),
    "ones": lambda weight, _: nn.init.ones_(weight),
    "constant": nn.init.constant_,
    "normal": lambda weight, std: nn.init.normal_(weight, std=std),
    "uniform": lambda weight, bound: nn.init.uniform_(weight, -bound, bound),
    "xavier_uniform": lambda weight, _: nn.init.xavier_uniform_(weight),
    "xavier_normal": lambda weight, _: nn.init.xavier_normal_(weight),
    # Half of what a ReLU is given it drops: He et al. 2015 make up for that.
    "kaiming_uniform": lambda weight, _: nn.init.kaiming_uniform_(weight, nonlinearity="relu"),
    "kaiming_normal": lambda weight, _: nn.init.kaiming_normal_(weight, nonlinearity="relu"),
}


def initialize(model: nn.Module, rules: Sequence[InitRule]) -> None:
    """Give the layers that the rules are for new weights and zero biases; a shared parameter is drawn once.

    A layer's weights are its own parameters of two or more dimensions, also those of a user's layer, which counts as
    "linear"; its biases are those of one dimension. Normalising layers stay as they are.

    Raises:
        UsageError: a rule is for a kind of layer that the model does not have.
    """
    done: set[Tensor] = set()
    for rule in rules:
        layers = [layer for kind, layer in _layers(model) if rule.layer in ("", kind)]
        if not layers:
            raise UsageError(f"init sets {rule.layer or 'initial'} weights, and this model has no such layer")
        for layer in layers:
            _fill(layer, rule, done)


def _layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for module in model.modules():
        if isinstance(module, NORMS) or not any(weight.ndim > 1 for weight in module.parameters(recurse=False)):
            continue
        kind = "conv" if isinstance(module, _ConvNd) else "embedding" if isinstance(module, nn.Embedding) else "linear"
        yield kind, module


@torch.no_grad()
def _fill(layer: nn.Module, rule: InitRule, done: set[Tensor]) -> None:
    for parameter in layer.parameters(recurse=False):
        if parameter in done:
            continue
        done.add(parameter)
        if parameter.ndim > 1:
            FILLED[rule.method](parameter, rule.number)
        else:
            nn.init.zeros_(parameter)
