//! From a valid pipeline to everything that it needs. Pure: no client, no clock.
