import base64
import gzip
import http.client
import re
import socket
import time
import zlib

import pytest

from conftest import in_background, squeeze, until

SLOW = "SELECT count() FROM numbers(1000000000000) WHERE sipHash64(number) = 1"


def test_ping_and_replicas_status_answer_ok(front):
    assert front.call(method="GET", path="/ping").body == b"Ok.\n"
    assert front.call(method="GET", path="/replicas_status").body == b"Ok.\n"
    assert front.call(method="GET").body == b"Ok.\n"
    assert front.call(method="GET", path="/nope").status == 404


def test_a_query_comes_in_the_url_or_in_the_body_or_in_both(front):
    assert front.call("SELECT 1", method="GET").text == "1\n"
    assert front.call("SELECT 1").text == "1\n"
    assert front.call(body=b"SELECT 1").text == "1\n"
    assert front.call("SELECT 1,", body=b"2").text == "1\t2\n"
    assert front.call(body=squeeze(b"SELECT 1"), headers={"Content-Encoding": "gzip"}).text == "1\n"
    assert front.call(body=zlib.compress(b"SELECT 1"), headers={"Content-Encoding": "deflate"}).text == "1\n"


def test_bytes_that_are_not_utf8_pass_through(front):
    assert front.call(body=b"SELECT '\xff\x00' FORMAT RowBinary").body == b"\x02\xff\x00"
    assert front.call(body=b"SELECT nope_\xff").code == 62


def test_parameters_are_substituted_and_the_rest_are_settings(front):
    answer = front.call("SELECT {a:String}, {b:UInt8}, getSetting('max_threads')", param_a="it's", param_b="7", max_threads="1")
    assert answer.text == "it\\'s\t7\t1\n"
    assert front.call("SELECT 1", no_such_setting="1").code == 115


def test_settings_and_database_last_for_one_query(front):
    assert front.ask("SELECT currentDatabase(), getSetting('max_threads')", database=front.db, max_threads="1") == f"{front.db}\t1"
    for _ in range(20):
        assert front.ask("SELECT currentDatabase(), getSetting('max_threads') = 1") in ("default\tfalse", "default\t0")


def test_default_format_and_header_choose_the_format_and_the_query_wins(front):
    assert front.call("SELECT 1 AS a", default_format="JSONEachRow").text == '{"a":1}\n'
    assert front.call("SELECT 1 AS a", headers={"X-ClickHouse-Format": "JSONEachRow"}).text == '{"a":1}\n'
    answer = front.call("SELECT 1 AS a FORMAT CSV", default_format="JSONEachRow")
    assert (answer.text, answer.headers["X-ClickHouse-Format"]) == ("1\n", "CSV")


def test_answers_carry_the_servers_headers(front):
    answer = front.call("SELECT number FROM numbers(10)", query_id="mine")
    assert answer.headers["X-ClickHouse-Query-Id"] == "mine"
    assert answer.headers["X-ClickHouse-Server-Display-Name"]
    assert answer.headers["X-ClickHouse-Timezone"] == front.ask("SELECT timezone()")
    assert answer.summary["result_rows"] == "10" and answer.summary["read_rows"] == "10"
    assert int(answer.summary["elapsed_ns"]) > 0


def test_answers_are_gzipped_only_when_asked_for(front):
    asked = {"Accept-Encoding": "gzip"}
    plain = front.call("SELECT number FROM numbers(1000)", headers=asked)
    packed = front.call("SELECT number FROM numbers(1000)", headers=asked, enable_http_compression="1")
    assert "Content-Encoding" not in plain.headers and packed.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(packed.body) == plain.body


@pytest.mark.parametrize("query, status, code, name", [
    ("SELECT * FROM nope", 404, 60, "UNKNOWN_TABLE"),
    ("SELECT * FROM nope.t", 404, 81, "UNKNOWN_DATABASE"),
    ("SELEC 1", 400, 62, "SYNTAX_ERROR"),
    ("SELECT nope", 404, 47, "UNKNOWN_IDENTIFIER"),
    ("SELECT throwIf(1)", 500, 395, "FUNCTION_THROW_IF_VALUE_IS_NON_ZERO"),
    ("SELECT sum(sipHash64(number)) FROM numbers(100000000000) SETTINGS max_execution_time = 1", 408, 159, "TIMEOUT_EXCEEDED"),
    ("SELECT 1; SELECT 2", 400, 62, "SYNTAX_ERROR"),
])
def test_errors_have_the_servers_code_status_and_text(front, query, status, code, name):
    answer = front.call(query)
    assert (answer.status, answer.code) == (status, code)
    assert re.fullmatch(rf"Code: {code}\. DB::Exception: .*\({name}\) \(version [0-9.]+\)\n", answer.text, re.S), answer.text


def test_an_unknown_database_parameter_is_404_and_81(front):
    answer = front.call("SELECT 1", database="nope`")
    assert (answer.status, answer.code) == (404, 81)


def test_get_only_reads(front):
    assert front.call(f"CREATE TABLE {front.db}.t (x UInt8) ENGINE = Memory", method="GET").code == 164


def test_a_result_over_the_limit_is_an_error_not_memory(front):
    assert front.call("SELECT number FROM numbers(1000000)", max_result_bytes="1000").code == 396


def test_credentials_come_three_ways_and_wrong_ones_are_516(own, tmp_path):
    (tmp_path / "password").write_text("sécret\n")
    front = own("--user", "u", "--password-file", str(tmp_path / "password"))
    basic = lambda pair: {"Authorization": "Basic " + base64.b64encode(pair.encode()).decode()}
    keys = lambda key: {"X-ClickHouse-User": "u", "X-ClickHouse-Key": key}
    assert front.call("SELECT 1", headers=basic("u:sécret")).status == 200
    assert front.call("SELECT 1", user="u", password="sécret").status == 200
    for wrong in (front.call("SELECT 1"), front.call("SELECT 1", headers=basic("u:x")), front.call("SELECT 1", headers=keys("x")),
                  front.call("SELECT 1", user="u", password=""), front.call("SELECT 1", headers={"Authorization": "Basic ?"}),
                  front.call("SELECT 1", headers=basic("u:sécret"), user="u", password="sécret"),
                  front.call("INSERT INTO t FORMAT CSV", body=b"x" * 300000)):
        assert (wrong.status, wrong.code) == (403, 516)
    assert front.call(path="/ping", method="GET").status == 200


def test_key_headers_are_accepted(own, tmp_path):
    (tmp_path / "password").write_text("secret")
    front = own("--user", "u", "--password-file", str(tmp_path / "password"))
    assert front.call("SELECT 1", headers={"X-ClickHouse-User": "u", "X-ClickHouse-Key": "secret"}).status == 200


def test_a_running_query_is_seen_under_its_id_refused_twice_and_killed(front):
    thread, result = in_background(lambda: front.call(SLOW, query_id="slow one"))
    seen = "SELECT count() FROM system.processes WHERE query_id = 'slow one'"
    until(lambda: front.ask(seen) == "1")
    assert front.ask("SELECT count() FROM system.processes WHERE Settings['log_comment'] = 'slow one'") == "1"
    again = front.call("SELECT 1", query_id="slow one")
    assert (again.status, again.code) == (500, 216)
    assert "finished" in front.ask("KILL QUERY WHERE query_id = 'slow one' SYNC")
    thread.join(10)
    assert (result[0].code, front.ask(seen)) == (394, "0")
    assert front.call("SELECT 1", query_id="slow one").status == 200


def test_a_log_comment_of_the_clients_own_is_kept(front):
    assert front.ask("SELECT Settings['log_comment'] FROM system.processes", query_id="q", log_comment="note") == "note"


def test_a_read_ends_with_its_client(front):
    connection = http.client.HTTPConnection("127.0.0.1", front.port)
    connection.request("POST", "/?query_id=left", body=SLOW)
    seen = "SELECT count() FROM system.processes WHERE query_id = 'left'"
    until(lambda: front.ask(seen) == "1")
    connection.close()
    until(lambda: front.ask(seen) == "0")


def test_a_write_outlives_its_client(front):
    front.ask(f"CREATE TABLE {front.db}.t (x UInt64) ENGINE = MergeTree ORDER BY x")
    connection = http.client.HTTPConnection("127.0.0.1", front.port)
    connection.request("POST", "/?query_id=gone", body=f"INSERT INTO {front.db}.t SELECT number + sleepEachRow(0.1) FROM numbers(20)")
    until(lambda: front.ask("SELECT count() FROM system.processes WHERE query_id = 'gone'") == "1")
    connection.close()
    until(lambda: front.ask(f"SELECT count() FROM {front.db}.t") == "20")


def test_queries_run_side_by_side(front):
    thread, result = in_background(lambda: front.call("SELECT sum(sleepEachRow(0.5)) FROM numbers(6)", query_id="sleeper"))
    until(lambda: front.ask("SELECT count() FROM system.processes WHERE query_id = 'sleeper'") == "1")
    for _ in range(5):
        assert front.ask("SELECT 1") == "1"
    assert thread.is_alive()
    thread.join(10)
    assert result[0].status == 200


def test_one_connection_serves_many_requests(front):
    connection = http.client.HTTPConnection("127.0.0.1", front.port)
    for n in range(20):
        connection.request("POST", "/", body=f"SELECT {n}" if n % 2 else "SELEC 1")
        answer = connection.getresponse()
        assert answer.status == (200 if n % 2 else 400) and answer.read()
        assert answer.headers["Connection"] == "Keep-Alive"
    connection.close()


def test_too_many_queries_are_refused_with_202(own):
    front = own("--max-queries", "1")
    thread, result = in_background(lambda: front.call("SELECT sleepEachRow(0.5) FROM numbers(4)"))
    time.sleep(0.7)
    refused = front.call("SELECT 1")
    assert (refused.status, refused.code) == (500, 202)
    thread.join()
    assert result[0].status == 200


def test_too_many_connections_are_refused_with_503(own):
    front = own("--max-connections", "1")
    idle = socket.create_connection(("127.0.0.1", front.port))
    until(lambda: front.call(path="/ping", method="GET").status == 503)
    idle.close()
    until(lambda: front.call(path="/ping", method="GET").status == 200)


def test_a_client_that_says_nothing_is_cut_off(own):
    front = own("--client-timeout", "0.5")
    silent = socket.create_connection(("127.0.0.1", front.port), timeout=10)
    half = socket.create_connection(("127.0.0.1", front.port), timeout=10)
    half.sendall(b"POST / HTTP/1.1\r\nContent-Length: 100\r\n\r\nSELECT 1")
    assert silent.recv(10) == half.recv(10) == b""


def test_a_body_over_the_limit_is_413_announced_or_not(own):
    front = own("--max-body-bytes", "1000")
    front.ask("CREATE TABLE t (x String) ENGINE = Memory")
    for body in (b"x" * 1001, (b"x" * 600 for _ in range(2))):
        answer = front.call("INSERT INTO t FORMAT RawBLOB", body=body)
        assert (answer.status, answer.code) == (413, 229)
    bomb = front.call(body=squeeze(b"SELECT 1" + b" " * 100000), headers={"Content-Encoding": "gzip"})
    assert (bomb.status, bomb.code) == (413, 229)
    assert front.ask("SELECT count() FROM t") == "0"
