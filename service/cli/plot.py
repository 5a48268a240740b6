"""`dljobs plot`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dljobs.errors import UsageError
from dljobs.service.settings import Settings

from .opening import database_of, resolve_ids, resolve_members
from .options import checkpoint_option, jobs_argument, json_option
from .output import print_json, print_lines, say
from .table import output_width

if TYPE_CHECKING:
    from dljobs.service.database import Database
    from dljobs.service.panels import Panel

COLOURS = ("cyan", "yellow", "green", "magenta", "red", "blue")
MAX_WIDTH = 100  # a wider curve is not easier to read
GRID_SAMPLES = 25


@click.command()
@jobs_argument
@click.option("-o", "--output", metavar="FILE", type=click.Path(path_type=Path), help="A .png, .svg or .pdf file.")
@click.option("--term", is_flag=True, help="Draw in the terminal.")
@click.option(
    "--x", "axis", type=click.Choice(["step", "epoch", "time"]), default="step", show_default=True, help="Over what."
)
@click.option("--fit", is_flag=True, help="What was learned, over the data: the curve of a function of one number.")
@click.option("--grid", is_flag=True, help="Test images with their predicted and true classes.")
@checkpoint_option
@json_option
@click.pass_obj
def plot(settings: Settings, /, *, jobs: tuple[str, ...], output: Path | None, as_json: bool, **options: Any) -> None:
    """Draw the loss and the other metrics of jobs; with --json, print the points.

    A loss that spans decades gets a log scale. --fit and --grid draw what the weights of one job (--checkpoint) make of
    its data, which needs torch.

    \b
    Examples:
      dljobs plot @ --term
      dljobs plot @ -o loss.png
      dljobs plot 12 13 -o both.svg --x time
      dljobs plot 12 --fit -o fit.png
      dljobs plot 12 --json
    """
    term, fit, grid = options["term"], options["fit"], options["grid"]
    _check(jobs, output, as_json=as_json, term=term, one_job=fit or grid)
    if fit and grid:
        raise UsageError("--fit and --grid are two pictures", "draw one after the other")
    if output is not None:
        from dljobs.service.figures import check_target

        check_target(output)
    with database_of(settings) as database:
        job_ids = (resolve_ids if fit or grid else resolve_members)(database, jobs)
        if grid:
            _draw_grid(database, settings, job_ids[0], options["checkpoint"], output)
            return
        if fit:
            from dljobs.service.fit import load_fit

            found = load_fit(database, settings, job_ids[0], options["checkpoint"])
            panels = [found.panel]
            printed: tuple[str, Any] = ("fit", found.view)
        else:
            from dljobs.service.curves import load_curves
            from dljobs.service.panels import panels_of

            curves = load_curves(database, job_ids)
            panels = panels_of(curves, options["axis"]) if output or term else []
            printed = ("curves", curves)
    _draw(panels, output, term=term)
    if as_json:
        print_json(*printed)


def _check(jobs: Sequence[str], output: Path | None, *, as_json: bool, term: bool, one_job: bool) -> None:
    if output is None and not (as_json or term):
        raise click.MissingParameter(param_hint="'-o'", param_type="option")
    if as_json and term:
        raise UsageError("--json and --term both write to stdout", "choose one")
    if one_job and len(jobs) > 1:
        raise UsageError(f"--fit and --grid draw one job, not {len(jobs)}")


def _draw(panels: Sequence[Panel], output: Path | None, *, term: bool) -> None:
    if output is not None:
        from dljobs.service.plots import draw_panels

        draw_panels(panels, output)
        say(f"drew {output}")
    if term:
        from dljobs.service.text_plot import text_lines

        width = min(output_width(), MAX_WIDTH)
        for number, panel in enumerate(panels):
            print_lines([*([""] if number else []), *text_lines(panel, width, _paint)])


def _paint(text: str, colour: int) -> str:
    return click.style(text, fg=COLOURS[colour % len(COLOURS)]) if sys.stdout.isatty() else text


def _draw_grid(database: Database, settings: Settings, job_id: int, checkpoint: str, output: Path | None) -> None:
    if output is None:
        raise UsageError("--grid is a picture", "give a file: -o grid.png")
    from dljobs.service.grid_plot import draw_grid
    from dljobs.service.prediction import Question, predict

    question = Question(test="all", limit=GRID_SAMPLES, checkpoint=checkpoint, with_pixels=True)
    found, images = predict(database, settings, job_id, question)
    assert images is not None
    draw_grid(images, found["predictions"], f"job {job_id}, {found['artifact']['name']}", output)
    say(f"drew {output}")
