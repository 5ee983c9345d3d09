"""Errors with the codes, statuses and text of the ClickHouse server."""

import re

# The server's table (src/Server/HTTP/exceptionCodeToHTTPStatus.cpp); any other code is a 500.
_CODES_BY_STATUS = {
    400: (6, 8, 15, 25, 26, 27, 36, 37, 38, 41, 44, 53, 62, 72, 117, 123, 167, 168, 223, 321, 376, 427, 441, 675, 676),
    401: (194,),
    403: (192, 193, 497, 512, 516),
    404: (46, 47, 50, 56, 60, 63, 73, 78, 81, 115, 152, 336, 511),
    408: (159,),
    411: (381,),
    413: (229,),
    415: (779,),
    501: (48,),
    503: (76, 209, 439),
}
_STATUS = {code: status for status, codes in _CODES_BY_STATUS.items() for code in codes}

_HEAD = re.compile(r"^Code: (\d+)\. DB::(?:\w+::)*\w*Exception: ")
_TAIL = re.compile(r"[.\s]*(?:\(([A-Z][A-Z0-9_]+)\)|\(version [^()]*(?:\([^()]*\))?\))[.\s]*$")


class QueryError(Exception):
    """What the server would have answered: a code, its name and a message."""

    def __init__(self, code, name, message, status=None):
        super().__init__(message)
        self.code = code
        self.name = name
        self.message = message
        self.status = status or _STATUS.get(code, 500)

    def body(self, version):
        end = "" if self.message.endswith((".", "!", "?")) else "."
        return f"Code: {self.code}. DB::Exception: {self.message}{end} ({self.name}) (version {version})\n"


def from_engine(error):
    """The engine's RuntimeError as a QueryError.

    An error raised while INFILE is read arrives wrapped in a second "Code: ... (NAME)" of the same code.
    """
    if isinstance(error, UnicodeDecodeError):
        # The binding raises this in place of its own error when the message quotes bytes that are not UTF-8.
        text = error.object.decode("utf-8", "replace")
    else:
        text = str(error)
    code, name = 1002, "UNKNOWN_EXCEPTION"
    while head := _HEAD.match(text):
        code = int(head[1])
        text = text[head.end():]
    while tail := _TAIL.search(text):
        name = tail[1] or name
        text = text[:tail.start()]
    return QueryError(code, name, text.strip())
