import gzip
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.parse import quote, urlencode

import pytest

HERE = Path(__file__).resolve().parent.parent


class Answer:
    def __init__(self, response):
        self.status = response.status
        self.headers = response.headers
        self.body = response.read()
        self.text = self.body.decode("utf-8", "replace")
        self.code = int(self.headers.get("X-ClickHouse-Exception-Code", 0))

    @property
    def summary(self):
        return json.loads(self.headers["X-ClickHouse-Summary"])


class Front:
    """A running front; `spawn` starts it again on the same folder."""

    def __init__(self, folder, *flags):
        self.folder = folder
        self.flags = flags
        self.process = None
        self.spawn()

    def spawn(self):
        self.process = launch(self.folder, "--port", "0", *self.flags)
        line = self.process.stdout.readline()
        if not line.startswith("ready"):
            raise RuntimeError(self.process.stderr.read())
        self.port = int(line.split()[1].rsplit(":", 1)[1])

    def call(self, query=None, body=None, method="POST", headers=None, path="/", **params):
        if query is not None:
            params["query"] = query
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            target = path + ("?" + urlencode(params, quote_via=quote) if params else "")
            connection.request(method, target, body=body, headers=headers or {})
            return Answer(connection.getresponse())
        finally:
            connection.close()

    def ask(self, query, **params):
        """The text of an answer that must be good."""
        answer = self.call(query, **params)
        assert answer.status == 200, answer.text
        return answer.text.rstrip("\n")

    def stop(self, with_signal=signal.SIGTERM):
        if self.process.poll() is None:
            self.process.send_signal(with_signal)
        code = self.process.wait(timeout=60)
        self.process.stdout.close()
        self.process.stderr.close()
        return code


def launch(folder, *flags):
    command = [sys.executable, "-m", "clickhouse_front", "--data", str(folder), *flags]
    return subprocess.Popen(command, cwd=HERE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            stdin=subprocess.PIPE if "--stop-on-stdin-close" in flags else subprocess.DEVNULL)


def until(claim, seconds=10):
    deadline = time.monotonic() + seconds
    while not claim():
        assert time.monotonic() < deadline, "not within the time"
        time.sleep(0.05)


def in_background(call):
    result = []
    thread = threading.Thread(target=lambda: result.append(call()))
    thread.start()
    return thread, result


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    front = Front(tmp_path_factory.mktemp("shared") / "data")
    yield front
    front.stop()


@pytest.fixture
def front(shared, request):
    """The shared front with a database of the test's own as `front.db`."""
    shared.db = "db_" + request.node.name.split("[")[0][:60] + str(os.urandom(2).hex())
    shared.ask(f"CREATE DATABASE {shared.db}")
    yield shared
    shared.ask(f"DROP DATABASE {shared.db} SYNC")


@pytest.fixture
def own(tmp_path):
    """Starts fronts of the test's own."""
    fronts = []

    def start(*flags, folder="data"):
        fronts.append(Front(tmp_path / folder, *flags))
        return fronts[-1]

    yield start
    for front in fronts:
        if front.process.poll() is None:
            front.stop(signal.SIGKILL)


def squeeze(data):
    return gzip.compress(data, 1)
