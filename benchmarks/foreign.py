"""Peers that dljobs does not depend on, each installed into an environment of its own for as long as it is measured."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

INSTALL_TIMEOUT_S = 120.0


def install(package: str, folder: Path) -> Path:
    """Install a package into a new environment in `folder`; returns the environment's `bin`.

    Raises:
        ImportError: it cannot be had, with the reason.
    """
    place = folder / package
    scripts = place / "bin"
    try:
        for command in ([sys.executable, "-m", "venv", str(place)], [str(scripts / "pip"), "install", "-q", package]):
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S)
    except (OSError, subprocess.SubprocessError) as error:
        words = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
        raise ImportError(f"{package} could not be installed: {words[-1] if words else error}") from None
    return scripts
