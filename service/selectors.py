"""Selectors: which devices a job may run on, from what a user typed, and as JSON in the job's row."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Sequence
from functools import lru_cache

from dljobs.errors import UsageError

from .bounds import NODE_NAME
from .scheduling.rows import ANYWHERE, Condition, Selector, Share

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?", re.IGNORECASE)
_LABEL = re.compile(r"([A-Za-z][A-Za-z0-9._-]{0,62})=([A-Za-z0-9._-]{1,63})")


def make_selector(
    device_type: str | None, memory: str | None, labels: Sequence[str] = (), exclude: Sequence[str] = ()
) -> Selector:
    """The selector of `--gpu-type`, `--gpu-mem`, `--on` and `--exclude`.

    Raises:
        UsageError: one of them cannot be right; the message says what would be.
    """
    if device_type is not None and (not re.search("[A-Za-z0-9]", device_type) or len(device_type) > 100):
        raise UsageError(f"--gpu-type: {device_type[:40]!r} is no kind of device", "write it like a100, h100 or cpu")
    for name in exclude:
        if not NODE_NAME.fullmatch(name):
            raise UsageError(f"--exclude: {name[:40]!r} is no name of a node", "`dljobs node list` has them")
    return Selector(
        device_type=device_type or "",
        memory_bytes=parse_bytes(memory) if memory else 0,
        labels=tuple(sorted(parse_labels("--on", labels).items())),
        exclude=tuple(sorted(set(exclude))),
    )


def parse_labels(flag: str, texts: Sequence[str]) -> dict[str, str]:
    """`label=value` each.

    Raises:
        UsageError: one is not of this form; the message names the flag.
    """
    found = {}
    for text in texts:
        label = _LABEL.fullmatch(text)
        if label is None:
            raise UsageError(f"{flag}: {text[:40]!r} is no label=value", f"for example {flag} room=b12")
        found[label[1]] = label[2]
    return found


def parse_bytes(text: str) -> int:
    """`40G` is 40e9 bytes, as makers count; `40Gi` is 40 x 2^30.

    Raises:
        UsageError: it is no size, or none above zero.
    """
    found = _SIZE.fullmatch(text.strip())
    if found is None or not float(found[1]):
        raise UsageError(f"--gpu-mem: {text[:40]!r} is no size", "write it like 40G")
    power = "KMGT".index(found[2].upper()) + 1 if found[2] else 0
    return round(float(found[1]) * math.pow(1024 if found[3] else 1000, power))


def parse_dependency(text: str) -> tuple[str, Condition]:
    """`ID`, `ID:ok`, `ID:fail` or `ID:any`: the job as the user names it, and how it has to end.

    Raises:
        UsageError: the condition is none of these.
    """
    job, colon, condition = text.partition(":")
    if colon and condition not in tuple(Condition):
        raise UsageError(f"--after: {text[:40]!r} has no known condition", f"write {job[:20]}:ok, :fail or :any")
    return job, Condition(condition or Condition.OK)


def to_json(selector: Selector) -> str:
    """The selector as text; one that allows all is `{}`."""
    fields = {name: getattr(selector, name) for name in Selector.__slots__}
    return json.dumps({name: value for name, value in fields.items() if value}, sort_keys=True)


@lru_cache(maxsize=4096)
def from_json(text: str) -> Selector:
    """The selector that `to_json` wrote. Equal texts give the same object, which makes comparing cheap."""
    fields = json.loads(text)
    if not fields:
        return ANYWHERE
    labels = tuple((key, value) for key, value in fields.get("labels", ()))
    return Selector(
        fields.get("device_type", ""), fields.get("memory_bytes", 0), labels, tuple(fields.get("exclude", ()))
    )


@lru_cache(maxsize=4096)
def for_share(selector: Selector, percent: int, measured_bytes: int | None) -> Selector:
    """The selector of a job that takes a part of a device: its `--gpu-mem` is what it takes, not what a device has.

    Args:
        measured_bytes: what it takes if nothing was said; None: nobody knows, and it is as large a part of the memory.
    """
    return dataclasses.replace(selector, memory_bytes=0, share=Share(percent, selector.memory_bytes or measured_bytes))
