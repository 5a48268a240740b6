"""`dljobs export`."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dljobs.errors import CorruptArtifact
from dljobs.service.settings import Settings

from .opening import database_of, resolve_ids
from .options import checkpoint_option, job_argument, json_option
from .output import print_json, say, show_bytes

if TYPE_CHECKING:
    from dljobs.service.database import Database


@click.command()
@job_argument
@click.option("-o", "--output", metavar="FILE", type=click.Path(path_type=Path), required=True, help="Where to write.")
@checkpoint_option
@click.option("--source", is_flag=True, help="Write the files that it brought along, as they ran, into a new folder.")
@json_option
@click.pass_obj
def export(settings: Settings, *, job: str, output: Path, checkpoint: str, source: bool, as_json: bool) -> None:
    """Write the weights of a job to a safetensors file, which plain PyTorch loads strictly.

    \b
    Examples:
      dljobs export @ -o lenet.safetensors
      dljobs export 12 -o lenet.safetensors --checkpoint last
      dljobs export 12 --source -o what-ran
    """
    from dljobs.service.weights import export as write_weights

    with database_of(settings) as database:
        [job_id] = resolve_ids(database, (job,))
        if source:
            _export_source(database, job_id, output, as_json=as_json)
            return
        artifact = write_weights(database, job_id, checkpoint, output)
    if as_json:
        print_json("export", {"job_id": job_id, "path": str(output), "artifact": artifact})
        return
    size = show_bytes(artifact["size_bytes"])
    say(
        f"wrote {output} ({size}): {artifact['name']}, run {artifact['run']}, epoch {artifact['epoch']} of job {job_id}"
    )
    for name, kept in _stored_once(output).items():
        say(
            f"{name} is the same tensor as {kept} and stored once: safetensors.torch.load_model(model, FILE) gives both"
        )


def _stored_once(path: Path) -> dict[str, str]:
    """The names that a model ties to another one, which the file has."""
    from dljobs.service.tensors import FileSource, TensorFile

    with suppress(CorruptArtifact):  # then it is at least what was stored
        return TensorFile(FileSource(path)).aliases
    return {}


def _export_source(database: Database, job_id: int, output: Path, *, as_json: bool) -> None:
    from dljobs.service.source_files import export_sources

    export_sources(database, job_id, output)
    if as_json:
        print_json("export", {"job_id": job_id, "path": str(output), "artifact": None})
    else:
        say(f"wrote {output}: the files that job {job_id} brought along")
