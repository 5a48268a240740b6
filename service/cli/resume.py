"""`dljobs resume`."""

from __future__ import annotations

from typing import Any

import click

from dljobs.errors import UsageError
from dljobs.service.settings import Settings

from .opening import database_of
from .options import json_option, to_seconds, to_size

TRAINING_FLAGS = ("epochs", "batch_size", "lr", "optimizer", "until", "precision")


@click.command()
@click.argument("job", metavar="ID[:CHECKPOINT]")
@click.option("--gpus", "size", metavar="N", callback=to_size, help="Devices: 4, what is free of 2-8, or 0.25 of one.")
@click.option("--strategy", metavar="NAME", help="auto, single, dp or ddp.")
@click.option("--epochs", metavar="N", help="Passes in all, those that are done included.")
@click.option("--batch-size", metavar="N", help="Global: shared out among the devices.")
@click.option("--lr", metavar="RATE", help="Learning rate.")
@click.option("--optimizer", metavar="NAME", help="Another one begins without what the old one remembers.")
@click.option("--precision", metavar="NAME", help="fp32, tf32, bf16 or fp16.")
@click.option("--until", metavar="METRIC<X", help="Stop early: 'loss<1e-3' or 'test.accuracy>0.98'.")
@click.option("--set", "sets", metavar="KEY=VALUE", multiple=True, help="Any other option of the trainer; repeatable.")
@click.option("--name", help="What to call the new job.")
@click.option("--tag", "tags", multiple=True, help="A label to find it by; repeatable.")
@click.option("--priority", metavar="0..100", type=int, help="Higher starts earlier.")
@click.option("--time", "time_limit_s", metavar="DURATION", callback=to_seconds, help="Stop it after: 90, 15m, 2h.")
@click.option("--max-retries", metavar="N", type=int, help="New runs after a crash.")
@click.option("-w", "--wait", is_flag=True, help="Wait for its end; the exit code tells how it ended.")
@click.option("-f", "--follow", is_flag=True, help="As --wait, with its log and a progress bar.")
@json_option
@click.option("--parsable", is_flag=True, help="Print the bare job id.")
@click.pass_obj
def resume(
    settings: Settings, /, *, job: str, wait: bool, follow: bool, as_json: bool, parsable: bool, **options: Any
) -> int:
    """Go on in a new job where another one left a checkpoint, with other settings if wanted.

    CHECKPOINT is last (unless given), best, or a name that `dljobs artifacts` lists, such as step-40. What is not given
    is as it was. Under the same settings the numbers are those of a job that never stopped; `dljobs show` tells which
    job continues which. A failed or cancelled job goes on as itself with `dljobs retry`.

    \b
    Examples:
      dljobs resume @ --epochs 20
      dljobs resume 12:best --lr 0.001 --epochs 10 --follow
      dljobs resume 12:step-40 --gpus 2
    """
    if as_json and (parsable or follow):
        raise UsageError("--json cannot go with --follow or --parsable: all of them write to stdout", "choose one")
    from dljobs.service.resuming import Changes, prepare_resumption

    from .submit import submit_new

    training = {name: options.pop(name) for name in TRAINING_FLAGS}
    with database_of(settings) as database:
        new = prepare_resumption(database, job, Changes(training=training, **options), settings.user)
    return submit_new(settings, new, as_json=as_json, parsable=parsable, wait=wait, follow=follow)
