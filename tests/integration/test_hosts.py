"""Several hosts for real: namespaces with a network between them that is slow, loses packets, and is cut. `make hosts`.

The figures that it prints are of the machine it runs on.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator

import pytest
from sqlalchemy import RowMapping, make_url

from dljobs.service import logs, parts
from dljobs.service.worker_process import COMMAND, WorkerProcess
from tests.cluster import Cluster, family_of, running_cluster
from tests.databases import PostgresServer
from tests.deployment import listening_at
from tests.hosts import POSTGRES_PORT, SERVERS, Hosts, redis_url, running_hosts
from tests.waiting import wait_until

pytestmark = pytest.mark.slow
WORKERS = ("n1", "n2", "n3")
LONG = ("epochs=200", "checkpoint_every_s=1")


@dataclasses.dataclass
class Site:
    cluster: Cluster
    hosts: Hosts
    idle_processes: dict[str, int]  # of each worker while it has no ranks

    def num_ranks(self, name: str) -> int:
        return len(family_of(self.cluster.workers[name].pid)) - self.idle_processes[name]

    def nodes_of(self, job_id: int) -> list[str]:
        with self.cluster.database.read() as connection:
            return [part["node"] for part in parts.list_parts(connection, self.cluster.runs(job_id)[-1]["id"])]


@pytest.fixture(scope="module")
def site(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Three workers of one device, each on a host of its own; the servers are on a fourth."""
    url = postgres_server.url_of_new_database(migrated=True)
    socket = listening_at(url)
    if isinstance(socket, int):
        pytest.skip("needs a Postgres with a unix socket, which all namespaces see")
    folder = tmp_path_factory.mktemp("hosts")
    with running_hosts(WORKERS, socket, folder) as hosts:
        there = make_url(url).set(host=hosts.address(SERVERS), port=POSTGRES_PORT, query={})
        with running_cluster(folder / "home", database_url=url, redis_url=redis_url(hosts)) as cluster:
            for name in WORKERS:
                settings = dataclasses.replace(
                    cluster.settings,
                    home=folder / name,
                    data_dir=folder / name / "data",
                    node=name,
                    database_url=there.render_as_string(hide_password=False),
                )
                settings.home.mkdir()
                options = {"gpus": None, "cpu_devices": 1, "name": name}
                cluster.workers[name] = WorkerProcess(settings, options, [*hosts.enter(name), *COMMAND])
            for worker in cluster.workers.values():
                cluster.await_ready(worker)
            idle = {name: len(family_of(worker.pid)) for name, worker in cluster.workers.items()}
            yield Site(cluster, hosts, idle)


def test_two_hosts_train_one_model(site: Site) -> None:
    cluster = site.cluster
    job_id = cluster.submit("lenet", "epochs=2", num_devices=2, num_nodes=2, ring=False)
    job = cluster.wait_for_end(job_id)
    assert job["state"] == "succeeded", (dict(job), cluster.log(job_id))
    (run,) = cluster.runs(job_id)
    with cluster.database.read() as connection:
        head = parts.list_parts(connection, run["id"])[0]
    assert head["endpoint"].rpartition(":")[0] == site.hosts.address(head["node"]), "what the others can reach"
    print(f"two hosts: placed to first step {run['first_step_at'] - run['created_at']:.2f} s, {_pace(run):.0f} steps/s")


def test_a_host_is_cut_off_in_mid_epoch_and_comes_back_late(site: Site) -> None:
    cluster = site.cluster
    job_id = cluster.submit("lenet", *LONG, num_devices=2, num_nodes=2, ring=False)
    cluster.wait_for_step(job_id, 30)
    wait_until(lambda: cluster.artifacts(job_id, "checkpoint"), 30, "a checkpoint")
    lost = site.nodes_of(job_id)[1]
    site.hosts.cut(lost)
    cut_at = time.monotonic()
    wait_until(lambda: len(cluster.runs(job_id)) == 2, 60, "another run")
    again_after_s = time.monotonic() - cut_at
    first = cluster.runs(job_id)[0]
    assert (first["state"], first["failure_class"]) == ("requeued", "node-lost"), dict(first)
    assert lost in first["reason"]
    assert lost not in site.nodes_of(job_id)
    cluster.wait_for_state(job_id, "running")
    before = _what_is_told(cluster, first)
    assert site.num_ranks(lost) >= 1, "cut off from everybody, it trains on"
    site.hosts.heal(lost)
    healed_at = time.monotonic()
    wait_until(lambda: site.num_ranks(lost) == 0, 60, "the end of the ranks that came back")
    killed_after_s = time.monotonic() - healed_at
    assert _what_is_told(cluster, first) == before, "the old run wrote after its end"
    job = cluster.wait_for_end(job_id, timeout_s=180)
    assert job["state"] == "succeeded", (dict(job), cluster.log(job_id)[-20:])
    assert len(cluster.runs(job_id)) == 2
    assert any("resuming from step-" in line for line in cluster.log(job_id))
    print(f"cut off: on other hosts after {again_after_s:.1f} s; back: killed after {killed_after_s:.1f} s")


def test_it_trains_with_packets_lost_and_late(site: Site) -> None:
    if not site.hosts.disturb("n1", "loss", "5%", "delay", "200ms"):
        pytest.skip("this kernel has no netem")
    try:
        cluster = site.cluster
        wanted = {"num_devices": 2, "num_nodes": 2, "exclude": ("n3",)}
        job_id = cluster.submit("lenet", "epochs=1", **wanted, ring=False)
        job = cluster.wait_for_end(job_id, timeout_s=180)
        assert job["state"] == "succeeded", (dict(job), cluster.log(job_id))
        (run,) = cluster.runs(job_id)
        first_step_s = run["first_step_at"] - run["created_at"]
        print(f"5% lost, 200 ms late: placed to first step {first_step_s:.1f} s, {_pace(run):.1f} steps/s")
    finally:
        site.hosts.calm("n1")


def _what_is_told(cluster: Cluster, run: RowMapping) -> tuple[dict[str, object], int]:
    """The row of a run as it is now, and the length of its log."""
    with cluster.database.read() as connection:
        num_lines = len(logs.list_lines(connection, [run["id"]]))
    return dict(cluster.runs(run["job_id"])[run["number"] - 1]), num_lines


def _pace(run: RowMapping) -> float:
    return float(run["total_steps"] / (run["ended_at"] - run["first_step_at"]))
