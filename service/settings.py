"""Where dljobs finds its database, its Redis and its home, and which source each value came from.

A flag wins over the environment, the environment over the file, the file over the default. It opens nothing:
see `database.py` and `embedded_redis.py` for what stands behind the URLs.
"""

from __future__ import annotations

import dataclasses
import getpass
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dljobs.errors import UnknownName, UsageError

from .bounds import NODE_NAME

CONFIG_FILE = "config.toml"
# Env variables that hold a password: the worker takes them out of its environment before any rank is forked.
SECRET_VARIABLES = ("DLJOBS_DATABASE_URL", "DLJOBS_REDIS_URL")
# Settings of which an empty environment variable says "none"; of others it is as if it were not there.
_CAN_BE_NONE = ("limits", "shares")


@dataclass(frozen=True)
class Settings:
    """The resolved values; `sources` says where each came from."""

    home: Path
    config: Path
    database_url: str  # "" = the embedded SQLite
    redis_url: str  # "" = the embedded Redis
    data_dir: Path
    user: str
    node: str  # "" = the host's name
    interface: str  # "" = the one that leads to the database
    lease_s: float
    heartbeat_s: float
    sweep_s: float
    grace_s: float
    health_s: float
    health_command: str
    hung_after_s: float
    priority_ceiling: float
    ageing_s: float
    half_life_s: float
    preemptible_below: float
    min_run_s: float
    limits: str
    shares: str
    sources: Mapping[str, str]

    @property
    def embedded_database(self) -> bool:
        return not self.database_url

    @property
    def embedded_redis(self) -> bool:
        return not self.redis_url

    @property
    def sqlite_path(self) -> Path:
        """The embedded database's file."""
        return self.home / "dljobs.db"

    @property
    def sqlalchemy_url(self) -> str:
        """The URL SQLAlchemy opens: the embedded file, or the user's own with the driver dljobs installs."""
        if self.embedded_database:
            # What means something else in a URL: a home may have any name.
            return "sqlite:///" + re.sub("[%?#]", lambda found: f"%{ord(found[0]):02X}", str(self.sqlite_path))
        return re.sub(r"^postgres(ql)?://", "postgresql+psycopg://", self.database_url)

    def to_environment(self) -> dict[str, str]:
        """The variables that give a child process these same settings; what is a default stays one there."""
        values: dict[str, str] = {}
        for name in (field.name for field in setting_fields()):
            value = getattr(self, name)
            is_said = self.sources[name] != "default" or value != _DEFAULTS[name]
            if is_said and (value != "" or name in _CAN_BE_NONE):
                values[_variable(name)] = str(value)
        if not self.config.exists():
            values.pop(_variable("config"), None)  # a file that is named has to exist; the default one need not
        return values

    def for_child(self, environ: Mapping[str, str]) -> dict[str, str]:
        """`environ` with these settings in place of its own: what a flag has emptied must not come back."""
        settings = {_variable(field.name) for field in setting_fields()}
        return {**{name: value for name, value in environ.items() if name not in settings}, **self.to_environment()}


_DEFAULTS: dict[str, Any] = {
    "home": "~/.dljobs",
    "config": "",
    "database_url": "",
    "redis_url": "",
    "data_dir": "",
    "user": "",
    "node": "",
    "interface": "",
    "lease_s": 60.0,
    "heartbeat_s": 15.0,
    "sweep_s": 5.0,
    "grace_s": 30.0,
    "health_s": 60.0,
    "health_command": "",
    "hung_after_s": 300.0,
    "priority_ceiling": 100.0,
    "ageing_s": 86400.0,
    "half_life_s": 7 * 86400.0,
    "preemptible_below": 0.0,
    "min_run_s": 600.0,
    "limits": "",
    "shares": "",
}
# What a number may be, with its unit; seconds up to a day unless said here.
_RANGES: dict[str, tuple[float, float, str]] = {
    "priority_ceiling": (0.0, 100.0, ""),
    "preemptible_below": (0.0, 100.0, ""),
    "ageing_s": (1.0, 366 * 86400.0, " seconds"),
    "half_life_s": (1.0, 366 * 86400.0, " seconds"),
}

MEANINGS = {
    "home": "folder of the embedded database, the embedded Redis, logs and runs",
    "config": "this file of settings, TOML",
    "database_url": "postgresql://… or sqlite:///…; unset: SQLite in the home folder",
    "redis_url": "redis://:password@host:port/db; unset: a Redis server that `dljobs up` runs",
    "data_dir": "where datasets are kept",
    "user": "who submits",
    "node": "what to call this machine; unset: its host name, which a container changes with each start",
    "interface": "eth0, or an address: where workers of other nodes reach this one; unset: the way to the database",
    "lease_s": "a run whose worker has been silent for so long is given to another",
    "heartbeat_s": "how often a worker renews its leases",
    "sweep_s": "how often a worker looks for what a lost message left waiting",
    "grace_s": "time to checkpoint before a rank is killed",
    "health_s": "how often a worker checks idle devices; one that failed is tried again after so long, then twice, …",
    "health_command": "a program that a worker calls with a device's UUID: the device is used only if it exits with 0",
    "hung_after_s": "a run hangs when silent for so long and 10 times its slowest step (12 times so long at its start)",
    "priority_ceiling": "the highest priority that a user may ask for (of workers: it holds for all)",
    "ageing_s": "a job gains 10 points of priority each time it has waited for so long (of workers)",
    "half_life_s": "use of devices counts half after so long, for fair share (of workers)",
    "preemptible_below": "jobs of a lower priority may be preempted, as those marked --preemptible may (of workers)",
    "min_run_s": "a job that was preempted runs at least so long before it is again (of workers)",
    "limits": "user:* devices=8 jobs=4 queued=100 hours=200/7d; tag:course devices=4: the most (of workers)",
    "shares": "ada=2 bob=0.5: what users are entitled to, 1 unless named (of workers)",
}


def setting_fields() -> list[dataclasses.Field[Any]]:
    """The fields of Settings that a user can set."""
    return [field for field in dataclasses.fields(Settings) if field.name != "sources"]


def load_settings(flags: Mapping[str, Any] | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """Resolve every setting from `flags`, `environ` (default: the process's), the TOML file and the defaults.

    Raises:
        UnknownName: the file has a key that is no setting.
        UsageError: the file is not TOML, or a value has the wrong type.
    """
    environ = os.environ if environ is None else environ
    flags = {name: value for name, value in (flags or {}).items() if value is not None}
    home, home_source = _pick("home", flags, environ, {})
    home = str(Path(home).expanduser().absolute())
    config, config_source = _pick("config", flags, environ, {})
    config = str(Path(config or Path(home) / CONFIG_FILE).expanduser().absolute())
    from_file = _read_file(Path(config), must_exist=config_source != "default")

    values: dict[str, Any] = {"home": home, "config": config}
    sources = {"home": home_source, "config": config_source}
    for name in _DEFAULTS:
        if name not in values:
            raw, sources[name] = _pick(name, flags, environ, from_file)
            values[name] = _typed(name, raw, sources[name])
    values["data_dir"] = Path(values["data_dir"] or Path(home) / "data").expanduser().absolute()
    values["user"] = values["user"] or getpass.getuser()
    values["home"], values["config"] = Path(home), Path(config)
    if values["heartbeat_s"] * 2 > values["lease_s"]:
        beat, lease = values["heartbeat_s"], values["lease_s"]
        raise UsageError(
            f"heartbeat_s is {beat:g} and lease_s is {lease:g}: one late beat would lose a run",
            hint="set lease_s to at least twice heartbeat_s",
        )
    if values["node"] and not NODE_NAME.fullmatch(values["node"]):
        raise UsageError(
            f"node from {sources['node']} is {values['node'][:40]!r}, which is no name of a node",
            "use letters, digits and . _ @ -, 200 at most",
        )
    return Settings(**values, sources=sources)


def mask(url: str) -> str:
    """The URL without its password."""
    # Up to the last @: a password that holds one unescaped is a mistake, but no reason to show half of it.
    shown = re.sub(r"(://[^:/@?]*):.*@", r"\1:***@", url)
    return re.sub(r"([?&]\w*password=)[^&]*", r"\1***", shown)


def _variable(name: str) -> str:
    return f"DLJOBS_{name.upper()}"


def _pick(name: str, flags: Mapping[str, Any], environ: Mapping[str, str], file: Mapping[str, Any]) -> tuple[Any, str]:
    variable = _variable(name)
    if name in flags:
        return flags[name], "flag"
    if environ.get(variable) or (variable in environ and name in _CAN_BE_NONE):
        return environ[variable], f"environment {variable}"
    if name in file:
        return file[name], "file"
    return _DEFAULTS[name], "default"


def _read_file(path: Path, *, must_exist: bool) -> Mapping[str, Any]:
    try:
        values = tomllib.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        if must_exist:
            hint = "unset DLJOBS_CONFIG or write the file"
            raise UsageError(f"there is no settings file {path}", hint) from None
        return {}
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path} is not TOML: {error}") from None
    for name in values:
        if name not in _DEFAULTS or name in {"home", "config"}:
            raise UnknownName(f"setting in {path}", name, set(_DEFAULTS) - {"home", "config"})
    return values


def _typed(name: str, raw: Any, source: str) -> Any:
    if not isinstance(_DEFAULTS[name], float):
        if isinstance(raw, (str, Path)):
            return str(raw)
        raise UsageError(f"{name} from {source} must be a text, not {raw!r}")
    lowest, highest, unit = _RANGES.get(name, (0.0, 86400.0, " seconds"))
    try:
        value = float(raw)
    except (TypeError, ValueError):
        of = " of seconds" if unit else ""
        raise UsageError(f"{name} from {source} must be a number{of}, not {raw!r}") from None
    if not lowest <= value <= highest or (value == 0 and unit):
        raise UsageError(f"{name} from {source} must be between {lowest:g} and {highest:g}{unit}, not {raw!r}")
    return value
