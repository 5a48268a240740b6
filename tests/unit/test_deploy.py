"""deploy/ and the pages say what is so: settings that exist, commands that the command line takes, times that fit."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from configparser import RawConfigParser
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from dljobs.errors import DljobsError
from dljobs.service.cli import cli
from dljobs.service.durations import parse_duration_s
from dljobs.service.settings import load_settings, setting_fields
from dljobs.workers.process import FAREWELL_S
from tests.deployment import DEPLOY, ROOT

SETTINGS = {f"DLJOBS_{field.name.upper()}" for field in setting_fields()}
NO_SETTINGS = {"DLJOBS_VERSION"}  # of the image, in compose.yaml
FILES = sorted(path for path in DEPLOY.rglob("*") if path.is_file())
PAGES = [ROOT / "README.md", ROOT / "models" / "README.md", *DEPLOY.rglob("*.md")]
COMPOSE = yaml.safe_load((DEPLOY / "docker" / "compose.yaml").read_text())
KUBERNETES = [
    document
    for path in sorted((DEPLOY / "kubernetes").glob("*.yaml"))
    for document in yaml.safe_load_all(path.read_text())
]
UNIT = RawConfigParser(strict=False)
UNIT.optionxform = str  # type: ignore[assignment,method-assign]
UNIT.read(DEPLOY / "systemd" / "dljobs-worker.service")


def containers() -> Iterator[dict[str, Any]]:
    for document in KUBERNETES:
        yield from document.get("spec", {}).get("template", {}).get("spec", {}).get("containers", ())


def container(name: str) -> dict[str, Any]:
    (found,) = [found for found in containers() if found["name"] == name]
    return found


def commands_of(page: Path) -> Iterator[str]:
    """Each `dljobs …` of a page, in a block or in a line."""
    text = page.read_text()
    blocks = re.findall(r"```\w*\n(.*?)```", text, re.DOTALL)
    lines = [
        line
        for block in blocks
        for line in re.sub(r"\\\n\s*", "", block).splitlines()
        if line.startswith("$ ")
        or not re.search(r"^\$ ", block, re.MULTILINE)  # what is typed, where answers are shown
    ]
    said = re.findall(r"`(dljobs [^`]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    for line in [*lines, *(" ".join(command.split()) for command in said)]:
        # Before it a prompt and variables may stand, after it a comment, a pipe or a file.
        found = re.match(r"(?:\$ )?(?:\w+=(?:'[^']*'|\S*) )*dljobs ([^|>&#]*)", line)
        if found and "…" not in found[1] and not found[1].startswith("COMMAND"):
            yield found[1].strip()


def parse(words: list[str]) -> None:
    """Have the command line read these words as far as it can without doing anything."""
    command: click.Command = cli
    context = click.Context(command, info_name="dljobs")
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        name, command, words = command.resolve_command(context, words)  # type: ignore[assignment]
        context = click.Context(command, info_name=name, parent=context)
    if not isinstance(command, click.Group):
        command.make_context(context.info_name, words, parent=context.parent)


@pytest.mark.parametrize("path", [*FILES, *PAGES], ids=lambda path: str(path.relative_to(ROOT)))
def test_variables_are_settings(path: Path) -> None:
    named = set(re.findall(r"\bDLJOBS_[A-Z_]+\b", path.read_text()))
    assert named <= SETTINGS | NO_SETTINGS


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_page_tells_commands_that_exist(page: Path) -> None:
    for command in commands_of(page):
        words = ["1" if word in {"ID", "N"} else word for word in shlex.split(command)]
        try:
            parse(words)
        except click.exceptions.Exit as end:
            assert end.exit_code == 0, command  # --help
        except click.MissingParameter:
            assert len(words) == 1, command  # a command that is only named
        except (click.UsageError, DljobsError) as error:
            pytest.fail(f"dljobs {command}: {error}")


def test_pages_tell_of_commands() -> None:
    told = {command for page in PAGES for command in commands_of(page)}
    assert {"up --detach", "submit lenet --gpus 4 --follow", "db upgrade", "doctor"} <= told


def test_what_the_services_run_is_a_command() -> None:
    ours = [service["command"] for service in COMPOSE["services"].values() if service["image"].startswith("dljobs")]
    ours += [container["args"] for container in containers() if container["image"] == "dljobs"]
    program, *arguments = shlex.split(UNIT["Service"]["ExecStart"])
    assert Path(program).name == "dljobs"
    for words in [*ours, arguments]:
        parse(list(words))
    assert len(ours) == 5


def test_the_compose_file_is_one() -> None:
    """By the schema of the Compose specification (`make deploy-check` brings it)."""
    compose_spec = pytest.importorskip("compose_spec", reason="make deploy-check installs it")
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", (DEPLOY / "docker" / "compose.yaml").read_text())
    read = compose_spec.PyCompose.from_json
    assert set(read(json.dumps(yaml.safe_load(text))).service_names()) == set(COMPOSE["services"])
    with pytest.raises(ValueError, match="read_onyl"):
        read(json.dumps(yaml.safe_load(text.replace("read_only:", "read_onyl:"))))


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze on PATH")
    unit = tmp_path / "dljobs-worker.service"
    text = (DEPLOY / "systemd" / unit.name).read_text()
    unit.write_text(text.replace("/opt/dljobs/bin/dljobs", "/bin/true"))  # it has to be there
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_worker_has_the_time_to_drain() -> None:
    """Whoever stops it waits until it has written its checkpoints and uploaded them."""
    (unit_grace_s,) = re.findall(r"DLJOBS_GRACE_S=(\d+)", (DEPLOY / "systemd" / "dljobs-worker.service").read_text())
    pod = next(document for document in KUBERNETES if document["kind"] == "DaemonSet")["spec"]["template"]["spec"]
    pod_grace_s = next(item["value"] for item in container("worker")["env"] if item["name"] == "DLJOBS_GRACE_S")
    in_compose = COMPOSE["services"]["worker"]
    told = {
        "systemd": (unit_grace_s, parse_duration_s(UNIT["Service"]["TimeoutStopSec"])),
        "Kubernetes": (pod_grace_s, pod["terminationGracePeriodSeconds"]),
        "Compose": (in_compose["environment"]["DLJOBS_GRACE_S"], parse_duration_s(in_compose["stop_grace_period"])),
    }
    for who, (grace_s, stop_s) in told.items():
        settings = load_settings({"grace_s": float(grace_s)}, environ={})
        assert stop_s >= settings.grace_s + FAREWELL_S + 30, who


def test_nobody_calls_a_worker_dead_between_two_beats() -> None:
    heartbeat_s = load_settings({}, environ={}).heartbeat_s
    assert parse_duration_s(UNIT["Service"]["WatchdogSec"]) > 4 * heartbeat_s
    probe = " ".join(container("worker")["livenessProbe"]["exec"]["command"])
    (minutes,) = {int(number) for number in re.findall(r"-mmin -(\d+)", probe + str(COMPOSE["services"]["worker"]))}
    assert minutes * 60 > 4 * heartbeat_s


def test_users_code_reads_no_password() -> None:
    """Ranks run as the worker's user: a password comes by the environment, which the worker forgets, and in no file."""
    assert UNIT["Service"]["EnvironmentFile"].startswith("/etc/dljobs/")
    assert "LoadCredential" not in UNIT["Service"]
    pod = next(document for document in KUBERNETES if document["kind"] == "DaemonSet")["spec"]["template"]["spec"]
    assert not [volume for volume in pod["volumes"] if "secret" in volume]
    mounted = [text.removesuffix(":ro").rpartition(":")[2] for text in COMPOSE["services"]["worker"]["volumes"]]
    assert mounted == ["/var/lib/dljobs", "/tls/ca.pem"]


def test_containers_have_no_rights_to_spare() -> None:
    for found in containers():
        rights = found["securityContext"]
        assert (rights["allowPrivilegeEscalation"], rights["readOnlyRootFilesystem"]) == (False, True)
        assert rights["capabilities"] == {"drop": ["ALL"]}
        assert found["resources"]["limits"]["memory"]
    assert re.search(r"^USER (?!0|root)", (DEPLOY / "docker" / "Dockerfile").read_text(), re.MULTILINE)


def test_the_image_is_built_from_all_that_the_wheel_is() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    sent = (DEPLOY / "docker" / "Dockerfile.dockerignore").read_text()
    links = {path.name for path in (ROOT / "dljobs").iterdir() if path.is_symlink()}
    needed = {"pyproject.toml", "dljobs", *links, project["readme"], *project["license-files"]}
    assert {f"!{name}" for name in needed} <= set(sent.splitlines())


def test_one_configuration_of_redis() -> None:
    """kustomize reads no file outside of its folder."""
    copy, original = DEPLOY / "kubernetes" / "redis.conf", DEPLOY / "redis" / "redis.conf"
    assert copy.read_text() == original.read_text()


def test_the_example_names_every_variable_of_the_compose_file() -> None:
    used = set(re.findall(r"(?<!\$)\$\{(\w+)", (DEPLOY / "docker" / "compose.yaml").read_text()))
    named = set(re.findall(r"^(\w+)=", (DEPLOY / "docker" / "example.env").read_text(), re.MULTILINE))
    assert used == named


def test_roles_are_given_all_their_passwords() -> None:
    wanted = set(re.findall(r"\\getenv password (\w+)", (DEPLOY / "postgres" / "roles.sql").read_text()))
    assert wanted <= set(COMPOSE["services"]["postgres"]["environment"])


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), target
