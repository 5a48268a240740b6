"""The benchmarks work: they measure what they say, leave nothing behind, and Ctrl-C stops them. No times."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image

from benchmarks.benchmark import Benchmark, BenchmarkError, interleaved
from benchmarks.environments import NotInstallable, optional
from benchmarks.machine import Load, Machine
from benchmarks.peers import lenet
from benchmarks.plots import draw
from benchmarks.processes import answering
from benchmarks.report import BY_HAND, Report, merge_markdown
from benchmarks.result import Result, Series, Verdict
from benchmarks.suite import find_benchmarks
from dljobs.models.lenet import LeNet
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "benchmarks"]


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A temp folder for the benchmarks alone; its path is short, for there is a unix socket in it."""
    with tempfile.TemporaryDirectory(prefix="b-") as folder:
        yield Path(folder)


def processes_of(temporary: Path) -> list[psutil.Process]:
    """All processes that inherited this temp folder."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if (
                process.environ().get("TMPDIR", "").startswith(str(temporary))
                and process.status() != psutil.STATUS_ZOMBIE
            ):
                found.append(process)
    return found


def test_smoke(temporary: Path, tmp_path: Path) -> None:
    stranger = {"DLJOBS_HOME": str(tmp_path / "somebody's"), "DLJOBS_DATABASE_URL": "postgresql://nowhere.invalid/x"}
    results = ROOT / "benchmarks" / "RESULTS.md"
    before = results.read_bytes() if results.exists() else None
    file = tmp_path / "results.json"
    done = subprocess.run(
        [*COMMAND, "--smoke", "--json", str(file)],
        cwd=ROOT, env={**os.environ, **stranger, "TMPDIR": str(temporary)}, capture_output=True, text=True, timeout=170,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    document = json.loads(file.read_text())
    assert document["is_smoke"]
    assert document["machine"]["versions"].keys() >= {"Python", "torch", "celery", "dljobs"}
    by_name = {each["name"]: each for each in document["benchmarks"]}
    assert by_name.keys() == {path.stem for path in (ROOT / "benchmarks" / "suite").glob("[!_]*.py")}
    for benchmark in by_name.values():
        check_series(benchmark)
        assert benchmark["title"] in done.stdout
    check_first_step(by_name["first_step"])
    assert not processes_of(temporary)
    assert not list(temporary.iterdir())
    assert not (tmp_path / "somebody's").exists()
    assert (results.read_bytes() if results.exists() else None) == before


def check_series(benchmark: dict[str, Any]) -> None:
    peers = {each["peer"] for each in benchmark["series"]}
    assert benchmark["baselines"][0] in peers  # others may be peers that a smoke test does not install
    for series in benchmark["series"]:
        assert len(series["values"]) == benchmark["num_rounds"] == 1
        assert all(math.isfinite(value) and value > 0 for value in series["values"]), series


def check_first_step(benchmark: dict[str, Any]) -> None:
    """Of its times only their order, and that two clocks say the same."""
    values = {(each["case"], each["quantity"], each["peer"]): each["values"] for each in benchmark["series"]}
    started, first_step = (
        values["2 ranks", what, "dljobs, Python API"] for what in ("all ranks started", "first step")
    )
    assert started[0] > 0
    assert first_step[0] > 0
    assert ("2 ranks", "first step", "torchrun --standalone") in values
    assert ("2 ranks", "first step", "floor: fork") in values
    assert {verdict["limit"] for verdict in benchmark["verdicts"] if "torchrun" in verdict["claim"]} == {0.06}
    assert any("clock" in note for note in benchmark["notes"])


def test_ctrl_c_stops_everything(temporary: Path, tmp_path: Path) -> None:
    with (tmp_path / "output").open("wb") as output:
        process = subprocess.Popen(
            [*COMMAND, "first_step", "--smoke"],
            cwd=ROOT, env={**os.environ, "TMPDIR": str(temporary)}, stdout=output, stderr=output,
        )  # fmt: skip
        try:
            wait_until(lambda: num_ranks_of_torchrun(process.pid) >= 1, 90, "torchrun's first rank")
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 128 + signal.SIGINT, (tmp_path / "output").read_text()
        finally:
            process.kill()
            process.wait()
    assert not processes_of(temporary)
    assert not list(temporary.iterdir())


def num_ranks_of_torchrun(pid: int) -> int:
    """How many processes run the script itself, not counting the torchrun that was told to."""
    num = 0
    with contextlib.suppress(psutil.Error):
        for process in psutil.Process(pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                command = process.cmdline()
                num += any(word == "benchmarks.peers.one_step" for word in command) and "--standalone" not in command
    return num


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no_such"], "there is no benchmark 'no_such'; there are "),
        (["--smoke", "--write-results"], "cannot go with --write-results"),
        (["--repeat", "0"], "--repeat"),
        (["--json", "/no/such/folder/file.json"], "there is no folder /no/such/folder"),
    ],
)
def test_bad_arguments(arguments: list[str], message: str) -> None:
    done = subprocess.run([*COMMAND, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert message in done.stderr


def test_the_peers_model_is_the_zoos() -> None:
    ours = {name: tensor.shape for name, tensor in LeNet().state_dict().items()}
    assert {name: tensor.shape for name, tensor in lenet.LeNet().state_dict().items()} == ours


def test_peers_know_nothing_of_dljobs() -> None:
    """They run in environments of their own, where it may not be, and must not be measured with it."""
    for path in (ROOT / "benchmarks" / "peers").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names.append(node.module or "")
            assert not [name for name in names if name.split(".")[0] in ("dljobs", "benchmarks")], path.name


def test_interleaved_runs_every_other_round_backwards() -> None:
    assert list(interleaved("ab", 3)) == ["a", "b", "b", "a", "a", "b"]


def test_ratios_are_of_the_same_round() -> None:
    slow_minute = Series("", "time", "ours", (1.0, 10.0, 1.0)), Series("", "time", "theirs", (2.0, 20.0, 4.0))
    result = Result(slow_minute)
    assert result.ratio(slow_minute[0], "theirs") == 0.5
    assert result.ratio(slow_minute[1], "theirs") is None
    assert result.ratio(slow_minute[0], "nobody") is None
    assert slow_minute[0].median == 1.0
    assert slow_minute[0].p95 == 10.0


def test_verdicts_on_the_limit_are_met() -> None:
    assert Verdict("ratio", 0.25, 0.25).is_met
    assert not Verdict("ratio", 0.26, 0.25).is_met
    assert Verdict("rate", 120, 120, is_minimum=True).is_met
    assert not Verdict("rate", 119, 120, is_minimum=True).is_met


def test_results_keep_the_sections_of_benchmarks_that_were_not_run() -> None:
    first, again, other = (report(name, value) for name, value in (("b", 1.0), ("b", 2.0), ("a", 3.0)))
    text = merge_markdown(merge_markdown("", [first]), [other])
    assert text.index("## Title of a") < text.index("## Title of b")
    assert "1.00 s" in text
    replaced = merge_markdown(text, [again])
    assert "1.00 s" not in replaced
    assert "2.00 s" in replaced
    assert "3.00 s" in replaced
    assert merge_markdown(replaced, [again]) == replaced
    assert "THE MACHINE WAS LOADED" in text


def test_results_keep_what_was_written_by_hand() -> None:
    text = merge_markdown("", [report("a", 1.0)])
    noted = text.replace(BY_HAND, f"{BY_HAND}- Tried: it brought nothing.\n")
    again = merge_markdown(noted, [report("a", 2.0)])
    assert "1.00 s" not in again
    assert again.count("- Tried: it brought nothing.\n") == 1


def test_a_plot_shows_what_can_be_compared_and_what_cannot(tmp_path: Path) -> None:
    series = [Series("1 rank", "first step", who, (value,)) for who, value in (("torchrun", 4.0), ("dljobs", 0.05))]
    alone = Series("1 rank", "all started", "dljobs", (0.04,))
    verdicts = (Verdict("ratio", 0.0125, 0.06), Verdict("speed", 0.5, 0.98, is_minimum=True), Verdict("none", 0, 1))
    benchmark = dataclasses.replace(report("a", 1.0).benchmark, baselines=("torchrun",))
    path = draw(benchmark, Result((*series, alone), verdicts), tmp_path / "plots")
    assert path == tmp_path / "plots" / "a.png"
    with Image.open(path) as image:
        assert image.width == 1200
    assert path.stat().st_size < 60_000


def test_a_program_that_ends_instead_of_answering_is_quoted(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "print('= ready', flush=True); input(); raise SystemExit('no room left')"]
    with answering(command, os.environ, tmp_path) as ask, pytest.raises(BenchmarkError, match="no room left"):
        ask("1")


def test_a_peer_that_cannot_be_had_is_left_out_with_its_reason() -> None:
    notes: list[str] = []
    with optional("Ray", notes):
        raise NotInstallable("no such package")
    with optional("MLflow", notes):
        raise BenchmarkError("python mlflow.py has ended:\nTraceback\nKeyError: 'x'")
    assert notes == ["Ray was left out: no such package.", "MLflow was left out: KeyError: 'x'."]


def report(name: str, value: float) -> Report:
    benchmark = Benchmark(name, f"Title of {name}", "About it.", (), 1, lambda _sitting: Result(()))
    machine = Machine("Linux", "a processor", 2, 4.0, {"Python": "3.11"})
    result = Result((Series("", "wall time", "dljobs", (value,)),))
    return Report(benchmark, result, 1, machine, Load(3.0, 0.5, 2), 0.4, at=0.0)


def test_every_benchmark_says_what_it_measures() -> None:
    for name, benchmark in find_benchmarks().items():
        assert name == benchmark.name
        assert len(benchmark.about) > 100
        assert benchmark.num_rounds >= 5
