//! Who holds the manifest, in words that let a process on the same machine see that the holder is dead: a
//! restart then takes over at once instead of waiting for the manifest to stand still. With the pod's name before
//! it, for people.

use std::fs;

/// `<name>@<boot id>/<pid namespace>/<pid>/<start time>`: this process, in this life of this machine.
#[must_use]
pub(crate) fn myself() -> String {
    let pid = std::process::id();
    format!("{}@{}/{pid}/{}", host(), here(), start_time(pid).unwrap_or_default())
}

/// What people call it: the pod's name, or the machine's.
#[must_use]
pub(crate) fn name(holder: &str) -> &str {
    holder.split_once('@').map_or(holder, |(name, _)| name)
}

fn host() -> String {
    let given = ["POD_NAME", "HOSTNAME"].into_iter().filter_map(|name| std::env::var(name).ok());
    let mut given = given.filter(|name| !name.trim().is_empty());
    let name = given.next().or_else(|| fs::read_to_string("/proc/sys/kernel/hostname").ok());
    name.unwrap_or_default().trim().replace('@', "-")
}

/// Whether the holder is seen to be dead. Not being able to tell is no.
#[must_use]
pub(crate) fn is_dead(holder: &str) -> bool {
    // Written by an earlier version: without a name.
    let process = holder.split_once('@').map_or(holder, |(_, process)| process);
    let Some(rest) = process.strip_prefix(&here()).and_then(|rest| rest.strip_prefix('/')) else {
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
        assert!(is_dead(&format!("a-pod@{holder}")));
    }

    #[test]
    fn a_holder_is_called_by_its_pods_name() {
        assert_eq!(name("logs-syncer-5f-x@boot/pid:[1]/7/99"), "logs-syncer-5f-x");
        assert_eq!(name("boot/pid:[1]/7/99"), "boot/pid:[1]/7/99");
        assert!(!name(&myself()).contains('/'), "{}", myself());
    }

    #[test]
    fn a_holder_elsewhere_can_not_be_seen_to_be_dead() {
        assert!(!is_dead("another-boot/pid:[1]/1/1"));
        assert!(!is_dead(""));
    }
}
