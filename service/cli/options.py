"""Options and arguments that several commands share."""

from __future__ import annotations

import click

from dljobs.errors import UsageError
from dljobs.service.durations import parse_duration_s
from dljobs.service.sizes import Size, parse_size


def to_seconds(_context: click.Context, parameter: click.Parameter, text: str | None) -> float | None:
    """A duration as people write it, in seconds."""
    try:
        return None if text is None else parse_duration_s(text)
    except UsageError as error:
        raise UsageError(f"{parameter.opts[-1]}: {error.message}", error.hint) from None


def to_size(_context: click.Context, _parameter: click.Parameter, text: str | None) -> Size | None:
    """Devices as people write them: `4`, `2-8`, `0.25`."""
    return None if text is None else parse_size(text)


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, as output_schema.json describes it.")
job_argument = click.argument("job", metavar="ID")
jobs_argument = click.argument("jobs", metavar="ID...", nargs=-1, required=True)
checkpoint_option = click.option(
    "--checkpoint", metavar="best|last|EPOCH", default="best", show_default=True, help="Which of the stored weights."
)
device_option = click.option(
    "--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True, help="Here, that is."
)
timeout_option = click.option(
    "--timeout",
    metavar="DURATION",
    callback=to_seconds,
    help="Stop waiting after so long: 90, 15m, 2h. The job goes on.",
)
