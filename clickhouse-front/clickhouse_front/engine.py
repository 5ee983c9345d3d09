"""The engine: one data folder, one fresh connection for each query."""

import fcntl
import os
import threading
from contextlib import suppress
from dataclasses import dataclass

from .errors import QueryError, from_engine


class FolderInUse(Exception):
    pass


@dataclass
class Answer:
    data: object  # bytes-like, owned by the engine
    read_rows: int
    read_bytes: int
    written_rows: int
    written_bytes: int
    result_rows: int
    elapsed_ns: int


def _quote(text):
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


class Engine:
    def __init__(self, folder):
        """# Errors
        FolderInUse when another front has the folder; RuntimeError when the engine can't open it.
        """
        os.makedirs(folder, exist_ok=True)
        # The kernel drops this lock with the process, however it ends.
        self._lock = open(os.path.join(folder, "front.lock"), "w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise FolderInUse(folder) from None
        from chdb import _chdb

        self._connect = _chdb.connect
        self._path = os.path.join(folder, "engine")
        # While this one is open the engine stays up between queries.
        self._base = self._connect(self._path)
        row = self._base.query("SELECT version(), timezone(), hostName()", "TSV").bytes().decode()
        self.version, self.timezone, self.host = row.rstrip("\n").split("\t")
        self._guard = threading.Lock()
        self._running = {}  # query id -> whether it is the query's log_comment

    def run(self, text, query_id, *, settings, params=None, database="", default_format="TabSeparated", readonly=False):
        """Runs one statement.

        A connection of its own costs under a millisecond and takes settings, database and temporary tables away
        with it, so that nothing leaks into the next query.

        # Errors
        QueryError, with what the engine said, or 216 when `query_id` runs already.
        """
        settings = dict(settings)
        named = "log_comment" not in settings
        settings.setdefault("log_comment", query_id)
        wants_readonly = settings.pop("readonly", None)
        if wants_readonly in (None, "0") and readonly:
            wants_readonly = "2"
        with self._guard:
            if query_id in self._running:
                message = f"Query with id = {query_id} is already running"
                raise QueryError(216, "QUERY_WITH_SAME_ID_IS_ALREADY_RUNNING", message)
            self._running[query_id] = named
        connection = None
        try:
            connection = self._connect(self._path)
            if database:
                escaped = database.replace("\\", "\\\\").replace("`", "\\`")
                connection.query(f"USE `{escaped}`")
            names = ", ".join(f"`{name.replace('`', '')}` = {_quote(value)}" for name, value in settings.items())
            connection.query(f"SET {names}")
            if wants_readonly is not None:
                connection.query(f"SET readonly = {_quote(wants_readonly)}")
            result = connection.query(text, default_format, params=params or {})
            if result.has_error():
                raise RuntimeError(result.error_message())
            written = result.rows_written()
            return Answer(
                data=result.get_memview().view() if result.size() else b"",
                read_rows=result.rows_read() if written else result.storage_rows_read(),
                read_bytes=result.bytes_read() if written else result.storage_bytes_read(),
                written_rows=written,
                written_bytes=result.bytes_written(),
                result_rows=written or result.rows_read(),
                elapsed_ns=int(result.elapsed() * 1e9),
            )
        except (RuntimeError, UnicodeDecodeError) as error:
            raise from_engine(error) from None
        finally:
            if connection is not None:
                connection.close()
            with self._guard:
                del self._running[query_id]

    def named(self):
        """The ids that running queries carry as their log_comment."""
        with self._guard:
            return [name for name, named in self._running.items() if named]

    def cancel(self, query_id):
        """Asks the engine to stop a query; one with a log_comment of its own can't be told from others."""
        if query_id in self.named():
            with suppress(RuntimeError):
                self._kill(f"Settings['log_comment'] = {_quote(query_id)}")

    def cancel_all(self):
        with suppress(RuntimeError):
            self._kill("1")

    def _kill(self, where):
        connection = self._connect(self._path)
        try:
            connection.query(f"KILL QUERY WHERE {where} ASYNC")
        finally:
            connection.close()

    def close(self):
        self._base.close()
        self._lock.close()
