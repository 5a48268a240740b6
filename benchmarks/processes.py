"""Programs that are timed: started so that they all have the same environment, and never left behind."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil

from .benchmark import BenchmarkError

# Asked to end, a program gets so long before it is killed.
PATIENCE_S = 10.0
_LAST_LINES = 60
ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Ended:
    """A program that has ended with status 0."""

    seconds: float  # from before it was started to when its end was known
    cpu_s: float  # of itself and of the children that it waited for
    output: str


def python_script(name: str) -> list[str]:
    """A console script of this interpreter's environment, as a user types it."""
    path = Path(sys.executable).with_name(name)
    if not path.exists():
        raise BenchmarkError(f"there is no {name} beside {Path(sys.executable).name}: install dljobs[dev] first")
    return [str(path)]


def run_timed(command: Sequence[str], environment: Mapping[str, str], timeout_s: float = 120.0) -> Ended:
    """Run a program to its end.

    Raises:
        BenchmarkError: it failed, or was not done in time.
    """
    with tempfile.TemporaryFile() as output:
        begin, cpu_begin_s = time.monotonic(), _cpu_of_children_s()
        with running(command, environment, output) as process:
            try:
                code = process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                raise BenchmarkError(f"{shown(command)} took longer than {timeout_s:g} s") from None
            seconds, cpu_s = time.monotonic() - begin, _cpu_of_children_s() - cpu_begin_s
        output.seek(0)
        text = output.read().decode(errors="replace")
    if code:
        raise BenchmarkError(f"{shown(command)} ended with status {code}:\n{last_lines(text)}")
    return Ended(seconds, cpu_s, text)


def _cpu_of_children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@contextlib.contextmanager
def running(
    command: Sequence[str], environment: Mapping[str, str], output: IO[bytes], *, is_piped: bool = False
) -> Iterator[subprocess.Popen[bytes]]:
    """A program and all that it starts, ended with the block.

    Args:
        output: where it writes; with `is_piped` only its standard error, and the block speaks with it.
    """
    process = subprocess.Popen(
        command,
        env=environment,
        cwd=ROOT,
        stdin=subprocess.PIPE if is_piped else subprocess.DEVNULL,
        stdout=subprocess.PIPE if is_piped else output,
        stderr=output,
        start_new_session=True,  # Ctrl-C reaches the benchmarks alone, which then end everything in order
    )
    try:
        yield process
    finally:
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        end_family(process)


@contextlib.contextmanager
def answering(command: Sequence[str], environment: Mapping[str, str], folder: Path) -> Iterator[Callable[[str], str]]:
    """A program that is asked line by line (see `peers/answers.py`), ready to be asked; yields how.

    What else it prints is passed over.

    Raises:
        BenchmarkError: it has ended; with its last words.
    """
    with tempfile.TemporaryFile(dir=folder) as errors, running(command, environment, errors, is_piped=True) as process:
        given, answers = process.stdin, process.stdout
        assert given is not None
        assert answers is not None

        def ask(question: str) -> str:
            with contextlib.suppress(BrokenPipeError):
                given.write(f"{question}\n".encode())
                given.flush()
            return hear()

        def hear() -> str:
            for line in answers:
                if line.startswith(b"= "):
                    return line.decode()[2:].strip()
            errors.seek(0)
            words = last_lines(errors.read().decode(errors="replace"))
            raise BenchmarkError(f"{shown(command)} has ended:\n{words}")

        hear()
        yield ask


def end_family(process: subprocess.Popen[bytes]) -> None:
    """End a program that may still run, and its descendants, wherever they have moved in the meantime."""
    if process.poll() is not None:
        return
    family = family_of(process.pid)  # torchrun's ranks lead sessions of their own: no signal to a group reaches them
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(PATIENCE_S)
    end_all(family)
    process.wait(PATIENCE_S)


def end_all(family: Sequence[psutil.Process]) -> None:
    """Kill what is left of these processes; psutil makes sure that no stranger has their pid by now."""
    for each in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()
    psutil.wait_procs(family, timeout=PATIENCE_S)


def family_of(pid: int) -> list[psutil.Process]:
    """A process and all its descendants."""
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def environment_with(**variables: str) -> dict[str, str]:
    """What every peer gets: our own environment, and what it alone needs.

    Bytecode is kept: whoever installs a package has it compiled, and else a checkout would be compiled at each start.
    """
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, **variables}


def last_lines(text: str) -> str:
    """A program's last words."""
    return "\n".join(text.strip().splitlines()[-_LAST_LINES:])


def shown(command: Sequence[str]) -> str:
    """The command without the paths of this machine."""
    return " ".join(Path(word).name if word.startswith("/") else word for word in command)
