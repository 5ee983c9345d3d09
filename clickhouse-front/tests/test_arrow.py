"""What the engine makes of Arrow types in an ArrowStream insert."""

import io
import uuid

import pyarrow as pa
import pytest

ID = uuid.UUID("0198c7f0-1234-7abc-8def-0123456789ab")
SEVERITY = "Enum8('unspecified' = 0, 'trace' = 1, 'debug' = 2, 'info' = 3)"
ONE_BLOCK = {"max_insert_block_size": "1000000", "min_insert_block_size_rows": "0", "min_insert_block_size_bytes": "0"}


def stream(*batches):
    out = io.BytesIO()
    with pa.ipc.new_stream(out, batches[0].schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return out.getvalue()


def batch(array):
    return pa.record_batch([array], names=["x"])


def dictionary(values, of=pa.int32()):
    return pa.DictionaryArray.from_arrays(pa.array(range(len(values)), of), pa.array(values))


def maps():
    return pa.array([[("k", "v"), ("k2", "")]], pa.map_(pa.utf8(), pa.utf8()))


@pytest.mark.parametrize("column, array, stored", [
    ("UUID", pa.array([ID.bytes], pa.binary(16)), str(ID)),
    ("UUID", pa.array([str(ID)]), str(ID)),
    ("DateTime64(9, 'UTC')", pa.array([1760000000123456789], pa.timestamp("ns")), "2025-10-09 08:53:20.123456789"),
    ("DateTime64(9, 'UTC')", pa.array([1760000000123456789], pa.timestamp("ns", "UTC")), "2025-10-09 08:53:20.123456789"),
    ("DateTime64(3, 'UTC')", pa.array([1760000000123], pa.timestamp("ms", "UTC")), "2025-10-09 08:53:20.123"),
    (SEVERITY, pa.array([3], pa.int8()), "info"),
    (SEVERITY, pa.array(["info"]), "info"),
    ("LowCardinality(String)", pa.array(["a"]), "a"),
    ("LowCardinality(String)", dictionary(["a"]), "a"),
    ("LowCardinality(String)", dictionary(["a"], pa.uint16()), "a"),
    ("LowCardinality(String)", dictionary([""]), ""),
    ("Array(String)", pa.array([["a", ""]], pa.list_(pa.utf8())), "['a','']"),
    ("Map(LowCardinality(String), String)", maps(), "{'k':'v','k2':''}"),
    ("Map(LowCardinality(String), String)",
     pa.MapArray.from_arrays(maps().offsets, maps().keys.dictionary_encode(), maps().items), "{'k':'v','k2':''}"),
    ("Bool", pa.array([True]), "true"),
    ("UInt64", pa.array([2**64 - 1], pa.uint64()), str(2**64 - 1)),
    # Wrong without an error: give timestamps and exact widths.
    ("DateTime64(9, 'UTC')", pa.array([1760000000], pa.int64()), "2025-10-09 08:53:20.000000000"),
    ("UInt8", pa.array([300], pa.int16()), "44"),
])
def test_an_arrow_value_becomes(front, column, array, stored):
    front.ask(f"CREATE TABLE {front.db}.t (x {column}) ENGINE = MergeTree ORDER BY tuple()")
    answer = front.call(f"INSERT INTO {front.db}.t FORMAT ArrowStream", body=stream(batch(array)))
    assert answer.status == 200, answer.text
    assert front.ask(f"SELECT x FROM {front.db}.t") == stored


@pytest.mark.parametrize("column, array, code", [
    (SEVERITY, pa.array(["nope"]), 691),
    ("LowCardinality(String)", dictionary(["a", "a"]), 117),
])
def test_an_arrow_value_is_refused(front, column, array, code):
    front.ask(f"CREATE TABLE {front.db}.t (x {column}) ENGINE = MergeTree ORDER BY tuple()")
    assert front.call(f"INSERT INTO {front.db}.t FORMAT ArrowStream", body=stream(batch(array))).code == code
    assert front.ask(f"SELECT count() FROM {front.db}.t") == "0"


def test_an_undefined_enum_number_is_stored_and_breaks_reads(front):
    front.ask(f"CREATE TABLE {front.db}.t (x {SEVERITY}) ENGINE = MergeTree ORDER BY tuple()")
    assert front.call(f"INSERT INTO {front.db}.t FORMAT ArrowStream", body=stream(batch(pa.array([99], pa.int8())))).status == 200
    assert front.call(f"SELECT x FROM {front.db}.t").code == 691


def test_a_record_batch_is_a_block(front):
    rows = 200_000
    numbers = pa.array(range(rows), pa.uint64())
    for pieces in (1, 4):
        table = f"{front.db}.t{pieces}"
        front.ask(f"CREATE TABLE {table} (x UInt64) ENGINE = MergeTree PARTITION BY x % 2 ORDER BY x")
        step = rows // pieces
        body = stream(*[batch(numbers.slice(at, step)) for at in range(0, rows, step)])
        assert front.call(f"INSERT INTO {table} (x) FORMAT ArrowStream", body=body, **ONE_BLOCK).status == 200
        # Numbered through all partitions of a table, and kept by merges.
        last = front.ask(f"SELECT max(max_block_number) FROM system.parts WHERE database = '{front.db}' AND table = 't{pieces}'")
        assert last == str(2 * pieces)
        assert front.ask(f"SELECT sum(x) FROM {table}") == str(rows * (rows - 1) // 2)


def test_a_column_that_the_stream_omits_gets_its_default(front):
    front.ask(f"CREATE TABLE {front.db}.t (x UInt64, y String DEFAULT 'd') ENGINE = MergeTree ORDER BY x")
    assert front.call(f"INSERT INTO {front.db}.t FORMAT ArrowStream", body=stream(batch(pa.array([1], pa.uint64())))).status == 200
    assert front.ask(f"SELECT * FROM {front.db}.t") == "1\td"


def test_a_truncated_stream_is_an_error(front):
    front.ask(f"CREATE TABLE {front.db}.t (x UInt64) ENGINE = MergeTree ORDER BY x")
    body = stream(batch(pa.array(range(1000), pa.uint64())))
    assert front.call(f"INSERT INTO {front.db}.t FORMAT ArrowStream", body=body[:3000]).status >= 400
    assert front.ask(f"SELECT count() FROM {front.db}.t") == "0"
