//! Who holds the manifest, in words that let a process on the same machine see that the holder is dead: a
//! restart then takes over at once instead of waiting for the manifest to stand still.

use std::fs;

/// `<boot id>/<pid namespace>/<pid>/<start time>`: this process, in this life of this machine.
#[must_use]
pub(crate) fn myself() -> String {
    let pid = std::process::id();
    format!("{}/{pid}/{}", here(), start_time(pid).unwrap_or_default())
}

/// Whether the holder is seen to be dead. Not being able to tell is no.
#[must_use]
pub(crate) fn is_dead(holder: &str) -> bool {
    let Some(rest) = holder.strip_prefix(&here()).and_then(|rest| rest.strip_prefix('/')) else {
        return false;
    };
    let Some((pid, started)) = rest.split_once('/') else { return false };
    let Ok(pid) = pid.parse::<u32>() else { return false };
    !here().starts_with('/') && start_time(pid).is_none_or(|now| now != started)
}

fn here() -> String {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let namespace = fs::read_link("/proc/self/ns/pid")
        .map(|link| link.to_string_lossy().into_owned())
        .unwrap_or_default();
    format!("{}/{namespace}", boot.trim())
}

/// Field 22 of proc_pid_stat(5), counted behind the name, which may hold spaces.
fn start_time(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let after_name = stat.rsplit_once(')')?.1;
    let mut fields = after_name.split_whitespace();
    // A zombie has ended; only its parent hasn't looked yet.
    let state = fields.next()?;
    if state == "Z" || state == "X" {
        return None;
    }
    fields.nth(18).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_living_holder_is_not_dead_and_one_that_ended_is() {
        assert!(!is_dead(&myself()));
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let holder = format!("{}/{}/{}", here(), child.id(), start_time(child.id()).unwrap());
        assert!(!is_dead(&holder));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(is_dead(&holder));
    }

    #[test]
    fn a_holder_elsewhere_can_not_be_seen_to_be_dead() {
        assert!(!is_dead("another-boot/pid:[1]/1/1"));
        assert!(!is_dead(""));
    }
}
