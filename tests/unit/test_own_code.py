"""A model in a file of one's own: what is read of it, and how its frozen copy is imported."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dljobs.errors import NotFound, UnknownName, UsageError
from dljobs.models.build import FITTED
from dljobs.models.catalog import FITTED_NAMES, Reference, find_dataset, find_model, own_dataset, own_model, resolve
from dljobs.models.options import Option
from dljobs.service.source_archive import digest_of, extract, pack

FILE = Path("net.py")
NET = '''
class Base:
    def __init__(self, width: int = 8, in_channels=1, *, rate=0.5, act=None, sizes=(1, 2), deep: "int | None" = None):
        """Built.

        Args:
            width: how wide
        """

class Net(Base):
    """A net of mine.

    In two paragraphs.
    """

class _Hidden: ...
'''


@pytest.fixture(autouse=True)
def forget_own_code() -> Iterator[None]:
    modules, finders = set(sys.modules), list(sys.meta_path)
    yield
    for name in set(sys.modules) - modules:
        del sys.modules[name]
    sys.meta_path[:] = finders


def model_of(text: str, symbol: str | None = "Net"):  # type: ignore[no-untyped-def]
    return own_model(text.encode(), Reference(FILE, symbol))


def test_an_undeclared_class_is_read_leniently() -> None:
    entry = model_of(NET)
    assert (entry.name, entry.summary, entry.data, entry.follows_data) == (
        "net.py:Net",
        "A net of mine.",
        "digits",
        True,
    )
    assert entry.options == {
        "width": Option("width", "int", 8, (), "how wide"),
        "in_channels": Option("in_channels", "int", 1),
        "rate": Option("rate", "float", 0.5),
    }


def test_an_undeclared_model_takes_the_loss_of_its_data() -> None:
    entry = model_of(NET)
    assert (entry.loss, entry.metric, entry.goal) == ("cross_entropy", "accuracy", "max")
    regression = entry.for_task("regression")
    assert (regression.loss, regression.metric, regression.goal) == ("mse", "loss", "min")
    assert find_model("lenet").for_task("regression") is find_model("lenet")


def test_a_parameter_without_default_must_be_given_unless_the_data_give_it() -> None:
    options = model_of("def Net(num_classes, depth: int): ...").options
    assert options == {"num_classes": Option("num_classes", "int", None), "depth": Option("depth", "int", None)}
    with pytest.raises(UsageError, match=r"net\.py:1: parameter 'depth' has neither a default nor a type"):
        model_of("def Net(depth): ...")


def test_the_only_one_is_meant_where_no_name_is_given() -> None:
    assert model_of("class One: ...\nclass _Two: ...", None).name == "net.py:One"
    declared = '@model("x", summary="s", source="s", num_parameters=None, data="digits", loss="mse", metric="loss", '
    declared += 'goal="min", expected="e")\nclass Two:\n    """Doc."""\nclass One: ...\n'
    assert model_of(declared, None).summary == "s"
    assert not model_of(declared, None).follows_data
    with pytest.raises(UsageError, match=r"net\.py has 2 classes and functions: say which is the model") as caught:
        model_of("class One: ...\nclass Two: ...", None)
    assert caught.value.hint == "one of net.py:One, net.py:Two"
    with pytest.raises(UsageError, match=r"net\.py has no classes and functions"):
        model_of("x = 1", None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("class Ned: ...", r"unknown class or function in net\.py: 'Net': did you mean 'Ned'"),
        ("class Net(:", r"net\.py:1: not valid Python"),
        ("x = '\0'", r"net\.py: not valid Python|net\.py:1: not valid Python"),
        ('@dataset("x")\nclass Net:\n    """Doc."""', r"net\.py:2: Net is declared as a dataset, not a model"),
        ('@model("x")\nclass Net:\n    """Doc."""', r"net\.py:1: model 'x' lacks the argument 'summary'"),
    ],
)
def test_what_cannot_be_used_is_refused_with_file_and_line(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        model_of(text)


def data_of(text: str):  # type: ignore[no-untyped-def]
    return own_dataset(text.encode(), Reference(Path("data.py"), "make_data"))


def test_an_undeclared_dataset() -> None:
    plain = data_of("def make_data(n: int = 3): ...")
    assert (plain.name, plain.task, plain.shape, plain.takes_root) == (
        "data.py:make_data",
        "classification",
        None,
        False,
    )
    assert list(plain.options) == ["n"]
    rooted = data_of("def make_data(root, n=3): return data.Data(a, b, (1,), task='regression')")
    assert (rooted.task, rooted.takes_root, list(rooted.options)) == ("regression", True, ["n"])


def test_the_fitted_names_are_those_that_are_fitted() -> None:
    assert set(FITTED_NAMES) == set(FITTED)


def frozen(tmp_path: Path, **files: str) -> Path:
    archive = pack({name.replace("__", "/") + ".py": text.encode() for name, text in files.items()})
    folder = tmp_path / digest_of(archive)
    extract(archive, digest_of(archive), folder)
    return folder


def test_two_versions_of_a_file_are_two_modules(tmp_path: Path) -> None:
    first, second = (frozen(tmp_path, net=f"class Net:\n    number = {number}\n") for number in (1, 2))
    numbers = [resolve(find_model(f"{folder}/net.py:Net").target).number for folder in (first, second, first)]
    assert numbers == [1, 2, 1]
    names = {resolve(f"{folder}/net.py:Net").__module__ for folder in (first, second)}
    assert all(name.startswith("dljobs_own_") for name in names)
    assert len(names) == 2


def test_neighbours_are_found_relatively_and_by_plain_names(tmp_path: Path) -> None:
    folder = frozen(
        tmp_path,
        models__net="from . import near\nfrom ..top import T\nimport own_neighbour_of_root, own_neighbour_of_file\n"
        "Net = (near.N, T, own_neighbour_of_root.R, own_neighbour_of_file.F)",
        models__near="N = 1",
        top="T = 2",
        own_neighbour_of_root="R = 3",
        models__own_neighbour_of_file="F = 4",
    )
    assert resolve(f"{folder}/models/net.py:Net") == (1, 2, 3, 4)


def test_a_neighbour_never_takes_the_place_of_the_standard_library(tmp_path: Path) -> None:
    sys.modules.pop("colorsys", None)
    folder = frozen(tmp_path, net="import colorsys\nNet = colorsys", colorsys="raise SystemExit")
    assert hasattr(resolve(f"{folder}/net.py:Net"), "rgb_to_hsv")


def test_what_an_import_raises_is_raised_and_tried_again(tmp_path: Path) -> None:
    folder = frozen(tmp_path, net="class Net: ...\nraise ValueError('mine')")
    for _ in range(2):
        with pytest.raises(ValueError, match="mine"):
            resolve(f"{folder}/net.py:Net")


def test_names_and_files_that_are_not_there(tmp_path: Path) -> None:
    folder = frozen(tmp_path, net="class Net: ...\ndel Net\nclass Ned: ...")
    with pytest.raises(UnknownName, match=r"unknown name in net\.py: 'Net': did you mean 'Ned'"):
        resolve(f"{folder}/net.py:Net")
    for find in (find_model, find_dataset):
        with pytest.raises(UsageError, match="there is no file"):
            find(f"{tmp_path}/none.py:x")
    with pytest.raises(NotFound):
        resolve(f"{tmp_path}/none.py:x")
