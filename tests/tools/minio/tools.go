//go:build tools

// Pins the MinIO that the tests run against.
package tools

import _ "github.com/minio/minio"
