"""The command line. It only parses, calls one function of the service, and prints; there is no SQL here.

This file owns the list of commands, the options they share, and how an error becomes words and an exit code. Commands
are imported when they are asked for, so that `dljobs status` pays for nothing but itself.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from dljobs import __version__
from dljobs.errors import DljobsError, ExitCode

from .lazy_group import Entry, LazyGroup

INTERRUPTED = 130  # as a shell reports it: 128 + SIGINT
PIPE_CLOSED = 141  # 128 + SIGPIPE
COMPLETE_VARIABLE = "_DLJOBS_COMPLETE"  # set by the scripts of `dljobs completion`
NO_ARGUMENTS = getattr(click.exceptions, "NoArgsIsHelpError", ())  # since click 8.2: a group named without a command

COMMANDS = {
    "Jobs": {
        "submit": Entry("submit:submit", "Put a training job in the queue."),
        "status": Entry("status:status", "Show the queue, the recent jobs and the devices."),
        "show": Entry("show:show", "Show everything about a job."),
        "why": Entry("why:why", "Say why a job waits, where it runs, or how it ended."),
        "logs": Entry("logs:logs", "Print what the ranks of a job wrote."),
        "wait": Entry("wait:wait", "Wait until jobs have ended."),
        "cancel": Entry("cancel:cancel", "End jobs, waiting or running."),
        "checkpoint": Entry("checkpoint:checkpoint", "Have a job save its state now."),
        "resume": Entry("resume:resume", "Go on from a job's checkpoint, with other settings if wanted."),
        "retry": Entry("queue:retry", "Queue a failed or cancelled job again."),
        "update": Entry("update:update", "Change priority, devices, time or name of jobs that wait."),
        "hold": Entry("queue:hold", "Keep queued jobs from starting."),
        "release": Entry("queue:release", "Let held jobs go."),
        "events": Entry("events:events", "Print the history of a job, or of everything."),
    },
    "Results": {
        "artifacts": Entry("artifacts:artifacts", "List the stored outputs of a job; collect garbage."),
        "inspect": Entry("inspect:inspect", "Show the tensors in the weights of a job."),
        "eval": Entry("evaluate:evaluate", "Load the weights of a job and measure them."),
        "verify": Entry("verify:verify", "Train again from a checkpoint, and compare the weights."),
        "predict": Entry("predict:predict", "Say what the weights of a job make of an input."),
        "compare": Entry("compare:compare", "Tell two jobs apart: specs, metrics, weights."),
        "export": Entry("export:export", "Write the weights of a job to a file."),
        "sweep": Entry("sweep:sweep", "Show the jobs of a set, the best first."),
        "plot": Entry("plot:plot", "Draw the loss and accuracy of jobs."),
        "models": Entry("models:models", "List the models that can be trained."),
    },
    "Service": {
        "up": Entry("up:up", "Start Redis, the database and a worker here."),
        "down": Entry("up:down", "Stop what `dljobs up` started."),
        "worker": Entry("worker:worker", "Start a worker on some devices of this machine."),
        "workers": Entry("workers:workers", "List the workers and their devices."),
        "node": Entry("node:node", "Show nodes, and keep work away from one."),
        "gpu": Entry("gpu:gpu", "Show devices, and let one out of quarantine."),
        "usage": Entry("usage:usage", "Show how much device time each user has had."),
        "doctor": Entry("doctor:doctor", "Check every part and name the cure of what is wrong."),
        "db": Entry("db:db", "Create or migrate the database's tables."),
        "simulate": Entry("simulate:simulate", "Try the scheduler on a trace of jobs, in simulated time."),
        "config": Entry("config:config", "Show each setting and where it came from."),
        "completion": Entry("completion:completion", "Print the shell's completion script."),
    },
}


@click.group(
    cls=LazyGroup, sections=COMMANDS, package=__name__, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.option("--home", metavar="FOLDER", help="Where everything embedded lives. [DLJOBS_HOME, ~/.dljobs]")
@click.option("--database-url", metavar="URL", help="Use this database. [DLJOBS_DATABASE_URL, SQLite in the home]")
@click.option("--redis-url", metavar="URL", help="Use this Redis. [DLJOBS_REDIS_URL, the one `dljobs up` runs]")
@click.option("--config", metavar="FILE", help="Read settings from this file. [DLJOBS_CONFIG, HOME/config.toml]")
@click.version_option(__version__, prog_name="dljobs", message="%(prog)s %(version)s")
@click.pass_context
def cli(context: click.Context, /, **flags: str | None) -> None:
    """Submit deep learning jobs to a queue, and get back their weights.

    \b
    Examples:
      dljobs up --detach
      dljobs submit lenet --gpus 4 --follow
      dljobs status
    """
    from dljobs.service.settings import load_settings

    context.obj = load_settings(flags)


def main() -> NoReturn:
    """Run the command of this process and end it."""
    # A command lives for a fifth of a second. Python's collector and its tidy end would take a fifth of that.
    gc.set_threshold(50_000)
    code = run(sys.argv[1:])
    sys.stderr.flush()
    os._exit(code)


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code; errors that a user can meet leave no traceback."""
    try:
        code = _invoke(list(arguments))
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # Whoever read our output has enough; what is left of it must not be flushed once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except DljobsError as error:
        return _report(error.message, error.hint, error.exit_code)
    except NO_ARGUMENTS as error:
        click.echo(error.format_message(), err=True)
        return int(error.exit_code)
    except click.ClickException as error:
        return _report(error.format_message(), _usage_hint(error), error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except OSError as error:
        return _report(str(error), "", ExitCode.ERROR)


def _invoke(arguments: list[str]) -> int:
    """As `cli.main` would, which takes a closed pipe for an error of ours."""
    if instruction := os.environ.get(COMPLETE_VARIABLE):
        from click.shell_completion import shell_complete

        return shell_complete(cli, {}, "dljobs", COMPLETE_VARIABLE, instruction)
    try:
        with cli.make_context("dljobs", arguments) as context:
            return int(cli.invoke(context) or 0)
    except click.exceptions.Exit as leaving:
        return leaving.exit_code
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)


def _report(message: str, hint: str, code: int) -> int:
    click.echo(f"dljobs: {message}", err=True)
    if hint:
        click.echo(f"hint: {hint}", err=True)
    return int(code)


def _usage_hint(error: click.ClickException) -> str:
    context = error.ctx if isinstance(error, click.UsageError) else None
    return f"`{context.command_path} --help` shows what it takes" if context else ""
