"""What goes with a job: the file, and the folder that is asked for; what cannot go is named."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dljobs.errors import UsageError
from dljobs.models.references import Reference, locate, root_of
from dljobs.service.freezing import Frozen, freeze
from dljobs.service.source_archive import MAX_BYTES, unpack


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder.joinpath(*name.split("__")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def frozen_files(frozen: Frozen) -> list[str]:
    return sorted(unpack(frozen.archive, frozen.digest))


def reference(file: Path, symbol: str = "Net") -> Reference:
    return Reference(file, symbol)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("./net.py:Net", ("net.py", "Net")),
        ("net.py", ("net.py", None)),
        ("net.py:", ("net.py", None)),
        ("/a/my net.py:Net", ("/a/my net.py", "Net")),
        ("lenet", None),
        ("resnet18", None),
        ("net.pyc:Net", None),
        ("net.py:a.b", None),
    ],
)
def test_references(text: str, expected: tuple[str, str | None] | None) -> None:
    found = Reference.parse(text)
    assert (found and (str(found.file), found.symbol)) == expected


def test_where_a_frozen_copy_lies(tmp_path: Path) -> None:
    assert locate("lenet", None, tmp_path) == "lenet"
    name = locate("models/net.py:Net", "0f" * 32, tmp_path)
    found = Reference.parse(name)
    assert found is not None
    assert root_of(found.file) == tmp_path / ("0f" * 32)
    assert root_of(tmp_path / "net.py") == tmp_path


def test_a_file_goes_alone(tmp_path: Path) -> None:
    write(tmp_path, net="import torch, os, numpy\n", other="")
    frozen = freeze(reference(tmp_path / "net.py"), None)
    assert (frozen.main, frozen_files(frozen)) == ("net.py", ["net.py"])


def test_the_digest_depends_on_the_content_alone(tmp_path: Path) -> None:
    digests = set()
    for number, folder in enumerate(("a", "b")):
        file = write(tmp_path / folder, net="x = 1\n") / "net.py"
        os.utime(file, (number, number))
        file.chmod(0o600 + number * 0o44)
        digests.add(freeze(reference(file), None).digest)
    assert len(digests) == 1
    write(tmp_path / "a", net="x = 2\n")
    assert freeze(reference(tmp_path / "a" / "net.py"), None).digest not in digests


def test_a_folder_goes_without_what_is_not_source(tmp_path: Path) -> None:
    write(tmp_path, net="from . import blocks\n", blocks="", deep__down__one="", venv__lib__x="", __pycache__="")
    write(tmp_path / ".git", config="")
    write(tmp_path / "deep" / "__pycache__", one="")
    (tmp_path / "venv" / "pyvenv.cfg").touch()
    (tmp_path / "weights.pt").touch()
    (tmp_path / "settings.yaml").write_text("a: 1")
    frozen = freeze(reference(tmp_path / "net.py"), tmp_path)
    assert [name for name in frozen_files(frozen) if "pycache" not in name] == [
        "blocks.py",
        "deep/down/one.py",
        "net.py",
        "settings.yaml",
    ]
    assert frozen.left_out == ("weights.pt",)


def test_the_folder_may_be_around_the_file_or_beside_it(tmp_path: Path) -> None:
    write(tmp_path, models__net="from .blocks import one\n", models__blocks__one="", data="")
    around = freeze(reference(tmp_path / "models" / "net.py"), tmp_path)
    assert (around.main, frozen_files(around)) == (
        "models/net.py",
        ["data.py", "models/blocks/one.py", "models/net.py"],
    )
    beside = freeze(reference(tmp_path / "models" / "net.py"), tmp_path / "models" / "blocks")
    assert (beside.main, frozen_files(beside)) == ("net.py", ["blocks/one.py", "net.py"])
    with pytest.raises(UsageError, match=r"neither a folder around net\.py nor one beside it"):
        freeze(reference(tmp_path / "models" / "net.py"), write(tmp_path / "elsewhere", x=""))
    with pytest.raises(UsageError, match="there is no folder"):
        freeze(reference(tmp_path / "models" / "net.py"), tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("import blocks\n", 1),
        ("import torch\nfrom blocks.one import x\n", 2),
        ("from . import blocks\n", 1),
        ("def f():\n    from .blocks import x\n", 2),
        ("import package\n", 1),
    ],
)
def test_a_neighbour_that_would_be_missing_is_named_with_the_flag_that_brings_it(
    tmp_path: Path, text: str, line: int
) -> None:
    write(tmp_path, net=text, blocks="", package____init__="")
    (tmp_path / "package" / "__init__.py").touch()
    with pytest.raises(UsageError, match=rf"net\.py:{line} imports (blocks|package), which lies beside it") as caught:
        freeze(reference(tmp_path / "net.py"), None)
    assert "--with" in caught.value.hint
    freeze(reference(tmp_path / "net.py"), tmp_path)


def test_a_link_may_not_lead_outside(tmp_path: Path) -> None:
    folder = write(tmp_path / "mine", net="", one="")
    (folder / "inside.py").symlink_to("one.py")
    (folder / "loop").symlink_to(".")
    frozen = freeze(reference(folder / "net.py"), folder)
    assert frozen_files(frozen) == ["inside.py", "net.py", "one.py"]
    assert frozen.left_out == ("loop",)
    (folder / "outside.py").symlink_to("/etc/hostname")
    with pytest.raises(UsageError, match=r"outside\.py is a link to /etc/hostname, outside of the folder"):
        freeze(reference(folder / "net.py"), folder)


def test_a_folder_that_is_too_large_names_the_largest_file(tmp_path: Path) -> None:
    write(tmp_path, net="", data__x="")
    with (tmp_path / "data" / "big.csv").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(UsageError, match=r"the largest is data/big\.csv\) hold 10\.0 MiB") as caught:
        freeze(reference(tmp_path / "net.py"), tmp_path)
    assert "--data csv:PATH" in caught.value.hint


def test_files_that_are_not_there_or_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no file"):
        freeze(reference(tmp_path / "net.py"), None)
    (tmp_path / "net.py").mkdir()
    with pytest.raises(UsageError, match=r"cannot read .*net\.py: Is a directory"):
        freeze(reference(tmp_path / "net.py"), None)
