//! From the route tables of the VPC to what the router's kernel does with a packet.
//!
//! Each VPC route table is a kernel table that packets are looked up in by the link they come from.
//! A source/destination check is a rule that drops. The kernel follows every version of the model.

use std::{collections::BTreeMap, net::Ipv4Addr};

use ipnet::Ipv4Net;
use tokio::{process::Command, sync::watch};
use weavers::{
    sim::vpc::{RouteTarget, Vpc},
    state::{RouteState, TableId},
};

use crate::{internet, net, standin::Cloud};

/// Kernel tables of the VPC are numbered from here, above the kernel's own.
const KERNEL_TABLE_FIRST: u64 = 1000;

/// What the kernel should do, or was last told.
#[derive(Default)]
struct Wiring {
    /// By kernel table and destination: the rest of the `ip route` command.
    routes: BTreeMap<(u64, Ipv4Net), String>,
    /// The kernel table by the link that a packet comes from.
    lookups: BTreeMap<String, u64>,
    /// The nftables ruleset.
    rules: String,
}

/// The router's end of the link of the host with this address.
pub fn link_name(address: Ipv4Addr) -> String {
    format!("vh{:08x}", u32::from(address))
}

/// Follows the model for ever; says which version the kernel has.
pub async fn follow(cloud: Cloud, applied: watch::Sender<u64>) {
    let mut versions = cloud.follow();
    let mut current = Wiring::default();
    loop {
        let version = *versions.borrow_and_update();
        let wanted = cloud.with(|vpc, _| Wiring::of(vpc));
        match current.turn_into(&wanted).await {
            Ok(()) => {
                applied.send_replace(version);
            }
            Err(error) => eprintln!("lab: the router does not follow the VPC: {error:#}"),
        }
        current = wanted;
        if versions.changed().await.is_err() {
            return;
        }
    }
}

impl Wiring {
    fn of(vpc: &Vpc) -> Wiring {
        let mut wiring = Wiring { rules: rules(vpc), ..Wiring::default() };
        for table in vpc.tables() {
            wiring.add_table(vpc, table);
        }
        for interface in vpc.interfaces().values().filter(|interface| interface.attached.is_some()) {
            if let Some(table) = vpc.table_of(&interface.subnet) {
                wiring.lookups.insert(link_name(interface.address), kernel_table(table));
            }
        }
        wiring
    }

    /// The local route becomes a route to each host; what no route matches is dropped, as in a VPC.
    fn add_table(&mut self, vpc: &Vpc, table: &TableId) {
        let number = kernel_table(table);
        self.routes.insert((number, Ipv4Net::default()), "blackhole".to_owned());
        for route in vpc.routes(table) {
            let hop = match (&route.target, route.state) {
                (RouteTarget::Local, _) => continue,
                (RouteTarget::Interface(id), RouteState::Active) => vpc
                    .interfaces()
                    .get(id)
                    .map(|i| format!("via {} dev {} onlink", i.address, link_name(i.address))),
                (RouteTarget::Gateway(gateway), _) if gateway == internet::GATEWAY => Some(internet::hop()),
                (RouteTarget::Interface(_) | RouteTarget::Gateway(_), _) => None,
            };
            let hop = hop.unwrap_or_else(|| "blackhole".to_owned());
            self.routes.insert((number, route.destination), hop);
        }
        for interface in vpc.interfaces().values().filter(|interface| interface.attached.is_some()) {
            let host = Ipv4Net::from(interface.address);
            self.routes.insert((number, host), format!("dev {}", link_name(interface.address)));
        }
    }

    /// Adds before it deletes, so that no packet falls between two routes.
    async fn turn_into(&self, wanted: &Wiring) -> anyhow::Result<()> {
        let mut lines = Vec::new();
        for (&(table, destination), hop) in &wanted.routes {
            if self.routes.get(&(table, destination)) != Some(hop) {
                lines.push(match hop.as_str() {
                    "blackhole" => format!("route replace blackhole {destination} table {table}"),
                    hop => format!("route replace {destination} {hop} table {table}"),
                });
            }
        }
        for (link, table) in &wanted.lookups {
            if self.lookups.get(link) != Some(table) {
                lines.push(format!("rule add iif {link} lookup {table} priority 100"));
            }
        }
        for (link, table) in &self.lookups {
            if wanted.lookups.get(link) != Some(table) {
                lines.push(format!("rule del iif {link} lookup {table} priority 100"));
            }
        }
        for &(table, destination) in self.routes.keys() {
            if !wanted.routes.contains_key(&(table, destination)) {
                lines.push(format!("route del {destination} table {table}"));
            }
        }
        if self.rules != wanted.rules {
            net::feed(Command::new("nft").args(["-f", "-"]), &wanted.rules).await?;
        }
        if lines.is_empty() { Ok(()) } else { net::ip_batch(&lines).await }
    }
}

fn kernel_table(table: &TableId) -> u64 {
    let digits = table.0.trim_start_matches("rtb-");
    KERNEL_TABLE_FIRST + u64::from_str_radix(digits, 16).unwrap_or_default()
}

/// Nothing passes from or to an instance that is not up, nor a foreign address where the check is on.
fn rules(vpc: &Vpc) -> String {
    let mut links = Vec::new();
    let mut checks = String::new();
    for (id, interface) in vpc.interfaces().iter().filter(|(id, _)| vpc.is_up(id)) {
        let (link, address) = (link_name(interface.address), interface.address);
        if vpc.interfaces()[id].source_dest_check {
            checks += &format!("    iifname \"{link}\" ip saddr != {address} drop\n");
            checks += &format!("    oifname \"{link}\" ip daddr != {address} drop\n");
        }
        links.push(format!("\"{link}\""));
    }
    links.push(format!("\"{}\"", internet::LINK));
    let links = links.join(", ");
    let (forward, input) = match links.as_str() {
        "" => (String::new(), String::new()),
        links => (
            format!("    iifname {{ {links} }} oifname {{ {links} }} accept\n"),
            format!("    iifname {{ {links} }} accept\n"),
        ),
    };
    format!(
        "add table ip vpc\ndelete table ip vpc\ntable ip vpc {{\n  \
         chain forward {{\n    type filter hook forward priority 0; policy drop;\n{checks}{forward}  }}\n  \
         chain input {{\n    type filter hook input priority 0; policy drop;\n    iifname \"lo\" accept\n{input}  }}\n}}\n"
    )
}
