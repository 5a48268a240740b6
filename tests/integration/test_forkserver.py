"""The forkserver and its keeper with real processes, and a package of two files in the place of torch."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from dljobs.errors import DljobsError
from dljobs.workers.forkserver import Children, End, Killed
from dljobs.workers.keeper import Keeper
from tests.waiting import wait_until

PRELOAD = """
import os, sys, time, traceback
from dljobs.workers.folder import release
from dljobs.workers.forkserver import Preloaded

def report():
    failures = {}
    try:
        import ourplugin.net
    except Exception:
        failures["ourplugin.net"] = traceback.format_exc()
    files = [module.__file__ for module in sys.modules.values() if getattr(module, "__file__", None)]
    return Preloaded(failures, {}, files, os.environ.get("RELEASE", release()))
"""
NET = """
import os, signal, sys, time
from pathlib import Path

WORD = "first"

def main(folder):
    Path(folder, f"{os.environ['RANK']}.begun").write_text(WORD)
    does = os.environ.get("DOES", "")
    if does == "waits":
        while not Path(folder, "go").exists():
            time.sleep(0.005)
        sys.exit(7)
    if does == "leaves":
        os._exit(0)
    if does == "leaves a child" and not os.fork():
        time.sleep(60)
    if does == "raises":
        raise ValueError("no")
    if does == "is killed":
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that the forkserver preloads, and ranks are functions of."""
    package = tmp_path / "site" / "ourplugin"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "preload.py").write_text(PRELOAD)
    (package / "net.py").write_text(NET)
    monkeypatch.setattr(sys, "path", [str(package.parent), *sys.path])
    return package / "net.py"


@pytest.fixture
def keeper(net: Path) -> Iterator[Keeper]:
    keeper = Keeper("ourplugin.preload", look_every_s=0.02)
    keeper.warm()
    yield keeper
    keeper.close()


class Ranks:
    """Children of one request, in a folder of their own."""

    def __init__(self, keeper: Keeper, folder: Path, *does: str) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        environments = [{"RANK": str(rank), "DOES": each} for rank, each in enumerate(does or ("",))]
        self.children: Children = keeper.fork("ourplugin.net:main", str(folder), environments)
        self.pids = self.children.pids
        self.ends: list[End] = []

    def word(self, rank: int = 0) -> str:
        """What `net.py` said when this rank's forkserver imported it."""
        begun = self.folder / f"{rank}.begun"
        wait_until(lambda: begun.exists() and begun.read_text(), 10, "the rank's beginning")
        return begun.read_text()

    def go_on(self) -> None:
        (self.folder / "go").touch()

    def end(self) -> End:
        """The next one."""
        self.ends = self.ends or self.children.read_ends(10)
        return self.ends.pop(0)


@pytest.fixture
def start(keeper: Keeper, tmp_path: Path) -> Iterator[Callable[..., Ranks]]:
    started: list[Ranks] = []

    def start(*does: str) -> Ranks:
        started.append(Ranks(keeper, tmp_path / f"run-{len(started)}", *does))
        return started[-1]

    yield start
    for ranks in started:
        ranks.children.close()


def edit(net: Path, word: str, end: str = "") -> None:
    net.write_text(NET.replace('"first"', repr(word)) + end)


def await_another(keeper: Keeper, than: int | None) -> int:
    wait_until(lambda: keeper.pid not in (None, than), 20, "another forkserver")
    assert keeper.pid is not None
    return keeper.pid


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return Path(f"/proc/{pid}/stat").exists() and ") Z " in Path(f"/proc/{pid}/stat").read_text()


def test_how_children_end(start: Callable[..., Ranks]) -> None:
    does = ("", "leaves", "raises", "is killed")
    ranks = start(*does)
    ends = sorted((ranks.end() for _ in does), key=lambda end: end.number)
    told = [(end.exitcode, end.has_returned) for end in ends]
    assert told == [(0, True), (0, False), (1, False), (-signal.SIGKILL, False)]
    assert all(is_gone(pid) for pid in ranks.pids)


def test_a_child_of_a_child_holds_nothing_up(start: Callable[..., Ranks]) -> None:
    ranks = start("leaves a child")
    end = ranks.end()
    assert (end.exitcode, end.has_returned) == (0, True)
    os.killpg(ranks.pids[0], signal.SIGKILL)  # which is the launcher's to do


def test_an_edited_file_is_loaded_beside_what_runs(keeper: Keeper, start: Callable[..., Ranks], net: Path) -> None:
    before, old = start("waits"), keeper.pid
    assert before.word() == "first"
    edit(net, "the second")
    await_another(keeper, old)
    assert start().word() == "the second"
    assert old is not None
    assert not is_gone(old), "it waits for its rank"
    before.go_on()
    assert before.end() == End(number=0, exitcode=7, has_returned=False)
    wait_until(lambda: is_gone(old), 10, "the old forkserver's end")


def test_nobody_waits_for_the_new_one(keeper: Keeper, start: Callable[..., Ranks], net: Path, tmp_path: Path) -> None:
    old, may_load = keeper.pid, tmp_path / "may-load"
    edit(net, "the second", f"while not Path({str(may_load)!r}).exists():\n    time.sleep(0.005)\n")
    for _ in range(3):
        assert start().word() == "first"
    assert keeper.pid == old
    edit(net, "the third, in the middle")
    may_load.touch()
    wait_until(lambda: start().word() == "the third, in the middle", 20, "two renewals in a row")


def test_what_cannot_be_loaded_is_not_taken(
    keeper: Keeper, start: Callable[..., Ranks], net: Path, caplog: pytest.LogCaptureFixture
) -> None:
    old = keeper.pid
    with caplog.at_level(logging.INFO):
        edit(net, "the second", "def broken(:\n")
        wait_until(lambda: "jobs go on with what" in caplog.text, 20, "the loud line")
        assert "SyntaxError" in caplog.text
        assert str(net) in caplog.text
        assert (start().word(), keeper.pid) == ("first", old)
        num_tries = caplog.text.count("another forkserver is being warmed")
        time.sleep(0.3)  # many looks: what is known to be broken is not tried again
        assert caplog.text.count("another forkserver is being warmed") == num_tries
    helper = net.with_name("helper.py")
    helper.write_text("import nowhere\n")
    edit(net, "the third", "from . import helper\n")
    wait_until(lambda: "nowhere" in caplog.text, 20, "the second loud line")
    helper.write_text("")
    await_another(keeper, old)
    assert start().word() == "the third"


def test_one_that_is_killed_is_replaced_at_once(keeper: Keeper, start: Callable[..., Ranks]) -> None:
    ranks, old = start("waits", "waits"), keeper.pid
    assert old is not None
    os.kill(old, signal.SIGKILL)
    after = start()  # it waits
    assert after.word() == "first"
    assert after.end().has_returned
    assert keeper.pid != old
    with pytest.raises(Killed):
        ranks.end()
    wait_until(lambda: all(is_gone(pid) for pid in ranks.pids), 5, "its ranks' end")


def test_while_none_can_be_had_jobs_are_told_why(
    keeper: Keeper, start: Callable[..., Ranks], net: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dljobs.workers.keeper.RETRY_S", 0.1)
    net.unlink()
    assert keeper.pid is not None
    os.kill(keeper.pid, signal.SIGKILL)
    with pytest.raises(DljobsError, match=r"importing ourplugin\.net failed"):
        start()
    edit(net, "back again")
    await_another(keeper, None)
    assert start().word() == "back again"


def test_one_that_grows_is_replaced(keeper: Keeper, start: Callable[..., Ranks], net: Path) -> None:
    old = keeper.pid
    leak = "leaked = []\nos.register_at_fork(after_in_parent=lambda: leaked.append(bytearray(os.urandom(40 << 20))))\n"
    edit(net, "leaks", leak)
    leaking = await_another(keeper, old)
    for _ in range(3):
        assert start().word() == "leaks"
    await_another(keeper, leaking)


def test_another_release_is_for_another_worker(
    keeper: Keeper, start: Callable[..., Ranks], net: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setenv("RELEASE", "99.0")
    edit(net, "of another release")
    wait_until(lambda: "restart the worker" in caplog.text, 20, "the loud line")
    assert start().word() == "first"


def test_children_that_could_not_all_be_forked(net: Path, tmp_path: Path) -> None:
    net.write_text(NET + "def fork(real=os.fork, left=[1]):\n    left.pop()\n    return real()\nos.fork = fork\n")
    net.write_text(net.read_text().replace("left.pop()", "left.pop() if left else os.open('/nowhere', 0)"))
    keeper = Keeper("ourplugin.preload")
    keeper.warm()
    try:
        with pytest.raises(DljobsError, match="could not fork"):
            Ranks(keeper, tmp_path / "run", "waits", "waits")
        assert keeper.pid is not None
        server = psutil.Process(keeper.pid)
        wait_until(lambda: not server.children(), 5, "the end of the one that was forked")
    finally:
        keeper.close()


def test_the_first_one_must_be_whole(net: Path) -> None:
    net.write_text("def broken(:\n")
    keeper = Keeper("ourplugin.preload")
    with pytest.raises(DljobsError, match="SyntaxError"):
        keeper.warm()
    keeper.close()
