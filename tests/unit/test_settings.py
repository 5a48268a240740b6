"""Settings: which source wins, what is refused, and what a child process is given."""

from __future__ import annotations

from pathlib import Path

import pytest

from dljobs.errors import UnknownName, UsageError
from dljobs.service.policy import KEYS
from dljobs.service.settings import MEANINGS, load_settings, mask, setting_fields


def test_with_nothing_set_everything_is_embedded() -> None:
    settings = load_settings({}, {})
    assert settings.home == Path("~/.dljobs").expanduser()
    assert (settings.embedded_database, settings.embedded_redis) == (True, True)
    assert settings.sqlalchemy_url == f"sqlite:///{settings.home}/dljobs.db"
    assert settings.data_dir == settings.home / "data"
    assert set(settings.sources.values()) == {"default"}
    assert {field.name for field in setting_fields()} == set(MEANINGS) == set(settings.sources)


def test_a_flag_wins_over_the_environment_over_the_file_over_the_default(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('user = "file"\ngrace_s = 1\nsweep_s = 2\nlease_s = 90')
    environ = {"DLJOBS_HOME": str(tmp_path), "DLJOBS_GRACE_S": "3", "DLJOBS_USER": "", "DLJOBS_LEASE_S": "100"}
    settings = load_settings({"lease_s": 120, "redis_url": None}, environ)
    assert (settings.lease_s, settings.sources["lease_s"]) == (120.0, "flag")
    assert (settings.grace_s, settings.sources["grace_s"]) == (3.0, "environment DLJOBS_GRACE_S")
    assert (settings.sweep_s, settings.sources["sweep_s"]) == (2.0, "file")
    assert (settings.user, settings.sources["user"]) == ("file", "file")  # an empty variable is none
    assert (settings.heartbeat_s, settings.sources["heartbeat_s"]) == (15.0, "default")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("lease_s = ", "is not TOML"),
        ("lease = 3", "unknown setting in"),
        ("home = '/x'", "unknown setting in"),
        ("lease_s = 'long'", "lease_s from file must be a number of seconds, not 'long'"),
        ("sweep_s = 0", "sweep_s from file must be between 0 and 86400"),
        ("sweep_s = nan", "sweep_s from file must be between"),
        ("user = 3", "user from file must be a text"),
        ("node = 'a b'", "node from file is 'a b', which is no name of a node"),
        ("lease_s = 20", "heartbeat_s is 15 and lease_s is 20: one late beat would lose a run"),
    ],
)
def test_what_a_file_may_not_say(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "config.toml").write_text(content)
    with pytest.raises(UsageError) as caught:
        load_settings({"home": tmp_path}, {})
    assert words in caught.value.message


def test_an_unknown_key_gets_the_nearest_name(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("leas_s = 3")
    with pytest.raises(UnknownName) as caught:
        load_settings({"home": tmp_path}, {})
    assert caught.value.nearest == "lease_s"


def test_a_file_that_is_named_must_be_there(tmp_path: Path) -> None:
    for flags, environ in (({"config": tmp_path / "no"}, {}), ({}, {"DLJOBS_CONFIG": str(tmp_path / "no")})):
        with pytest.raises(UsageError, match="there is no settings file"):
            load_settings(flags, environ)
    (tmp_path / "other.toml").write_text("user = 'other'")
    assert load_settings({"config": tmp_path / "other.toml"}, {}).user == "other"


@pytest.mark.parametrize("with_file", [True, False])
def test_a_child_process_gets_the_same_settings(tmp_path: Path, with_file: bool) -> None:
    if with_file:
        (tmp_path / "config.toml").write_text("grace_s = 7\nredis_url = 'redis://h/1'")
    ours = load_settings({"home": tmp_path, "database_url": "postgresql://u:p@h/d", "user": "ada"}, {})
    theirs = load_settings({}, ours.to_environment())
    for field in setting_fields():
        assert getattr(theirs, field.name) == getattr(ours, field.name)


def test_what_nobody_has_said_is_a_default_of_the_child_too(tmp_path: Path) -> None:
    """A worker that has only defaults must not put them in the place of the policy in force."""
    theirs = load_settings({}, load_settings({"home": tmp_path, "ageing_s": 60.0}, {}).to_environment())
    assert [key for key in KEYS if theirs.sources[key] != "default"] == ["ageing_s"]


def test_an_empty_variable_lifts_limits_and_shares(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('limits = "user:* jobs=1"\nshares = "ada=2"')
    environ = {"DLJOBS_HOME": str(tmp_path), "DLJOBS_LIMITS": "", "DLJOBS_SHARES": ""}
    ours = load_settings({}, environ)
    for settings in (ours, load_settings({}, ours.to_environment())):
        assert (settings.limits, settings.sources["limits"]) == ("", "environment DLJOBS_LIMITS")
        assert (settings.shares, settings.sources["shares"]) == ("", "environment DLJOBS_SHARES")


def test_a_child_has_nothing_of_what_a_flag_has_emptied(tmp_path: Path) -> None:
    environ = {"DLJOBS_REDIS_URL": "redis://h/1", "PATH": "/bin"}
    child = load_settings({"home": tmp_path, "redis_url": ""}, environ).for_child(environ)
    assert (child["DLJOBS_HOME"], child["PATH"]) == (str(tmp_path), "/bin")
    assert "DLJOBS_REDIS_URL" not in child


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_the_driver_of_postgres_is_ours(scheme: str) -> None:
    url = load_settings({"database_url": f"{scheme}://u@h/d"}, {}).sqlalchemy_url
    assert url == "postgresql+psycopg://u@h/d"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://:secret@h:1/0", "redis://:***@h:1/0"),
        ("postgresql://ada:secret@h/d?x=1", "postgresql://ada:***@h/d?x=1"),
        ("postgresql://ada:se@cret@h/d", "postgresql://ada:***@h/d"),
        ("postgresql://h/d?user=ada&password=secret", "postgresql://h/d?user=ada&password=***"),
        ("redis://h:1/0", "redis://h:1/0"),
        ("sqlite:////x/y.db", "sqlite:////x/y.db"),
        ("", ""),
    ],
)
def test_a_password_is_masked(url: str, shown: str) -> None:
    assert mask(url) == shown
