"""`dljobs export`."""

from __future__ import annotations

from pathlib import Path

import click

from dljobs.service.settings import Settings

from .opening import database_of, resolve_ids
from .options import checkpoint_option, job_argument, json_option
from .output import print_json, say, show_bytes


@click.command()
@job_argument
@click.option("-o", "--output", metavar="FILE", type=click.Path(path_type=Path), required=True, help="Where to write.")
@checkpoint_option
@json_option
@click.pass_obj
def export(settings: Settings, *, job: str, output: Path, checkpoint: str, as_json: bool) -> None:
    """Write the weights of a job to a safetensors file, which plain PyTorch loads strictly.

    \b
    Examples:
      dljobs export @ -o lenet.safetensors
      dljobs export 12 -o lenet.safetensors --checkpoint last
    """
    from dljobs.service.weights import export as write_weights

    with database_of(settings) as database:
        [job_id] = resolve_ids(database, (job,))
        artifact = write_weights(database, job_id, checkpoint, output)
    if as_json:
        print_json("export", {"job_id": job_id, "path": str(output), "artifact": artifact})
        return
    size = show_bytes(artifact["size_bytes"])
    say(
        f"wrote {output} ({size}): {artifact['name']}, run {artifact['run']}, epoch {artifact['epoch']} of job {job_id}"
    )
