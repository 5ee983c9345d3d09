"""Request bodies: read whole or not at all, in bounded memory."""

import os
import zlib
from contextlib import suppress

from .errors import QueryError

CHUNK = 1 << 20
_LINE = 1 << 16


class Incomplete(Exception):
    """The client stopped in the middle of the body."""


class Body:
    """The bytes of one request's body, with the transfer encoding taken off."""

    def __init__(self, stream, headers, limit):
        self._stream = stream
        self._limit = limit
        self._read = 0
        self._chunked = headers.get("Transfer-Encoding", "").strip().lower() == "chunked"
        self._left = 0
        self.finished = False
        if not self._chunked:
            length = headers.get("Content-Length", "0").strip()
            if not length.isdigit() or headers.get("Transfer-Encoding"):
                raise QueryError(36, "BAD_ARGUMENTS", "Bad Content-Length or Transfer-Encoding")
            self._left = int(length)
            self.finished = self._left == 0
            self._check(self._left)

    def _check(self, size):
        if size > self._limit:
            message = f"The request body is larger than {self._limit} bytes (--max-body-bytes)"
            raise QueryError(229, "QUERY_IS_TOO_LARGE", message)

    def read(self, size):
        """Up to `size` bytes; b"" only at the end of a complete body."""
        if self._chunked and self._left == 0 and not self.finished:
            self._next_chunk()
        if self.finished:
            return b""
        data = self._stream.read(min(size, self._left))
        if not data:
            raise Incomplete
        self._left -= len(data)
        self._read += len(data)
        if self._chunked:
            if self._left == 0 and self._stream.readline(_LINE).strip():
                raise Incomplete
        elif self._left == 0:
            self.finished = True
        return data

    def _next_chunk(self):
        line = self._stream.readline(_LINE)
        try:
            self._left = int(line.split(b";")[0].strip(), 16)
        except ValueError:
            raise Incomplete from None
        if not line.endswith(b"\n") or self._left < 0:
            raise Incomplete
        self._check(self._read + self._left)
        if self._left == 0:
            while (trailer := self._stream.readline(_LINE)) not in (b"\r\n", b"\n"):
                if not trailer:
                    raise Incomplete
            self.finished = True

    def drain(self, limit=CHUNK):
        """Takes a refused body off the wire, so that closing does not reset the answer away."""
        with suppress(Incomplete, QueryError, OSError):
            while limit > 0 and (data := self.read(CHUNK)):
                limit -= len(data)


class Inflated:
    """A gzip or deflate body, decompressed while it is read; several gzip members are one body."""

    def __init__(self, body, encoding, limit):
        self._body = body
        self._wbits = 31 if encoding == "gzip" else 15
        self._inflate = zlib.decompressobj(self._wbits)
        self._input = b""
        self._limit = limit

    def read(self, size):
        while True:
            if self._inflate.eof:
                self._input = self._inflate.unused_data + self._input
                if not self._input:
                    self._input = self._body.read(CHUNK)
                if not self._input:
                    return b""
                self._inflate = zlib.decompressobj(self._wbits)
            if not self._input:
                self._input = self._body.read(CHUNK)
                if not self._input:
                    raise QueryError(354, "ZLIB_INFLATE_FAILED", "The compressed body ends early")
            try:
                data = self._inflate.decompress(self._input, size)
            except zlib.error as error:
                raise QueryError(354, "ZLIB_INFLATE_FAILED", f"inflate failed: {error}") from None
            self._input = self._inflate.unconsumed_tail
            self._limit -= len(data)
            if self._limit < 0:
                raise QueryError(229, "QUERY_IS_TOO_LARGE", "The decompressed body is too large (--max-body-bytes)")
            if data:
                return data


def read_up_to(source, size):
    parts = []
    while size > 0 and (data := source.read(size)):
        parts.append(data)
        size -= len(data)
    return b"".join(parts)


def store(source, head, path):
    """Writes `head` and the rest of `source` to a new file; on any error there is no file."""
    try:
        with open(path, "xb", buffering=0) as file:
            if head:
                file.write(head)
            while data := source.read(CHUNK):
                file.write(data)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(path)
        raise
