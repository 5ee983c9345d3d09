-- repair error_rate
INSERT INTO `spillway`.`logs_error_rate_batches` (project_id, service, minute, retention_days, batch_id, records, errors, version)
SELECT project_id, service, toStartOfMinute(timestamp) AS minute, retention_days, batch_id, count() AS records, countIf(severity IN ('error', 'fatal')) AS errors, toUInt64(2) AS version
FROM `spillway`.`logs`
WHERE batch_id = 'b-1' AND toDate(timestamp) BETWEEN '2026-09-04' AND '2026-09-05'
GROUP BY project_id, service, minute, retention_days, batch_id;

-- fold error_rate
DROP TABLE IF EXISTS `spillway`.`logs_error_rate_batches_fold`;

-- fold error_rate
CREATE TABLE IF NOT EXISTS `spillway`.`logs_error_rate_batches_fold` (
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

-- fold error_rate
INSERT INTO `spillway`.`logs_error_rate_batches_fold` (project_id, service, minute, retention_days, batch_id, records, errors, version)
SELECT project_id, service, minute, retention_days, if(batch_id IN ('b-open'), batch_id, '') AS folded_batch, sum(records) AS folded_records, sum(errors) AS folded_errors, max(version) AS folded_version
FROM `spillway`.`logs_error_rate_batches` FINAL
WHERE toDate(minute) = '2026-05-27' AND retention_days = 30
GROUP BY project_id, service, minute, retention_days, folded_batch;

-- fold error_rate
ALTER TABLE `spillway`.`logs_error_rate_batches` REPLACE PARTITION ('2026-05-27', 30) FROM `spillway`.`logs_error_rate_batches_fold`;

-- fold error_rate
DROP TABLE IF EXISTS `spillway`.`logs_error_rate_batches_fold`;

-- repair http_latency
INSERT INTO `spillway`.`logs_http_latency_batches` (project_id, service, http_method, http_path, minute, retention_days, batch_id, requests, server_errors, duration_ms, version)
SELECT project_id, service, http_method, http_path, toStartOfMinute(timestamp) AS minute, retention_days, batch_id, count() AS requests, countIf(http_status_code >= 500) AS server_errors, quantilesBFloat16State(0.5, 0.9, 0.95, 0.99)(http_duration_ms) AS duration_ms, toUInt64(2) AS version
FROM `spillway`.`logs`
WHERE http_duration_ms > 0 AND batch_id = 'b-1' AND toDate(timestamp) BETWEEN '2026-09-04' AND '2026-09-05'
GROUP BY project_id, service, http_method, http_path, minute, retention_days, batch_id;

-- fold http_latency
DROP TABLE IF EXISTS `spillway`.`logs_http_latency_batches_fold`;

-- fold http_latency
CREATE TABLE IF NOT EXISTS `spillway`.`logs_http_latency_batches_fold` (
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

-- fold http_latency
INSERT INTO `spillway`.`logs_http_latency_batches_fold` (project_id, service, http_method, http_path, minute, retention_days, batch_id, requests, server_errors, duration_ms, version)
SELECT project_id, service, http_method, http_path, minute, retention_days, if(batch_id IN ('b-open'), batch_id, '') AS folded_batch, sum(requests) AS folded_requests, sum(server_errors) AS folded_server_errors, quantilesBFloat16MergeState(0.5, 0.9, 0.95, 0.99)(duration_ms) AS folded_duration_ms, max(version) AS folded_version
FROM `spillway`.`logs_http_latency_batches` FINAL
WHERE toDate(minute) = '2026-05-27' AND retention_days = 30
GROUP BY project_id, service, http_method, http_path, minute, retention_days, folded_batch;

-- fold http_latency
ALTER TABLE `spillway`.`logs_http_latency_batches` REPLACE PARTITION ('2026-05-27', 30) FROM `spillway`.`logs_http_latency_batches_fold`;

-- fold http_latency
DROP TABLE IF EXISTS `spillway`.`logs_http_latency_batches_fold`;

-- repair tenant_volume
INSERT INTO `spillway`.`logs_tenant_volume_batches` (project_id, minute, retention_days, batch_id, records, bytes, version)
SELECT project_id, toStartOfMinute(timestamp) AS minute, retention_days, batch_id, count() AS records, sum(length(message) + length(display_text) + length(body) + length(http_url) + length(error_message) + length(error_stack) + arraySum(arrayMap(t -> length(t), tags)) + arraySum(arrayMap((k, v) -> length(k) + length(v), mapKeys(attributes), mapValues(attributes))) + arraySum(arrayMap((k, v) -> length(k) + length(v), mapKeys(data), mapValues(data))) + arraySum(arrayMap((k, v) -> length(k) + length(v), mapKeys(resource_attributes), mapValues(resource_attributes)))) AS bytes, toUInt64(2) AS version
FROM `spillway`.`logs`
WHERE batch_id = 'b-1' AND toDate(timestamp) BETWEEN '2026-09-04' AND '2026-09-05'
GROUP BY project_id, minute, retention_days, batch_id;

-- fold tenant_volume
DROP TABLE IF EXISTS `spillway`.`logs_tenant_volume_batches_fold`;

-- fold tenant_volume
CREATE TABLE IF NOT EXISTS `spillway`.`logs_tenant_volume_batches_fold` (
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

-- fold tenant_volume
INSERT INTO `spillway`.`logs_tenant_volume_batches_fold` (project_id, minute, retention_days, batch_id, records, bytes, version)
SELECT project_id, minute, retention_days, if(batch_id IN ('b-open'), batch_id, '') AS folded_batch, sum(records) AS folded_records, sum(bytes) AS folded_bytes, max(version) AS folded_version
FROM `spillway`.`logs_tenant_volume_batches` FINAL
WHERE toDate(minute) = '2026-05-27' AND retention_days = 30
GROUP BY project_id, minute, retention_days, folded_batch;

-- fold tenant_volume
ALTER TABLE `spillway`.`logs_tenant_volume_batches` REPLACE PARTITION ('2026-05-27', 30) FROM `spillway`.`logs_tenant_volume_batches_fold`;

-- fold tenant_volume
DROP TABLE IF EXISTS `spillway`.`logs_tenant_volume_batches_fold`;

