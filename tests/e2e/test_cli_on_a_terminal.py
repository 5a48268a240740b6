"""The command line as a person meets it: on a terminal, with Ctrl-C, in a pipe. No worker runs here."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import shutil
import signal
import struct
import subprocess
import termios
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dljobs.service.database import open_database
from tests.databases import settings_for
from tests.e2e.conftest import DLJOBS, CommandLine
from tests.service_world import World
from tests.waiting import wait_until


class Terminal:
    """A command on a terminal of its own; `text` is what it has shown so far."""

    def __init__(self, client: CommandLine, *arguments: str, columns: int = 80) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        environment = {**client.environment, "TERM": "xterm-256color"}
        environment = {name: value for name, value in environment.items() if name not in ("NO_COLOR", "COLUMNS")}
        self.process = subprocess.Popen(
            [str(DLJOBS), *arguments], stdin=slave, stdout=slave, stderr=slave, env=environment, start_new_session=True
        )
        os.close(slave)
        self.text = ""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                shown = os.read(self._master, 65536)
            except OSError:  # EIO: nobody holds the other end any more
                return
            if not shown:
                return
            self.text += shown.decode("utf-8", "replace")

    def sees(self, pattern: str) -> None:
        """Wait until it was shown."""
        wait_until(lambda: re.search(pattern, self.text), 30, lambda: f"{pattern!r} in {self.text!r}")

    def interrupt(self) -> int:
        """Ctrl-C; returns the exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.end()

    def end(self) -> int:
        """Wait for the end; returns the exit code."""
        code = self.process.wait(timeout=30)
        self._reader.join(timeout=30)
        os.close(self._master)
        return code


@pytest.fixture
def world(sqlite_template: Path, tmp_path: Path) -> Iterator[World]:
    settings = settings_for(tmp_path, user="ada")
    shutil.copy(sqlite_template, settings.sqlite_path)
    database = open_database(settings)
    yield World(database, settings)
    database.close()


@pytest.fixture
def client(world: World) -> CommandLine:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("DLJOBS_")}
    return CommandLine({**clean, **world.settings.to_environment()})


def test_status_fits_the_terminal_and_has_colour(client: CommandLine, world: World) -> None:
    world.job(name="a job with a name that no narrow terminal has room for")
    terminal = Terminal(client, "status", columns=80)
    assert terminal.end() == 0
    assert "\x1b[33mqueued" in terminal.text
    plain = re.sub(r"\x1b\[[0-9;]*m", "", terminal.text).splitlines()
    assert max(map(len, plain[:2])) <= 80
    assert "progress" not in plain[0]  # of a job that does not run there is none
    assert re.match(r" *1  a job.*…  .*  queued +1 .*  no worker takes work now; .*…$", plain[1])
    assert "\x1b" not in client.ok("status")


def test_status_watches_until_ctrl_c(client: CommandLine, world: World) -> None:
    terminal = Terminal(client, "status", "--watch")
    terminal.sees("no jobs yet")
    world.job(name="fresh")
    terminal.sees("fresh")
    assert terminal.interrupt() == 0
    assert "Traceback" not in terminal.text


def test_follow_has_a_bar_above_which_the_log_scrolls(client: CommandLine, world: World) -> None:
    world.worker()
    world.job(idempotency_key="k")
    key = world.start()
    world.write_log(key, (0, "epoch 1 [bold]is[/bold] done"))
    world.progress(key, 30, 100, epoch=3, steps_per_s=1.0)
    terminal = Terminal(client, "submit", "lenet", "--idempotency-key", "k", "--follow", columns=120)
    terminal.sees(r"epoch 1 \[bold\]is\[/bold\] done")
    terminal.sees(r"job 1 running.*30%.*e3/15.*1m10s left")
    world.write_log(key, (0, "the end"))
    world.succeed(key, accuracy=0.975)
    terminal.sees("job 1 succeeded: accuracy 0.975")
    assert terminal.end() == 0
    assert terminal.text.count("the end") == 1


def test_ctrl_c_leaves_the_job_and_the_terminal_alone(client: CommandLine, world: World) -> None:
    terminal = Terminal(client, "submit", "lenet", "--follow")
    terminal.sees("job 1 queued")
    assert terminal.interrupt() == 101
    assert "stopped waiting: job 1 goes on" in terminal.text
    assert "Traceback" not in terminal.text
    assert terminal.text.rfind("\x1b[?25h") > terminal.text.rfind("\x1b[?25l")  # the cursor is back
    assert client.json("show", "1")["job"]["state"] == "queued"


def test_a_downgrade_asks_first(client: CommandLine, world: World) -> None:
    terminal = Terminal(client, "db", "downgrade", "base")
    terminal.sees(r"Take the database back to base.*\[y/N\]")
    os.write(terminal._master, b"n\n")
    assert terminal.end() == 130
    assert client.json("db", "current")["schema"]["is_current"]


def test_the_tables_come_and_go(client: CommandLine, world: World) -> None:
    world.database.close()
    assert client("db", "downgrade", "base", "--yes").returncode == 0
    assert client("status").returncode == 1
    assert "run `dljobs db upgrade`" in client("status").stderr
    assert client("db", "upgrade").stderr.startswith("the database is at 0")
    assert "no jobs yet" in client.ok("status")


def test_a_pipe_that_closes_is_no_error_of_ours(client: CommandLine, world: World) -> None:
    for _ in range(30):
        world.job(held=True)
    command = f"set -o pipefail; {DLJOBS} events | head -1"
    done = subprocess.run(
        ["bash", "-c", command], env=client.environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode in (0, 141)  # 0: all of it fitted into the pipe before `head` went
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == 1


def test_submitting_twice_at_once_makes_one_job(client: CommandLine, world: World) -> None:
    command = [str(DLJOBS), "submit", "lenet", "--idempotency-key", "k", "--parsable"]
    racing = [
        subprocess.Popen(command, env=client.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    assert {process.communicate(timeout=60)[0] for process in racing} == {"1\n"}
    assert [process.returncode for process in racing] == [0] * 4


def test_evaluating_here_gives_the_documented_json(client: CommandLine, world: World, tmp_path: Path) -> None:
    torch_nn = pytest.importorskip("safetensors.torch")
    from dljobs.models.lenet import LeNet

    world.worker()
    world.job()
    key = world.start()
    path = tmp_path / "weights"
    torch_nn.save_file(LeNet().state_dict(), path)
    world.store(key, 1, content=path.read_bytes(), accuracy=0.1)
    world.succeed(key, accuracy=0.1)
    found = client.json("eval", "1")["evaluation"]
    assert 0 <= found["result"]["accuracy"] <= 1
    assert len(found["result"]["per_class"]) == 10
    assert found["artifact"]["epoch"] == 1
