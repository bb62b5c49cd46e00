"""What a database's error means, in words that an operator can act on.

Errors of drivers and of SQLAlchemy come in; a sentence goes out that names the cause, and the role, server or file
where there is one. What fails before a session begins concerns no row, so that its text may be shown; of all other
errors only class and code are, because their texts can hold values of rows.
"""

import re
import sqlite3
from collections.abc import Iterator
from typing import Any, Final

import psycopg
import sqlalchemy as sa

_NO_RIGHT: Final = "42501"  # SQLSTATE insufficient_privilege
_MIGRATE: Final = "the database has no tables of this release: run `ssn-vault database migrate`"
_FULL: Final = "the database's disk is full: nothing more can be written until it has space"
# In libpq's and the server's own English; {where} is host and port. A server with other messages is quoted.
_CONNECTING: Final = (
    (r'password authentication failed for user "(.+?)"', "{where} refused the password of role {0}"),
    (r"no password supplied", "{where} asks for a password: set password_file, or vault_role, beside the URL"),
    (r'role "(.+?)" does not exist', "there is no role {0} at {where}"),
    (r'role "(.+?)" is not permitted to log in', "role {0} may not log in at {where}: make a login that is its member"),
    (r'database "(.+?)" does not exist', "there is no database {0} at {where}"),
    (r'permission denied for database "(.+?)"', "the role has no right to connect to database {0}: GRANT CONNECT"),
    (r'no pg_hba.conf entry for host ".+?", user "(.+?)"', "{where} has no line in pg_hba.conf for role {0} from here"),
    (r'root certificate file "(.+?)" does not exist', "the file of sslrootcert, {0}, does not exist"),
    (r"could not read root certificate file \"(.+?)\"", "the file of sslrootcert, {0}, holds no certificate"),
    (
        r"certificate verify failed|signature failure",
        "the certificate of {where} is not signed by what sslrootcert, {ca}, holds",
    ),
    (r'certificate for "(.+?)" .*does not match host name "(.+?)"', "the certificate of {where} is for {0}, not {1}"),
    (r"server does not support SSL", "{where} offers no TLS, which sslmode in the URL demands"),
    (r"Connection refused", "connection refused at {where}: is the database running there?"),
    (r'connection to server on socket "(.+?)" failed: No such file', "there is no database behind the socket {0}"),
    (r"failed to resolve host '(.+?)'", "the host {0} is unknown: nothing resolves its name"),
    (r"No route to host|Network is unreachable", "there is no way to {where}: host or network cannot be reached"),
    (r"timeout expired", "{where} did not answer in time"),
    (r"session is read-only|server is in hot standby", "{where} takes no writes: it is a standby or read-only"),
    (r"starting up|shutting down|in recovery mode", "the database at {where} is starting or stopping"),
    (r"too many (clients|connections)|connection slots", "{where} has no connection left: see max_connections"),
    (r"server closed the connection", "{where} closed the connection: is a PostgreSQL server there?"),
)
_SERVER: Final = re.compile(r"""server at "(.+?)"(?: \(.*?\))?, port (\d+)|host: '(.+?)', port: '?(\w+)""")
_POSTGRESQL: Final = {
    _NO_RIGHT: "the database's role has no right to this: is its login a member of the right ssn_vault role?",
    "42P01": _MIGRATE,
    "3F000": _MIGRATE,
    "53100": _FULL,
    "53300": "the database has no connection left: raise max_connections or the role's limit",
    "55P03": "others held a lock in the database for too long",
    "57014": "the database did not answer in time",
    "25006": "the database server is a standby or read-only",
}
_SQLITE: Final = {
    "SQLITE_FULL": _FULL,
    "SQLITE_BUSY": "the database file is locked by another process",
    "SQLITE_READONLY": "the database file, or its directory, cannot be written by this user",
    "SQLITE_CANTOPEN": "the database file cannot be opened: does it belong to this user, and has its disk space?",
    "SQLITE_NOTADB": "the database file is no SQLite database",
    "SQLITE_CORRUPT": "the database file is damaged: restore it from a backup",
    "SQLITE_IOERR": "the database file cannot be read or written: the disk is full or failing",
}


def explain(error: BaseException) -> str:
    """The words for an error of a statement, a transaction or the pool."""
    cause = error.orig if isinstance(error, sa.exc.DBAPIError) else error
    words = None
    if isinstance(cause, psycopg.Error):
        words = _POSTGRESQL.get(cause.sqlstate or "")
    elif isinstance(cause, sqlite3.Error):
        # An extended code begins with the name of its primary one (sqlite.org/rescode.html).
        name = getattr(cause, "sqlite_errorname", "")
        words = next((words for code, words in _SQLITE.items() if name.startswith(code)), None)
        if words is None and str(cause).startswith("no such table: "):
            words = _MIGRATE
    elif isinstance(error, sa.exc.TimeoutError):
        words = "all connections of this process to the database are in use"
    return words or f"the database failed ({describe(error)})"


def explain_connecting(error: psycopg.Error, options: dict[str, Any]) -> str:
    """The words for an attempt to connect with libpq's `options` that failed; each server's once."""
    found: dict[str, None] = {}
    given = [str(options[name]) for name in ("host", "port") if options.get(name)]
    for text in _attempts(str(error)):
        server = _SERVER.search(text)
        named = [part for part in server.groups() if part] if server else []
        where = ":".join(named or given) or "the database"
        for pattern, words in _CONNECTING:
            if match := re.search(pattern, text):
                found[words.format(*match.groups(), where=where, ca=options.get("sslrootcert", "the system's"))] = None
                break
        else:
            found[f"no connection to {where}: {' '.join(text.split())}"] = None
    return "; ".join(found)


def lacks_right(error: sa.exc.SQLAlchemyError) -> bool:
    """Whether the database's role may not do what was asked."""
    return isinstance(error, sa.exc.DBAPIError) and getattr(error.orig, "sqlstate", None) == _NO_RIGHT


def describe(error: BaseException) -> str:
    """What may be logged of a database error: its class and code. Its text can hold values of rows."""
    if isinstance(error, sa.exc.DBAPIError):
        code = getattr(error.orig, "sqlstate", None) or getattr(error.orig, "sqlite_errorname", None)
        return f"{type(error.orig).__name__} {code or ''}".strip()
    return type(error).__name__


def _attempts(text: str) -> Iterator[str]:
    """What psycopg says of each server that it tried; all of it where it tried one."""
    _, several, attempts = text.partition("All failures were:\n")
    if not several:
        yield text
        return
    yield from (part for part in re.split(r"(?m)^- ", attempts) if part.strip())
