-- create the database
CREATE DATABASE IF NOT EXISTS `spillway`;

-- create the table of migrations
CREATE TABLE IF NOT EXISTS `spillway`.`logs_spillway_migrations` (
    `number` UInt16,
    `name` String,
    `applied_at` DateTime64(3, 'UTC'),
    `applied_by` String
)
ENGINE = MergeTree
ORDER BY (number);

-- create the table of log records
CREATE TABLE IF NOT EXISTS `spillway`.`logs` (
    `id` UUID COMMENT 'UUIDv7 of the record, given at admission unless the producer sent one.' CODEC(ZSTD(1)),
    `project_id` LowCardinality(String) COMMENT 'Project the record belongs to; decides its tenant.' CODEC(ZSTD(1)),
    `service` LowCardinality(String) COMMENT 'Service that logged it.' CODEC(ZSTD(1)),
    `timestamp` DateTime64(9, 'UTC') COMMENT 'When it happened, as the producer says.' CODEC(Delta(8), ZSTD(1)),
    `observed_timestamp` DateTime64(9, 'UTC') COMMENT 'When a collector saw it (OpenTelemetry); 1970 when none did.' CODEC(Delta(8), ZSTD(1)),
    `received_at` DateTime64(3, 'UTC') COMMENT 'When Spillway admitted it.' CODEC(Delta(8), ZSTD(1)),
    `severity` Enum8('unspecified' = 0, 'trace' = 1, 'debug' = 2, 'info' = 3, 'warn' = 4, 'error' = 5, 'fatal' = 6) COMMENT 'Severity; what no level name or number maps to is unspecified.' CODEC(ZSTD(1)),
    `severity_number` UInt8 COMMENT 'OpenTelemetry severity number, 1 to 24; 0 when not given.' CODEC(ZSTD(1)),
    `severity_text` LowCardinality(String) COMMENT 'Level as the producer wrote it.' CODEC(ZSTD(1)),
    `environment` LowCardinality(String) COMMENT 'Deployment environment.' CODEC(ZSTD(1)),
    `host` LowCardinality(String) COMMENT 'Host name.' CODEC(ZSTD(1)),
    `instance` LowCardinality(String) COMMENT 'Instance of the service.' CODEC(ZSTD(1)),
    `message` String COMMENT 'The message.' CODEC(ZSTD(1)),
    `display_text` String COMMENT 'The message as it is to be shown, where that differs.' CODEC(ZSTD(1)),
    `body` String COMMENT 'Structured body as JSON text.' CODEC(ZSTD(1)),
    `trace_id` String COMMENT 'Trace.' CODEC(ZSTD(1)),
    `span_id` String COMMENT 'Span.' CODEC(ZSTD(1)),
    `parent_span_id` String COMMENT 'Parent span.' CODEC(ZSTD(1)),
    `subtrace_id` String COMMENT 'Part of a trace (Aires).' CODEC(ZSTD(1)),
    `session_id` String COMMENT 'Session of a user.' CODEC(ZSTD(1)),
    `user_id` String COMMENT 'User.' CODEC(ZSTD(1)),
    `agent_id` String COMMENT 'Agent (Aires).' CODEC(ZSTD(1)),
    `source_file` LowCardinality(String) COMMENT 'Source file that logged it.' CODEC(ZSTD(1)),
    `source_line` UInt32 COMMENT 'Line in the source file.' CODEC(ZSTD(1)),
    `source_function` LowCardinality(String) COMMENT 'Function that logged it.' CODEC(ZSTD(1)),
    `category` LowCardinality(String) COMMENT 'Category (Aires).' CODEC(ZSTD(1)),
    `kind` LowCardinality(String) COMMENT 'Kind of event (Aires).' CODEC(ZSTD(1)),
    `tags` Array(String) COMMENT 'Tags.' CODEC(ZSTD(1)),
    `attributes` Map(LowCardinality(String), String) COMMENT 'Attributes of the record; nested values as JSON text.' CODEC(ZSTD(1)),
    `data` Map(LowCardinality(String), String) COMMENT 'Structured data of the event (Aires).' CODEC(ZSTD(1)),
    `related_type` Array(String) COMMENT 'Types of related objects; the four related_ arrays have one length.' CODEC(ZSTD(1)),
    `related_id` Array(String) COMMENT 'Ids of related objects.' CODEC(ZSTD(1)),
    `related_label` Array(String) COMMENT 'Labels of related objects.' CODEC(ZSTD(1)),
    `related_url` Array(String) COMMENT 'Addresses of related objects.' CODEC(ZSTD(1)),
    `http_method` LowCardinality(String) COMMENT 'HTTP method.' CODEC(ZSTD(1)),
    `http_url` String COMMENT 'HTTP URL.' CODEC(ZSTD(1)),
    `http_path` String COMMENT 'HTTP path.' CODEC(ZSTD(1)),
    `http_status_code` UInt16 COMMENT 'HTTP status.' CODEC(ZSTD(1)),
    `http_request_size` UInt64 COMMENT 'HTTP request body in bytes.' CODEC(ZSTD(1)),
    `http_response_size` UInt64 COMMENT 'HTTP response body in bytes.' CODEC(ZSTD(1)),
    `http_duration_ms` Float64 COMMENT 'HTTP duration in milliseconds.' CODEC(ZSTD(1)),
    `http_user_agent` String COMMENT 'HTTP user agent.' CODEC(ZSTD(1)),
    `http_remote_addr` String COMMENT 'Address of the HTTP client.' CODEC(ZSTD(1)),
    `metric_name` LowCardinality(String) COMMENT 'Name of the metric the event carries (Aires).' CODEC(ZSTD(1)),
    `metric_value` Float64 COMMENT 'Value of the metric.' CODEC(ZSTD(1)),
    `metric_unit` LowCardinality(String) COMMENT 'Unit of the metric.' CODEC(ZSTD(1)),
    `metric_type` LowCardinality(String) COMMENT 'Type of the metric.' CODEC(ZSTD(1)),
    `error_type` LowCardinality(String) COMMENT 'Type of the error.' CODEC(ZSTD(1)),
    `error_message` String COMMENT 'Message of the error.' CODEC(ZSTD(1)),
    `error_stack` String COMMENT 'Stack trace.' CODEC(ZSTD(1)),
    `error_handled` Bool COMMENT 'Whether the program handled the error.' CODEC(ZSTD(1)),
    `resource_cluster` LowCardinality(String) COMMENT 'Kubernetes cluster.' CODEC(ZSTD(1)),
    `resource_namespace` LowCardinality(String) COMMENT 'Kubernetes namespace.' CODEC(ZSTD(1)),
    `resource_pod` LowCardinality(String) COMMENT 'Kubernetes pod.' CODEC(ZSTD(1)),
    `resource_container` LowCardinality(String) COMMENT 'Container.' CODEC(ZSTD(1)),
    `resource_node` LowCardinality(String) COMMENT 'Kubernetes node.' CODEC(ZSTD(1)),
    `resource_attributes` Map(LowCardinality(String), String) COMMENT 'Attributes of the resource (OpenTelemetry).' CODEC(ZSTD(1)),
    `scope_name` LowCardinality(String) COMMENT 'Instrumentation scope (OpenTelemetry).' CODEC(ZSTD(1)),
    `scope_version` LowCardinality(String) COMMENT 'Version of the scope.' CODEC(ZSTD(1)),
    `scope_attributes` Map(LowCardinality(String), String) COMMENT 'Attributes of the scope.' CODEC(ZSTD(1)),
    `flags` UInt32 COMMENT 'Trace flags (OpenTelemetry).' CODEC(ZSTD(1)),
    `sdk_name` LowCardinality(String) COMMENT 'SDK that sent it.' CODEC(ZSTD(1)),
    `sdk_version` LowCardinality(String) COMMENT 'Version of the SDK.' CODEC(ZSTD(1)),
    `sdk_language` LowCardinality(String) COMMENT 'Language of the SDK.' CODEC(ZSTD(1)),
    `retention_days` UInt16 COMMENT 'Days the row is kept, from its tenant at admission; part of the partition key.' CODEC(ZSTD(1)),
    `request_id` String COMMENT 'Request that brought it: X-Request-Id, or one given at admission.' CODEC(ZSTD(1)),
    `batch_id` LowCardinality(String) COMMENT 'Batch that loaded the row; with batch_row it names the row.' CODEC(ZSTD(1)),
    `batch_row` UInt32 COMMENT 'Number of the row in its batch, from 0.' CODEC(Delta(4), ZSTD(1)),
    INDEX idx_trace_id trace_id TYPE bloom_filter(0.01) GRANULARITY 4,
    INDEX idx_span_id span_id TYPE bloom_filter(0.01) GRANULARITY 4,
    INDEX idx_session_id session_id TYPE bloom_filter(0.01) GRANULARITY 4,
    INDEX idx_batch_id batch_id TYPE bloom_filter(0.001) GRANULARITY 1,
    INDEX idx_message_text message TYPE text(tokenizer = 'splitByNonAlpha')
)
ENGINE = MergeTree
PARTITION BY (toDate(timestamp), retention_days)
ORDER BY (project_id, service, severity, timestamp)
TTL toDate(timestamp) + toIntervalDay(retention_days)
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 30000, fsync_after_insert = 1, fsync_part_directory = 1;

-- create the target of error_rate
CREATE TABLE IF NOT EXISTS `spillway`.`logs_error_rate_batches` (
    `project_id` LowCardinality(String),
    `service` LowCardinality(String),
    `minute` DateTime('UTC'),
    `retention_days` UInt16,
    `batch_id` LowCardinality(String),
    `records` UInt64,
    `errors` UInt64,
    `version` UInt64
)
ENGINE = ReplacingMergeTree(version)
PARTITION BY (toDate(minute), retention_days)
ORDER BY (project_id, service, minute, retention_days, batch_id)
TTL toDate(minute) + toIntervalDay(retention_days)
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 30000, fsync_after_insert = 1, fsync_part_directory = 1;

-- create the materialized view of error_rate
CREATE MATERIALIZED VIEW IF NOT EXISTS `spillway`.`logs_error_rate_feed` TO `spillway`.`logs_error_rate_batches` AS
SELECT project_id, service, toStartOfMinute(timestamp) AS minute, retention_days, batch_id, count() AS records, countIf(severity IN ('error', 'fatal')) AS errors, toUInt64(0) AS version
FROM `spillway`.`logs`
GROUP BY project_id, service, minute, retention_days, batch_id;

-- create the view error_rate
CREATE OR REPLACE VIEW `spillway`.`logs_error_rate` AS
SELECT project_id, service, minute, sum(batch.records) AS records, sum(batch.errors) AS errors, sum(batch.errors) / sum(batch.records) AS error_rate
FROM `spillway`.`logs_error_rate_batches` AS batch FINAL
GROUP BY project_id, service, minute;

-- create the target of http_latency
CREATE TABLE IF NOT EXISTS `spillway`.`logs_http_latency_batches` (
    `project_id` LowCardinality(String),
    `service` LowCardinality(String),
    `http_method` LowCardinality(String),
    `http_path` String,
    `minute` DateTime('UTC'),
    `retention_days` UInt16,
    `batch_id` LowCardinality(String),
    `requests` UInt64,
    `server_errors` UInt64,
    `duration_ms` AggregateFunction(quantilesBFloat16(0.5, 0.9, 0.95, 0.99), Float64),
    `version` UInt64
)
ENGINE = ReplacingMergeTree(version)
PARTITION BY (toDate(minute), retention_days)
ORDER BY (project_id, service, http_method, http_path, minute, retention_days, batch_id)
TTL toDate(minute) + toIntervalDay(retention_days)
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 30000, fsync_after_insert = 1, fsync_part_directory = 1;

-- create the materialized view of http_latency
CREATE MATERIALIZED VIEW IF NOT EXISTS `spillway`.`logs_http_latency_feed` TO `spillway`.`logs_http_latency_batches` AS
SELECT project_id, service, http_method, http_path, toStartOfMinute(timestamp) AS minute, retention_days, batch_id, count() AS requests, countIf(http_status_code >= 500) AS server_errors, quantilesBFloat16State(0.5, 0.9, 0.95, 0.99)(http_duration_ms) AS duration_ms, toUInt64(0) AS version
FROM `spillway`.`logs`
WHERE http_duration_ms > 0
GROUP BY project_id, service, http_method, http_path, minute, retention_days, batch_id;

-- create the view http_latency
CREATE OR REPLACE VIEW `spillway`.`logs_http_latency` AS
SELECT project_id, service, http_method, http_path, minute, sum(batch.requests) AS requests, sum(batch.server_errors) AS server_errors, quantilesBFloat16Merge(0.5, 0.9, 0.95, 0.99)(batch.duration_ms)[1] AS p50_ms, quantilesBFloat16Merge(0.5, 0.9, 0.95, 0.99)(batch.duration_ms)[2] AS p90_ms, quantilesBFloat16Merge(0.5, 0.9, 0.95, 0.99)(batch.duration_ms)[3] AS p95_ms, quantilesBFloat16Merge(0.5, 0.9, 0.95, 0.99)(batch.duration_ms)[4] AS p99_ms
FROM `spillway`.`logs_http_latency_batches` AS batch FINAL
GROUP BY project_id, service, http_method, http_path, minute;

-- create the target of tenant_volume
CREATE TABLE IF NOT EXISTS `spillway`.`logs_tenant_volume_batches` (
    `project_id` LowCardinality(String),
    `minute` DateTime('UTC'),
    `retention_days` UInt16,
    `batch_id` LowCardinality(String),
    `records` UInt64,
    `bytes` UInt64,
    `version` UInt64
)
ENGINE = ReplacingMergeTree(version)
PARTITION BY (toDate(minute), retention_days)
ORDER BY (project_id, minute, retention_days, batch_id)
TTL toDate(minute) + toIntervalDay(retention_days)
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 30000, fsync_after_insert = 1, fsync_part_directory = 1;

-- create the materialized view of tenant_volume
CREATE MATERIALIZED VIEW IF NOT EXISTS `spillway`.`logs_tenant_volume_feed` TO `spillway`.`logs_tenant_volume_batches` AS
SELECT project_id, toStartOfMinute(timestamp) AS minute, retention_days, batch_id, count() AS records, sum(length(message) + length(display_text) + length(body) + length(http_url) + length(error_message) + length(error_stack) + arraySum(arrayMap(t -> length(t), tags)) + arraySum(arrayMap((k, v) -> length(k) + length(v), mapKeys(attributes), mapValues(attributes))) + arraySum(arrayMap((k, v) -> length(k) + length(v), mapKeys(data), mapValues(data))) + arraySum(arrayMap((k, v) -> length(k) + length(v), mapKeys(resource_attributes), mapValues(resource_attributes)))) AS bytes, toUInt64(0) AS version
FROM `spillway`.`logs`
GROUP BY project_id, minute, retention_days, batch_id;

-- create the view tenant_volume
CREATE OR REPLACE VIEW `spillway`.`logs_tenant_volume` AS
SELECT project_id, minute, sum(batch.records) AS records, sum(batch.bytes) AS bytes
FROM `spillway`.`logs_tenant_volume_batches` AS batch FINAL
GROUP BY project_id, minute;

-- record migration 1
INSERT INTO `spillway`.`logs_spillway_migrations` (number, name, applied_at, applied_by) SELECT 1, 'table of log records, views error_rate, http_latency, tenant_volume', now64(3, 'UTC'), 'spillway 0.1.0';

