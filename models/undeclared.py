"""A class or function in a file of one's own, with the decorator or without, as a declaration.

It owns what is taken for granted where nothing is declared: options from the signature, digits as data, a loss that
follows the data. Like `declarations.py`, it reads and never runs. It is more lenient than the zoo: a parameter whose
default is no plain value is simply no option.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

from dljobs.errors import DljobsError, UnknownName, UsageError

from .declarations import Declaration, Function, argument_docs, declaring, parse, read_declaration, read_option
from .options import Option, OptionType

# Parameters that are given from the data, and so are numbers even where nothing says it.
FITTED_NAMES = ("in_channels", "num_classes", "num_values", "in_features", "out_features", "image_size")
PLAIN: dict[type, OptionType] = {int: "int", float: "float", bool: "bool", str: "str"}
Node = ast.ClassDef | Function


def read_own(source: bytes, file: Path, symbol: str | None, kind: str) -> Declaration:
    """What `symbol` in the file declares, or what is taken for granted of it.

    Args:
        source: the file's content.
        file: its path, for messages.
        symbol: a class or function; None where the file has only one.
        kind: "model" or "dataset".

    Raises:
        DljobsError: not Python, no such name, or a signature that cannot be used; the message holds file and line.
    """
    nodes = {node.name: node for node in parse(source, file).body if isinstance(node, Node)}
    node = nodes[symbol] if symbol in nodes else _choose(nodes, file, symbol, kind)
    declared = {kind_: call for call, kind_ in declaring(node)}
    if kind in declared:
        return read_declaration(file, node, declared[kind], kind)
    if declared:
        raise UsageError(f"{file}:{node.lineno}: {node.name} is declared as a {next(iter(declared))}, not a {kind}")
    return _undeclared(node, nodes, file, kind)


def names_in(source: bytes, file: Path) -> list[str]:
    """The classes and functions of a file; none of a file that is not Python."""
    try:
        return [node.name for node in parse(source, file).body if isinstance(node, Node)]
    except DljobsError:
        return []


def _choose(nodes: dict[str, Node], file: Path, symbol: str | None, kind: str) -> Node:
    """The one that is meant where no name is given."""
    public = {name: node for name, node in nodes.items() if not name.startswith("_")}
    if symbol is not None:
        raise UnknownName(f"class or function in {file}:", symbol, public)
    declared = [node for node in public.values() if any(kind_ == kind for _, kind_ in declaring(node))]
    candidates = declared or list(public.values())
    if len(candidates) != 1:
        listed = ", ".join(f"{file}:{node.name}" for node in candidates[:10])
        raise UsageError(
            f"{file} has {len(candidates) or 'no'} classes and functions: say which is the {kind}",
            hint=f"one of {listed}" if candidates else "",
        )
    return candidates[0]


def _undeclared(node: Node, nodes: dict[str, Node], file: Path, kind: str) -> Declaration:
    doc = ast.get_docstring(node) or ""
    arguments: dict[str, Any] = {"summary": doc.split("\n", 1)[0] or f"{node.name} of {file.name}", "source": str(file)}
    signature = _signature(node, nodes)
    if kind == "model":
        arguments |= {"num_parameters": None, "data": "digits", "expected": "what you make of it"}
        arguments |= {"loss": "cross_entropy", "metric": "accuracy", "goal": "max", "follows_data": True}
    else:
        arguments |= {"task": _task_of(node), "shape": None, "num_classes": None}
        arguments["takes_root"] = _first_is_root(signature)
    options = {} if signature is None else _options(signature, node, file, doc, arguments)
    return Declaration(kind, node.name, node.name, arguments, doc, options, file, node.lineno)


def _signature(node: Node, nodes: dict[str, Node]) -> Function | None:
    """The function whose parameters the options are: itself, or the constructor, be it inherited in the same file."""
    seen: set[str] = set()
    while isinstance(node, ast.ClassDef) and node.name not in seen:
        seen.add(node.name)
        for item in node.body:
            if isinstance(item, Function) and item.name == "__init__":
                return item
        bases = [base.id for base in node.bases if isinstance(base, ast.Name) and base.id in nodes]
        if not bases:
            return None
        node = nodes[bases[0]]
    return node if isinstance(node, Function) else None


def _task_of(node: Node) -> str:
    """The task that a literal `Data(…, task="regression")` in it says; else classification."""
    for call in ast.walk(node):
        if isinstance(call, ast.Call) and ast.unparse(call.func).split(".")[-1] == "Data":
            for keyword in call.keywords:
                if keyword.arg == "task" and isinstance(keyword.value, ast.Constant):
                    return str(keyword.value.value)
    return "classification"


def _first_is_root(signature: Function | None) -> bool:
    """Whether a function that makes data is given the data folder: its first parameter has no default."""
    if signature is None:
        return False
    positional = signature.args.posonlyargs + signature.args.args
    return len(positional) > len(signature.args.defaults)


def _options(signature: Function, node: Node, file: Path, doc: str, arguments: dict[str, Any]) -> dict[str, Option]:
    spec = signature.args
    positional = spec.posonlyargs + spec.args
    defaults: list[ast.expr | None] = [None] * (len(positional) - len(spec.defaults)) + list(spec.defaults)
    skip = int(isinstance(node, ast.ClassDef) or arguments.get("takes_root", False))
    parameters = list(zip(positional, defaults, strict=True))[skip:]
    parameters += zip(spec.kwonlyargs, spec.kw_defaults, strict=True)
    docs = argument_docs(doc + "\n" + (ast.get_docstring(signature) or ""))
    found = (_loose_option(arg, default, docs.get(arg.arg, ""), file) for arg, default in parameters)
    return {option.name: option for option in found if option is not None}


def _loose_option(arg: ast.arg, default: ast.expr | None, doc: str, file: Path) -> Option | None:
    """The parameter as an option, its default None where it must be given; None where it cannot be an option."""
    annotation = ast.unparse(arg.annotation) if arg.annotation else ""
    if default is None:
        types = {kind.__name__: kind for kind in PLAIN}
        if annotation not in types and arg.arg not in FITTED_NAMES:
            raise UsageError(
                f"{file}:{arg.lineno}: parameter {arg.arg!r} has neither a default nor a type",
                hint=f"write {arg.arg}: int, or float, bool or str, or give it a default",
            )
        return Option(arg.arg, PLAIN[types.get(annotation, int)], None, (), doc)
    try:
        value = ast.literal_eval(default)
    except ValueError:
        return None
    if type(value) not in PLAIN:
        return None
    if not annotation:
        return Option(arg.arg, PLAIN[type(value)], value, (), doc)
    try:
        return read_option(arg, default, doc, file)
    except DljobsError:  # annotated with something of the user's own
        return None
