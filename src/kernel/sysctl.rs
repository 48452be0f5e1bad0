//! Kernel settings of the network by dotted name.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{Read, Write},
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, openat},
    sys::stat::Mode,
};

use super::fault::{Cause, fault, found};
use crate::state::{Fault, FaultKind};

/// Settings that belong to one interface. The name of the interface may hold dots of its own.
const PER_INTERFACE: [&str; 3] = ["net.ipv4.conf.", "net.ipv4.neigh.", "net.ipv6.conf."];

/// The settings of one network namespace. Each has directories of its own under names that all share, and the kernel looks through
/// those of all containers at each path; so these are opened once.
pub struct Tree {
    ipv4: File,
    ipv6: Option<File>,
}

impl Tree {
    /// Those of the calling thread's namespace.
    pub fn open() -> Result<Tree, Fault> {
        let open =
            |path: &str| File::open(path).map_err(|error| fault(format_args!("opening {path}"), &error));
        let ipv6 = Path::new("/proc/sys/net/ipv6").exists().then(|| open("/proc/sys/net/ipv6"));
        Ok(Tree { ipv4: open("/proc/sys/net/ipv4")?, ipv6: ipv6.transpose()? })
    }

    /// The values of those settings that exist.
    pub fn observe<'a>(
        &self,
        names: impl Iterator<Item = &'a String>,
    ) -> Result<BTreeMap<String, String>, Fault> {
        let mut values = BTreeMap::new();
        for name in names {
            if let Some(value) = self.get(name)? {
                values.insert(name.clone(), value);
            }
        }
        Ok(values)
    }

    /// The value of a setting; `None` if this kernel, or an interface of that name, has no such setting.
    fn get(&self, name: &str) -> Result<Option<String>, Fault> {
        let read = |mut file: File| {
            let mut value = String::new();
            file.read_to_string(&mut value).map(|_| value).map_err(|error| error.errno())
        };
        match self.file(name, OFlag::O_RDONLY)?.and_then(read) {
            Ok(value) => Ok(Some(value.trim().replace('\t', " "))),
            Err(Errno::ENOENT) => Ok(None),
            Err(error) => Err(fault(format_args!("reading {name}"), &error)),
        }
    }

    /// Sets a setting.
    pub fn set(&self, name: &str, value: &str) -> Result<(), Fault> {
        let write = |mut file: File| file.write_all(value.as_bytes()).map_err(|error| error.errno());
        let written = self.file(name, OFlag::O_WRONLY)?.and_then(write);
        written.map_err(|error| fault(format_args!("setting {name} to {value}"), &error))
    }

    fn file(&self, name: &str, flags: OFlag) -> Result<Result<File, Errno>, Fault> {
        let path = path(name)?;
        let (directory, path) = match (path.strip_prefix("net/ipv4"), path.strip_prefix("net/ipv6")) {
            (Ok(path), _) => (Some(&self.ipv4), path),
            (_, Ok(path)) => (self.ipv6.as_ref(), path),
            (Err(_), Err(_)) => return Err(not_a_setting(name)),
        };
        let Some(directory) = directory else { return Ok(Err(Errno::ENOENT)) };
        Ok(openat(directory, path, flags | OFlag::O_CLOEXEC, Mode::empty()).map(File::from))
    }
}

/// Beneath `/proc/sys`.
fn path(name: &str) -> Result<PathBuf, Fault> {
    let segments: Vec<&str> = match PER_INTERFACE.iter().find_map(|p| Some((p, name.strip_prefix(p)?))) {
        Some((prefix, rest)) => {
            let (interface, key) = rest.rsplit_once('.').unwrap_or((rest, ""));
            prefix.trim_end_matches('.').split('.').chain([interface, key]).collect()
        }
        None => name.split('.').collect(),
    };
    let odd = |segment: &&str| segment.is_empty() || segment.contains('/') || *segment == "..";
    if segments.iter().any(odd) {
        return Err(not_a_setting(name));
    }
    Ok(segments.iter().collect())
}

fn not_a_setting(name: &str) -> Fault {
    found(FaultKind::Invalid, format!("`{name}` is not the name of a setting of the network"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_may_have_dots_in_its_name() {
        assert_eq!(
            path("net.ipv4.conf.eth0.100.forwarding").unwrap(),
            PathBuf::from("net/ipv4/conf/eth0.100/forwarding")
        );
        assert_eq!(path("net.ipv4.ip_forward").unwrap(), PathBuf::from("net/ipv4/ip_forward"));
    }

    #[test]
    fn a_name_does_not_lead_out_of_the_settings() {
        for name in ["net.ipv4.conf.../../x.y", "net..x", "", "net.ipv4.conf.eth0", "net/ipv4"] {
            assert!(path(name).is_err(), "{name}");
        }
    }
}
