"""`dljobs simulate`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dljobs.errors import UnknownName, UsageError
from dljobs.service.durations import show_duration

from .options import json_option
from .output import print_json, print_lines, say
from .table import Column, print_table

if TYPE_CHECKING:
    from dljobs.service.simulation.simulator import Record
    from dljobs.service.simulation.summary import Summary, Waits
    from dljobs.service.simulation.trace import TraceJob

POLICY_NAMES = ("fifo", "backfill", "dljobs")
STYLE_NAMES = ("philly", "helios", "pai")
WAIT_COLUMNS = (
    Column("policy"),
    Column("devices", right=True),
    Column("jobs", right=True),
    Column("wait mean", right=True),
    Column("p50", right=True),
    Column("p95", right=True),
    Column("p99", right=True),
)
COLUMNS = (
    Column("policy"),
    Column("utilisation", right=True),
    Column("slowdown mean", right=True),
    Column("p95", right=True),
    Column("fairness", right=True),
    Column("makespan", right=True),
    Column("plans", right=True),
    Column("plan p50", right=True),
    Column("p99", right=True),
    Column("decisions/s", right=True),
    Column("preemptions", right=True),
    Column("lost work", right=True),
)


def to_cluster(_context: click.Context, _parameter: click.Parameter, text: str) -> tuple[int, int]:
    """`nodes=N,gpus=M`."""
    found = re.fullmatch(r"nodes=(\d{1,6}),gpus=(\d{1,3})", text)
    if not found or not int(found[1]) or not int(found[2]):
        raise UsageError(f"--cluster: {text[:40]!r} is no cluster", "write it like nodes=16,gpus=8")
    return int(found[1]), int(found[2])


def to_policies(_context: click.Context, _parameter: click.Parameter, names: tuple[str, ...]) -> tuple[str, ...]:
    """Each once; several may be given at once with commas."""
    chosen = tuple(dict.fromkeys(name for text in names for name in text.split(",")))
    for name in chosen:
        if name not in POLICY_NAMES:
            raise UnknownName("policy", name, POLICY_NAMES)
    return chosen


@click.command()
@click.option(
    "--cluster", metavar="nodes=N,gpus=M", default="nodes=16,gpus=8", show_default=True, callback=to_cluster,
    help="Nodes, and devices of each.",
)  # fmt: skip
@click.option("--trace", metavar="FILE", type=click.Path(path_type=Path), help="A CSV file of jobs; columns see below.")
@click.option("--synthetic", type=click.Choice(STYLE_NAMES), help="Make jobs with the statistics of this cluster.")
@click.option("--jobs", "num_jobs", type=click.IntRange(2), default=2000, show_default=True, help="How many to make.")
@click.option(
    "--load",
    type=click.FloatRange(0.01, 100),
    default=1.0,
    show_default=True,
    help="Share of the devices they keep busy.",
)
@click.option("--seed", type=int, default=1, show_default=True, help="The same seed makes the same jobs.")
@click.option(
    "--policy", "policies", metavar="NAME", multiple=True, default=POLICY_NAMES, show_default=True,
    callback=to_policies, help="fifo: strict order; backfill: EASY, by submission; dljobs: as the service. Repeatable.",
)  # fmt: skip
@click.option(
    "--estimates", type=click.Choice(["exact", "trace", "none"]), default="exact", show_default=True,
    help="What is known of durations: all, the column time_s, nothing.",
)  # fmt: skip
@click.option("--save-trace", metavar="FILE", type=click.Path(path_type=Path), help="Write the jobs there, as CSV.")
@click.option("-o", "--output", metavar="FILE", type=click.Path(path_type=Path), help="Draw a .png, .svg or .pdf file.")
@json_option
def simulate(
    *,
    policies: tuple[str, ...],
    estimates: str,
    save_trace: Path | None,
    output: Path | None,
    as_json: bool,
    **asked: Any,
) -> None:
    """Run the scheduler over a trace in simulated time, and report what users would have waited.

    A trace has the columns submit_s, devices (4, 2-8 or 0.25), duration_s, user and, if wanted, time_s (what the user
    said it would take), priority and preemptible (1: dljobs may preempt it). What decides is the code of the service.

    \b
    Examples:
      dljobs simulate --synthetic helios --load 1.1
      dljobs simulate --cluster nodes=4,gpus=4 --trace jobs.csv --policy dljobs --json
      dljobs simulate --cluster nodes=1250,gpus=8 --synthetic philly --jobs 50000 -o waits.png
    """
    from dljobs.service.simulation.simulator import POLICIES, Estimates, Simulator
    from dljobs.service.simulation.summary import summarise

    num_nodes, node_size = asked["cluster"]
    jobs = _jobs(**asked)
    if all(job.size.min_devices > node_size for job in jobs):
        hint = "gangs over several nodes are not simulated"
        raise UsageError(f"no job of the trace fits on a node of {node_size} devices", hint)
    if output is not None:
        from dljobs.service.figures import check_target

        check_target(output)
    if save_trace is not None:
        from dljobs.service.simulation.trace import write_trace

        write_trace(save_trace, jobs)
    records: dict[str, Record] = {}
    summaries: dict[str, Summary] = {}
    for name in policies:
        say(f"simulating {len(jobs)} jobs on {num_nodes * node_size} devices: {name}")
        simulator = Simulator(
            jobs, num_nodes=num_nodes, node_size=node_size, policy=POLICIES[name], estimates=Estimates(estimates)
        )
        records[name] = simulator.run()
        summaries[name] = summarise(records[name])
    if output is not None:
        from dljobs.service.simulation.plot import draw_simulation

        draw_simulation(records, output)
        say(f"drew {output}")
    if as_json:
        about = {"num_nodes": num_nodes, "node_size": node_size, "num_jobs": len(jobs), "estimates": estimates}
        found = [{"policy": name, **each.to_json()} for name, each in summaries.items()]
        print_json("simulation", {**about, "policies": found})
    else:
        _print(summaries)


def _jobs(
    *, cluster: tuple[int, int], trace: Path | None, synthetic: str | None, num_jobs: int, load: float, seed: int
) -> list[TraceJob]:
    if trace is not None and synthetic is not None:
        raise UsageError("--trace and --synthetic cannot go together", "choose one")
    if trace is not None:
        from dljobs.service.simulation.trace import read_trace

        return read_trace(trace)
    from dljobs.service.simulation.synthetic import STYLES, make_trace

    return make_trace(
        STYLES[synthetic or "helios"],
        num_jobs=num_jobs,
        num_devices=cluster[0] * cluster[1],
        node_size=cluster[1],
        load=load,
        seed=seed,
    )


def _print(summaries: Mapping[str, Summary]) -> None:
    print_table(COLUMNS, [_row(name, each) for name, each in summaries.items()])
    print_lines([""])
    rows = []
    for name, each in summaries.items():
        rows.append(_wait_row(name, "all", each.waits))
        rows.append(_wait_row("", "light users", each.waits_of_light_users))
        rows += [_wait_row("", size, waits) for size, waits in each.waits_by_size.items()]
    print_table(WAIT_COLUMNS, rows)
    if num_never := max(each.num_never_fit for each in summaries.values()):
        print_lines(["", f"{num_never} jobs are larger than a node and never start"])


def _row(name: str, each: Summary) -> list[str]:
    return [
        name,
        f"{each.utilisation:.1%}",
        f"{each.bounded_slowdown_mean:.1f}",
        f"{each.bounded_slowdown_p95:.1f}",
        f"{each.fairness:.2f}",
        show_duration(each.makespan_s),
        str(each.num_plans),
        f"{each.plan_p50_ms:.2f} ms",
        f"{each.plan_p99_ms:.2f} ms",
        f"{each.decisions_per_s:.0f}",
        str(each.num_preemptions),
        f"{each.lost_device_s / 3600:.2f} dev-h",
    ]


def _wait_row(name: str, size: str, waits: Waits) -> list[str]:
    shown = [show_duration(each) for each in (waits.mean_s, waits.p50_s, waits.p95_s, waits.p99_s)]
    return [name, size, str(waits.num_jobs), *shown]
