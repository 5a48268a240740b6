"""Files of one's own on the command line: what `submit` refuses, what `models` shows, how names are completed."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.shell_completion import CompletionItem
from sqlalchemy import func, select

from dljobs.service.cli.submit import complete_data, complete_model
from dljobs.service.tables import sources
from tests.unit.cli.test_submit import num_jobs

NET = '''
from torch import nn

class Net(nn.Module):
    """A net of mine."""

    def __init__(self, depth: int, width: int = 8):
        """Built."""

def make(root): ...
'''


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "work"
    (folder / "beside").mkdir(parents=True)
    monkeypatch.chdir(folder)
    (folder / "net.py").write_text(NET)
    (folder / "bad.py").write_text("class Net(:\n")
    (folder / "needy.py").write_text("import net\nclass Net: ...\n")
    (folder / "declared.py").write_text('@model("x", epoch=3)\nclass Net:\n    """Doc."""\n')
    (folder / "wrong.py").write_text(
        '@model("x", summary="s", source="s", num_parameters=None, data="digits", loss="cross_entropy",\n'
        '       metric="accuracy", goal="max", expected="e", epoch=3)\nclass Net:\n    """Doc."""\n'
    )
    return folder


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["./nett.py:Net"], ["there is no file nett.py"]),
        (["./net.py:Ned"], ["unknown class or function in net.py: 'Ned': did you mean 'Net'?"]),
        (["./net.py"], ["net.py has 2 classes and functions: say which is the model", "net.py:Net, net.py:make"]),
        (["./bad.py:Net"], ["bad.py:1: not valid Python"]),
        (["./net.py:Net"], ["net.py:Net needs its option 'depth'", "--set depth=…"]),
        (["./net.py:Net", "--set", "dept=3"], ["unknown option 'dept': did you mean 'depth'?"]),
        (["./net.py:Net", "--set", "depth=deep"], ["option 'depth' takes a whole number, not 'deep'"]),
        (["./needy.py:Net"], ["needy.py:1 imports net, which lies beside it", "--with ."]),
        (["./needy.py:Net", "--with", "beside"], ["needy.py:1 imports net"]),
        (["./needy.py:Net", "--with", "/etc"], ["neither a folder around needy.py nor one beside it"]),
        (["./needy.py:Net", "--with", "nowhere"], ["there is no folder nowhere"]),
        (["./declared.py:Net"], ["declared.py:1: model 'x' lacks the argument 'summary'"]),
        (["./wrong.py:Net"], ["'epoch'", "did you mean 'epochs'?"]),
        (["lenet", "--with", "."], ["--with goes with a model or data in a file of your own"]),
        (["lenet", "--data", "./net.py:mak"], ["did you mean 'make'?"]),
        (["lenet", "--data", "digits:here"], ["dataset digits takes no path"]),
        (["lenet", "--data", "imagefolder"], ["dataset imagefolder needs a path", "--data imagefolder:PATH"]),
        (
            ["lenet", "--data", "csv:x.csv", "--set", "task=regression"],
            ["lenet is for classification, and dataset csv"],
        ),
        (["lenet", "--set", "num_classes=3"], ["lenet was given 3 classes, and digits has 10", "set it to 10"]),
    ],
)
def test_what_cannot_be_right_is_refused_before_anything_is_written(dljobs, world, redis, arguments, words):
    done = dljobs("submit", *arguments)
    assert done.code == 2
    assert done.out == ""
    for word in words:
        assert word in done.err
    assert "Traceback" not in done.err
    assert num_jobs(world) == 0


def test_a_model_of_ones_own_is_a_job_like_any_other(dljobs, world, redis, folder):
    (folder / "x.pt").touch()
    done = dljobs("submit", "./net.py:Net", "--set", "depth=2", "--with", ".", "--json")
    spec = done.json["request"]["spec"]
    assert (spec["model"], spec["model_options"], spec["data"]) == ("net.py:Net", {"depth": 2}, "digits")
    assert len(spec["model_source"]) == 64
    assert spec["data_source"] is None
    assert done.json["job"]["model"] == "net.py:Net"
    assert "warning: left out of the job: x.pt" in done.err
    again = dljobs("submit", "lenet", "--data", "./net.py:make", "--dry-run", "--json")
    assert again.json["request"]["spec"]["data"] == "net.py:make"


def test_no_source_is_kept_that_no_job_names(dljobs, redis, world, folder):
    def num_sources() -> int:
        with world.database.read() as connection:
            return connection.execute(select(func.count()).select_from(sources)).scalar_one()

    arguments = ("submit", "./net.py:Net", "--set", "depth=2", "--idempotency-key", "k")
    assert (dljobs(*arguments).code, num_sources()) == (0, 1)
    (folder / "net.py").write_text(NET + "# edited\n")
    assert (dljobs(*arguments).code, num_sources()) == (0, 1), "no new job, no new source"
    assert dljobs("submit", "./net.py:Net", "--set", "depth=2", "--after", 99).code == 102
    dljobs("submit", "./net.py:Net", "--set", "depth=2", "--dry-run")
    assert num_sources() == 1


def test_what_ran_can_be_had_back(dljobs, redis, world, folder):
    (folder / "data.py").write_text("def data(): ...\n")
    dljobs("submit", "./net.py:Net", "--set", "depth=2")
    dljobs("submit", "./net.py:Net", "--set", "depth=2", "--data", "./net.py:make")
    dljobs("submit", "./net.py:Net", "--set", "depth=2", "--data", "./data.py")
    dljobs("submit", "lenet")
    (folder / "net.py").write_text("edited since")
    shown = dljobs("show", 3).out
    assert [line.split()[0] for line in shown.split("files of its own")[1].splitlines() if ".py" in line] == [
        "net.py",
        "data.py",
    ]
    both = dljobs("show", 2, "--json").json["sources"]
    assert [(each["used_by"], each["files"]) for each in both] == [
        (["model", "data"], [{"name": "net.py", "size_bytes": len(NET)}])
    ]
    assert dljobs("show", 4, "--json").json["sources"] == []
    for job_id, files in ((1, {"net.py": NET}), (2, {"net.py": NET}), (3, {"model/net.py": NET, "data/data.py": None})):
        out = folder / f"out{job_id}"
        done = dljobs("export", job_id, "--source", "-o", out, "--json")
        assert (done.code, done.json["artifact"]) == (0, None)
        written = {
            str(path.relative_to(folder / f"out{job_id}")): path for path in (folder / f"out{job_id}").rglob("*.py")
        }
        assert written.keys() == files.keys()
        assert all(text is None or written[name].read_text() == text for name, text in files.items())
    assert "exists already" in dljobs("export", 1, "--source", "-o", folder / "out1").err
    assert "job 4 brought no files of its own" in dljobs("export", 4, "--source", "-o", folder / "out4").err


def test_paths_of_data_are_made_absolute(dljobs, redis, folder):
    for arguments in (["--data", "imagefolder:beside"], ["--data", "imagefolder", "--set", "path=beside"]):
        spec = dljobs("submit", "lenet", *arguments, "--dry-run", "--json").json["request"]["spec"]
        assert (spec["data"], spec["data_options"]["path"]) == ("imagefolder", str(folder / "beside"))
    table = dljobs("submit", "./net.py:Net", "--set", "depth=1", "--data", "csv:~/x.csv", "--set", "task=regression",
                   "--dry-run", "--json").json["request"]["spec"]  # fmt: skip
    assert table["data_options"]["path"] == str(Path.home() / "x.csv")
    assert (table["loss"], table["metric"], table["goal"]) == ("mse", "loss", "min")


def test_its_options_are_listed(dljobs):
    done = dljobs("models", "./net.py:Net")
    assert done.code == 0
    assert "net.py:Net: A net of mine." in done.out
    assert "depth" in done.out
    assert dljobs("models", "./net.py:Net", "--json").json["options"][0]["default"] is None


def values(items: list[CompletionItem]) -> list[tuple[str, str]]:
    return [(item.value, item.type) for item in items]


def test_names_in_files_and_paths_are_completed():
    assert values(complete_model(None, None, "./net.py:")) == [("./net.py:Net", "plain"), ("./net.py:make", "plain")]
    assert values(complete_model(None, None, "./ne")) == [("./ne", "file")]
    assert values(complete_model(None, None, "./none.py:")) == []
    assert values(complete_model(None, None, "./bad.py:")) == []
    assert ("lenet", "plain") in values(complete_model(None, None, "len"))
    assert values(complete_data(None, None, "net.py:ma")) == [("net.py:make", "plain")]
    assert ("digits", "plain") in values(complete_data(None, None, "dig"))
