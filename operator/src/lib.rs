//! Makes `LogPipeline`s so: dereference, validate, plan, apply, status. Only the first and the last two hold a client.

pub mod plan;
