"""The tables of a store, and the connection to its database: SQLite, or another by its URL."""

from __future__ import annotations

import os
import shlex
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vidrl.lookup.extras import install
from vidrl.lookup.passwords import hidden

if TYPE_CHECKING:
    from sqlalchemy import Engine, MetaData, Table

WAIT = 30.0  # seconds that a writer waits for another writer of the same file
SQLITE = b"SQLite format 3\0"
SUFFIXES = (".db", ".sqlite", ".sqlite3")  # of stores that may be missing or empty
DATABASES = ("sqlite", "postgresql")  # what the address of a store may begin with
DRIVERS = {"psycopg": "psycopg[binary]", "psycopg2": "psycopg2-binary"}  # module: package


class WrongStore(ValueError):
    """A file that is no store, or a store of another questionnaire."""


def is_store(path: str | os.PathLike[str]) -> bool:
    """Return whether a path is that of a store: a SQLite file, or the address of a database.

    The content decides, and the suffix only where there is no content. Other addresses, such as
    https://..., are no stores.

    >>> is_store("taste.db"), is_store("postgresql://host/taste"), is_store("taste.csv")
    (True, True, False)
    >>> is_store("https://host/taste.db")
    False
    """
    where = os.fspath(path)
    if "://" in where:
        return _database(where) in DATABASES
    file = Path(where)
    return file.suffix.lower() in SUFFIXES or (file.is_file() and _head(file) == SQLITE)


def file_of(where: str) -> Path | None:
    """Return the SQLite file of a store, or None for a store of a database server.

    Raises WrongStore for another address.

    >>> file_of("/data/taste.db") == file_of("sqlite:////data/taste.db")
    True
    """
    if "://" not in where:
        return Path(where).resolve()
    database = _database(where)
    if database not in DATABASES:
        raise WrongStore(
            f"expected the store to be a SQLite file or postgresql://host/name, got {hidden(where)}"
        )
    if database == "postgresql":
        return None
    file = where.partition("://")[2].partition("?")[0].removeprefix("/")
    if file in ("", ":memory:"):
        raise WrongStore(f"expected sqlite:///FILE, got {where}: answers in memory would be lost")
    return Path(file).resolve()


def _database(where: str) -> str:
    """Return which database an address is of, without the driver."""
    return where.partition("://")[0].partition("+")[0].lower()


def tables() -> MetaData:
    """Return the tables, with the triggers by which SQLite refuses changes of rows."""
    import sqlalchemy as sql

    made = sql.MetaData()
    text, number = sql.Text, sql.Integer
    sql.Table(
        "questionnaire",
        made,
        sql.Column("number", number, primary_key=True, autoincrement=False),
        sql.Column("version", number, nullable=False),
        *(sql.Column(name, text, nullable=False) for name in ("hash", "text", "at")),
    )
    sql.Table(
        "raters",
        made,
        sql.Column("name", text, primary_key=True),
        *(sql.Column(name, text, nullable=False) for name in ("shown_as", "secret", "at")),
    )
    sql.Table(
        "tasks",
        made,
        sql.Column("task", text, primary_key=True),
        *(sql.Column(name, text, nullable=False) for name in ("rater", "body", "at")),
    )
    needed = ("at", "rater", "prompt", "reason", "expected", "shown", "given", "faults", "protocol")
    sql.Table(
        "records",
        made,
        sql.Column("number", number, primary_key=True),
        *(sql.Column(name, text, nullable=False) for name in needed),
        sql.Column("seconds", sql.Float, nullable=False),
        sql.Column("click", text, nullable=False, unique=True),
        sql.Column("revokes", number, sql.ForeignKey("records.number"), unique=True),
        sqlite_autoincrement=True,  # a number is never given twice
    )
    for table in list(made.tables.values()):
        _refuse_changes(table)
    return made


def _refuse_changes(table: Table) -> None:
    """Add triggers to a table of SQLite that refuse UPDATE, DELETE and REPLACE.

    SQLite calls no trigger of DELETE for the rows that INSERT OR REPLACE takes away, so a third
    trigger refuses to insert a row whose key is there. Other databases get no triggers.
    """
    import sqlalchemy as sql

    keys = [column.name for column in table.columns if column.primary_key or column.unique]
    same = " OR ".join(f"{key} = NEW.{key}" for key in keys)
    refused = {
        "UPDATE": "BEFORE UPDATE ON {0}",
        "DELETE": "BEFORE DELETE ON {0}",
        "REPLACE": f"BEFORE INSERT ON {{0}} WHEN EXISTS (SELECT 1 FROM {{0}} WHERE {same})",
    }
    for change, when in refused.items():
        trigger = sql.DDL(
            f"CREATE TRIGGER {table.name}_no_{change.lower()} {when.format(table.name)} "
            f"BEGIN SELECT RAISE(ABORT, 'the store only grows: no {change}'); END"
        )
        sql.event.listen(table, "after_create", trigger.execute_if(dialect="sqlite"))


def create_tables(made: MetaData, engine: Engine, tries: int = 5) -> None:
    """Create the tables that are missing; another process may create some at the same time."""
    import sqlalchemy as sql

    try:
        made.create_all(engine)
    except (sql.exc.OperationalError, sql.exc.ProgrammingError):
        if tries == 1:
            raise
        create_tables(made, engine, tries - 1)


def engine_of(where: str, file: Path | None) -> Engine:
    """Return the engine of a file or URL; SQLite writes ahead and waits for other writers.

    Raises ImportError without sqlalchemy or the driver of the database, and WrongStore for an
    address that sqlalchemy does not understand.
    """
    try:
        import sqlalchemy as sql
    except ImportError:
        raise ImportError(
            f"expected the package sqlalchemy for the store {hidden(where)}, found none: "
            f"{install('label')}"
        ) from None
    if file is None:
        return _server_engine(where)
    url = sql.URL.create("sqlite", database=str(file))  # a "?" in a path is no query
    engine = sql.create_engine(url, connect_args={"timeout": WAIT})

    @sql.event.listens_for(engine, "connect")
    def set_up(connection: sqlite3.Connection, _: Any) -> None:
        # WAL: readers never wait for a writer. FULL: a commit is on the disk when it returns.
        for setting in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {setting}")

    return engine


def _server_engine(where: str) -> Engine:
    """Return the engine of a database server."""
    import sqlalchemy as sql

    try:
        return sql.create_engine(where, pool_pre_ping=True)
    except ImportError as error:
        package = DRIVERS.get(error.name or "", error.name or "")
        raise ImportError(
            f"expected the driver {error.name} for the store {hidden(where)}, found none: pip "
            f"install {shlex.quote(package)}, or write the address with an installed driver, such "
            "as postgresql+pg8000://..."
        ) from None
    except (sql.exc.ArgumentError, ValueError):  # ValueError: a port that is no number
        raise WrongStore(
            f"expected postgresql://user:password@host:port/name, got {hidden(where)}"
        ) from None


def check_file(file: Path | None, may_create: bool) -> None:
    """Raise FileNotFoundError or WrongStore for a path that holds no store and gets none."""
    if file is None:
        return
    if file.is_dir() or not file.parent.is_dir():
        what = "the folder" if file.is_dir() else "a folder that is not there,"
        raise FileNotFoundError(
            f"expected a file for the store, got {what} {file if file.is_dir() else file.parent}"
        )
    if not file.exists() and not may_create:
        raise FileNotFoundError(
            f"expected a store at {file}, found no file: `vidrl label CLIPS --store {file.name}` "
            "makes one"
        )
    if file.exists() and not file.stat().st_size and not may_create:
        raise WrongStore(f"expected a store at {file}, got an empty file, without a single table")
    if file.exists() and file.stat().st_size and _head(file) != SQLITE:
        raise WrongStore(f"expected a store, a SQLite file, at {file}, got a file of another kind")


@contextmanager
def explained(where: str) -> Iterator[None]:
    """Turn a database error while a store is opened or read into a WrongStore that says where."""
    import sqlalchemy as sql

    try:
        yield
    except (sql.exc.OperationalError, sql.exc.DatabaseError) as error:
        raise WrongStore(
            f"expected a store of vidrl at {hidden(where)}, could not use it: {_plain_words(error)}"
        ) from error


def _plain_words(error: Exception) -> str:
    """Return what a database says, without its own words for a table that is missing."""
    said = str(getattr(error, "orig", error))
    return "the database has no tables of a store" if "no such table" in said else said


def _head(file: Path) -> bytes:
    with open(file, "rb") as opened:
        return opened.read(len(SQLITE))
