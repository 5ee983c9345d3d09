//! Leadership by a Kubernetes Lease, with the semantics of client-go.
