"""`dljobs worker`: checks what it was asked, and becomes the worker process."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import sys

import click

from dljobs.errors import DljobsError, UsageError
from dljobs.service.settings import Settings

# A name is also a part of a queue's.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,99}")
DEVICE = re.compile(r"\d{1,4}(-\d{1,4})?|(GPU|MIG)-[0-9A-Za-z/-]{4,80}")


@click.command()
@click.option("--gpus", metavar="LIST", help="0,1,2-3, UUIDs, or all. All unless given.")
@click.option("--cpu-devices", metavar="N", type=click.IntRange(1, 256), help="Offer N CPU stand-ins, and no GPU.")
@click.option("--name", help="What to call it; the node's name unless given.")
@click.option("--label", "labels", metavar="LABEL=VALUE", multiple=True, help="For `submit --on`; repeatable.")
@click.pass_obj
def worker(
    settings: Settings, *, gpus: str | None, cpu_devices: int | None, name: str | None, labels: tuple[str, ...]
) -> None:
    """Start a worker on these devices of this machine and no others.

    Ctrl-C or SIGTERM drains it: its jobs checkpoint and go back in the queue. A second one ends it at once.

    \b
    Examples:
      dljobs worker --gpus 0,1,2-3
      dljobs worker --cpu-devices 4 --name trial --label room=b12
    """
    if gpus is not None and cpu_devices is not None:
        raise UsageError("a worker offers GPUs or CPU stand-ins, not both", "leave out --gpus or --cpu-devices")
    _check_gpus(gpus)
    if name is not None and not NAME.fullmatch(name):
        raise UsageError(f"{name[:40]!r} is no name for a worker", "use letters, digits and . _ @ -, 100 at most")
    from dljobs.service.selectors import parse_labels

    labelled = parse_labels("--label", labels)
    if importlib.util.find_spec("torch") is None:
        raise DljobsError("torch is not installed here, and a worker needs it", "pip install 'dljobs[worker]'")
    options = json.dumps({"gpus": gpus, "cpu_devices": cpu_devices, "name": name, "labels": labelled})
    command = [sys.executable, "-P", "-m", "dljobs.workers", options]
    # The worker takes the place of this process, so that who started it signals the worker itself.
    os.execve(sys.executable, command, settings.for_child(os.environ))  # noqa: S606 (no shell is meant)


def _check_gpus(text: str | None) -> None:
    for part in (text or "all").split(","):
        span = DEVICE.fullmatch(part.strip())
        if span is None and text not in (None, "all"):
            raise UsageError(f"--gpus cannot be {text!r}: {part!r} is no device", "write 0,1 or 2-3, a UUID, or all")
        first, dash, last = part.partition("-")
        if span and dash and first.strip().isdigit() and int(first) > int(last):
            raise UsageError(f"--gpus cannot be {text!r}: {part} counts backwards", f"write {last}-{first}")
