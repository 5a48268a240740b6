"""`dljobs inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dljobs.errors import UsageError
from dljobs.service.settings import Settings

from .opening import database_of, resolve_ids
from .options import checkpoint_option, job_argument, json_option
from .output import print_fields, print_json, print_lines, say, show_number, show_shape
from .table import Column, output_width, print_table
from .tree import Branch, grow

if TYPE_CHECKING:
    from numpy.typing import NDArray

Json = dict[str, Any]

COLUMNS = (
    Column("name"),
    Column("shape"),
    Column("type"),
    Column("count", right=True),
    Column("mean", right=True),
    Column("std", right=True),
    Column("min", right=True),
    Column("max", right=True),
    Column("zeros", right=True),
    Column("NaN", right=True),
)


@click.command()
@job_argument
@click.argument("name", metavar="[PARAM]", required=False)
@checkpoint_option
@click.option("-o", "--output", metavar="FILE", type=click.Path(path_type=Path), help="Save the tensor as .npy.")
@json_option
@click.pass_obj
def inspect(
    settings: Settings, /, *, job: str, name: str | None, checkpoint: str, output: Path | None, as_json: bool
) -> None:
    """Show the tensors in the weights of a job: shapes, types, and what their numbers are like; or one of them whole.

    \b
    Examples:
      dljobs inspect @
      dljobs inspect @ conv1.weight
      dljobs inspect 12 "0.block 1.0.bias" --checkpoint last -o bias.npy
    """
    if output is not None and name is None:
        raise UsageError("-o saves one tensor: name it", "`dljobs inspect ID` lists their names")
    from dljobs.service.inspection import inspect_all, inspect_one, save_array

    with database_of(settings) as database:
        [job_id] = resolve_ids(database, (job,))
        if name is None:
            found = inspect_all(database, job_id, checkpoint)
            print_json("inspection", found) if as_json else _print_all(found)
            return
        found, array = inspect_one(database, job_id, checkpoint, name)
    if output is not None:
        save_array(array, output)
        say(f"wrote {output}: {name}, {show_shape(found['tensors'][0]['shape'])} {array.dtype}")
    if as_json:
        print_json("inspection", {**found, "values": None if output else array.tolist()})
    elif output is None:
        _print_one(found["tensors"][0], array)


def _print_all(found: Json) -> None:
    artifact, tensors = found["artifact"], found["tensors"]
    print_lines([
        f"{artifact['name']} of job {found['job_id']}, run {artifact['run']}, epoch {artifact['epoch']}: "
        f"{len(tensors)} tensors, {found['num_values']:,} numbers",
        "",
    ])  # fmt: skip
    rows: list[list[str]] = []
    _add_rows(rows, grow({each["name"]: each for each in tensors}), 0)
    print_table(COLUMNS, rows)


def _add_rows(rows: list[list[str]], branch: Branch[Json], depth: int) -> None:
    for name, child in branch.children.items():
        indented = "  " * depth + name
        if child.leaf is not None:
            rows.append(_row(indented, child.leaf))
        else:
            count = sum(each["count"] for each in child.leaves() if each["alias_of"] is None)
            rows.append([indented, "", "", f"{count:,}", *[""] * 6])
        _add_rows(rows, child, depth + 1)


def _row(name: str, tensor: Json) -> list[str]:
    if tensor["alias_of"] is not None:
        return [name, f"= {tensor['alias_of']}", *[""] * 8]
    numbers = [show_number(tensor[key]) for key in ("mean", "std", "min", "max")]
    shares = [_share(tensor[key]) for key in ("zero_share", "nan_share")]
    return [name, show_shape(tensor["shape"]), tensor["dtype"], f"{tensor['count']:,}", *numbers, *shares]


def _print_one(tensor: Json, array: NDArray[Any]) -> None:
    import numpy as np

    same = f" (= {tensor['alias_of']})" if tensor["alias_of"] else ""
    print_fields(
        {
            "name": tensor["name"] + same,
            "shape": show_shape(tensor["shape"]),
            "type": tensor["dtype"],
            "count": f"{tensor['count']:,}",
            "mean": show_number(tensor["mean"]),
            "std": show_number(tensor["std"]),
            "range": f"{show_number(tensor['min'])} to {show_number(tensor['max'])}",
            "zeros": _share(tensor["zero_share"]),
            "NaN": _share(tensor["nan_share"]),
        }
    )
    is_ordinary = bool(array.size) and float(np.nanmax(np.abs(array.astype(float)), initial=0)) > 1e-2
    style: Json = {"threshold": 1000, "precision": 4, "suppress_small": is_ordinary}
    print_lines(["", np.array2string(array, max_line_width=output_width(), **style)])


def _share(share: float) -> str:
    """A percentage, of which a little is never shown as nothing."""
    return "0" if share == 0 else "<0.1%" if share < 1e-3 else f"{share:.1%}".replace(".0%", "%")
