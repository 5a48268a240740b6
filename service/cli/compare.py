"""`dljobs compare`."""

from __future__ import annotations

from typing import Any

import click

from dljobs.service.settings import Settings

from .opening import database_of, resolve_ids
from .options import checkpoint_option, json_option
from .output import print_json, print_lines, show_number, show_shape
from .table import Column, print_table

Json = dict[str, Any]


@click.command()
@click.argument("first", metavar="A")
@click.argument("second", metavar="B")
@checkpoint_option
@json_option
@click.pass_obj
def compare(settings: Settings, /, *, first: str, second: str, checkpoint: str, as_json: bool) -> None:
    """Tell two jobs apart: first what their specs differ in, then their metrics, then their weights tensor by tensor.

    \b
    Examples:
      dljobs compare @1 @
      dljobs compare 12 13 --checkpoint last --json
    """
    from dljobs.service.comparison import compare as compare_jobs

    with database_of(settings) as database:
        a, b = (resolve_ids(database, (text,))[0] for text in (first, second))
        found = compare_jobs(database, a, b, checkpoint)
    if as_json:
        print_json("comparison", found)
        return
    names = [f"job {found[side]['job_id']}" for side in "ab"]
    for side in "ab":
        _print_job(found[side])
    _print_pairs("spec", found["spec"], names, "there is no difference")
    metrics = [{key: show_number(each[key]) for key in ("name", "a", "b")} for each in found["metrics"]]
    _print_pairs("metrics", metrics, names, "neither has any yet")
    _print_weights(found)


def _print_job(job: Json) -> None:
    artifact = job["artifact"]
    weights = f"{artifact['name']} of run {artifact['run']}" if artifact else "no weights"
    print_lines([f"job {job['job_id']} {job['name']}: {job['state']}, {weights}"])


def _print_pairs(title: str, pairs: list[Json], names: list[str], none: str) -> None:
    print_lines(["", title, "-" * len(title)])
    if not pairs:
        print_lines([none])
        return
    columns = (Column("name"), Column(names[0], kept=False), Column(names[1], kept=False))
    print_table(columns, [[each["name"], _text(each["a"]), _text(each["b"])] for each in pairs])


def _text(value: Any) -> str:
    return "-" if value is None else str(value)


def _print_weights(found: Json) -> None:
    print_lines(["", "weights", "-------"])
    if found["weights"] is None:
        without = [f"job {found[side]['job_id']}" for side in "ab" if found[side]["artifact"] is None]
        verb = "has" if len(without) == 1 else "have"
        print_lines([f"nothing to compare: {' and '.join(without)} {verb} no weights"])
        return
    tensors = found["weights"]["tensors"]
    if found["weights"]["equal"]:
        print_lines([f"all {len(tensors)} tensors are equal"])
        return
    num_equal = sum(each["verdict"] == "equal" for each in tensors)
    print_lines([f"{num_equal} of {len(tensors)} tensors are equal", ""])
    columns = (Column("name"), Column("shape"), Column("largest difference", right=True), Column("", kept=False))
    print_table(columns, [_row(each, found) for each in tensors])


def _row(tensor: Json, found: Json) -> list[str]:
    verdict, note = tensor["verdict"], ""
    if verdict in ("only-a", "only-b"):
        note = f"only in job {found[verdict[-1]]['job_id']}"
    elif verdict == "shape":
        note = f"other shape: {show_shape(tensor['b_shape'])}"
    elif tensor["a_dtype"] != tensor["b_dtype"]:
        note = f"{tensor['a_dtype']} and {tensor['b_dtype']}"
    difference = {"equal": "equal", "differs": _difference(tensor["max_difference"])}.get(verdict, "-")
    return [tensor["name"], show_shape(tensor["a_shape"] or tensor["b_shape"]), difference, note]


def _difference(value: float | None) -> str:
    return "not finite" if value is None or value == float("inf") else show_number(value)
