"""Declarations: the `@model(…)` and `@dataset(…)` decorators as they stand in a source file, read without running it.

It owns reading them with `ast`: literal arguments, the docstring, and the constructor's signature as options. It does
not know what the arguments mean (`catalog.py` does). Nothing is imported from the file, so a client learns all about a
model without torch, and a broken file is reported with its line instead of failing in its middle.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dljobs.errors import DljobsError

from .options import Option, OptionType

KINDS = ("model", "dataset")
# Parsing costs about 10 µs a line, and a client pays for it at each submit: only files with a declaration are parsed.
DECLARES = re.compile(rb"^@(?:\w+\.)?(?:model|dataset)\(", re.MULTILINE)
ARGS_LINE = re.compile(r"^\s+(\w+)(?: \([^)]*\))?: +(.+)$")
TYPES: dict[str, tuple[OptionType, type]] = {
    "int": ("int", int),
    "float": ("float", float),
    "bool": ("bool", bool),
    "str": ("str", str),
}

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Declaration:
    """One decorated class or function of a file."""

    kind: str  # "model" or "dataset"
    name: str
    symbol: str  # the class or function it stands on
    arguments: dict[str, Any]
    doc: str
    options: dict[str, Option]
    file: Path
    line: int

    def error(self, message: str) -> DljobsError:
        """An error that names this declaration's file and line."""
        return DljobsError(f"{self.file}:{self.line}: {self.kind} {self.name!r} {message}")


def read_declarations(file: Path) -> list[Declaration]:
    """All declarations at the top level of a Python file, in their order.

    Raises:
        DljobsError: the file does not parse, or an argument, a parameter or a docstring is not as it must be.
    """
    source = file.read_bytes()
    if not DECLARES.search(source):
        return []
    return [
        read_declaration(file, node, call, kind)
        for node in parse(source, file).body
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        for call, kind in declaring(node)
    ]


def parse(source: bytes, file: Path) -> ast.Module:
    """The syntax of a file's text.

    Raises:
        DljobsError: it is not Python; the message holds file and line.
    """
    try:
        return ast.parse(source, filename=str(file))
    except SyntaxError as error:
        # A NUL byte has no line.
        raise DljobsError(f"{file}:{error.lineno or 1}: not valid Python: {error.msg}") from error
    except ValueError as error:
        raise DljobsError(f"{file}: not valid Python: {error}") from error


def declaring(node: ast.ClassDef | Function) -> Iterator[tuple[ast.Call, str]]:
    """The decorators of a class or function that declare it, each with its kind."""
    for decorator in node.decorator_list:
        if isinstance(decorator, ast.Call):
            called = decorator.func
            name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
            if name in KINDS:
                yield decorator, name


def read_declaration(file: Path, node: ast.ClassDef | Function, call: ast.Call, kind: str) -> Declaration:
    """What one decorator declares."""
    where = f"{file}:{call.lineno}: @{kind}"
    arguments = {}
    for keyword in call.keywords:
        if keyword.arg is None:
            raise DljobsError(f"{where}: arguments must be written out, not unpacked with **")
        arguments[keyword.arg] = _literal(keyword.value, f"{file}:{keyword.value.lineno}: @{kind}: {keyword.arg!r}")
    name = _literal(call.args[0], f"{where}: the name") if len(call.args) == 1 else None
    if not isinstance(name, str) or not name:
        raise DljobsError(f"{where}: the name must come first, as the only positional argument and a text")
    doc = ast.get_docstring(node) or ""
    if not doc:
        raise DljobsError(f"{file}:{node.lineno}: {kind} {name!r} has no docstring: say what {node.name} is")
    return Declaration(kind, name, node.name, arguments, doc, _options(file, node, doc), file, call.lineno)


def _literal(node: ast.expr, what: str) -> Any:
    try:
        return ast.literal_eval(node)
    except ValueError:
        raise DljobsError(f"{what} must be a literal (the file is read, never run), not {ast.unparse(node)}") from None


def _options(file: Path, node: ast.ClassDef | Function, doc: str) -> dict[str, Option]:
    """The parameters that a user may set: all but self, and but the data folder that a dataset is given first."""
    function: Function | None
    if isinstance(node, ast.ClassDef):
        function = next((item for item in node.body if isinstance(item, Function) and item.name == "__init__"), None)
        skip = 1
    else:
        function = node
        skip = int(any(kind == "dataset" for _, kind in declaring(node)))
    if function is None:
        return {}
    where = f"{file}:{function.lineno}: {node.name}"
    spec = function.args
    if spec.vararg or spec.kwarg:
        raise DljobsError(f"{where}: *args and **kwargs cannot be read as options; write the parameters out")
    positional = spec.posonlyargs + spec.args
    defaults: list[ast.expr | None] = [None] * (len(positional) - len(spec.defaults)) + list(spec.defaults)
    parameters = list(zip(positional, defaults, strict=True))[skip:]
    parameters += zip(spec.kwonlyargs, spec.kw_defaults, strict=True)
    docs = argument_docs(doc + "\n" + (ast.get_docstring(function) or ""))
    return {arg.arg: read_option(arg, default, docs.get(arg.arg, ""), file) for arg, default in parameters}


def read_option(arg: ast.arg, default: ast.expr | None, doc: str, file: Path) -> Option:
    """One annotated parameter with a literal default, as an option."""
    where = f"{file}:{arg.lineno}: parameter {arg.arg!r}"
    if default is None:
        raise DljobsError(f"{where} needs a default: every option has one")
    value = _literal(default, f"{where}: its default")
    choices: tuple[Any, ...] = ()
    annotation = arg.annotation
    if isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value).split(".")[-1] == "Literal":
        listed = _literal(annotation.slice, f"{where}: its choices")
        choices = listed if isinstance(listed, tuple) else (listed,)
        type_name = type(choices[0]).__name__
    else:
        type_name = ast.unparse(annotation) if annotation else "nothing"
    if type_name not in TYPES:
        raise DljobsError(f"{where} is annotated with {type_name}: an option is int, float, bool, str or Literal[…]")
    option_type, python_type = TYPES[type_name]
    if python_type is float and type(value) is int:
        value = float(value)
    # `type(…) is`: to isinstance, True is an int.
    if type(value) is not python_type or (choices and value not in choices):
        raise DljobsError(f"{where} has the default {value!r}, which its annotation {ast.unparse(arg)} does not allow")
    return Option(arg.arg, option_type, value, choices, doc)


def argument_docs(doc: str) -> dict[str, str]:
    """What a docstring's "Args:" sections say about each parameter, on its first line."""
    docs: dict[str, str] = {}
    inside = False
    for line in doc.splitlines():
        if line.strip() == "Args:":
            inside = True
        elif inside and (match := ARGS_LINE.match(line)):
            docs[match[1]] = match[2].strip()
        elif line.strip():
            inside = inside and line[0].isspace()
    return docs
