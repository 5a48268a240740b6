"""References to code of one's own: `net.py:Net`, and where its frozen copy lies.

It owns how such a name is written and the layout of the folder that holds frozen copies: `DIGEST/net.py`. It does not
know what is in the files (`undeclared.py` reads them, `own_code.py` imports them). Standard library only.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path

REFERENCE = re.compile(r"(?P<file>.+\.py)(?::(?P<symbol>\w*))?")
# Names that a file beside one's own never takes the place of.
NEVER_TAKEN = sys.stdlib_module_names | {"dljobs", "torch", "numpy"}
DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Reference:
    """A class or function in a Python file; the symbol may be left out where the file has only one."""

    file: Path
    symbol: str | None

    @classmethod
    def parse(cls, text: str) -> Reference | None:
        """The reference that a text is, or None where it is a name of the catalog."""
        match = REFERENCE.fullmatch(text)
        return cls(Path(match["file"]), match["symbol"] or None) if match else None


def locate(name: str, digest: str | None, sources: Path) -> str:
    """The name under which a rank finds a spec's model or data: its frozen copy, or the catalog's where it has none."""
    return name if digest is None else str(sources / digest / name)


def root_of(file: Path) -> Path:
    """The frozen folder that a file belongs to; its own folder where it is no frozen copy."""
    return next((folder for folder in file.parents if DIGEST.fullmatch(folder.name)), file.parent)
