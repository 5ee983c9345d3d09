import gzip
import http.client
import os
import socket
import threading
import time

import pytest

from conftest import in_background, squeeze, until

TABLE = "(x UInt64, s String) ENGINE = MergeTree ORDER BY x SETTINGS non_replicated_deduplication_window = 100"
ONE_BLOCK = {"max_insert_block_size": "1000000", "min_insert_block_size_rows": "0", "min_insert_block_size_bytes": "0"}


@pytest.fixture
def table(front):
    front.ask(f"CREATE TABLE {front.db}.t {TABLE}")
    return f"{front.db}.t"


def count(front, table):
    return int(front.ask(f"SELECT count() FROM {table}"))


@pytest.mark.parametrize("name", ["JSONEachRow", "CSV", "TabSeparated", "Native", "RowBinary", "ArrowStream", "Arrow", "Parquet", "Values"])
def test_every_format_is_inserted_from_the_body(front, table, name):
    data = front.call(f"SELECT number AS x, concat('a;\\n', toString(number)) AS s FROM numbers(1000) FORMAT {name}").body
    answer = front.call(f"INSERT INTO {table} FORMAT {name}", body=data)
    assert answer.status == 200, answer.text
    assert (answer.summary["written_rows"], answer.summary["read_rows"]) == ("1000", "1000")
    assert front.ask(f"SELECT count(), sum(x), uniqExact(s), any(s) LIKE 'a;%' FROM {table}") == "1000\t499500\t1000\t1"


def test_data_may_follow_the_query_in_the_body(front, table):
    data = front.call("SELECT number AS x, 'v' AS s FROM numbers(500000) FORMAT RowBinary").body
    for body in (f"INSERT INTO {table} VALUES (1, upper('a')), (2, 'b')".encode(),
                 f"INSERT INTO {table} (s, x) SETTINGS max_threads = 1 FORMAT CSV\nc,3\n".encode(),
                 squeeze(f"INSERT INTO {table} FORMAT JSONEachRow\n".encode() + b'{"x":4,"s":"d"}'),
                 f"INSERT INTO {table} FORMAT RowBinary\n".encode() + data):
        headers = {"Content-Encoding": "gzip"} if body[:2] == b"\x1f\x8b" else {}
        answer = front.call(body=body, headers=headers)
        assert answer.status == 200, answer.text
    assert front.ask(f"SELECT groupArray(s) FROM (SELECT s FROM {table} WHERE s != 'v' ORDER BY x)") == "['A','b','c','d']"
    assert count(front, table) == 500004


def test_data_may_begin_in_the_url_and_go_on_in_the_body(front, table):
    assert front.call(f"INSERT INTO {table} VALUES (1, 'a'),", body=b"(2, 'b')").status == 200
    assert front.call(f"INSERT INTO {table} VALUES (3, 'a'),", body=squeeze(b"(4, 'b')"), headers={"Content-Encoding": "gzip"}).status == 200
    assert count(front, table) == 4


def test_compressed_and_chunked_bodies_are_inserted(front, table):
    rows = b"".join(b'{"x":%d,"s":"%d"}\n' % (n, n) for n in range(10000))
    members = squeeze(rows) + squeeze(rows)
    cut = lambda data: (data[at:at + 7777] for at in range(0, len(data), 7777))
    for body, encoding, expected in ((members, "gzip", 20000), (cut(rows), "identity", 30000), (cut(members), "gzip", 50000)):
        answer = front.call(f"INSERT INTO {table} FORMAT JSONEachRow", body=body, headers={"Content-Encoding": encoding},
                            insert_deduplication_token=str(expected))
        assert answer.status == 200, answer.text
        assert count(front, table) == expected


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "zstd", "br", "lz4", "xz", "snappy"])
def test_every_compression_of_insert_data_is_read(front, table, tmp_path, encoding):
    front.ask(f"INSERT INTO FUNCTION file('{tmp_path}/rows', 'CSV', 'x UInt64, s String', '{encoding}') SELECT number, 'z' FROM numbers(100)")
    body = (tmp_path / "rows").read_bytes()
    assert not body.startswith(b"0,")
    answer = front.call(f"INSERT INTO {table} FORMAT CSV", body=body, headers={"Content-Encoding": encoding})
    assert answer.status == 200, answer.text
    assert count(front, table) == 100


def test_an_encoding_that_cannot_be_read_is_501(front, table):
    assert front.call(body=b"SELECT 1", headers={"Content-Encoding": "zstd"}).status == 501
    unknown = front.call(f"INSERT INTO {table} FORMAT CSV", body=b"1,a", headers={"Content-Encoding": "x"})
    assert (unknown.status, unknown.code) == (501, 89)


@pytest.mark.parametrize("head, body", [
    ("Content-Length: 100\r\n", b"1,a\n2,b\n"),
    ("Transfer-Encoding: chunked\r\n", b"8\r\n1,a\n2,b\n\r\n"),
    ("Transfer-Encoding: chunked\r\n", b"8\r\n1,a\n2,b\n\r\n0\r\n"),
    ("Transfer-Encoding: chunked\r\n", b"20\r\n1,a\n2,b\n"),
    ("Transfer-Encoding: chunked\r\n", b"8\r\n1,a\n2,b\nxx0\r\n\r\n"),
    ("Content-Length: 100\r\nContent-Encoding: gzip\r\n", gzip.compress(b"1,a\n2,b\n")),
])
def test_a_cut_off_body_stores_nothing(front, table, head, body):
    for at_once in (True, False):
        for query, prefix in ((f"INSERT%20INTO%20{table}%20FORMAT%20CSV", b""), ("", b"")):
            connection = socket.create_connection(("127.0.0.1", front.port))
            connection.sendall(f"POST /?query={query} HTTP/1.1\r\nHost: x\r\n{head}\r\n".encode() + body)
            if not at_once:
                time.sleep(0.2)
            connection.shutdown(socket.SHUT_WR)
            assert b"200 OK" not in connection.recv(1000)
            connection.close()
    assert count(front, table) == 0
    assert os.listdir(front.folder / "bodies") == []


def test_a_cut_off_query_in_the_body_is_not_run(front, table):
    connection = socket.create_connection(("127.0.0.1", front.port))
    connection.sendall(f"POST / HTTP/1.1\r\nContent-Length: 200\r\n\r\nINSERT INTO {table} VALUES (1, 'a')".encode())
    connection.shutdown(socket.SHUT_WR)
    assert connection.recv(1000) == b""
    assert count(front, table) == 0


def test_too_many_partitions_is_252_and_stores_nothing(front):
    front.ask(f"CREATE TABLE {front.db}.p (x UInt64) ENGINE = MergeTree PARTITION BY x ORDER BY x")
    body = "".join(f"{n}\n" for n in range(150)).encode()
    answer = front.call(f"INSERT INTO {front.db}.p FORMAT CSV", body=body)
    assert (answer.status, answer.code) == (500, 252)
    assert count(front, f"{front.db}.p") == 0
    assert front.call(f"INSERT INTO {front.db}.p FORMAT CSV", body=body, max_partitions_per_insert_block="1000").status == 200
    assert count(front, f"{front.db}.p") == 150


def test_a_violated_constraint_is_469_and_stores_nothing(front):
    front.ask(f"CREATE TABLE {front.db}.c (x UInt64, CONSTRAINT small CHECK x < 10) ENGINE = MergeTree ORDER BY x")
    answer = front.call(f"INSERT INTO {front.db}.c FORMAT CSV", body=b"1\n11\n")
    assert (answer.status, answer.code, "VIOLATED_CONSTRAINT" in answer.text) == (500, 469, True)
    assert count(front, f"{front.db}.c") == 0


def test_a_failing_view_is_an_error_of_the_insert(front, table):
    front.ask(f"CREATE MATERIALIZED VIEW {front.db}.v ENGINE = MergeTree ORDER BY x AS SELECT x, throwIf(x = 13) AS y FROM {table}")
    answer = front.call(f"INSERT INTO {table} FORMAT CSV", body=b"13,a\n")
    assert (answer.status, answer.code, "FUNCTION_THROW_IF" in answer.text) == (500, 395, True)


def test_data_that_cannot_be_parsed_is_an_error_and_stores_nothing(front, table):
    for name, body, code in (("JSONEachRow", b'{"x":"a"}', 27), ("CSV", b"1,a\nx,b\n", 27), ("Nope", b"", 73)):
        answer = front.call(f"INSERT INTO {table} FORMAT {name}", body=body)
        assert answer.status >= 400 and answer.code == code, answer.text
    assert front.call(f"INSERT INTO {table} FORMAT ArrowStream", body=b"not arrow at all").status >= 400
    assert front.call("INSERT INTO nope FORMAT CSV", body=b"1").code == 60
    assert count(front, table) == 0


def test_a_token_is_inserted_once_and_survives_a_restart(own):
    front = own()
    front.ask(f"CREATE TABLE t {TABLE}")
    insert = lambda token: front.call("INSERT INTO t FORMAT CSV", body=b"1,a\n2,b\n", insert_deduplication_token=token)
    assert insert("a").status == insert("a").status == 200
    assert count(front, "t") == 2
    assert front.stop() == 0
    front.spawn()
    assert insert("a").status == 200
    assert count(front, "t") == 2
    assert insert("b").status == 200
    assert count(front, "t") == 4


def test_views_deduplicate_by_the_token_too(front, table):
    front.ask(f"CREATE TABLE {front.db}.sums (s String, n UInt64) ENGINE = MergeTree ORDER BY s SETTINGS non_replicated_deduplication_window = 100")
    front.ask(f"CREATE MATERIALIZED VIEW {front.db}.v TO {front.db}.sums AS SELECT s, count() AS n FROM {table} GROUP BY s")
    for _ in range(3):
        answer = front.call(f"INSERT INTO {table} FORMAT CSV", body=b"1,a\n2,a\n", insert_deduplication_token="t",
                            deduplicate_blocks_in_dependent_materialized_views="1")
        assert answer.status == 200, answer.text
    assert (count(front, table), front.ask(f"SELECT sum(n) FROM {front.db}.sums")) == (2, "2")


def test_concurrent_inserts_with_one_token_stay_exact(front, table):
    body = b"".join(b"%d,x\n" % n for n in range(5000))
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(
        front.call(f"INSERT INTO {table} FORMAT CSV", body=body, insert_deduplication_token="same"))) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {answer.status for answer in answers} == {200} and len(answers) == 20
    assert count(front, table) == 5000


def test_settings_reach_the_insert(front, table):
    rows = b"".join(b"%d,x\n" % n for n in range(1000))
    pinned = {"min_insert_block_size_rows": "0", "min_insert_block_size_bytes": "0", "input_format_parallel_parsing": "0"}
    assert front.call(f"INSERT INTO {table} FORMAT CSV", body=rows, max_insert_block_size="100", **pinned).status == 200
    parts = f"SELECT max(max_block_number) FROM system.parts WHERE database = '{front.db}' AND table = 't'"
    assert front.ask(parts) == "10"
    assert front.call(f"INSERT INTO {table} SETTINGS max_block_size = 500 FORMAT CSV", body=rows, **pinned).status == 200
    assert front.ask(parts) == "12"


def test_an_asynchronous_insert_that_waits_is_stored(front, table):
    answer = front.call(f"INSERT INTO {table} FORMAT CSV", body=b"1,a\n", async_insert="1", wait_for_async_insert="1")
    assert answer.status == 200 and count(front, table) == 1


def test_max_execution_time_stops_an_insert(front, table):
    front.ask(f"CREATE MATERIALIZED VIEW {front.db}.slow ENGINE = Null AS SELECT sleepEachRow(0.01) FROM {table}")
    answer = front.call(f"INSERT INTO {table} FORMAT CSV", body=b"".join(b"%d,x\n" % n for n in range(280)), max_execution_time="1")
    assert (answer.status, answer.code) == (408, 159)


def test_a_running_insert_is_seen_and_killed_by_its_id(front, table):
    front.ask(f"CREATE MATERIALIZED VIEW {front.db}.slow ENGINE = Null AS SELECT sleepEachRow(0.02) FROM {table}")
    body = b"".join(b"%d,x\n" % n for n in range(1000))
    pinned = {"max_insert_block_size": "10", "min_insert_block_size_rows": "0", "min_insert_block_size_bytes": "0",
              "input_format_parallel_parsing": "0"}
    thread, result = in_background(lambda: front.call(f"INSERT INTO {table} FORMAT CSV", body=body, query_id="insert", **pinned))
    seen = "SELECT count() FROM system.processes WHERE query_id = 'insert'"
    until(lambda: front.ask(seen) == "1")
    front.ask("KILL QUERY WHERE query_id = 'insert' SYNC")
    thread.join(10)
    assert result[0].code == 394 and front.ask(seen) == "0"


def test_no_body_file_is_left_behind(front, table):
    front.call(f"INSERT INTO {table} FORMAT CSV", body=b"1,a\n")
    front.call(f"INSERT INTO {table} FORMAT CSV", body=b"x")
    assert os.listdir(front.folder / "bodies") == []


def test_expect_100_continue_is_answered(front, table):
    connection = socket.create_connection(("127.0.0.1", front.port), timeout=10)
    connection.sendall(f"POST /?query=INSERT%20INTO%20{table}%20FORMAT%20CSV HTTP/1.1\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n".encode())
    assert connection.recv(1000).startswith(b"HTTP/1.1 100")
    connection.sendall(b"1,a\n")
    assert http.client.HTTPResponse(connection).fp.readline().startswith(b"HTTP/1.1 200")
    connection.close()
    assert count(front, table) == 1
