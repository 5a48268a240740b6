"""Every model of the zoo, as a job would run it: a few steps on each strategy, exported, reloaded, evaluated equal."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dljobs.models import catalog
from dljobs.models.build import build_model
from dljobs.models.data import load_data
from dljobs.models.evaluate import evaluate
from dljobs.service.submission import Request, prepare
from dljobs.workers.folder import RunFolder, RunRequest
from dljobs.workers.launcher import Launcher
from tests.small_jobs import events_of, train_losses

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 90.0
NUM_STEPS = 3
# What takes the place of data that would have to be fetched.
STAND_IN = {"data": "fake", "sets": ("size=40", "test_size=20")}
# Larger ones are trained by whoever has the time for it.
NAMES = [name for name, entry in catalog.models().items() if (entry.num_parameters or 0) < 1_000_000]


@pytest.fixture(scope="module")
def zoo_launcher(launcher: Launcher) -> Launcher:
    """Ranks as users have them; it shares the forkserver with `launcher`, which also ends it."""
    return Launcher(keeper=launcher.keeper)


def train(
    launcher: Launcher, folder: Path, data_dir: Path, request: Request, resume: str | None = None
) -> tuple[RunFolder, RunRequest]:
    spec = prepare(request, "tester").spec
    world_size = spec.num_devices if spec.strategy == "ddp" else 1
    run = RunRequest(
        job_id=1, run_number=1, spec=spec, device_kind="cpu", devices=[f"cpu-{i}" for i in range(spec.num_devices)],
        world_size=world_size, num_threads=1, data_dir=str(data_dir), folder=str(folder),
        resume=resume,
    )  # fmt: skip
    run.write()
    launch = launcher.launch(RunFolder(folder), world_size)
    assert launch.wait(TIMEOUT_S), "the ranks are still running"
    logs = "\n".join(RunFolder(folder).log(r).read_text() for r in range(world_size))
    assert [end.exitcode for end in launch.exits] == [0] * world_size, logs
    return RunFolder(folder), run


def request_for(name: str, strategy: str, *sets: str) -> Request:
    stand_in = catalog.find_dataset(catalog.find_model(name).data).downloads
    request = Request(name, 1 if strategy == "single" else 2, strategy, sets=sets)
    if stand_in:
        request = dataclasses.replace(request, data=str(STAND_IN["data"]), sets=(*sets, *STAND_IN["sets"]))
    return request


@pytest.mark.parametrize("name", NAMES)
def test_every_model_trains_exports_reloads_and_evaluates_equal(
    zoo_launcher: Launcher, tmp_path: Path, data_dir: Path, name: str
) -> None:
    losses = {}
    for strategy in ("single", "dp", "ddp"):
        request = request_for(name, strategy, f"max_steps={NUM_STEPS}")
        folder, run = train(zoo_launcher, tmp_path / strategy, data_dir, request)
        losses[strategy] = train_losses(folder)
        assert len(losses[strategy]) == NUM_STEPS
        (finished,) = events_of(folder, type_="finished")
        exported = next(e for e in events_of(folder, type_="artifact") if e["kind"] == "state_dict")
        spec = run.spec
        result = evaluate(
            {
                "model": spec.model, "model_options": spec.model_options, "data": spec.data,
                "data_options": spec.data_options, "loss": spec.loss, "data_dir": str(data_dir),
                "state_dict": exported["path"],
            }
        )  # fmt: skip
        for metric in catalog.TASK_METRICS[catalog.LOSS_TASKS[spec.loss]]:
            expected = finished["result"][metric]
            assert (result[metric] is None) is (expected is None)  # r2 of copies of one image
            assert expected is None or result[metric] == pytest.approx(expected, rel=1e-5), (strategy, metric)
    if name != "dynamic":  # whose ranks draw a depth each
        assert losses["dp"] == pytest.approx(losses["single"], rel=1e-4)
        assert losses["ddp"] == pytest.approx(losses["single"], rel=1e-4)


@pytest.mark.parametrize("name", sorted(catalog.models()))
def test_every_model_says_what_it_is_and_what_it_reaches(name: str) -> None:
    entry = catalog.find_model(name)
    assert len(entry.doc) > 80, "a docstring says what it takes and gives, and what there is to learn from it"
    assert entry.expected
    assert entry.reaches, "make zoo holds a model to a threshold"
    assert entry.num_parameters is not None


def test_a_summed_and_shared_middle_layer_trains_over_ranks(
    zoo_launcher: Launcher, tmp_path: Path, data_dir: Path
) -> None:
    """Sixty steps in which ranks draw depths of their own, some of them 0."""
    folder, _ = train(zoo_launcher, tmp_path / "ddp", data_dir, request_for("dynamic", "ddp", "max_steps=60"))
    losses = train_losses(folder)
    assert len(losses) == 60
    assert losses[-1] < losses[0] / 3


def test_a_drawn_depth_is_continued_exactly(zoo_launcher: Launcher, tmp_path: Path, data_dir: Path) -> None:
    """What a model draws comes from generators that the checkpoint holds, of every rank."""
    request = request_for("dynamic", "ddp", "epochs=2", "passes=6")
    whole, _ = train(zoo_launcher, tmp_path / "whole", data_dir, request)
    checkpoint = next(e for e in events_of(whole, type_="artifact") if e["name"] == "step-6")
    assert (checkpoint["kind"], checkpoint["epoch"]) == ("checkpoint", 1)
    rest, _ = train(zoo_launcher, tmp_path / "rest", data_dir, request, resume=checkpoint["path"])
    digests = [events_of(folder, type_="finished")[0]["result"]["weights_sha256"] for folder in (whole, rest)]
    assert digests[0] == digests[1]
    assert train_losses(rest) == train_losses(whole)[6:]


def test_sizes_inside_and_outside_as_the_tutorial_logs_them(
    zoo_launcher: Launcher, tmp_path: Path, data_dir: Path
) -> None:
    request = Request("data-parallel-toy", 8, "dp", sets=("epochs=1",))
    folder, _ = train(zoo_launcher, tmp_path / "dp", data_dir, request)
    lines = [line for line in folder.log(0).read_text().splitlines() if "size" in line]
    expected = []
    for num_rows, shares in (*[(30, [4] * 7 + [2])] * 3, (10, [2] * 5)):
        expected += [f"\tIn Model: input size ({share}, 5) output size ({share}, 2)" for share in shares]
        expected += [f"Outside: input size ({num_rows}, 5) output_size ({num_rows}, 2)"]
    assert lines == expected


def compiler_is_missing() -> bool:
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        return not get_cpp_compiler()
    except InvalidCxxCompiler:
        return True


@pytest.mark.skipif(compiler_is_missing(), reason="no C++ compiler")
def test_the_compiled_graph_takes_the_steps_of_the_eager_one_also_over_ranks(
    zoo_launcher: Launcher, tmp_path: Path, data_dir: Path
) -> None:
    losses = {}
    for implementation, strategy in (("module", "single"), ("compiled", "ddp")):
        request = request_for("two-layer", strategy, "max_steps=30", f"implementation={implementation}")
        folder, _ = train(zoo_launcher, tmp_path / implementation, data_dir, request)
        losses[implementation] = train_losses(folder)
    assert losses["compiled"] == pytest.approx(losses["module"], rel=1e-4)


def test_without_a_compiler_the_error_says_so(tmp_path: Path) -> None:
    code = (
        "import json, torch; from dljobs.models.compiled import compile_whole; from dljobs.errors import UsageError\n"
        "try: compile_whole(torch.sin)(torch.ones(8))\n"
        "except UsageError as error: print(json.dumps([error.message, error.hint]))"
    )
    environment = {**os.environ, "PATH": str(tmp_path), "CXX": "no-such-compiler", "PYTHONPATH": str(ROOT)}
    environment["TORCHINDUCTOR_CACHE_DIR"] = str(tmp_path)
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    message, hint = json.loads(done.stdout)
    assert message.startswith("this model cannot be compiled here: ")
    assert "needs a C++ compiler" in hint


def test_the_page_has_a_row_for_each_model() -> None:
    """Whoever adds a model lets `make zoo` write the table anew."""
    page = (ROOT / "models" / "README.md").read_text()
    listed = re.findall(r"^\| `([\w-]+)` \|.*(?:met|ran) \|$", page, re.MULTILINE)
    assert listed == sorted(catalog.models())
    assert "MISSED" not in page


def test_the_example_of_the_page_is_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = re.search(r"```python\n(.*?)```", (ROOT / "models" / "README.md").read_text(), re.DOTALL)[1]  # type: ignore[index]
    folder = tmp_path / "example_zoo"
    folder.mkdir()
    (folder / "softmax.py").write_text(code.replace("from .catalog", "from dljobs.models.catalog"))
    monkeypatch.syspath_prepend(tmp_path)
    entry = catalog.read_catalog(folder, "example_zoo").models["softmax"]
    monkeypatch.setitem(catalog.models(), "softmax", entry)
    data = load_data(entry.data, entry.data_options, tmp_path / "data")
    model = build_model("softmax", {}, data)
    assert sum(parameter.numel() for parameter in model.parameters()) == entry.num_parameters
    assert prepare(Request("softmax"), "tester").spec.training.epochs == 10


def test_make_zoo_trains_through_the_service_and_leaves_the_page_of_a_part_alone() -> None:
    page = (ROOT / "models" / "README.md").read_bytes()
    command = [sys.executable, "-m", "benchmarks.zoo", "conv-edge", "poly", "--strategy", "single"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120)
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["conv-edge", "poly"]
    assert all(line.endswith("met") and "weights within 0.0" in line for line in lines), lines
    assert (ROOT / "models" / "README.md").read_bytes() == page


def test_models_are_told_apart_by_the_catalog_alone() -> None:
    named: dict[str, Any] = {**catalog.models(), **catalog.datasets()}
    assert len(named) == len(catalog.models()) + len(catalog.datasets()), "a model and a dataset share a name"
