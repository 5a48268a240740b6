"""What `--json` prints, held against the documented schema."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import jsonschema

import dljobs.service


@functools.cache
def _validator() -> jsonschema.Draft202012Validator:
    schema = json.loads((Path(dljobs.service.__file__).parent / "output_schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def read_output(text: str) -> dict[str, Any]:
    """The noun and its value, out of an envelope that is as the schema says."""
    envelope: dict[str, Any] = json.loads(text, parse_constant=_refuse)
    _validator().validate(envelope)
    assert envelope.pop("dljobs") == 1
    return envelope


def _refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")
