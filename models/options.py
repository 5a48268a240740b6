"""Options: what can be set on a model or a dataset, and how a text becomes one of their values.

It owns the rules of `--set key=value` for one key. It does not know where options come from (`declarations.py` reads
them out of a constructor's signature) nor who has them (`catalog.py`). Standard library only: clients validate with it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from dljobs.errors import UnknownName, UsageError, nearest

OptionType = Literal["int", "float", "bool", "str"]

WORDS: dict[OptionType, str] = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "a text"}
TRUE = ("true", "yes", "on", "1")
FALSE = ("false", "no", "off", "0")
# torch holds sizes and counts in 64 bits: a larger number would only fail later, and less clearly.
MAX_INT = 2**63 - 1


@dataclass(frozen=True)
class Option:
    """One parameter of a constructor: its name, type, default, and the values it is limited to (empty: any)."""

    name: str
    type: OptionType
    default: Any
    choices: tuple[Any, ...] = ()
    doc: str = ""


def coerce(option: Option, value: object) -> Any:
    """The option's typed value for a text from a command line or for a value from JSON.

    Raises:
        UsageError: it is of another type, not finite, absurdly large, or not among the choices.
    """
    typed = _typed(option, value)
    if typed is None:
        raise UsageError(f"option {option.name!r} takes {WORDS[option.type]}, not {value!r}")
    if option.choices and typed not in option.choices:
        listed = ", ".join(str(choice) for choice in option.choices)
        near = nearest(str(typed), map(str, option.choices))
        suggestion = f"did you mean {near!r}? " if near else ""
        raise UsageError(f"option {option.name!r} cannot be {value!r}: {suggestion}it takes one of {listed}")
    return typed


def check_options(owner: str, options: Mapping[str, Option], given: Mapping[str, object]) -> dict[str, Any]:
    """The typed values of what was given; what was not given is left out, so that the caller may fit it to the data.

    Raises:
        UnknownName: `owner` has no such option.
        UsageError: a value that its option cannot take.
    """
    for name in given:
        if name not in options:
            raise UnknownName(f"option of {owner}", name, options)
    return {name: coerce(options[name], value) for name, value in given.items()}


def _typed(option: Option, value: object) -> Any:
    """The value in the option's type, or None where that cannot be."""
    match option.type:
        case "str":
            return value if isinstance(value, str) else None
        case "bool":
            return _as_bool(value)
        case "int":
            return _as_int(value)
        case "float":
            return _as_float(value)


def _as_bool(value: object) -> bool | None:
    if isinstance(value, bool):
        return value
    word = value.strip().lower() if isinstance(value, str) else ""
    return True if word in TRUE else False if word in FALSE else None


def _as_int(value: object) -> int | None:
    # bool is an int to Python, but True channels are a mistake.
    if isinstance(value, bool) or not isinstance(value, int | str):
        return None
    try:
        number = int(value)
    except ValueError:
        return None
    return number if abs(number) <= MAX_INT else None


def _as_float(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
