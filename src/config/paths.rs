//! `[paths]`: what packets to hosts elsewhere take, and what that needs of the rest of the file.

use std::net::{Ipv4Addr, SocketAddrV4};

use ipnet::Ipv4Net;

use super::{
    Mesh, Paths,
    reader::Reader,
    value::{self, Wrong},
};
use crate::state::TUNNEL_PORT;

const TUNNEL: &str = "paths.tunnel";
const ENDPOINT: &str = "paths.endpoint";
const PORT: &str = "paths.port";
const ENCRYPT: &str = "paths.encrypt";

/// Reads the section, and holds it to what the rest says.
pub(super) fn read(reader: &mut Reader, mesh: &Mesh, range: Ipv4Net) -> Paths {
    let words = [("off", false), ("on", true)];
    let tunnel = reader.read(TUNNEL, |text| value::choice(&words, text)).is_some_and(|found| found.value);
    let port = reader.number(PORT, 1..=u32::from(u16::MAX));
    let port = port.and_then(|found| found.value.try_into().ok()).unwrap_or(TUNNEL_PORT);
    let endpoint = endpoint(reader, range);
    let encrypt = [("off", false), ("all", true)];
    let encrypt = reader.read(ENCRYPT, |text| value::choice(&encrypt, text)).is_some_and(|found| found.value);
    if encrypt && !tunnel {
        let wrong = Wrong::new("without a tunnel nothing can be encrypted");
        reader.problem_at_key(ENCRYPT, wrong.hint("set paths.tunnel = \"on\", or leave it out"));
    }
    if tunnel {
        hold(reader, mesh);
    } else {
        let is_said = [(PORT, port != TUNNEL_PORT), (ENDPOINT, endpoint.is_some())];
        for (key, _) in is_said.into_iter().filter(|(_, is_said)| *is_said) {
            reader.warning_at_key(key, "no effect with paths.tunnel = \"off\"");
        }
    }
    let endpoint = endpoint.map(|(address, said)| SocketAddrV4::new(address, said.unwrap_or(port)));
    Paths { tunnel, port, endpoint, encrypt }
}

/// Keys are told over the mesh, and believed because it is.
fn hold(reader: &mut Reader, mesh: &Mesh) {
    if mesh.weave_peers {
        let wrong = Wrong::new("a Weave Net router has no key, so no tunnel leads to it");
        reader.problem_at_key(TUNNEL, wrong.hint("leave it out, or set mesh.weave_peers = false"));
    }
    if mesh.password_file.is_none() {
        let wrong = Wrong::new("without a password of the mesh anybody could have a key of his own believed");
        let hint = "set mesh.password_file to a file with the same password on every host, or leave it out";
        reader.problem_at_key(TUNNEL, wrong.hint(hint));
    }
}

/// What is sent to an address of the range would go into the tunnel again.
fn endpoint(reader: &mut Reader, range: Ipv4Net) -> Option<(Ipv4Addr, Option<u16>)> {
    let found = reader.read(ENDPOINT, value::endpoint_of_tunnel)?;
    if range.contains(&found.value.0) {
        let wrong = Wrong::new(format!("{} is inside ipam.range {range}", found.value.0));
        let hint = "name the address of this host by which hosts elsewhere reach it";
        reader.problem(ENDPOINT, found.place, wrong.hint(hint));
    }
    Some(found.value)
}
