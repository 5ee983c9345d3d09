//! The crash matrix.

fn main() {}
