"""Synthetic traces, with the statistics that were published of production GPU clusters.

What the three have in common and every style here has: most jobs want one device, durations are heavy-tailed (the mean
is many times the median, large jobs run longer), submissions come in bursts and by the time of day, and few users
submit most jobs. The figures that a style is fitted to, approximately, are noted with it. Sources:

    philly  Jeon et al., "Analysis of Large-Scale Multi-Tenant GPU Clusters for DNN Training Workloads", USENIX ATC 2019
    helios  Hu et al., "Characterization and Prediction of Deep Learning Workloads in Large-Scale GPU Datacenters",
            SC 2021 (its table of both clusters: mean devices and durations of Helios and of Philly)
    pai     Weng et al., "MLaaS in the Wild: Workload Analysis and Scheduling in Large-Scale Heterogeneous GPU
            Clusters", NSDI 2022 (Alibaba PAI)

Jobs are no larger than a node: gangs over several nodes are not simulated.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .trace import TraceJob, number_jobs

DAY_S = 86400.0
BURST_S = 120.0  # the jobs of a burst are submitted within about so long


@dataclass(frozen=True)
class Style:
    """The shape of one cluster's load.

    Args:
        sizes: share of jobs by devices.
        median_s, mean_s: of the durations of all jobs, fitted with a log-normal distribution.
        longest_s: where its tail is cut.
        size_exponent: a job of n devices runs n^exponent as long.
        num_users, user_exponent: user number k submits a share like k^-exponent.
        burst: mean number of jobs that a user submits at once.
    """

    sizes: Mapping[int, float]
    median_s: float
    mean_s: float
    longest_s: float = 7 * DAY_S
    size_exponent: float = 0.3
    num_users: int = 200
    user_exponent: float = 1.1
    burst: float = 4.0


STYLES: dict[str, Style] = {
    # Mean 1.75 devices and 28,329 s by Helios' table; more than 4 of 5 jobs on one device.
    "philly": Style({1: 0.84, 2: 0.06, 4: 0.05, 8: 0.05}, median_s=780.0, mean_s=28_329.0, num_users=319),
    # Median 206 s and mean 6,652 s of GPU jobs; more than half of them on one device, up to 8 on a node.
    "helios": Style({1: 0.60, 2: 0.10, 4: 0.11, 8: 0.19}, median_s=206.0, mean_s=6_652.0, num_users=277),
    # Tasks from seconds to days; 5% of the users submit about three quarters.
    "pai": Style(
        {1: 0.80, 2: 0.12, 4: 0.04, 8: 0.04}, median_s=900.0, mean_s=5_000.0, num_users=1000, user_exponent=1.35
    ),
}


def make_trace(
    style: Style, *, num_jobs: int, num_devices: int, node_size: int, load: float, seed: int
) -> list[TraceJob]:
    """Jobs that would keep `load` of `num_devices` busy on average while they arrive, if none had to wait.

    The same arguments make the same trace. Sizes above `node_size` become `node_size`.
    """
    draw = random.Random(seed)  # noqa: S311 - it draws no secrets
    sizes = draw.choices(list(style.sizes), list(style.sizes.values()), k=num_jobs)
    sizes = [min(size, node_size) for size in sizes]
    durations = [_duration_s(style, size, draw) for size in sizes]
    span_s = _span_s(sizes, durations, num_devices * load)
    arrivals = _arrivals(style, num_jobs, span_s, draw)
    return number_jobs(
        [
            TraceJob(number, submit_s, size, duration_s, user)
            for number, ((submit_s, user), size, duration_s) in enumerate(zip(arrivals, sizes, durations, strict=True))
        ]
    )


def _span_s(sizes: Sequence[int], durations: Sequence[float], num_busy: float) -> float:
    """How long the submissions have to last so that, on average, `num_busy` devices are busy meanwhile.

    A job of duration d, submitted at any moment of a span S, is on for d - d^2 / 2S of it, or S / 2 if d > S.
    """

    def busy(span_s: float) -> float:
        on_s = (d - d * d / (2 * span_s) if d < span_s else span_s / 2 for d in durations)
        return sum(size * each for size, each in zip(sizes, on_s, strict=True)) / span_s

    shortest_s, longest_s = 1.0, 1e10
    for _ in range(60):
        middle_s = math.sqrt(shortest_s * longest_s)
        shortest_s, longest_s = (middle_s, longest_s) if busy(middle_s) > num_busy else (shortest_s, middle_s)
    return longest_s


def _duration_s(style: Style, size: int, draw: random.Random) -> float:
    # Log-normal: mean / median = exp(sigma^2 / 2).
    sigma = math.sqrt(2 * math.log(style.mean_s / style.median_s))
    duration_s = style.median_s * math.exp(draw.gauss(0.0, sigma)) * math.pow(size, style.size_exponent)
    return round(min(max(duration_s, 1.0), style.longest_s), 3)


def _arrivals(style: Style, num_jobs: int, span_s: float, draw: random.Random) -> list[tuple[float, str]]:
    """Moment and user of each job: bursts, more of them by day than by night (a factor of 3), of few busy users."""
    weights = [1 / rank**style.user_exponent for rank in range(1, style.num_users + 1)]
    users = [f"u{rank:03d}" for rank in range(1, style.num_users + 1)]
    found: list[tuple[float, str]] = []
    while len(found) < num_jobs:
        at_s = draw.random() * span_s
        if draw.random() * 1.5 > 1 - 0.5 * math.cos(2 * math.pi * at_s / DAY_S):
            continue  # thinned: a Poisson process whose rate follows the hour
        user = draw.choices(users, weights)[0]
        for _ in range(_geometric(style.burst, draw)):
            found.append((round(at_s, 3), user))
            at_s += draw.expovariate(1 / BURST_S) / style.burst
    return found[:num_jobs]


def _geometric(mean: float, draw: random.Random) -> int:
    """From 1 up."""
    return 1 + int(math.log(1.0 - draw.random()) / math.log(1 - 1 / mean)) if mean > 1 else 1
