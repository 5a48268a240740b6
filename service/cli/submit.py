"""`dljobs submit`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from dljobs.errors import UsageError

from .opening import answer, database_of, doorbell_of, warn
from .options import json_option, to_seconds, to_size
from .output import print_fields, print_json, print_lines, say

if TYPE_CHECKING:
    from dljobs.service.database import Database
    from dljobs.service.new_jobs import NewJob
    from dljobs.service.settings import Settings
    from dljobs.service.submission import Request, Submitted

Json = dict[str, Any]
SET_FLAGS = ("array", "sweeps", "trials", "search_seed", "max_parallel", "halving")
TRAINING_FLAGS = ("epochs", "batch_size", "lr", "optimizer", "seed", "init", "until", "precision", "compile")


def complete_own(incomplete: str) -> list[CompletionItem]:
    """What goes on from `./ne` or `net.py:`; nothing where a name of the catalog is begun."""
    file, colon, symbol = incomplete.partition(":")
    if colon and file.endswith(".py"):
        from dljobs.models.undeclared import names_in

        try:
            source = Path(file).read_bytes()
        except OSError:
            return []
        return [CompletionItem(f"{file}:{name}") for name in names_in(source, Path(file)) if name.startswith(symbol)]
    # The shell itself completes paths.
    return [CompletionItem(incomplete, type="file")] if incomplete.startswith((".", "/", "~")) else []


def complete_data(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The datasets that begin so; Python files of one's own, and paths behind `csv:` and the like."""
    from dljobs.models.catalog import datasets

    kind, colon, path = incomplete.partition(":")
    if colon and kind in datasets():
        return [CompletionItem(path, type="file")]
    if own := complete_own(incomplete):
        return own
    return [CompletionItem(n, help=entry.summary) for n, entry in datasets().items() if n.startswith(incomplete)]


def complete_model(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The zoo's models that begin so; Python files of one's own, and what is in them."""
    from dljobs.models.catalog import all_models

    if own := complete_own(incomplete):
        return own
    return [
        CompletionItem(name, help=entry.summary) for name, entry in all_models().items() if name.startswith(incomplete)
    ]


@click.command()
@click.argument("model", shell_complete=complete_model)
@click.option(
    "--gpus", "size", metavar="N", default="1", show_default=True, callback=to_size,
    help="Devices to train on: 4, what is free of 2-8, or 0.25 of one.",
)  # fmt: skip
@click.option(
    "--nodes", "num_nodes", metavar="K", type=int, default=1, show_default=True, help="On exactly so many, equal parts."
)
@click.option("--spread", "may_spread", is_flag=True, help="Over the fewest nodes that fit, if no single one does.")
@click.option("--strategy", metavar="NAME", default="auto", show_default=True, help="auto, single, dp or ddp.")
@click.option("--data", metavar="NAME", shell_complete=complete_data, help="The dataset; each model has a default.")
@click.option("--with", "with_folder", metavar="DIR", help="Freeze this folder together with ./net.py:Net.")
@click.option("--epochs", metavar="N", help="Passes over the training data.")
@click.option("--batch-size", metavar="N", help="Global: shared out among the devices.")
@click.option("--lr", metavar="RATE", help="Learning rate.")
@click.option("--optimizer", metavar="NAME", help="sgd, adam, adamw, rmsprop or adagrad.")
@click.option("--seed", metavar="N", help="Seed of everything random.")
@click.option("--init", metavar="RULE", help="Initial weights: normal:0.01, or linear=zeros;conv=kaiming_normal.")
@click.option("--precision", metavar="NAME", help="What to compute in: fp32, tf32, bf16 or fp16; weights stay float32.")
@click.option(
    "--compile", is_flag=True, default=None, help="torch.compile the model, where its gradients come out right."
)
@click.option("--until", metavar="METRIC<X", help="Stop early: 'loss<1e-3' or 'test.accuracy>0.98'.")
@click.option(
    "--set", "sets", metavar="KEY=VALUE", multiple=True, help="Any other option of model, data or trainer; repeatable."
)
@click.option("--name", help="What to call the job; the model's name unless given.")
@click.option("--tag", "tags", multiple=True, help="A label to find it by; repeatable.")
@click.option("--priority", metavar="0..100", type=int, default=50, show_default=True, help="Higher starts earlier.")
@click.option("--time", "time_limit_s", metavar="DURATION", callback=to_seconds, help="Stop it after: 90, 15m, 2h.")
@click.option("--max-retries", metavar="N", type=int, default=2, show_default=True, help="New runs after a crash.")
@click.option("--idempotency-key", metavar="KEY", help="Submitting twice with the same key makes one job.")
@click.option("--hold", "held", is_flag=True, help="Do not start it before `dljobs release`.")
@click.option("--preemptible", "is_preemptible", is_flag=True, help="More important jobs may interrupt it; it resumes.")
@click.option("--gpu-type", "device_type", metavar="KIND", help="a100, h100, …, or cpu: only on devices of this kind.")
@click.option(
    "--gpu-mem", "memory", metavar="SIZE",
    help="Only on devices with as much memory: 40G. With a part of one, such as --gpus 0.25: all that it takes of it.",
)  # fmt: skip
@click.option("--on", "labels", metavar="LABEL=VALUE", multiple=True, help="Only on nodes with this label; repeatable.")
@click.option("--exclude", metavar="NODE", multiple=True, help="Not on this node; repeatable.")
@click.option("--after", metavar="ID[:ok|:fail|:any]", multiple=True, help="When that job or set ended so; repeatable.")
@click.option("--resume-from", metavar="ID[:CHECKPOINT]", help="Begin with that job's checkpoint: last, best, step-40.")
@click.option("--array", metavar="FIRST-LAST[%N]", help="A set, N at a time: {index} in an option, or seeds.")
@click.option("--sweep", "sweeps", metavar="AXIS", multiple=True, help="A set over lr=0.1,0.01 or 'lr~log(1e-4,1)'.")
@click.option("--trials", metavar="N", type=int, help="How many values a random --sweep draws.")
@click.option("--search-seed", metavar="N", type=int, help="Seed of what a random --sweep draws; --seed unless given.")
@click.option("--max-parallel", metavar="N", type=int, help="Jobs of the set that may run at a time.")
@click.option("--halving", metavar="METRIC:max|min[:ETA]", help="Stop trials early: 1 of ETA (3) goes on at each rung.")
@click.option("--begin", metavar="WHEN", help="Not before: 2h, 18:30, 2030-01-31 18:30.")
@click.option("-w", "--wait", is_flag=True, help="Wait for its end; the exit code tells how it ended.")
@click.option("-f", "--follow", is_flag=True, help="As --wait, with its log and a progress bar.")
@click.option("--dry-run", is_flag=True, help="Print what would be submitted; touch nothing.")
@json_option
@click.option("--parsable", is_flag=True, help="Print the bare job id.")
@click.pass_obj
def submit(settings: Settings, /, *, as_json: bool, parsable: bool, **options: Any) -> int:
    """Put a training job in the queue and print its id.

    Everything is checked before anything is written. `dljobs models MODEL` lists what --set can change. Exit codes with
    --wait: 0 succeeded, 100 failed, 101 still going on, 103 cancelled, 104 the infrastructure failed, 105 time limit.

    \b
    Examples:
      dljobs submit lenet --gpus 4 --follow
      dljobs submit resnet18 --gpus 2-8
      dljobs submit lenet --gpus 0.25 --gpu-mem 4G
      dljobs submit lenet --gpus 16 --nodes 2
      dljobs submit resnet18 --precision bf16 --compile --set channels_last=true
      dljobs submit lenet --epochs 5 --lr 0.1 --set momentum=0.8 --tag trial
      dljobs submit lenet --priority 20 --preemptible
      dljobs submit lenet --init xavier_uniform --until 'test.accuracy>0.98'
      dljobs submit ./net.py:Net --data ./data.py:make_data --set width=64
      dljobs submit lenet --resume-from 12:best --epochs 20 --lr 0.001
      dljobs submit lenet --array 0-15%4
      dljobs submit lenet --sweep lr=0.1,0.01 --sweep seed=0-3
      dljobs submit lenet --sweep 'lr~log(1e-4,1)' --trials 20 --max-parallel 4 --halving accuracy:max
      dljobs submit lenet --dry-run --json
    """
    wait, follow, dry_run = (options.pop(name) for name in ("wait", "follow", "dry_run"))
    if as_json and (parsable or follow):
        raise UsageError("--json cannot go with --follow or --parsable: all of them write to stdout", "choose one")
    from dljobs.service.submission import prepare
    from dljobs.service.variation import Variation

    variation = Variation(**{name: options.pop(name) for name in SET_FLAGS})
    if variation.makes_a_set:
        from .submit_set import submit_set

        if follow:
            raise UsageError("--follow shows one job, not a set", "give --wait, and look with `dljobs sweep`")
        request = _request(options)
        return submit_set(settings, request, variation, as_json=as_json, parsable=parsable, wait=wait, dry_run=dry_run)
    new = prepare(_request(options), settings.user)
    if dry_run:
        _print_dry_run(new, as_json=as_json)
        return 0
    return submit_new(settings, new, as_json=as_json, parsable=parsable, wait=wait, follow=follow)


def _request(options: dict[str, Any]) -> Request:
    from dljobs.service.submission import Request

    training = {name: options.pop(name) for name in TRAINING_FLAGS}
    size = options.pop("size")
    number = {"num_devices": size.num_devices, "min_devices": size.min_devices, "share_percent": size.share_percent}
    return Request(training=training, **number, **options)


def submit_new(settings: Settings, new: NewJob, *, as_json: bool, parsable: bool, wait: bool, follow: bool) -> int:
    """Insert the job, say so, and see it through to its end where that is wanted; returns the exit code."""
    from dljobs.service.submission import enqueue

    submitted = answer(settings, lambda database: enqueue(database, doorbell_of(settings), new))
    if parsable:
        print_lines([str(submitted.job_id)])
    elif not as_json:
        _announce(submitted, new, to_stdout=not follow)
    warnings = warn(settings, submitted)
    if not (wait or follow or as_json):
        return 0
    from dljobs.service.reports import list_jobs

    with database_of(settings) as database:
        [job] = list_jobs(database, [submitted.job_id], lease_s=settings.lease_s)
        if wait or follow:
            job = _see_it_end(database, job, new, lease_s=settings.lease_s, follow=follow)
    if as_json:
        from dljobs.service.views import request_view

        about = {"created": submitted.created, "warnings": warnings, "dry_run": False}
        print_json("submission", {**about, "job": job, "request": request_view(new)})
    return (job["exit_code"] or 0) if wait or follow else 0


def _announce(submitted: Submitted, new: NewJob, *, to_stdout: bool) -> None:
    from .wording import describe_work

    verb = "submitted" if submitted.created else "was already submitted"
    text = f"job {submitted.job_id} {verb}: {describe_work(vars(new.spec), str(new.size), new.num_nodes)}"
    if to_stdout:
        print_lines([text])
    else:  # stdout is for the job's own lines
        say(text)


def _see_it_end(
    database: Database, job: dict[str, Any], new: NewJob, *, lease_s: float, follow: bool
) -> dict[str, Any]:
    from .following import follow_job, say_ends, wait_until_ended

    if not follow:
        return wait_until_ended(database, [job["id"]], lease_s=lease_s)[0]
    num_ranks = new.spec.num_devices if new.spec.strategy == "ddp" else 1
    job = follow_job(database, job, lease_s=lease_s, bar=True, num_ranks=num_ranks)
    say_ends(database, [job])
    return job


def _print_dry_run(new: NewJob, *, as_json: bool) -> None:
    from dljobs.service.views import request_view

    from .wording import describe_work

    request = request_view(new)
    if as_json:
        about = {"created": False, "warnings": [], "dry_run": True}
        print_json("submission", {**about, "job": None, "request": request})
        return
    say(f"would submit {describe_work(request['spec'], request['size'], new.num_nodes)}; nothing was written")
    spec = request.pop("spec")
    print_fields(spec_fields({**request, **spec}))


def spec_fields(values: dict[str, Any]) -> dict[str, str]:
    """Names and values of a spec, its parts unfolded: `training.lr`."""
    fields: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            fields |= {f"{name}.{key}": str(each) for key, each in value.items()}
        elif name != "version" and value not in (None, [], "") and value is not False:
            fields[name] = ", ".join(value) if isinstance(value, list) else str(value)
    return fields
