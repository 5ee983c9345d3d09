"""ClickHouse's HTTP interface before the embedded engine of chdb-core."""
