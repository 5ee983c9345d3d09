//! A `clickhouse` program that was found on the PATH, run as a server on this machine alone.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

use super::child::Program;

/// The first `clickhouse` on the PATH.
pub fn find() -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|folder| folder.join("clickhouse")).find(|program| program.is_file())
}

/// Writes a configuration below `data` and says how to start the server with it.
///
/// # Errors
/// When the configuration can't be written.
pub fn prepare(program: PathBuf, data: &Path, port: u16) -> io::Result<Program> {
    let config = data.join("config.xml");
    fs::write(&config, configuration(data, port))?;
    Ok(Program {
        path: program,
        args: vec!["server".to_owned(), format!("--config-file={}", config.display())],
        env: vec![("CLICKHOUSE_WATCHDOG_ENABLE", "0".to_owned())],
    })
}

/// The HTTP interface alone, on the loopback interface, with everything below `data`.
fn configuration(data: &Path, port: u16) -> String {
    let escape =
        |path: &Path| path.to_string_lossy().replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let folder = |name: &str| escape(&data.join(name));
    format!(
        r#"<clickhouse>
  <logger><level>warning</level><console>1</console></logger>
  <listen_host>127.0.0.1</listen_host>
  <http_port>{port}</http_port>
  <path>{}/</path>
  <tmp_path>{}/</tmp_path>
  <user_files_path>{}/</user_files_path>
  <format_schema_path>{}/</format_schema_path>
  <users>
    <default>
      <password></password>
      <networks><ip>127.0.0.1</ip><ip>::1</ip></networks>
      <profile>default</profile>
      <quota>default</quota>
    </default>
  </users>
  <profiles><default/></profiles>
  <quotas><default/></quotas>
</clickhouse>
"#,
        folder("store"),
        folder("tmp"),
        folder("user_files"),
        folder("format_schemas"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_with_special_characters_stays_one_path() {
        let text = configuration(Path::new("/data/a&b<c>"), 8123);
        assert!(text.contains("<path>/data/a&amp;b&lt;c&gt;/store/</path>"), "{text}");
    }
}
