"""`dljobs predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from dljobs.errors import UsageError
from dljobs.service.settings import Settings

from .opening import database_of, resolve_ids
from .options import checkpoint_option, device_option, job_argument, json_option
from .output import print_json, say, show_number
from .table import Column, print_table

Json = dict[str, Any]
MAX_VALUES = 8  # of an output in the table; JSON has all


@click.command()
@job_argument
@click.argument("inputs", metavar="[INPUT]...", nargs=-1)
@click.option("--test", metavar="0-15", help="Take these samples of its test data: 0-15, or 3,7-9, or all.")
@click.option(
    "--top", metavar="K", type=click.IntRange(1), default=1, show_default=True, help="Name the K likeliest classes."
)
@click.option("--invert", is_flag=True, help="Exchange light and dark in the images: dark digits on white paper.")
@click.option("--grid", "picture", metavar="FILE", type=click.Path(path_type=Path), help="Draw the samples.")
@checkpoint_option
@device_option
@json_option
@click.pass_obj
def predict(settings: Settings, /, *, job: str, picture: Path | None, as_json: bool, **question: Any) -> None:
    """Say what the weights of a job make of an INPUT: classes with their probability, or values.

    An INPUT is an image, a folder of images, a CSV file with one sample a line, or a row of numbers (write `--` before
    a negative one). Images get the size, colours and scale of the data that the model learned from, and columns with
    names are found by them. An image in a folder that is named like a class is taken to be of that class.

    \b
    Examples:
      dljobs predict @ --test 0-15 --grid samples.png
      dljobs predict 12 cat.jpg photos --top 3
      dljobs predict 12 scans --invert
      dljobs predict 12 rows.csv --json
      dljobs predict 12 -- -0.5 0.25
    """
    from dljobs.service import prediction

    if picture is not None:
        from dljobs.service.figures import check_target

        check_target(picture)
    with database_of(settings) as database:
        [job_id] = resolve_ids(database, (job,))
        asked = prediction.Question(**question, with_pixels=picture is not None)
        found, images = prediction.predict(database, settings, job_id, asked)
    artifact, said = found["artifact"], found["predictions"]
    title = f"{artifact['name']} of job {job_id}, run {artifact['run']}, epoch {artifact['epoch']}"
    if as_json:
        print_json("predictions", found)
    else:
        say(title + _score(said))
        if found["preparation"]:
            say(f"each image {found['preparation']}")
        _print(said, top=question["top"])
    if picture is not None:
        from dljobs.service.grid_plot import MAX_SHOWN, draw_grid

        if images is None or not len(images):
            raise UsageError("there is no sample to draw")
        draw_grid(images, said, f"job {job_id}, {artifact['name']}{_score(said)}", picture)
        say(f"drew {picture}" + (f" with the first {MAX_SHOWN} samples" if len(images) > MAX_SHOWN else ""))


def _score(said: list[Json]) -> str:
    known = [each for each in said if each["class"] is not None and each["true"] is not None]
    right = sum(each["class"] == each["true"] for each in known)
    return f": {right} of {len(known)} right" if known else ""


def _print(said: list[Json], *, top: int) -> None:
    is_known = any(each["true"] is not None for each in said)
    true = (Column("true"),) if is_known else ()
    if all(each["values"] is not None for each in said):
        columns = (Column("input"), Column("predicted"), *true)
        rows = [[each["input"], _values(each["values"]), _values(each["true"])][: len(columns)] for each in said]
        print_table(columns, rows)
        return
    others = (Column("then"),) if top > 1 else ()
    columns = (Column("input"), Column("predicted"), Column("probability", right=True), *true, *others)
    rows = []
    for each in said:
        row = [each["input"], each["class"], _percent(each["probability"])]
        row += [(each["true"] or "-") + ("" if each["true"] in (None, each["class"]) else " ✗")] if is_known else []
        row += [", ".join(f"{o['class']} {_percent(o['probability'])}" for o in each["top"][1:])] if others else []
        rows.append(row)
    print_table(columns, rows)


def _values(values: list[float] | None) -> str:
    shown = [show_number(value) for value in values or ()]
    return ", ".join(shown[:MAX_VALUES]) + (f", … ({len(shown)})" if len(shown) > MAX_VALUES else "")


def _percent(probability: float | None) -> str:
    return "-" if probability is None else f"{probability:.1%}"
