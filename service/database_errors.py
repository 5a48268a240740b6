"""What an error of a database's driver means to a user, and its cure.

It knows the drivers' errors by the names that DB-API 2.0 and Postgres give them, and imports none.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from dljobs.errors import DatabaseFull, DljobsError, NotAllowed, Unreachable

_NOT_ALLOWED = ("InsufficientPrivilege", "ReadOnlySqlTransaction")
# What libpq says of a connection that will never be made with these settings, what it means, and the cure.
_REFUSALS = (
    ("certificate verify failed", "shows a certificate that no authority known here has signed", "sslrootcert"),
    ("root certificate file", "cannot be verified: the authority's file is not there", "sslrootcert"),
    ("does not match host name", "shows a certificate for another name than its URL has", "name"),
    ("server does not support SSL", "does not speak TLS", "tls"),
    ("no encryption", "takes no connection without TLS", "sslrootcert"),
    ("no pg_hba.conf entry", "lets this user in from nowhere near here", "user"),
    ("password authentication failed", "refuses this user or password", "user"),
)
_CURES = {
    "sslrootcert": "name the authority's file: DLJOBS_DATABASE_URL='postgresql://…?sslmode=verify-full&sslrootcert=…'",
    "name": "write the name that the certificate was made for in DLJOBS_DATABASE_URL",
    "tls": "turn ssl on in that server, or leave sslmode out of DLJOBS_DATABASE_URL",
    "user": "correct DLJOBS_DATABASE_URL: `dljobs config` shows where it comes from",
}


def explain(error: BaseException | None, shown_url: str) -> DljobsError | None:
    """The error for a user, if the server, the file or the schema is not right; None where one statement is not."""
    name = type(error).__name__
    kinds = {each.__name__ for each in type(error).__mro__}
    # SQLite says "file is not a database" and "malformed" with the bare base class.
    unusable = kinds & {"OperationalError", "InterfaceError"} or name == "DatabaseError"
    if not unusable and name not in ("UndefinedTable", *_NOT_ALLOWED):
        return None
    words = str(error)
    if "disk is full" in words or "No space left" in words:
        return DatabaseFull(f"the database {shown_url} has no room left", "free some disk space and try again")
    first_line = words.strip().splitlines()[0] if words.strip() else name
    if "no such table" in words or name == "UndefinedTable":
        return Unreachable(f"the database {shown_url} has no dljobs tables", "run `dljobs db upgrade`")
    if name in _NOT_ALLOWED or "readonly database" in words:
        user = urlsplit(shown_url).username
        return NotAllowed(
            f"the database {shown_url} does not let {user or 'you'} do this: {first_line}",
            "set DLJOBS_DATABASE_URL to a user who may; after an upgrade, run deploy/postgres/roles.sql again",
        )
    for pattern, meaning, cure in _REFUSALS:
        if pattern in words:
            return Unreachable(f"the database {shown_url} {meaning}", _CURES[cure])
    return Unreachable(f"the database {shown_url} does not answer: {first_line}", "see `dljobs doctor`")
