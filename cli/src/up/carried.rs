//! The files of the embedded ClickHouse's front, carried by this program.

use sha2::{Digest, Sha256};

/// Name of the Python package.
pub const MODULE: &str = "clickhouse_front";

/// What pip installs.
pub const REQUIREMENTS: &str = include_str!("../../../clickhouse-front/requirements.txt");

macro_rules! files {
    ($($name:literal),* $(,)?) => {
        /// The package's files, name and content.
        pub const FILES: &[(&str, &str)] =
            &[$(($name, include_str!(concat!("../../../clickhouse-front/clickhouse_front/", $name)))),*];
    };
}
files!["__init__.py", "__main__.py", "body.py", "engine.py", "errors.py", "server.py", "statement.py"];

/// The pinned version of chdb-core, which is that of the engine.
pub fn chdb_version() -> &'static str {
    let pins = REQUIREMENTS.lines().filter_map(|line| line.strip_prefix("chdb-core=="));
    pins.filter_map(|pin| pin.split_whitespace().next()).next().unwrap_or("unknown")
}

/// Names the package by its content.
pub fn digest() -> String {
    let mut hash = Sha256::new();
    for (name, content) in FILES {
        hash.update(name);
        hash.update([0]);
        hash.update(content);
        hash.update([0]);
    }
    hash.finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_the_package_is_carried() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../clickhouse-front/clickhouse_front");
        let mut there: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.ends_with(".py"))
            .collect();
        there.sort();
        let carried: Vec<_> = FILES.iter().map(|(name, _)| *name).collect();
        assert_eq!(carried, there);
    }

    #[test]
    fn the_version_of_the_engine_is_pinned() {
        assert!(chdb_version().split('.').count() == 3, "{}", chdb_version());
    }
}
