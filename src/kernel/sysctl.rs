//! Kernel settings by dotted name, in the network namespace of the calling thread.

use std::{collections::BTreeMap, fs, path::PathBuf};

use nix::errno::Errno;

use super::fault::{Cause, fault, found};
use crate::state::{Fault, FaultKind};

/// Settings that belong to one interface. The name of the interface may hold dots of its own.
const PER_INTERFACE: [&str; 3] = ["net.ipv4.conf.", "net.ipv4.neigh.", "net.ipv6.conf."];

/// Of what a setting of one interface is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// There everywhere.
    Ipv4,
    /// Many kernels are without.
    Ipv6,
}

/// The values of those settings that exist.
pub fn observe<'a>(names: impl Iterator<Item = &'a String>) -> Result<BTreeMap<String, String>, Fault> {
    let mut values = BTreeMap::new();
    for name in names {
        if let Some(value) = get(name)? {
            values.insert(name.clone(), value);
        }
    }
    Ok(values)
}

/// The value of a setting; `None` if this kernel, or an interface of that name, has no such setting.
pub fn get(name: &str) -> Result<Option<String>, Fault> {
    match fs::read_to_string(path(name)?) {
        Ok(value) => Ok(Some(value.trim().replace('\t', " "))),
        Err(error) if error.errno() == Errno::ENOENT => Ok(None),
        Err(error) => Err(fault(format_args!("reading {name}"), &error)),
    }
}

/// Sets a setting.
pub fn set(name: &str, value: &str) -> Result<(), Fault> {
    fs::write(path(name)?, value).map_err(|error| fault(format_args!("setting {name} to {value}"), &error))
}

/// Name of a setting of one interface.
pub fn of_interface(protocol: Protocol, interface: &str, key: &str) -> String {
    let protocol = match protocol {
        Protocol::Ipv4 => "ipv4",
        Protocol::Ipv6 => "ipv6",
    };
    format!("net.{protocol}.conf.{interface}.{key}")
}

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
        return Err(found(FaultKind::Invalid, format!("`{name}` is not the name of a kernel setting")));
    }
    Ok(["/proc/sys"].iter().chain(&segments).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_may_have_dots_in_its_name() {
        assert_eq!(
            path("net.ipv4.conf.eth0.100.forwarding").unwrap(),
            PathBuf::from("/proc/sys/net/ipv4/conf/eth0.100/forwarding")
        );
        assert_eq!(path("net.ipv4.ip_forward").unwrap(), PathBuf::from("/proc/sys/net/ipv4/ip_forward"));
    }

    #[test]
    fn a_name_does_not_lead_out_of_the_settings() {
        for name in ["net.ipv4.conf.../../x.y", "net..x", "", "net.ipv4.conf.eth0", "net/ipv4"] {
            assert!(path(name).is_err(), "{name}");
        }
    }
}
