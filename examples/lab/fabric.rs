//! From the route tables of the VPC to what the router's kernel does with a packet.
//!
//! Each VPC route table is a kernel table that packets are looked up in by the link they come from.
//! A source/destination check is a rule that drops. The kernel follows every version of the model.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use tokio::{process::Command, sync::watch};
use weavers::{
    sim::vpc::{RouteTarget, RouteView, Vpc},
    state::{RouteState, TableId},
};

use crate::{internet, net, site, standin::Cloud};

/// Kernel tables of the VPC are numbered from here, above the kernel's own.
const KERNEL_TABLE_FIRST: u64 = 1000;

/// What the kernel should do, or was last told.
#[derive(Default)]
struct Wiring {
    /// By kernel table and destination: the rest of the `ip route` command.
    routes: BTreeMap<(u64, IpNet), String>,
    /// The kernel table by the link that a packet comes from.
    lookups: BTreeMap<String, u64>,
    /// The same of IPv6, once there is a route of it.
    lookups6: BTreeMap<String, u64>,
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
                let (link, number) = (link_name(interface.address), kernel_table(table));
                if !vpc.routes6(table).is_empty() {
                    wiring.lookups6.insert(link.clone(), number);
                }
                wiring.lookups.insert(link, number);
            }
        }
        wiring
    }

    /// The local route becomes a route to each host; what no route matches is dropped, as in a VPC.
    fn add_table(&mut self, vpc: &Vpc, table: &TableId) {
        let number = kernel_table(table);
        self.routes.insert((number, Ipv4Net::default().into()), "blackhole".to_owned());
        for route in vpc.routes(table) {
            let hop = match (&route.target, route.state) {
                (RouteTarget::Local, _) => continue,
                (RouteTarget::Interface(id), RouteState::Active) => vpc
                    .interfaces()
                    .get(id)
                    .map(|i| format!("via {} dev {} onlink", i.address, link_name(i.address))),
                (RouteTarget::Gateway(gateway), _) if gateway == internet::GATEWAY => Some(internet::hop()),
                (RouteTarget::Gateway(gateway), _) => {
                    let site = site::ALL.iter().find(|site| site.gateway == gateway);
                    site.map(|site| format!("dev {}", site.link))
                }
                (RouteTarget::Interface(_), _) => None,
            };
            let hop = hop.unwrap_or_else(|| "blackhole".to_owned());
            self.routes.insert((number, route.destination.into()), hop);
        }
        for interface in vpc.interfaces().values().filter(|interface| interface.attached.is_some()) {
            let host = Ipv4Net::from(interface.address);
            self.routes.insert((number, host.into()), format!("dev {}", link_name(interface.address)));
        }
        let routes6 = vpc.routes6(table);
        if !routes6.is_empty() {
            self.add_routes6(vpc, number, &routes6);
        }
    }

    fn add_routes6(&mut self, vpc: &Vpc, number: u64, routes: &[RouteView<Ipv6Net>]) {
        self.routes.insert((number, Ipv6Net::default().into()), "blackhole".to_owned());
        for route in routes {
            let hop = match (&route.target, route.state) {
                (RouteTarget::Interface(id), RouteState::Active) => vpc.interfaces().get(id).map(|i| {
                    let [link_local, _] = addresses6(i.address);
                    format!("via {link_local} dev {}", link_name(i.address))
                }),
                (RouteTarget::Local | RouteTarget::Gateway(_) | RouteTarget::Interface(_), _) => None,
            };
            let hop = hop.unwrap_or_else(|| "blackhole".to_owned());
            self.routes.insert((number, route.destination.into()), hop);
        }
        for interface in vpc.interfaces().values().filter(|interface| interface.attached.is_some()) {
            let [_, host] = addresses6(interface.address);
            self.routes.insert(
                (number, IpNet::from(IpAddr::V6(host))),
                format!("dev {}", link_name(interface.address)),
            );
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
        lines.extend(lookups(&self.lookups, &wanted.lookups));
        let lines6: Vec<String> = lookups(&self.lookups6, &wanted.lookups6).collect();
        for &(table, destination) in self.routes.keys() {
            if !wanted.routes.contains_key(&(table, destination)) {
                lines.push(format!("route del {destination} table {table}"));
            }
        }
        if self.rules != wanted.rules {
            net::feed(Command::new("nft").args(["-f", "-"]), &wanted.rules).await?;
        }
        if !lines.is_empty() {
            net::ip_batch(&lines).await?;
        }
        if lines6.is_empty() { Ok(()) } else { net::ip6_batch(&lines6).await }
    }
}

/// From one set of lookups to another, in the words of `ip`.
fn lookups(now: &BTreeMap<String, u64>, wanted: &BTreeMap<String, u64>) -> impl Iterator<Item = String> {
    let of = |verb: &str, (link, table): (&String, &u64)| {
        format!("rule {verb} iif {link} lookup {table} priority 100")
    };
    let added =
        wanted.iter().filter(|(link, table)| now.get(*link) != Some(table)).map(move |one| of("add", one));
    let removed =
        now.iter().filter(|(link, table)| wanted.get(*link) != Some(table)).map(move |one| of("del", one));
    added.chain(removed)
}

/// The addresses of IPv6 of a host that has this one of IPv4: of its link, and its own.
pub fn addresses6(address: Ipv4Addr) -> [Ipv6Addr; 2] {
    let [high, low] = [u32::from(address) >> 16, u32::from(address) & 0xffff].map(|half| half as u16);
    [Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, high, low), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, high, low)]
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
            let [link_local, own] = addresses6(address);
            checks += &format!("    iifname \"{link}\" ip6 saddr != {{ {link_local}, {own} }} drop\n");
            checks += &format!("    oifname \"{link}\" ip6 daddr != {{ {link_local}, {own} }} drop\n");
        }
        links.push(format!("\"{link}\""));
    }
    let beyond = site::ALL.iter().map(|site| site.link).chain([internet::LINK]);
    links.extend(beyond.map(|link| format!("\"{link}\"")));
    let links = links.join(", ");
    let (forward, input) = match links.as_str() {
        "" => (String::new(), String::new()),
        links => (
            format!("    iifname {{ {links} }} oifname {{ {links} }} accept\n"),
            format!("    iifname {{ {links} }} accept\n"),
        ),
    };
    format!(
        "add table inet vpc\ndelete table inet vpc\ntable inet vpc {{\n  \
         chain forward {{\n    type filter hook forward priority 0; policy drop;\n{checks}{forward}  }}\n  \
         chain input {{\n    type filter hook input priority 0; policy drop;\n    iifname \"lo\" accept\n    meta l4proto 58 accept\n{input}  }}\n}}\n"
    )
}
