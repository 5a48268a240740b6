"""How Redis is reached: one URL in the words of redis-py and of kombu, and what each refusal means.

It knows URLs, TLS and errors; it knows neither queues nor what is sent.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, unquote, urlsplit

from dljobs.errors import DljobsError, Unreachable, UsageError

from .embedded_redis import EmbeddedRedis
from .redis_line import RedisLine
from .settings import Settings, mask

if TYPE_CHECKING:
    from redis import Redis

TIMEOUT_S = 5.0
DEFAULT_PORT = 6379
_PLAIN_URL = re.compile(
    r"redis://(?:(?P<user>[^:@/?#]*):(?P<password>[^:@/?#]+)@)?(?P<host>[A-Za-z0-9._-]+)(?::(?P<port>\d+))?(?:/(?P<database>\d*))?"
)
# What OpenSSL or Redis says of a setting that is wrong (and stays so however often one tries), what it means, the cure.
_REFUSALS = (
    ("certificate verify failed: hostname mismatch", "shows a certificate for another name than its URL has", "name"),
    ("certificate verify failed: ip address mismatch", "shows a certificate for another name than its URL has", "name"),
    ("certificate verify failed", "shows a certificate that no authority known here has signed", "authority"),
    ("invalid username-password pair", "refuses the password", "password"),
    ("authentication required", "wants a password", "password"),
    ("already authenticated", "wants a password", "password"),  # its answer to HELLO
)
_CURES = {
    "name": "write the name that the certificate was made for in DLJOBS_REDIS_URL",
    "authority": "name the authority's file in the URL: DLJOBS_REDIS_URL='rediss://…?ssl_ca_certs=/path/to/ca.pem'",
    "password": "correct the password in DLJOBS_REDIS_URL: `dljobs config` shows where it comes from",
}


def broker_url(settings: Settings) -> str:
    """The URL of the Redis these settings mean, in kombu's words.

    Raises:
        UsageError: the URL names files that are not there.
    """
    if settings.embedded_redis:
        return EmbeddedRedis(settings.home).broker_url
    url = settings.redis_url
    if url.startswith("rediss://"):
        query = parse_qs(urlsplit(url).query)
        for name in ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile"):
            for path in query.get(name, ()):
                if not Path(path).is_file():
                    raise UsageError(f"{mask(url)}: there is no file {path}", f"correct {name} in DLJOBS_REDIS_URL")
        if "ssl_cert_reqs" not in query:
            # Without any option for TLS, kombu (alone) would trust every certificate.
            url += ("&" if urlsplit(url).query else "?") + "ssl_cert_reqs=required"
    return url


def open_redis(settings: Settings) -> Redis:
    """A redis-py client for these settings, not yet connected, that fails at once instead of trying ten times.

    Raises:
        Unreachable: the embedded server does not run.
        UsageError: the URL is none.
    """
    from redis import Redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    if settings.embedded_redis:
        server = EmbeddedRedis(settings.home)
        if not server.is_running():
            raise Unreachable("the embedded Redis does not run", "`dljobs up`")
        return server.client(TIMEOUT_S)
    # kombu's name for a unix socket, in redis-py's words
    url = broker_url(settings).replace("redis+socket://", "unix://").replace("virtual_host=", "db=")
    timeouts = {"socket_timeout": TIMEOUT_S, "socket_connect_timeout": TIMEOUT_S}
    try:
        return Redis.from_url(url, **timeouts, retry=Retry(NoBackoff(), 0))
    except ValueError as error:
        words = f"{mask(settings.redis_url)} is no Redis URL: {error}"
        raise UsageError(words, "DLJOBS_REDIS_URL=redis://:password@host:6379/0") from None


def open_line(settings: Settings) -> RedisLine | Redis:
    """Something to push with, not yet connected: a bare line, or redis-py for TLS and for URLs that ask for more.

    Raises:
        Unreachable, UsageError: as `open_redis`.
    """
    if settings.embedded_redis:
        server = EmbeddedRedis(settings.home)
        if not server.is_running():
            raise Unreachable("the embedded Redis does not run", "`dljobs up`")
        return RedisLine(str(server.socket_path), (server.password,), timeout_s=TIMEOUT_S)
    plain = _PLAIN_URL.fullmatch(settings.redis_url)
    if plain is None:
        return open_redis(settings)
    login = tuple(unquote(word) for word in (plain["user"], plain["password"]) if word)
    address = (plain["host"], int(plain["port"] or DEFAULT_PORT))
    return RedisLine(address, login, int(plain["database"] or 0), TIMEOUT_S)


def refusal(error: BaseException, settings: Settings) -> DljobsError | None:
    """What is wrong with the settings if `error` says so; None for a server that is down and may come back."""
    words = str(error).lower()
    for pattern, meaning, cure in _REFUSALS:
        if pattern in words:
            return Unreachable(f"the Redis server {mask(settings.redis_url)} {meaning}", _CURES[cure])
    return None


def check_accepted(settings: Settings) -> None:
    """Make sure that the server does not refuse us. One that does not answer is none of our business here.

    Raises:
        DljobsError: certificate, password or protocol are wrong, and would be however often one tries.
    """
    from redis.exceptions import RedisError

    try:
        with open_redis(settings) as client:
            client.ping()
    except Unreachable:
        return
    except (RedisError, OSError) as error:
        found = refusal(error, settings)
        if found:
            raise found from error
