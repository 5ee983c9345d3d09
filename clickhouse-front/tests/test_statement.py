import pytest

from clickhouse_front.errors import QueryError, from_engine
from clickhouse_front.statement import parse, show_query_ids


@pytest.mark.parametrize("text, rewritten, data", [
    (b"INSERT INTO t FORMAT CSV\n1,2", b"INSERT INTO t  FROM INFILE 'f' COMPRESSION 'none'  FORMAT CSV", b"1,2"),
    (b"insert into t (a, `format`) values (1, 'x')",
     b"insert into t (a, `format`)  FROM INFILE 'f' COMPRESSION 'none'  FORMAT Values", b" (1, 'x')"),
    (b"INSERT INTO t SETTINGS async_insert = 1 FORMAT TSV \r\n7",
     b"INSERT INTO t  FROM INFILE 'f' COMPRESSION 'none' SETTINGS async_insert = 1  FORMAT TSV", b"7"),
    (b"/* FORMAT x */ INSERT INTO t -- VALUES\n FORMAT JSONEachRow {\"a\":\"FORMAT\"}",
     b"/* FORMAT x */ INSERT INTO t -- VALUES\n  FROM INFILE 'f' COMPRESSION 'none'  FORMAT JSONEachRow",
     b"{\"a\":\"FORMAT\"}"),
    (b"INSERT INTO FUNCTION file('FORMAT', 'CSV') FORMAT Native\n\x00'",
     b"INSERT INTO FUNCTION file('FORMAT', 'CSV')  FROM INFILE 'f' COMPRESSION 'none'  FORMAT Native", b"\x00'"),
])
def test_the_data_of_an_insert_is_told_from_its_query(text, rewritten, data):
    statement = parse(text)
    assert statement.from_file("f", "none", "Values") == rewritten
    assert text[statement.data_at:] == data


@pytest.mark.parametrize("text, reads, format_name", [
    (b"SELECT 'a FORMAT CSV; x' -- ; y", True, None),
    (b"SELECT 1 FORMAT JSON;", True, "JSON"),
    (b"(SELECT 1) UNION ALL SELECT 2", True, None),
    (b"WITH 1 AS x SELECT x", True, None),
    (b"WITH 1 AS x INSERT INTO t SELECT x", False, None),
    (b"INSERT INTO t SELECT 1", False, None),
    (b"DROP TABLE t", False, None),
])
def test_only_reads_are_taken_for_reads(text, reads, format_name):
    statement = parse(text)
    assert (statement.reads, statement.format, statement.takes_data()) == (reads, format_name, False)


@pytest.mark.parametrize("text, code", [
    (b"SELECT 1; SELECT 2", 62), (b"SELECT 1 INTO OUTFILE 'x'", 358), (b"INSERT INTO t FROM INFILE '/etc/passwd' FORMAT CSV", 78),
])
def test_what_the_server_refuses_over_http_is_refused(text, code):
    with pytest.raises(QueryError) as refused:
        parse(text)
    assert refused.value.code == code


def test_client_query_ids_stand_in_for_the_engines():
    assert show_query_ids(parse(b"SELECT 1"), ["a"]) == b"SELECT 1"
    shown = b"if(has(['it\\'s'], Settings['log_comment']), Settings['log_comment'], query_id)"
    assert show_query_ids(parse(b"KILL QUERY WHERE query_id = 'x'"), ["it's"]) == b"KILL QUERY WHERE " + shown + b" = 'x'"
    select = show_query_ids(parse(b"SELECT 'system.processes' FROM system.processes p"), ["it's"])
    assert select == b"SELECT 'system.processes' FROM (SELECT * REPLACE (" + shown + b" AS query_id) FROM system.processes) p"


def test_an_error_wrapped_by_the_engine_is_unwrapped():
    error = from_engine(RuntimeError("Code: 691. DB::Exception: Code: 691. DB::Exception: Unexpected value 99 in enum. "
                                     "(UNKNOWN_ELEMENT_OF_ENUM) (version 26.9.2.1). (UNKNOWN_ELEMENT_OF_ENUM)"))
    assert (error.code, error.name, error.message) == (691, "UNKNOWN_ELEMENT_OF_ENUM", "Unexpected value 99 in enum")
