"""`dljobs plot`."""

from __future__ import annotations

from pathlib import Path

import click

from dljobs.service.settings import Settings

from .opening import database_of, resolve_ids
from .options import jobs_argument, json_option
from .output import print_json, say


@click.command()
@jobs_argument
@click.option("-o", "--output", metavar="FILE", type=click.Path(path_type=Path), help="A .png, .svg or .pdf file.")
@json_option
@click.pass_obj
def plot(settings: Settings, *, jobs: tuple[str, ...], output: Path | None, as_json: bool) -> None:
    """Draw the loss and the other metrics of jobs over their steps; with --json, print the points.

    \b
    Examples:
      dljobs plot @ -o loss.png
      dljobs plot 12 13 -o both.svg
      dljobs plot 12 --json
    """
    if output is None and not as_json:
        raise click.MissingParameter(param_hint="'-o'", param_type="option")
    from dljobs.service.curves import load_curves

    with database_of(settings) as database:
        curves = load_curves(database, resolve_ids(database, jobs))
    if output is not None:
        from dljobs.service.plots import draw

        draw(curves, output)
        say(f"drew {output}")
    if as_json:
        print_json("curves", curves)
