"""What no file of the package may do, found by reading its syntax: nothing is imported."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import dljobs

ROOT = Path(dljobs.__file__).parents[1]
FOLDERS = ("service", "workers", "models", "migrations")
SOURCES = sorted(
    path for folder in ("dljobs", *FOLDERS) for path in (ROOT / folder).rglob("*.py") if path.is_relative_to(ROOT)
)
TESTS = sorted((ROOT / "tests").rglob("*.py"))
FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
# Published weights exist in torch's own format only: one function reads them, restricted and after checking the digest.
AUDITED_CALLS = {("models/published_weights.py", "torch.load(path, map_location='cpu', weights_only=True)")}
FORBIDDEN_CALLS = {"eval", "exec", "torch.load", "os.system", "os.popen", "yaml.load", "numpy.load", "np.load"}


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """Each absolute import: line and full name."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.lineno, node.module or ""


def dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def calls(path: Path) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree(path)) if isinstance(node, ast.Call))


def shown(path: Path, line: int) -> str:
    return f"{path.relative_to(ROOT)}:{line}"


def test_all_folders_are_read() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in SOURCES} >= {"dljobs", *FOLDERS}
    assert len(SOURCES) > 40


def test_no_bare_short_names() -> None:
    """Users have packages named `models` of their own."""
    found = [
        f"{shown(path, line)} imports {name}"
        for path in [*SOURCES, *TESTS]
        for line, name in imported(path)
        if name.split(".")[0] in FOLDERS
    ]
    assert found == []


def test_no_relative_import_leaves_its_folder() -> None:
    found = []
    for path in SOURCES:
        depth = len(path.relative_to(ROOT).parts) - 1  # service/cli/x.py: ".." is still inside
        nodes = [node for node in ast.walk(tree(path)) if isinstance(node, ast.ImportFrom)]
        found += [shown(path, node.lineno) for node in nodes if node.level > max(depth, 1)]
    assert found == []


def test_nothing_is_pickled() -> None:
    found = [
        f"{shown(path, line)} imports {name}"
        for path in SOURCES
        for line, name in imported(path)
        if name.split(".")[0] in FORBIDDEN_MODULES
    ]
    assert found == []


def test_no_dangerous_call() -> None:
    found = []
    for path in SOURCES:
        for call in calls(path):
            name = dotted(call.func)
            with_shell = [
                keyword
                for keyword in call.keywords
                if keyword.arg == "shell" and not (isinstance(keyword.value, ast.Constant) and not keyword.value.value)
            ]
            pickles = [keyword for keyword in call.keywords if keyword.arg in ("allow_pickle", "weights_only")]
            audited = (path.relative_to(ROOT).as_posix(), ast.unparse(call)) in AUDITED_CALLS
            if (name in FORBIDDEN_CALLS or with_shell or pickles) and not audited:
                found.append(f"{shown(path, call.lineno)} calls {name}")
    assert found == []


def test_the_audited_calls_are_there_once_each() -> None:
    found = [(path.relative_to(ROOT).as_posix(), ast.unparse(call)) for path in SOURCES for call in calls(path)]
    assert all(found.count(audited) == 1 for audited in AUDITED_CALLS)


def test_no_other_name_for_a_dangerous_call() -> None:
    """`from torch import load` would hide from the scan above."""
    hidden = {("torch", "load"), ("os", "system"), ("os", "popen"), ("builtins", "eval"), ("builtins", "exec")}
    found = [
        shown(path, node.lineno)
        for path in SOURCES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if (node.module, alias.name) in hidden
    ]
    assert found == []


def test_tests_live_outside_the_package() -> None:
    inside = [path for path in SOURCES if path.name.startswith("test_") or path.name == "conftest.py"]
    assert inside == []
    found = [
        f"{shown(path, line)} imports {name}"
        for path in SOURCES
        for line, name in imported(path)
        if name.split(".")[0] in {"tests", "pytest", "hypothesis", "unittest"}
    ]
    assert found == []


def test_the_errors_are_a_leaf() -> None:
    errors = ROOT / "dljobs" / "errors.py"
    assert all(name.split(".")[0] in sys.stdlib_module_names for _line, name in imported(errors))


@pytest.mark.parametrize("name", ["states.py", "failures.py", "spec.py"])
def test_pure_files_import_nothing_but_types(name: str) -> None:
    path = ROOT / "service" / name
    foreign = {module for _line, module in imported(path) if module.split(".")[0] not in sys.stdlib_module_names}
    assert foreign <= {"dljobs.errors", "dljobs.models.references"}  # leaves


def test_the_scheduler_imports_neither_database_nor_clock() -> None:
    paths = list((ROOT / "service" / "scheduling").glob("*.py"))
    assert paths
    found = {module for path in paths for _line, module in imported(path)}
    assert not found & {"time", "datetime", "random", "os"}
    foreign = {module for module in found if module.split(".")[0] not in sys.stdlib_module_names}
    assert foreign <= {"dljobs.service.durations", "dljobs.service.sizes"}  # words for numbers
