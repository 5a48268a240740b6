"""`dljobs models`."""

from __future__ import annotations

import json
import textwrap
from typing import Any

import click

from dljobs.errors import DljobsError, UnknownName
from dljobs.service.settings import Settings

from .options import json_option
from .output import print_fields, print_json, print_lines, say
from .submit import complete_model
from .table import Column, print_table

Json = dict[str, Any]


@click.command()
@click.argument("name", required=False, shell_complete=complete_model)
@json_option
@click.pass_obj
def models(settings: Settings, /, *, name: str | None, as_json: bool) -> None:
    """List the models that can be trained and the data there is; of one of them, all there is to know.

    A model's layers, with the shapes they give, are listed where torch is installed.

    \b
    Examples:
      dljobs models
      dljobs models lenet
      dljobs models ./net.py:Net
    """
    from dljobs.models import catalog
    from dljobs.service.views import dataset_view, model_view

    if name is None:
        found = {
            "models": [model_view(entry) for entry in catalog.all_models().values()],
            "datasets": [dataset_view(entry) for entry in catalog.datasets().values()],
        }
        if as_json:
            print_json("catalog", found)
        else:
            _print_all(found)
        for problem in catalog.problems():
            say(f"warning: {problem}")
    elif name in catalog.all_models() or catalog.Reference.parse(name):
        _show_model(settings, name, model_view(catalog.find_model(name)), as_json=as_json)
    elif name in catalog.datasets():
        view = dataset_view(catalog.datasets()[name])
        print_json("dataset", view) if as_json else _print_dataset(view)
    else:
        raise UnknownName(
            "model", name, [*catalog.all_models(), *catalog.datasets()], hint="`dljobs models` lists them"
        )


def _show_model(settings: Settings, name: str, model: Json, *, as_json: bool) -> None:
    from dljobs.service.layers import load_layers
    from dljobs.service.submission import Request, prepare

    if not as_json:
        _print_model(model)  # at once: torch takes its time
    spec, layers, why_not = None, None, ""
    try:
        new = prepare(Request(name), settings.user)
        spec = json.loads(new.spec.to_json())
        layers = load_layers(new)
    except DljobsError as error:  # also a model of one's own that lacks an option or a neighbour
        why_not = error.message
    if as_json:
        print_json("model", {**model, "spec": spec, "layers": layers})
    elif layers is None:
        say(f"its layers cannot be listed: {why_not}")
    else:
        _print_layers(layers)


def _print_layers(layers: Json) -> None:
    shapes = [_shape(layers[side]) or "a number" for side in ("input_shape", "output_shape")]
    print_lines(["", f"layers, from {shapes[0]} to {shapes[1]}:"])
    columns = (Column("name"), Column("type"), Column("output"), Column("parameters", right=True))
    rows = [
        [
            each["name"] or "(itself)",
            each["type"],
            "" if each["output_shape"] is None else _shape(each["output_shape"]) or "a number",
            "again" if each["is_reused"] else _count(each["num_parameters"]),
        ]
        for each in layers["layers"]
    ]
    rows.append(["in all", "", "", _count(layers["num_parameters"])])
    print_table(columns, rows)


def _print_all(found: dict[str, list[Json]]) -> None:
    columns = (
        Column("model"),
        Column("parameters", right=True),
        Column("data"),
        Column("expected", kept=False),
        Column("source", kept=False),
    )
    shown = [each for each in found["models"] if each["collection"] != "torchvision"]
    rows = [
        [each["name"], _count(each["num_parameters"]), each["data"], each["expected"], each["source"]] for each in shown
    ]
    print_table(columns, rows)
    # Eighty more rows would hide the others, and whoever wants one of them knows its name.
    names = [each["name"] for each in found["models"] if each["collection"] == "torchvision"]
    print_lines(["", *textwrap.wrap(f"torchvision: {', '.join(names)}", 100, subsequent_indent="  "), ""])
    columns = (
        Column("data"), Column("task"), Column("shape"), Column("what", kept=False), Column("source", kept=False)
    )  # fmt: skip
    rows = [
        [each["name"], each["task"], _shape(each["shape"]), each["summary"], each["source"]]
        for each in found["datasets"]
    ]
    print_table(columns, rows)


def _print_model(model: Json) -> None:
    print_lines([f"{model['name']}: {model['summary']}"])
    goal = "higher" if model["goal"] == "max" else "lower"
    print_fields(
        {
            "source": model["source"],
            "parameters": _count(model["num_parameters"]),
            "data": f"{model['data']} {_listed(model['data_options'])}".strip(),
            "loss": model["loss"],
            "metric": f"{model['metric']}, {goal} is better",
            "expected": model["expected"],
            "training": _listed(model["defaults"]),
            **{f"with {condition}": _listed(changes) for condition, changes in model["variants"].items()},
        }
    )
    _print_options(model["options"])
    print_lines(["", f"dljobs submit {model['name']}"])


def _listed(values: Json) -> str:
    return ", ".join(f"{key}={value}" for key, value in values.items())


def _print_dataset(data: Json) -> None:
    print_lines([f"{data['name']}: {data['summary']}"])
    print_fields(
        {
            "source": data["source"],
            "task": data["task"],
            "shape": _shape(data["shape"]),
            "classes": _count(data["num_classes"]),
            "fetched": "from the internet, once" if data["downloads"] else "",
        }
    )
    _print_options(data["options"])


def _print_options(options: list[Json]) -> None:
    if not options:
        return
    print_lines(["", "options, for --set:"])
    columns = (Column("name"), Column("type"), Column("default"), Column("", kept=False))
    rows = [[each["name"], _type(each), str(each["default"]), each["doc"]] for each in options]
    print_table(columns, rows)


def _type(option: Json) -> str:
    return "|".join(map(str, option["choices"])) if option["choices"] else str(option["type"])


def _count(number: int | None) -> str:
    return "" if number is None else f"{number:,}"


def _shape(sizes: list[int] | None) -> str:
    return "" if sizes is None else "×".join(map(str, sizes))
