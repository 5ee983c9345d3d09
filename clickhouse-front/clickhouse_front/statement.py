"""What the front must know of a query's text: where its data begins, whether it only reads, its format.

The engine parses the query; this only finds its words outside strings, comments and brackets.
"""

import re
from dataclasses import dataclass

from .errors import QueryError

_TOKEN = re.compile(
    rb"(?P<space>\s+|--[^\n]*|\#[ !][^\n]*|/\*.*?\*/)"
    rb"|(?P<string>'(?:[^'\\]|\\.|'')*')"
    rb"|(?P<quoted>`(?:[^`\\]|\\.|``)*`|\"(?:[^\"\\]|\\.|\"\")*\")"
    rb"|(?P<word>[A-Za-z_][A-Za-z0-9_]*)"
    rb"|(?P<number>[0-9][A-Za-z0-9_.]*)"
    rb"|(?P<other>.)",
    re.S,
)
_AFTER_FORMAT = re.compile(rb"[ \t\f]*\r?\n?")
_READS = {b"SELECT", b"WITH", b"SHOW", b"DESCRIBE", b"DESC", b"EXISTS", b"EXPLAIN"}


@dataclass
class Statement:
    text: bytes
    first: bytes  # the first word, in capitals
    reads: bool
    format: str | None  # of the FORMAT clause
    insert_at: int | None = None  # where FROM INFILE belongs, for an INSERT that takes data
    insert_end: int | None = None  # where FORMAT or VALUES begins
    data_at: int | None = None  # where the data after the query begins

    def takes_data(self):
        return self.insert_at is not None

    def from_file(self, path, compression, default_format):
        """The same INSERT, reading its data from a file."""
        quoted = path.replace("\\", "\\\\").replace("'", "\\'")
        source = f" FROM INFILE '{quoted}' COMPRESSION '{compression}' ".encode()
        tail = f" FORMAT {self.format or default_format}".encode()
        return self.text[: self.insert_at] + source + self.text[self.insert_at : self.insert_end] + tail


def _tokens(text):
    depth = 0
    for match in _TOKEN.finditer(text):
        kind = match.lastgroup
        if kind == "space":
            continue
        value = match.group()
        if kind == "other" and value in (b")", b"]", b"}"):
            depth -= 1
        word = value.upper() if kind == "word" else value
        yield kind, word, match.start(), match.end(), depth
        if kind == "other" and value in (b"(", b"[", b"{"):
            depth += 1


def parse(text):
    """`text` is the query and, for an INSERT, may go on with its data.

    # Errors
    What ClickHouse refuses over HTTP: several statements, INTO OUTFILE, FROM INFILE.
    """
    first = b""
    format_name = None
    settings_at = None
    writes = False
    previous = (b"", 0)
    for kind, word, start, end, depth in _tokens(text):
        if not first:
            if kind == "word":
                first = word
                writes = first == b"INSERT"
            continue
        if depth > 0:
            continue
        if previous[0] == b"FORMAT" and kind == "word":
            format_name = text[start:end].decode()
            if first == b"INSERT":
                at = settings_at or previous[1]
                data = _AFTER_FORMAT.match(text, end).end()
                return Statement(text, first, False, format_name, at, previous[1], data)
        if kind == "word":
            if word == b"INSERT":
                writes = True
            elif word == b"INFILE" and previous[0] == b"FROM":
                raise QueryError(78, "UNKNOWN_TYPE_OF_QUERY", "Query has infile and was send directly to server")
            elif word == b"OUTFILE" and previous[0] == b"INTO":
                raise QueryError(358, "INTO_OUTFILE_NOT_ALLOWED", "INTO OUTFILE is not allowed")
            elif first == b"INSERT":
                if word in (b"SELECT", b"WITH"):
                    first = b"INSERT SELECT"
                elif word == b"VALUES":
                    return Statement(text, first, False, "Values", settings_at or start, start, end)
                elif word == b"SETTINGS":
                    settings_at = start
        elif word == b";":
            if any(True for _ in _tokens(text[end:])):
                raise QueryError(62, "SYNTAX_ERROR", "Syntax error (Multi-statements are not allowed)")
            text = text[:start]
            break
        previous = (word, start)
    if first == b"INSERT":
        return Statement(text, first, False, None, settings_at or len(text), len(text), None)
    return Statement(text, first, first in _READS and not writes, format_name)


def show_query_ids(statement, names):
    """The text with the clients' query ids in place of the engine's own, in system.processes and KILL QUERY.

    The engine names its queries itself; the front passes a client's id as log_comment.
    `names` are the ids passed that way and running now.
    """
    if not names or statement.first not in (b"SELECT", b"WITH", b"KILL"):
        return statement.text
    listed = ", ".join("'" + name.replace("\\", "\\\\").replace("'", "\\'") + "'" for name in sorted(names))
    shown = f"if(has([{listed}], Settings['log_comment']), Settings['log_comment'], query_id)".encode()
    table = b"(SELECT * REPLACE (" + shown + b" AS query_id) FROM system.processes)"
    out, done = [], 0
    tokens = [(word.strip(b'`"').lower(), start, end) for _, word, start, end, _ in _tokens(statement.text)]
    for i, (word, start, end) in enumerate(tokens):
        if statement.first == b"KILL":
            if word == b"query_id":
                out += [statement.text[done:start], shown]
                done = end
        elif word == b"system" and [t[0] for t in tokens[i + 1 : i + 3]] == [b".", b"processes"]:
            out += [statement.text[done:start], table]
            done = tokens[i + 2][2]
    return b"".join(out) + statement.text[done:]
