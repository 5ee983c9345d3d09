"""ClickHouse's HTTP interface: https://clickhouse.com/docs/interfaces/http"""

import base64
import hmac
import json
import os
import select
import socket
import socketserver
import threading
import time
import uuid
import zlib
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qsl, urlsplit

from .body import CHUNK, Body, Incomplete, Inflated, read_up_to, store
from .errors import QueryError
from .statement import parse, show_query_ids

# Parameters of the interface itself; every other one is a setting.
_OWN = {"query", "database", "user", "password", "query_id", "default_format", "quota_key", "stacktrace",
        "buffer_size", "wait_end_of_query", "client_protocol_version"}
_MISSING = {"session_id", "session_timeout", "session_check", "compress", "decompress", "role"}
_COMPRESSIONS = {"gzip": "gzip", "x-gzip": "gzip", "deflate": "deflate", "zstd": "zstd", "br": "br", "lz4": "lz4",
                 "xz": "xz", "snappy": "snappy"}
_CONTENT_TYPES = {"TabSeparated": "text/tab-separated-values; charset=UTF-8", "TSV": "text/tab-separated-values; charset=UTF-8",
                  "CSV": "text/csv; charset=UTF-8; header=absent", "JSON": "application/json; charset=UTF-8",
                  "JSONCompact": "application/json; charset=UTF-8", "JSONEachRow": "application/x-ndjson; charset=UTF-8",
                  "Native": "application/octet-stream", "RowBinary": "application/octet-stream",
                  "ArrowStream": "application/octet-stream", "Arrow": "application/octet-stream",
                  "Parquet": "application/octet-stream"}
# The server reads a query of at most this many bytes unless max_query_size says otherwise.
_QUERY_BYTES = 262144
_MAX_QUERY_BYTES = 64 << 20


@dataclass
class Limits:
    user: str
    password: str
    bodies: str  # folder of the files that inserts are read from
    max_connections: int
    max_queries: int
    max_body_bytes: int
    max_result_bytes: int
    client_timeout: float


class Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 512

    def __init__(self, address, engine, limits):
        super().__init__(address, Handler, bind_and_activate=False)
        self.engine = engine
        self.limits = limits
        self.draining = False
        self._connections = {}  # socket -> whether a request is being answered
        self._watched = {}  # socket -> id of the read query whose client is waiting
        self._guard = threading.Condition()
        self._queries = threading.BoundedSemaphore(limits.max_queries)
        self._number = 0

    def process_request(self, request, client_address):
        with self._guard:
            full = len(self._connections) >= self.limits.max_connections
            if not full:
                self._connections[request] = False
        if full:
            with suppress(OSError):
                request.settimeout(1)
                request.sendall(b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 1\r\n"
                                b"Content-Length: 21\r\n\r\nToo many connections\n")
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def shutdown_request(self, request):
        super().shutdown_request(request)
        with self._guard:
            self._connections.pop(request, None)
            self._guard.notify_all()

    def handle_error(self, request, client_address):
        """A client that goes away is no event worth a traceback."""

    @contextmanager
    def busy(self, request):
        with self._guard:
            self._connections[request] = True
        try:
            yield
        finally:
            with self._guard:
                self._connections[request] = False

    @contextmanager
    def query_slot(self):
        if not self._queries.acquire(blocking=False):
            message = f"Too many simultaneous queries. Maximum: {self.limits.max_queries}"
            raise QueryError(202, "TOO_MANY_SIMULTANEOUS_QUERIES", message)
        try:
            yield
        finally:
            self._queries.release()

    @contextmanager
    def watching(self, request, query_id, reads):
        """Only reads stop with their client (cancel_http_readonly_queries_on_client_close); a write completes."""
        if not reads:
            yield
            return
        with self._guard:
            self._watched[request] = query_id
        try:
            yield
        finally:
            with self._guard:
                self._watched.pop(request, None)

    def watch_clients(self):
        while True:
            time.sleep(0.2)
            with self._guard:
                watched = {request.fileno(): query_id for request, query_id in self._watched.items()}
            if not watched:
                continue
            poll = select.poll()
            for fd in watched:
                if fd >= 0:
                    poll.register(fd, select.POLLRDHUP)
            for fd, _ in poll.poll(0):
                self.engine.cancel(watched[fd])

    def body_path(self):
        with self._guard:
            self._number += 1
            return os.path.join(self.limits.bodies, f"body-{self._number}")

    def drain(self, seconds):
        """Ends idle connections and waits for running requests; whether all of them ended."""
        deadline = time.monotonic() + seconds
        with self._guard:
            self.draining = True
            for request, busy in self._connections.items():
                if not busy:
                    with suppress(OSError):
                        request.shutdown(socket.SHUT_RDWR)
            return self._guard.wait_for(lambda: not self._connections, deadline - time.monotonic())


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def setup(self):
        self.timeout = self.server.limits.client_timeout
        super().setup()

    def log_message(self, format, *args):
        """Requests are the caller's to log."""

    def handle_expect_100(self):
        super().handle_expect_100()
        self.wfile.flush()
        return True

    def do_GET(self):
        self._serve(readonly=True)

    def do_HEAD(self):
        self._serve(readonly=True)

    def do_POST(self):
        self._serve(readonly=False)

    def _serve(self, readonly):
        with self.server.busy(self.request):
            self._answer(readonly)
        if self.server.draining:
            self.close_connection = True

    def _answer(self, readonly):
        url = urlsplit(self.path)
        body = None
        query_id = ""
        try:
            body = Body(self.rfile, self.headers, self.server.limits.max_body_bytes)
            if url.path in ("/ping", "/replicas_status"):
                read_up_to(body, CHUNK)
                self._send(200, b"Ok.\n", {"Content-Type": "text/html; charset=UTF-8"})
                return
            if url.path != "/":
                message = f"There is no handle {url.path}\n\nUse / or /ping for health checks.\n"
                body.drain()
                self._send(404, message.encode(), {"Content-Type": "text/plain; charset=UTF-8"}, close=not body.finished)
                return
            params = dict(parse_qsl(url.query, keep_blank_values=True, errors="surrogateescape"))
            self._authenticate(params)
            if readonly and "query" not in params and body.finished:
                self._send(200, b"Ok.\n", {"Content-Type": "text/html; charset=UTF-8"})
                return
            query_id = params.get("query_id") or str(uuid.uuid4())
            self._query(params, body, query_id, readonly)
        except QueryError as error:
            if body is not None:
                body.drain()
            headers = {"Content-Type": "text/plain; charset=UTF-8", "X-ClickHouse-Exception-Code": str(error.code)}
            if error.status == 401:
                headers["WWW-Authenticate"] = 'Basic realm="ClickHouse server HTTP API"'
            if query_id:
                headers["X-ClickHouse-Query-Id"] = _header(query_id)
            text = error.body(self.server.engine.version).encode("utf-8", "replace")
            self._send(error.status, text, headers, close=body is None or not body.finished)
        except (Incomplete, OSError):
            self.close_connection = True

    def _authenticate(self, params):
        limits = self.server.limits
        ways = []
        authorization = self.headers.get("Authorization", "")
        if authorization.lower().startswith("basic "):
            try:
                pair = base64.b64decode(authorization[6:].strip(), validate=True).decode()
            except ValueError:
                pair = ":"
            ways.append(pair.partition(":")[::2])
        if "X-ClickHouse-User" in self.headers or "X-ClickHouse-Key" in self.headers:
            ways.append((self.headers.get("X-ClickHouse-User", "default"), self.headers.get("X-ClickHouse-Key", "")))
        if "user" in params or "password" in params:
            ways.append((params.get("user", "default"), params.get("password", "")))
        if len(ways) > 1:
            message = "Invalid authentication: it is not allowed to use several authentication methods simultaneously"
            raise QueryError(516, "AUTHENTICATION_FAILED", message)
        user, password = ways[0] if ways else ("default", "")
        right_user = hmac.compare_digest(_raw(user), _raw(limits.user))
        right_password = hmac.compare_digest(_raw(password), _raw(limits.password))
        if not (right_user and right_password):
            message = f"{user}: Authentication failed: password is incorrect, or there is no user with such name"
            raise QueryError(516, "AUTHENTICATION_FAILED", message)

    def _query(self, params, body, query_id, readonly):
        server, limits = self.server, self.server.limits
        if missing := _MISSING.intersection(name for name, value in params.items() if value not in ("", "0")):
            raise QueryError(48, "NOT_IMPLEMENTED", f"The embedded server has no {', '.join(sorted(missing))}")
        substitutions = {name[6:]: value for name, value in params.items() if name.startswith("param_")}
        settings = {name: value for name, value in params.items()
                    if name not in _OWN and name not in _MISSING and not name.startswith("param_")}
        settings.setdefault("max_result_bytes", str(limits.max_result_bytes))
        database = params.get("database") or self.headers.get("X-ClickHouse-Database", "")
        default_format = params.get("default_format") or self.headers.get("X-ClickHouse-Format") or "TabSeparated"
        encoding = self.headers.get("Content-Encoding", "identity").strip().lower() or "identity"
        if encoding != "identity" and encoding not in _COMPRESSIONS:
            raise QueryError(89, "UNKNOWN_COMPRESSION_METHOD", f"Unknown compression method {encoding}", status=501)

        text = _raw(params.get("query", ""))
        statement = parse(text) if text.strip() else None
        compression = "none"
        path = server.body_path()
        try:
            if statement and statement.takes_data() and not text[statement.data_at or len(text) :]:
                # The body is the data alone: the engine reads it as it came, compressed or not.
                compression = _COMPRESSIONS.get(encoding, "none")
                store(body, b"", path)
            else:
                # The query goes on in the body, or is there altogether.
                source = _decoded(body, encoding, limits.max_body_bytes)
                head = (text + b"\n" if text else b"") + read_up_to(source, _QUERY_BYTES)
                statement = parse(head)
                if statement.takes_data():
                    at = len(head) if statement.data_at is None else statement.data_at
                    store(source, head[at:], path)
                else:
                    rest = read_up_to(source, _MAX_QUERY_BYTES)
                    if source.read(1):
                        raise QueryError(229, "QUERY_IS_TOO_LARGE", "The query is too large")
                    statement = parse(head + rest) if rest else statement
            if not body.finished:
                raise Incomplete
            if statement.takes_data():
                # Reading a file, the engine cuts rows into blocks by max_block_size alone.
                if "max_insert_block_size" in settings:
                    settings.setdefault("max_block_size", settings["max_insert_block_size"])
                insert_format = default_format if default_format != "TabSeparated" else "Values"
                query = statement.from_file(path, compression, insert_format)
            else:
                query = show_query_ids(statement, server.engine.named())
            with server.query_slot(), server.watching(self.request, query_id, statement.reads):
                answer = server.engine.run(
                    query, query_id, settings=settings, params=substitutions, database=database,
                    default_format=default_format, readonly=readonly)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(path)

        name = statement.format if statement.format and not statement.takes_data() else default_format
        headers = {
            "Content-Type": _CONTENT_TYPES.get(name, "text/plain; charset=UTF-8"),
            "X-ClickHouse-Server-Display-Name": server.engine.host,
            "X-ClickHouse-Query-Id": _header(query_id),
            "X-ClickHouse-Format": _header(name),
            "X-ClickHouse-Timezone": server.engine.timezone,
            "X-ClickHouse-Summary": json.dumps({
                "read_rows": str(answer.read_rows), "read_bytes": str(answer.read_bytes),
                "written_rows": str(answer.written_rows), "written_bytes": str(answer.written_bytes),
                "total_rows_to_read": "0", "result_rows": str(answer.result_rows),
                "result_bytes": str(len(answer.data)), "elapsed_ns": str(answer.elapsed_ns)}, separators=(",", ":")),
        }
        data = answer.data
        wants_gzip = "gzip" in self.headers.get("Accept-Encoding", "") and params.get("enable_http_compression") in ("1", "true")
        if wants_gzip and len(data):
            level = params.get("http_zlib_compression_level", "3")
            pack = zlib.compressobj(int(level) if level in "123456789" else 3, zlib.DEFLATED, 31)
            data = b"".join([pack.compress(data), pack.flush()])
            headers["Content-Encoding"] = "gzip"
        self._send(200, data, headers)

    def _send(self, status, data, headers, close=False):
        close = close or self.server.draining or self.close_connection
        self.send_response_only(status)
        self.send_header("Date", self.date_time_string())
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Connection", "close" if close else "Keep-Alive")
        self.end_headers()
        if self.command != "HEAD":
            # A timeout covers one call of write, not the answer as a whole.
            view = memoryview(data)
            for at in range(0, len(view), CHUNK):
                self.wfile.write(view[at : at + CHUNK])
        self.wfile.flush()
        self.close_connection = close


def _decoded(body, encoding, limit):
    if encoding == "identity":
        return body
    if encoding in ("gzip", "x-gzip", "deflate"):
        return Inflated(body, encoding.removeprefix("x-"), limit)
    raise QueryError(48, "NOT_IMPLEMENTED", f"A query inside a body of Content-Encoding {encoding}")


def _raw(text):
    return text.encode("utf-8", "surrogateescape")


def _header(value):
    return "".join(c if " " <= c <= "~" else "?" for c in value)
