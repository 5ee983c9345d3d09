import os
import signal
import socket
import subprocess
import sys
import threading
import time

from conftest import HERE, in_background, launch, until

TABLE = "(x UInt64) ENGINE = MergeTree ORDER BY x SETTINGS non_replicated_deduplication_window = 1000, fsync_after_insert = 1"


def test_data_is_kept_across_restarts(own):
    front = own()
    front.ask(f"CREATE TABLE t {TABLE}")
    front.ask("INSERT INTO t VALUES (1), (2)")
    assert front.stop() == 0
    front.spawn()
    assert front.ask("SELECT sum(x) FROM t") == "3"


def test_a_folder_opens_again_after_sigkill_and_holds_every_answered_insert(own):
    front = own()
    front.ask(f"CREATE TABLE t {TABLE}")
    answered = []
    for round_number in range(3):
        stopped = threading.Event()

        def insert(worker):
            for n in range(100000):
                value = (round_number * 4 + worker) * 100000 + n
                try:
                    if front.call("INSERT INTO t FORMAT CSV", body=b"%d\n" % value, insert_deduplication_token=str(value)).status == 200:
                        answered.append(value)
                except OSError:
                    break
                if stopped.is_set():
                    break

        workers = [threading.Thread(target=insert, args=(worker,)) for worker in range(4)]
        for worker in workers:
            worker.start()
        time.sleep(1.5)
        front.stop(signal.SIGKILL)
        stopped.set()
        for worker in workers:
            worker.join()
        front.spawn()
        stored = [int(line) for line in front.ask("SELECT x FROM t ORDER BY x").split("\n")]
        assert len(stored) == len(set(stored)), "a row twice"
        assert set(answered) <= set(stored), "an answered row is gone"
    assert len(answered) > 30


def test_bodies_left_by_a_killed_process_are_removed(own, tmp_path):
    front = own("--tmp", str(tmp_path))
    (bodies,) = [name for name in tmp_path.iterdir() if name.name.startswith("clickhouse-front-")]
    (bodies / "body-1").write_text("left behind")
    front.stop(signal.SIGKILL)
    front.spawn()
    assert list(bodies.iterdir()) == []


def test_a_second_process_on_the_folder_is_refused_and_harms_nothing(own):
    front = own()
    front.ask(f"CREATE TABLE t {TABLE}")
    second = launch(front.folder, "--port", "0")
    out, error = second.communicate(timeout=30)
    assert second.returncode == 3 and out == ""
    assert "another process serves" in error and "--data" in error
    front.ask("INSERT INTO t VALUES (1)")


def test_a_taken_port_is_exit_3_and_says_what_to_do(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = launch(tmp_path / "data", "--port", str(port))
        _, error = process.communicate(timeout=30)
    assert process.returncode == 3
    assert f"127.0.0.1:{port}" in error and "--port" in error
    assert not (tmp_path / "data").exists()


def test_bad_usage_is_exit_2(tmp_path):
    for flags in (["--nope"], ["--password-file", str(tmp_path / "missing")]):
        process = launch(tmp_path / "data", *flags)
        process.communicate(timeout=30)
        assert process.returncode == 2
    process = launch(tmp_path / "da*ta", "--port", "0")
    assert "--tmp" in process.communicate(timeout=30)[1] and process.returncode == 2


def test_sigterm_answers_what_runs_refuses_what_is_new_and_exits_0(own):
    front = own()
    idle = socket.create_connection(("127.0.0.1", front.port))
    thread, result = in_background(lambda: front.call("SELECT sum(sleepEachRow(0.5)), 'whole' FROM numbers(5)", query_id="last"))
    until(lambda: front.ask("SELECT count() FROM system.processes WHERE query_id = 'last'") == "1")
    front.process.send_signal(signal.SIGTERM)
    assert idle.recv(10) == b""
    try:
        socket.create_connection(("127.0.0.1", front.port), timeout=1).close()
        raise AssertionError("still accepting")
    except OSError:
        pass
    thread.join(20)
    assert result[0].text == "0\twhole\n"
    assert front.process.wait(timeout=20) == 0


def test_the_drain_limit_ends_a_query_that_does_not_end(own):
    front = own("--drain-seconds", "0.5")
    def call():
        try:
            front.call("SELECT count() FROM numbers(1000000000000) WHERE sipHash64(number) = 1", query_id="endless")
        except OSError:
            return "cut"
    thread, result = in_background(call)
    until(lambda: front.ask("SELECT count() FROM system.processes WHERE query_id = 'endless'") == "1")
    assert front.stop() == 1
    thread.join(10)
    front.spawn()
    assert front.ask("SELECT 1") == "1"


def test_it_stops_when_its_parent_closes_stdin(own):
    front = own("--stop-on-stdin-close")
    front.process.stdin.close()
    assert front.process.wait(timeout=30) == 0


def test_the_pid_file_names_the_process_while_it_runs(own, tmp_path):
    front = own("--pid-file", str(tmp_path / "pid"))
    assert int((tmp_path / "pid").read_text()) == front.process.pid
    front.stop()
    assert not (tmp_path / "pid").exists()


def test_it_runs_without_pandas_pyarrow_and_numpy(tmp_path):
    hide = "import sys\nfor name in ('pandas', 'pyarrow', 'numpy'): sys.modules[name] = None\n"
    run = "import runpy; sys.argv = ['clickhouse_front', '--data', sys.argv[1], '--port', '0', '--stop-on-stdin-close']\n"
    run += "runpy.run_module('clickhouse_front', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", hide + run, str(tmp_path / "data")], cwd=HERE, input="", capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout[:6]) == (0, "ready "), done.stderr
