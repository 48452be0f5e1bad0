//! A subnet as the link that it is to its hosts: who asks for the address of another is answered by that one, and what is sent to its
//! hardware address gets there past the router. Elsewhere in the lab the router answers for everybody.
//!
//! Source/destination checks do not hold between them, nor does what the model says of their power: the router asks for both.

use std::net::Ipv4Addr;

use tokio::process::Command;

use crate::{fabric::link_name, net, standin::mac_of};

/// Joins the links of hosts of one subnet that have these addresses.
pub async fn join(addresses: &[Ipv4Addr]) -> anyhow::Result<()> {
    let chains: String = addresses.iter().map(|address| chain(*address, addresses)).collect();
    net::feed(Command::new("nft").args(["-f", "-"]), &format!("table netdev subnet {{\n{chains}}}\n")).await
}

/// What comes from this one and is for one of the others.
fn chain(from: Ipv4Addr, all: &[Ipv4Addr]) -> String {
    let link = link_name(from);
    let others = all.iter().filter(|to| **to != from);
    let rules: String = others
        .map(|to| {
            let (other, mac) = (link_name(*to), mac_of(*to));
            format!(
                "    arp operation request arp daddr ip {to} fwd to \"{other}\"\n    ether daddr {mac} fwd to \"{other}\"\n"
            )
        })
        .collect();
    format!("  chain {link} {{\n    type filter hook ingress device \"{link}\" priority 0;\n{rules}  }}\n")
}
