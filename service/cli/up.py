"""`dljobs up` and `dljobs down`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

from dljobs.errors import ExitCode, UsageError
from dljobs.service.settings import Settings, mask

from .output import print_fields, print_lines, say


@click.command()
@click.option("--gpus", metavar="IDS", help="Which GPUs: 0,1 or 0-3 or UUIDs or all (the default where there are any).")
@click.option("--cpu-devices", type=click.IntRange(1, 256), metavar="N", help="N CPU stand-ins instead of GPUs.")
@click.option("--name", metavar="NAME", help="The worker's name (default: made from the host's).")
@click.option("--detach", "-d", is_flag=True, help="Run in the background; returns when the worker is ready.")
@click.option("--no-worker", is_flag=True, help="Redis and the database only: workers are started elsewhere.")
@click.pass_obj
def up(
    settings: Settings, *, gpus: str | None, cpu_devices: int | None, name: str | None, detach: bool, no_worker: bool
) -> int:
    """Run everything on this machine: Redis, the database and one worker on all devices.

    What DLJOBS_REDIS_URL and DLJOBS_DATABASE_URL name is used as it is; the rest is embedded in DLJOBS_HOME. Ctrl-C
    stops it: running jobs checkpoint and go back in the queue. A second Ctrl-C stops at once.

    \b
    Examples:
      dljobs up
      dljobs up --detach --gpus 0-3
      dljobs up --cpu-devices 2 --name trial
    """
    from dljobs.service.up import Up, UpOptions
    from dljobs.service.up_detached import log_path, start_detached

    if gpus is not None and cpu_devices is not None:
        raise UsageError("a worker offers GPUs or CPU stand-ins, not both", "leave out --gpus or --cpu-devices")
    if no_worker and (gpus is not None or cpu_devices is not None or name is not None):
        raise UsageError("--no-worker leaves no worker that --gpus, --cpu-devices or --name could be for")
    options = UpOptions(gpus, cpu_devices, name, worker=not no_worker)
    if not detach:
        return Up(settings, options, say).run()

    say(f"starting; log: {log_path(settings.home)}")
    state = start_detached(settings, options)
    devices = f"{state.num_devices} device{'s' * (state.num_devices != 1)}"
    print_lines([f"dljobs is running{f' (pid {state.up.pid})' if state.up else ''}; `dljobs down` stops it"])
    print_fields(
        {
            "worker": f"{state.worker_name}, {devices}" if state.worker_name else "none",
            "redis": mask(settings.redis_url) or f"embedded in {settings.home / 'redis'}",
            "database": mask(settings.database_url) or str(settings.sqlite_path),
            "log": str(log_path(settings.home)),
        }
    )
    return ExitCode.OK


@click.command()
@click.option("--now", is_flag=True, help="Do not wait for running jobs to checkpoint.")
@click.pass_obj
def down(settings: Settings, *, now: bool) -> None:
    """Stop what `dljobs up` runs: running jobs checkpoint and go back in the queue.

    \b
    Examples:
      dljobs down
      dljobs down --now
    """
    from dljobs.service.down import stop_up

    with _waiting_bar() as tick:
        done = stop_up(settings, now=now, tick=tick)
    print_lines(done)


@contextmanager
def _waiting_bar() -> Iterator[Callable[[float, float], None]]:
    """How much of the time that it may take has passed: a bar on a terminal, elsewhere one line."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    console = Console(stderr=True)
    shown = False
    words = TextColumn("waiting for running jobs to checkpoint"), BarColumn(), TextColumn("{task.fields[left]} s left")
    with Progress(*words, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=1.0, visible=False, left="")

        def tick(waited_s: float, limit_s: float) -> None:
            nonlocal shown
            if waited_s < 1.5:  # an idle worker is gone before one could read
                return
            if not shown and not console.is_terminal:
                say(f"waiting up to {limit_s:.0f} s for running jobs to checkpoint")
            shown = True
            left = f"{max(0.0, limit_s - waited_s):.0f}"
            bar.update(task, completed=waited_s, total=limit_s, visible=True, left=left)

        yield tick
