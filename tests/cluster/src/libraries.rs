//! The shared libraries of a program, as the dynamic linker of this machine finds them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::tools::run;

/// Libraries and the linker itself, under the paths by which they are asked for. Empty for a static program.
///
/// # Errors
/// When `ldd` fails for another reason than that the program is static, or a library is missing.
pub fn of(program: &Path) -> Result<BTreeSet<PathBuf>> {
    let output = Command::new("ldd").arg(program).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    if errors.contains("not a dynamic executable") || text.contains("statically linked") {
        return Ok(BTreeSet::new());
    }
    if !output.status.success() {
        // Says it once more, with all there is to know.
        run(Command::new("ldd").arg(program))?;
    }
    Ok(paths(&text))
}

/// What `ldd` printed: `libc.so.6 => /lib/... (0x...)` or `/lib64/ld-linux-x86-64.so.2 (0x...)`.
fn paths(text: &str) -> BTreeSet<PathBuf> {
    text.lines()
        .filter_map(|line| {
            let path = line.split_once("=>").map_or(line, |(_, path)| path).trim();
            let path = path.split(" (").next()?.trim();
            path.starts_with('/').then(|| PathBuf::from(path))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_and_the_linker_are_found_and_the_kernels_own_is_not() {
        let text = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f00)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f01)\n";
        let found: Vec<_> = paths(text).into_iter().collect();
        assert_eq!(
            found,
            [PathBuf::from("/lib/x86_64-linux-gnu/libc.so.6"), PathBuf::from("/lib64/ld-linux-x86-64.so.2")]
        );
    }
}
