"""python -m clickhouse_front --data DIR

Exit codes: 0 stopped and all requests answered; 1 requests were still running at the drain limit;
2 bad usage; 3 could not start.
"""

import argparse
import hashlib
import os
import shutil
import signal
import sys
import threading

from .engine import Engine, FolderInUse
from .server import Limits, Server


def _arguments():
    parser = argparse.ArgumentParser(prog="clickhouse_front", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder that keeps the tables")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8123, help="0: any free port, told in the ready line")
    parser.add_argument("--user", default="default")
    parser.add_argument("--password-file", help="file with the user's password (default: an empty password)")
    parser.add_argument("--tmp", help="folder for the bodies of running inserts (default: DATA/bodies)")
    parser.add_argument("--max-connections", type=int, default=256)
    parser.add_argument("--max-queries", type=int, default=64, help="at once; more are refused with code 202")
    parser.add_argument("--max-body-bytes", type=int, default=1 << 30)
    parser.add_argument("--max-result-bytes", type=int, default=1 << 30, help="default of the setting max_result_bytes")
    parser.add_argument("--client-timeout", type=float, default=30, help="seconds without a byte from or to a client")
    parser.add_argument("--drain-seconds", type=float, default=30, help="how long SIGTERM waits for running requests")
    parser.add_argument("--pid-file")
    parser.add_argument("--stop-on-stdin-close", action="store_true", help="stop as on SIGTERM when the parent is gone")
    return parser.parse_args()


def _refuse(code, message):
    print(f"clickhouse_front: {message}", file=sys.stderr, flush=True)
    os._exit(code)


def main():
    arguments = _arguments()
    data = os.path.abspath(arguments.data)
    bodies = os.path.join(data, "bodies")
    if arguments.tmp:
        name = "clickhouse-front-" + hashlib.sha256(data.encode()).hexdigest()[:12]
        bodies = os.path.join(os.path.abspath(arguments.tmp), name)
    if set(bodies) & set("*?{}[]"):
        _refuse(2, f"the path {bodies} holds one of * ? {{ }} [ ], which INFILE reads as a pattern; choose another with --tmp")
    password = ""
    if arguments.password_file:
        try:
            with open(arguments.password_file, encoding="utf-8") as file:
                password = file.read().rstrip("\n")
        except OSError as error:
            _refuse(2, f"--password-file: {error}")

    limits = Limits(
        user=arguments.user, password=password, bodies=bodies, max_connections=arguments.max_connections,
        max_queries=arguments.max_queries, max_body_bytes=arguments.max_body_bytes,
        max_result_bytes=arguments.max_result_bytes, client_timeout=arguments.client_timeout)
    server = Server((arguments.host, arguments.port), None, limits)
    try:
        server.server_bind()
        server.server_activate()
    except OSError as error:
        _refuse(3, f"can't listen on {arguments.host}:{arguments.port}: {error.strerror}; "
                   "stop what uses the port or choose another with --port")
    try:
        engine = Engine(data)
    except FolderInUse:
        _refuse(3, f"another process serves {data}; stop it or choose another folder with --data")
    except Exception as error:
        _refuse(3, f"can't open {data}: {error}")
    # What a killed process left behind; the data folder is locked, so nothing else writes here.
    shutil.rmtree(bodies, ignore_errors=True)
    os.makedirs(bodies)
    server.engine = engine

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(1) if stop.is_set() else stop.set())
    if arguments.stop_on_stdin_close:
        threading.Thread(target=lambda: (sys.stdin.buffer.read(), stop.set()), daemon=True).start()
    threading.Thread(target=server.watch_clients, daemon=True).start()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True).start()
    if arguments.pid_file:
        with open(arguments.pid_file, "w", encoding="utf-8") as file:
            file.write(f"{os.getpid()}\n")
    host, port = server.server_address[:2]
    print(f"ready http://{host}:{port} ClickHouse {engine.version}", flush=True)

    # A signal that another thread takes wakes no one here, so look again now and then.
    while not stop.wait(0.5):
        pass
    server.shutdown()
    server.server_close()
    drained = server.drain(arguments.drain_seconds)
    if not drained:
        print("clickhouse_front: requests were still running at the drain limit", file=sys.stderr, flush=True)
        engine.cancel_all()
    if drained or server.drain(2):
        engine.close()
    shutil.rmtree(bodies, ignore_errors=True)
    if arguments.pid_file:
        os.unlink(arguments.pid_file)
    # Threads of the engine and of cut-off requests must not delay the end.
    sys.stdout.flush()
    os._exit(0 if drained else 1)


main()
