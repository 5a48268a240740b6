"""Rules for initial weights: `normal:0.01`, or `linear=normal:0.01;conv=kaiming_normal` by the kind of layer.

It owns their syntax and nothing of torch: clients check a rule at submit, and `initialization.py` carries it out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from dljobs.errors import UnknownName, UsageError

DEFAULT = "default"
LAYER_KINDS = ("linear", "conv", "embedding")
# The number that a method takes after a colon, if any.
METHODS: dict[str, str] = {
    DEFAULT: "",
    "zeros": "",
    "ones": "",
    "constant": "a value",
    "normal": "a standard deviation",
    "uniform": "a bound",
    "xavier_uniform": "",
    "xavier_normal": "",
    "kaiming_uniform": "",
    "kaiming_normal": "",
}
HINT = (
    "for example normal:0.01, or by layer linear=xavier_uniform;conv=kaiming_normal; there are "
    + ", ".join(f"{name}:NUMBER" if number else name for name, number in METHODS.items())
    + f", and the layers {', '.join(LAYER_KINDS)}"
)


@dataclass(frozen=True)
class InitRule:
    """How the weights of one kind of layer begin (`layer` "": of every kind)."""

    layer: str
    method: str
    number: float = 0.0


def parse_init(text: str) -> tuple[InitRule, ...]:
    """The rules in a text; empty where all is left as the layers' own constructors have it.

    Raises:
        UsageError: it is no rule; the message says what is wrong, the hint what would be right.
    """
    rules = tuple(_parse_rule(part.strip()) for part in text.split(";"))
    layers = [rule.layer for rule in rules]
    twice = next((layer for layer in layers if layers.count(layer) > 1), None)
    if twice is not None:
        raise UsageError(f"init {text!r} has two rules for {twice or 'all layers'}", HINT)
    if "" in layers and len(rules) > 1:
        raise UsageError(f"init {text!r} mixes a rule for all layers with rules for some", HINT)
    return tuple(rule for rule in rules if rule.method != DEFAULT)


def _parse_rule(text: str) -> InitRule:
    layer, equals, rule = text.rpartition("=")
    layer = layer.strip()
    if equals and layer not in LAYER_KINDS:
        raise UnknownName("kind of layer in init", layer, LAYER_KINDS, HINT)
    method, colon, number = (part.strip() for part in rule.partition(":"))
    if method not in METHODS:
        raise UnknownName("init", method, METHODS, HINT)
    wanted = METHODS[method]
    if bool(colon) != bool(wanted):
        takes = f"takes {wanted}: {method}:0.01" if wanted else "takes no number"
        raise UsageError(f"init {method} {takes}, and {text!r} does not say so", HINT)
    return InitRule(layer, method, _number(text, method, number) if wanted else 0.0)


def _number(text: str, method: str, number: str) -> float:
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or (value < 0 and method != "constant"):
        raise UsageError(f"init {text!r} needs {METHODS[method]}, not {number!r}", HINT)
    return value
