"""What is held against a device: what NVML says of a GPU, and what a site's own program says of any."""

from __future__ import annotations

import getpass
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dljobs.errors import UsageError
from dljobs.service.gpus import GpuFault, GpuState, Nvml
from dljobs.workers.health import CommandCheck, GpuCheck
from tests.waiting import wait_until

GPU = {"uuid": "GPU-5a2e", "kind": "cuda"}
STAND_IN = {"uuid": "cpu-0", "kind": "cpu"}
WELL = GpuState((), 0, awaits_reset=False, has_bad_rows=False)


def gpu_check(*states: GpuState) -> Callable[..., list]:  # type: ignore[type-arg]
    """A check of a GPU that is found so at each look; the last state stays."""
    looks: Iterator[GpuState] = iter(states)
    last = states[-1]
    return GpuCheck(lambda _uuid: next(looks, last), patience_s=0.3)


@pytest.fixture
def stranger() -> Iterator[int]:
    """A process that this one has not started: its parent is gone."""
    code = "import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', 'input()'], stdin=0, stdout=2).pid)"
    read_end, write_end = os.pipe()
    out = subprocess.run(
        [sys.executable, "-c", code], stdin=read_end, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        check=True,
    ).stdout  # fmt: skip
    yield int(out)
    os.close(write_end)  # it ends with its input
    os.close(read_end)


def test_a_gpu_that_is_well_and_a_stand_in() -> None:
    assert gpu_check(WELL)(GPU) == []
    lost = GpuCheck(lambda _uuid: pytest.fail("a stand-in has no NVML"))
    assert lost(STAND_IN) == []


def test_a_gpu_that_does_not_answer_cannot_be_accepted() -> None:
    def look(_uuid: str) -> GpuState:
        raise GpuFault("GPU is lost")

    [fault] = GpuCheck(look)(GPU)
    assert (fault.text, fault.key) == ("it does not answer: GPU is lost", "")


def test_nvml_where_there_is_no_driver_says_so() -> None:
    nvml = Nvml()
    with pytest.raises(GpuFault, match=r".+"):
        nvml.state("GPU-of-nobody")
    nvml.close()


def test_a_foreign_process_is_named_with_its_user(stranger: int) -> None:
    state = GpuState(((stranger, 2_100_000_000),), 0, awaits_reset=False, has_bad_rows=False)
    [fault] = gpu_check(state)(GPU)
    assert fault.text.startswith(f"process {stranger} (python")
    assert fault.text.endswith(f"of {getpass.getuser()} holds 2.1 GB of its memory")
    assert fault.key == f"process {stranger}"


def test_a_process_that_is_about_to_die_is_waited_for(stranger: int) -> None:
    state = GpuState(((stranger, None),), 0, awaits_reset=False, has_bad_rows=False)
    assert gpu_check(state, WELL)(GPU) == []


def test_our_own_processes_are_not_foreign() -> None:
    state = GpuState(((os.getpid(), 1), (os.getpid(), None)), 0, awaits_reset=False, has_bad_rows=False)
    assert gpu_check(state)(GPU) == []


def test_a_process_of_another_pid_namespace_cannot_be_judged(caplog: pytest.LogCaptureFixture) -> None:
    """As in a container without the host's pids, where our own ranks have numbers that mean nothing here."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    state = GpuState(((ended.pid, 1), (0, None), (2**32 - 1, None)), 2, awaits_reset=False, has_bad_rows=False)
    caplog.set_level(logging.INFO)
    check = GpuCheck(lambda _uuid: state)
    for _ in range(2):
        [fault] = check(GPU)
        assert fault.key == "errors 2", "it is looked at all the same"
    assert [record.message.partition(":")[0] for record in caplog.records] == [
        "NVML names processes that cannot be found here"
    ]


def test_a_process_that_hides_is_foreign(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of another user, where /proc is mounted with hidepid: it is there, and that is all that can be seen."""

    def kill(_pid: int, _number: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", kill)
    state = GpuState(((2**22 + 1, None),), 0, awaits_reset=False, has_bad_rows=False)  # above the kernel's largest pid
    [fault] = gpu_check(state)(GPU)
    assert fault.text.endswith("of which nothing can be seen here, holds its memory")


def test_memory_errors() -> None:
    broken = GpuState((), 2, awaits_reset=True, has_bad_rows=True)
    assert [fault.text for fault in gpu_check(broken)(GPU)] == [
        "a row of its memory failed and could not be replaced",
        "2 uncorrected memory errors since its last reset",
    ]
    [fault] = gpu_check(GpuState((), 0, awaits_reset=True, has_bad_rows=False))(GPU)
    assert "has to be reset" in fault.text


def script(folder: Path, text: str) -> str:
    path = folder / "check"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o700)
    return str(path)


def test_a_command_judges_by_its_exit_code_and_tells_why(tmp_path: Path) -> None:
    command = script(tmp_path, 'test "$1" = cpu-0 && exit 0\necho; echo "too hot: $1"; echo more; exit 3')
    assert CommandCheck(command)(STAND_IN) == []
    [fault] = CommandCheck(command)(GPU)
    assert fault.text == f"{command}: too hot: GPU-5a2e"
    assert fault.key == "too hot: GPU-5a2e"
    assert CommandCheck("sh -c 'exit 4'")(GPU)[0].text == "sh: it exits with 4"


def test_a_command_that_hangs_is_ended_with_what_it_started(tmp_path: Path) -> None:
    command = script(tmp_path, f"sleep 600 & echo $! > {tmp_path}/pid; wait")
    [fault] = CommandCheck(command, timeout_s=1.0)(GPU)
    assert fault.text.endswith("did not end within 1 s")
    started = int((tmp_path / "pid").read_text())
    stat = Path(f"/proc/{started}/stat")
    wait_until(lambda: not stat.exists() or stat.read_text().split()[2] == "Z", 10, "the end of what it started")


def test_a_command_that_is_none() -> None:
    [fault] = CommandCheck("/nowhere/at/all")(GPU)
    assert fault.text == "/nowhere/at/all cannot be run: No such file or directory"
    with pytest.raises(UsageError, match="cannot be read"):
        CommandCheck("check 'unclosed")
