//! Our nftables tables, written in nft's own language, loaded whole, compared by what they say: `inet weave` guards containers,
//! and [`super::published`] writes the one that leads ports into them.

use std::{collections::BTreeSet, io, process::Stdio, time::Duration};

use ipnet::Ipv4Net;
use tokio::{io::AsyncWriteExt, process::Command, time::timeout};

use super::{
    fault::{fault, found},
    generation, listing,
};
use crate::{
    addr::Family,
    state::{Fault, FaultKind, Isolation, REST, Rules, Subnet, TUNNEL, is_interface_name},
};

/// Time that nft may take. It waits for a grace period of the kernel, tens of milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// What `nft` said; `Absent` if it was asked about a thing that is not there.
#[derive(Debug, PartialEq, Eq)]
pub enum Said {
    /// Its standard output.
    Text(String),
    /// There is no such thing.
    Absent,
    /// There is no `nft`.
    NotInstalled,
}

/// What a table of ours does.
pub trait Ruleset: Clone + PartialEq {
    /// The table, with its family.
    const TABLE: [&str; 2];

    /// The table in nft's language.
    fn text(&self) -> Result<String, Fault>;
}

/// A table of ours, and how the kernel last listed what we loaded.
#[derive(Debug)]
pub struct Table<R> {
    /// Another version of nft may list the same rules in other words.
    listed: Option<(R, String)>,
    /// What was found in force, and the number that the ruleset had then; nothing, if there was no table.
    in_force: Option<(Option<R>, Option<u32>)>,
}

impl<R> Default for Table<R> {
    fn default() -> Table<R> {
        Table { listed: None, in_force: None }
    }
}

/// What is there of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// Nothing.
    Absent,
    /// What is wanted.
    Right,
    /// Something else.
    Other,
}

/// The table that guards containers.
pub type Nft = Table<Rules>;

impl<R: Ruleset> Table<R> {
    /// What is there, compared with what is wanted.
    pub async fn compare(&mut self, wanted: Option<&R>) -> Result<Presence, Fault> {
        let number = generation::of_ruleset();
        if let Some((found, before)) = &self.in_force
            && number.is_some()
            && number == *before
            && wanted == found.as_ref()
        {
            return Ok(if wanted.is_some() { Presence::Right } else { Presence::Absent });
        }
        let listed = listing(R::TABLE).await?;
        self.in_force = None;
        let Some(text) = listed else {
            self.in_force = Some((None, number));
            return Ok(Presence::Absent);
        };
        let Some(wanted) = wanted else { return Ok(Presence::Other) };
        let remembered =
            self.listed.as_ref().is_some_and(|(rules, listed)| rules == wanted && *listed == text);
        if !remembered && !listing::same(&text, &wanted.text()?) {
            return Ok(Presence::Other);
        }
        self.in_force = Some((Some(wanted.clone()), number));
        Ok(Presence::Right)
    }

    /// Puts it in force in one transaction, unless it is.
    pub async fn load(&mut self, rules: &R) -> Result<(), Fault> {
        if self.compare(Some(rules)).await? == Presence::Right {
            return Ok(());
        }
        let name = R::TABLE.join(" ");
        let script = format!("table {name}\ndelete table {name}\n{}", rules.text()?);
        match run(&["-f", "-"], &script).await? {
            Said::Text(_) => {}
            Said::Absent => {
                return Err(found(
                    FaultKind::Outdated,
                    format!("loading table {name}: it names what is not there"),
                ));
            }
            Said::NotInstalled => return Err(not_installed()),
        }
        let number = generation::of_ruleset();
        self.listed = listing(R::TABLE).await?.map(|text| (rules.clone(), text));
        self.in_force = Some((Some(rules.clone()), number));
        Ok(())
    }

    /// Removes the table.
    pub async fn delete(&mut self) -> Result<(), Fault> {
        (self.listed, self.in_force) = (None, None);
        let [family, name] = R::TABLE;
        match run(&["delete", "table", family, name], "").await? {
            Said::Text(_) | Said::Absent | Said::NotInstalled => Ok(()),
        }
    }
}

impl Ruleset for Rules {
    const TABLE: [&str; 2] = ["inet", "weave"];

    fn text(&self) -> Result<String, Fault> {
        table(self)
    }
}

impl Nft {
    /// The rules that are in force; `None` if they are not what is wanted. Where nothing is wanted, or what is
    /// there whatever it is, any table of ours is told by rules that stand for it.
    pub async fn observe(&mut self, wanted: Option<&Rules>) -> Result<Option<Rules>, Fault> {
        let known = wanted.filter(|wanted| **wanted != unknown());
        Ok(match self.compare(known).await? {
            Presence::Right => known.cloned(),
            Presence::Other if known.is_none() => Some(unknown()),
            Presence::Absent | Presence::Other => None,
        })
    }

    /// Fails if the rules that were last found in force are not any more: news of it takes a while, and nothing is connected
    /// meanwhile.
    pub async fn expect_unchanged(&mut self) -> Result<(), Fault> {
        let Some((Some(rules), _)) = self.in_force.clone() else { return Ok(()) };
        if self.observe(Some(&rules)).await?.is_some() {
            return Ok(());
        }
        self.in_force = Some((Some(rules), None));
        Err(found(
            FaultKind::Outdated,
            "table inet weave is not as it was loaded: no container is connected without it",
        ))
    }
}

/// The table as nft 1.0 lists it.
///
/// The fences name what may pass, an uplink or `lo`, and not what may not: a container may have a second interface,
/// on a bridge of Docker's for one.
fn table(rules: &Rules) -> Result<String, Fault> {
    let Rules { range, prefix, uplinks, block_metadata, isolation, .. } = rules;
    let port = closed_ports(rules);
    let families: Vec<Words> =
        [Family::V4].into_iter().chain(prefix.map(Family::V6)).map(Words::of).collect();
    let uplinks = uplinks.iter().map(|name| quoted(name)).collect::<Result<Vec<_>, _>>()?;
    let uplinks = elements(&uplinks);
    let metadata = if *block_metadata {
        "\n\t\tiifname != @uplinks ip daddr 169.254.169.254 counter drop comment \"instance metadata\"\
         \n\t\tiifname != @uplinks ip6 daddr fd00:ec2::254 counter drop comment \"instance metadata\""
    } else {
        ""
    };
    let [mut sets, mut chains, mut fences, mut masquerade, mut isolate, mut encrypt_out]: [String; 6] =
        Default::default();
    let has_tunnel = rules.uplinks.contains(TUNNEL);
    // Hosts elsewhere reach containers and nothing else of this one, but for what it has asked.
    let tunnel_in = match has_tunnel {
        true => format!(
            "\n\t\tiifname \"{TUNNEL}\" ct state established,related accept\
             \n\t\tiifname \"{TUNNEL}\" {NOT_BY_TUNNEL}"
        ),
        false => String::new(),
    };
    for words in &families {
        let (ip, range) = (words.ip, words.cidr(range.trunc()));
        if has_tunnel {
            fences += &format!("\n\t\tiifname \"{TUNNEL}\" {ip} daddr != {range} {NOT_BY_TUNNEL}");
        }
        fences += &fences_of(ip, &range, &port);
        masquerade +=
            &format!("\n\t\t{ip} saddr {range} {ip} daddr != {range} oifname != \"wv*\" counter masquerade");
        if has_tunnel && let Some(source) = rules.tunnel_source {
            let source = words.family.address(source);
            masquerade += &format!(
                "\n\t\toifname \"{TUNNEL}\" {ip} saddr != {range} {ip} daddr {range} fib saddr type local counter snat {ip} to {source}"
            );
        }
        if !rules.encrypted.is_empty() {
            let (set, forward, out) = encrypted(&rules.encrypted, words);
            (sets, fences, encrypt_out) = (sets + &set, fences + &forward, encrypt_out + &out);
        }
        if !isolation.subnets.is_empty() {
            let suffix = words.suffix;
            isolate += &format!("\n\t\t{ip} saddr {range} {ip} daddr {range} jump isolation{suffix}");
            let (own_sets, own_chains) = isolated(isolation, words);
            (sets, chains) = (sets + &own_sets, chains + &own_chains);
        }
    }
    let sources = if prefix.is_some() { FORGED6 } else { "" };
    // loopback: `route_localnet` would let such a packet in. Before the address is translated, so that a service there
    // may still be offered by DNAT. Of IPv6 the kernel lets none in.
    // mesh port, forward: masquerade would show a container's call to another host's mesh port as this host's own.
    // masquerade: for whatever leaves the range, by an uplink or another interface: nobody out there knows the way back
    // to a container. What has no connection has no address to leave under.
    // snat: an end of a tunnel takes nothing from an address that the other host does not own. Answers find their way back to the
    // host by their connection, whoever has that address.
    // Nothing here is `notrack`, though no rule asks for connections between containers where there are no subnets: what
    // another container offers at a published port answers from its own address, and only tracking gives that back the one
    // that was called.
    // stray reset: where connection tracking takes a segment for invalid, it stays untranslated and comes to the host's
    // TCP, which knows nothing of the container's connection and would end it. Dropped on the way in, segments of the
    // host's own connections would go with it; `nf_conntrack_tcp_be_liberal` would weaken the firewalls of others.
    Ok(format!(
        r#"table inet weave {{
	set uplinks {{
		type ifname{uplinks}
	}}
{sets}
	chain prerouting {{
		type filter hook prerouting priority raw; policy accept;
		iifname != "lo" ip daddr 127.0.0.0/8 counter drop comment "loopback"{sources}
	}}

	chain input {{
		type filter hook input priority filter; policy accept;
		iifname "lo" accept{tunnel_in}
		iifname != @uplinks meta l4proto {{ tcp, udp }} th dport {port} counter drop comment "mesh port"{metadata}
	}}

	chain forward {{
		type filter hook forward priority filter; policy accept;{fences}{metadata}{isolate}
	}}

	chain output {{
		type filter hook output priority filter; policy accept;{encrypt_out}
		oifname != "lo" oifname != "wv*" ct state invalid tcp flags rst counter drop comment "stray reset"
	}}
{chains}
	chain postrouting {{
		type nat hook postrouting priority srcnat; policy accept;{masquerade}
	}}
}}
"#,
    ))
}

/// What becomes of what a host elsewhere sends that is for no container.
const NOT_BY_TUNNEL: &str = "counter drop comment \"tunnel\"";

/// What a container may not say of itself: `rp_filter` knows IPv4 only. Nor is anybody but the host its router, and that one says
/// nothing.
const FORGED6: &str = "\n\t\tiifname \"wv*\" ip6 saddr != { ::, fe80::/10 } fib saddr . iif oif missing counter drop \
                       comment \"forged source\"\
                       \n\t\ticmpv6 type nd-router-advert iifname \"wv*\" counter drop comment \"router advertisement\"";

/// How nft speaks of a kind of addresses.
pub(super) struct Words {
    pub family: Family,
    /// What a field of a packet begins with.
    pub ip: &'static str,
    /// The type of the members of a set.
    pub of_set: &'static str,
    /// Behind the names of sets and chains.
    pub suffix: &'static str,
}

impl Words {
    pub fn of(family: Family) -> Words {
        match family {
            Family::V4 => Words { family, ip: "ip", of_set: "ipv4_addr", suffix: "" },
            Family::V6(_) => Words { family, ip: "ip6", of_set: "ipv6_addr", suffix: "6" },
        }
    }

    fn cidr(&self, cidr: Ipv4Net) -> String {
        self.family.cidr(cidr).to_string()
    }
}

/// What passes neither in nor out.
fn fences_of(ip: &str, range: &str, port: &str) -> String {
    [
        format!("{ip} daddr {range} iifname @uplinks oifname @uplinks counter drop comment \"loop guard\""),
        format!(
            "{ip} saddr {range} {ip} daddr != {range} oifname != \"wv*\" ct state invalid counter drop comment \"not masqueraded\""
        ),
        format!(
            "iifname \"wv*\" oifname != \"wv*\" {ip} daddr != {range} meta l4proto {{ tcp, udp }} th dport {port} counter drop comment \"mesh port\""
        ),
        format!(
            "iifname != @uplinks oifname @uplinks {ip} daddr != {range} meta l4proto {{ tcp, udp }} th dport {port} counter drop comment \"mesh port\""
        ),
    ]
    .iter()
    .map(|rule| format!("\n\t\t{rule}"))
    .collect()
}

/// What other hosts own that is sent nothing, and may send nothing, but by the tunnel: the set, and the rules for what is passed on
/// and for what is this host's own.
fn encrypted(cidrs: &BTreeSet<Ipv4Net>, words: &Words) -> (String, String, String) {
    let Words { ip, suffix, .. } = words;
    let name = format!("encrypted{suffix}");
    let members: Vec<String> = cidrs.iter().map(|cidr| words.cidr(*cidr)).collect();
    let drop = "counter drop comment \"not encrypted\"";
    let out = format!("\n\t\t{ip} daddr @{name} oifname @uplinks oifname != \"{TUNNEL}\" {drop}");
    let into = format!("\n\t\t{ip} saddr @{name} iifname @uplinks iifname != \"{TUNNEL}\" {drop}");
    (interval_set(&name, &members, words), format!("{out}{into}"), out)
}

fn interval_set(name: &str, members: &[String], words: &Words) -> String {
    format!("\n\tset {name} {{\n\t\ttype {}\n\t\tflags interval{}\n\t}}\n", words.of_set, elements(members))
}

/// What containers reach on no host.
fn closed_ports(rules: &Rules) -> String {
    match rules.metrics_port.filter(|port| *port != rules.mesh_port) {
        None => rules.mesh_port.to_string(),
        Some(other) => {
            let (least, most) = (other.min(rules.mesh_port), other.max(rules.mesh_port));
            format!("{{ {least}, {most} }}")
        }
    }
}

/// Sets and chains that keep subnets apart: by the destination to a chain of its subnet, which knows the
/// sources. Two rules a subnet, however many pairs there are; a connection that is open goes on.
fn isolated(isolation: &Isolation, words: &Words) -> (String, String) {
    let Words { ip, of_set, suffix, .. } = words;
    let set = |name: &str, members: &[String]| interval_set(name, members, words);
    let all: Vec<String> = isolation.subnets.values().map(|subnet| words.cidr(subnet.cidr)).collect();
    let mut sets = set(&format!("subnets{suffix}"), &all);
    let mut chains = format!(
        "\n\tchain isolation{suffix} {{\n\t\tct state established,related accept\
         \n\t\t{ip} daddr vmap @isolation{suffix}\n\t\tgoto to{suffix}-{REST}\n\t}}\n"
    );
    let way =
        |(name, subnet): (&String, &Subnet)| format!("{} : goto to{suffix}-{name}", words.cidr(subnet.cidr));
    let ways: Vec<String> = isolation.subnets.iter().map(way).collect();
    for name in isolation.subnets.keys().map(String::as_str).chain([REST]) {
        let sources: Vec<String> = isolation.reaching(name).map(|subnet| words.cidr(subnet.cidr)).collect();
        let rest = match isolation.is_open(name) {
            true => format!("\n\t\t{ip} saddr != @subnets{suffix} accept"),
            false => String::new(),
        };
        sets += &set(&format!("to{suffix}-{name}"), &sources);
        chains += &format!(
            "\n\tchain to{suffix}-{name} {{\n\t\t{ip} saddr @to{suffix}-{name} accept{rest}\
             \n\t\tcounter drop comment \"isolation\"\n\t}}\n"
        );
    }
    sets += &format!(
        "\n\tmap isolation{suffix} {{\n\t\ttype {of_set} : verdict\n\t\tflags interval{}\n\t}}\n",
        elements(&ways)
    );
    (sets, chains)
}

/// The members of a set; one without any has no such line.
pub(super) fn elements(members: &[String]) -> String {
    if members.is_empty() { String::new() } else { format!("\n\t\telements = {{ {} }}", members.join(", ")) }
}

/// An interface's name as nft takes it. What is no such name could say more than a name.
pub fn quoted(interface: &str) -> Result<String, Fault> {
    if !is_interface_name(interface) {
        return Err(found(FaultKind::Invalid, format!("`{interface}` is not the name of an interface")));
    }
    Ok(format!("\"{interface}\""))
}

/// How the kernel lists a table; `None` where there is none.
pub(super) async fn listing([family, name]: [&str; 2]) -> Result<Option<String>, Fault> {
    match run(&["-s", "list", "table", family, name], "").await? {
        Said::Text(listing) => Ok(Some(listing)),
        Said::Absent | Said::NotInstalled => Ok(None),
    }
}

/// Stands for rules that an earlier life of this program left.
fn unknown() -> Rules {
    Rules {
        range: Ipv4Net::default(),
        prefix: None,
        uplinks: Default::default(),
        mesh_port: 0,
        metrics_port: None,
        block_metadata: false,
        isolation: Box::default(),
        encrypted: Default::default(),
        tunnel_source: None,
    }
}

/// Runs nft on a script.
pub async fn run(arguments: &[&str], script: &str) -> Result<Said, Fault> {
    let mut command = Command::new("nft");
    command.args(arguments);
    run_command(command, script).await
}

/// Runs a command of the nftables or iptables family.
pub async fn run_command(mut command: Command, script: &str) -> Result<Said, Fault> {
    let name = command.as_std().get_program().to_string_lossy().into_owned();
    command
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Said::NotInstalled),
        Err(error) => return Err(fault(format_args!("running {name}"), &error)),
    };
    let stdin = child.stdin.take();
    let talk = async {
        if let Some(mut stdin) = stdin {
            // If it stops reading, its exit status and its words say why.
            let _ = stdin.write_all(script.as_bytes()).await;
        }
        child.wait_with_output().await
    };
    let output = match timeout(PATIENCE, talk).await {
        Ok(output) => output.map_err(|error| fault(format_args!("running {name}"), &error))?,
        Err(_) => {
            return Err(found(
                FaultKind::Unreachable,
                format!("{name} did not end within {} s", PATIENCE.as_secs()),
            ));
        }
    };
    if output.status.success() {
        return Ok(Said::Text(String::from_utf8_lossy(&output.stdout).into_owned()));
    }
    refused(&name, &String::from_utf8_lossy(&output.stderr))
}

/// What the words of a command that failed come down to. Somebody else at work is no reason to give up.
fn refused(name: &str, words: &str) -> Result<Said, Fault> {
    if words.contains("No such file or directory") {
        return Ok(Said::Absent);
    }
    let words = if words.trim().is_empty() { "it failed and said nothing" } else { words };
    let first: String =
        words.lines().next().unwrap_or_default().trim_start_matches("Error: ").chars().take(300).collect();
    if words.contains("not permitted") || words.contains("must be root") {
        return Err(Fault {
            hint: Some("run as root, or grant CAP_NET_ADMIN".into()),
            ..found(FaultKind::Denied, format!("{name}: {}", first.to_lowercase()))
        });
    }
    let again = ["busy", "nterrupted", "emporarily", "another app"].iter().any(|word| words.contains(word));
    let kind = if again { FaultKind::Outdated } else { FaultKind::Invalid };
    Err(found(kind, format!("{name}: {first}")))
}

/// There is no `nft`.
pub fn not_installed() -> Fault {
    Fault {
        hint: Some("apt-get install nftables, or your distribution's package of that name".into()),
        ..found(FaultKind::Invalid, "nft is not installed, so no rule can be loaded")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> Rules {
        Rules {
            range: "10.32.0.0/12".parse().unwrap(),
            prefix: None,
            uplinks: ["ens5".to_owned(), "eth0".to_owned()].into(),
            mesh_port: 6783,
            metrics_port: None,
            block_metadata: true,
            isolation: Box::default(),
            encrypted: Default::default(),
            tunnel_source: None,
        }
    }

    #[test]
    fn without_an_uplink_the_set_has_no_elements() {
        let table = table(&Rules { uplinks: Default::default(), ..rules() }).unwrap();
        assert!(!table.contains("elements"));
    }

    #[test]
    fn what_comes_by_the_tunnel_reaches_containers_and_nothing_else() {
        let uplinks = ["eth0".to_owned(), TUNNEL.to_owned()].into();
        let with =
            table(&Rules { uplinks, prefix: Some("fd00:1::/96".parse().unwrap()), ..rules() }).unwrap();
        for rule in ["", " ip daddr != 10.32.0.0/12", " ip6 daddr != fd00:1::a20:0/108"] {
            let rule = format!("\t\tiifname \"weave-tunnel\"{rule} counter drop comment \"tunnel\"\n");
            assert_eq!(with.matches(&rule).count(), 1, "{rule}{with}");
        }
        assert!(!table(&rules()).unwrap().contains("tunnel"));
    }

    #[test]
    fn what_a_host_sends_itself_enters_the_tunnel_under_an_address_that_the_other_end_believes() {
        let uplinks = ["eth0".to_owned(), TUNNEL.to_owned()].into();
        let (prefix, tunnel_source) = (Some("fd00:1::/96".parse().unwrap()), "10.32.0.1".parse().ok());
        let without = Rules { uplinks, prefix, ..rules() };
        let with = table(&Rules { tunnel_source, ..without.clone() }).unwrap();
        for rule in [
            "ip saddr != 10.32.0.0/12 ip daddr 10.32.0.0/12 fib saddr type local counter snat ip to 10.32.0.1",
            "ip6 saddr != fd00:1::a20:0/108 ip6 daddr fd00:1::a20:0/108 fib saddr type local counter snat ip6 to fd00:1::a20:1",
        ] {
            assert_eq!(with.matches(&format!("\t\toifname \"weave-tunnel\" {rule}\n")).count(), 1, "{with}");
        }
        let no_tunnel = table(&Rules { tunnel_source, ..rules() }).unwrap();
        assert!(!table(&without).unwrap().contains("snat") && !no_tunnel.contains("snat"));
    }

    #[test]
    fn what_is_to_be_encrypted_goes_by_the_tunnel_or_not_at_all() {
        let uplinks = ["eth0".to_owned(), TUNNEL.to_owned()].into();
        let encrypted = ["10.40.0.0/14".parse().unwrap()].into();
        let prefix = Some("fd00:1::/96".parse().unwrap());
        let with = table(&Rules { uplinks, encrypted, prefix, ..rules() }).unwrap();
        for (ip, set) in [("ip", "encrypted"), ("ip6", "encrypted6")] {
            let out = format!("{ip} daddr @{set} oifname @uplinks oifname != \"weave-tunnel\" counter drop");
            let into = format!("{ip} saddr @{set} iifname @uplinks iifname != \"weave-tunnel\" counter drop");
            assert_eq!((with.matches(&out).count(), with.matches(&into).count()), (2, 1), "{with}");
        }
        assert!(!table(&rules()).unwrap().contains("encrypted"));
    }

    #[test]
    fn the_metadata_is_closed_on_both_ways_or_open() {
        assert_eq!(table(&rules()).unwrap().matches("169.254.169.254").count(), 2);
        assert!(!table(&Rules { block_metadata: false, ..rules() }).unwrap().contains("169.254"));
    }

    #[test]
    fn the_port_of_measurements_is_as_closed_to_containers_as_that_of_the_mesh() {
        let open = |metrics_port| table(&Rules { metrics_port, ..rules() }).unwrap();
        assert_eq!(open(Some(6782)).matches("th dport { 6782, 6783 } counter drop").count(), 3);
        assert_eq!(open(Some(6783)), open(None), "one port is closed once");
    }

    #[test]
    fn subnets_cost_two_rules_each_and_none_where_there_are_none() {
        assert!(!table(&rules()).unwrap().contains("isolation"));
        let subnets = |count: u8| {
            let names = (0..count).map(|n| format!("s{n}")).collect::<BTreeSet<_>>();
            let of =
                |n: u8| Subnet { cidr: Ipv4Net::new_assert([10, 32, n, 0].into(), 24), allow: names.clone() };
            (0..count).map(|n| (format!("s{n}"), of(n))).collect()
        };
        let lines = |count| {
            let isolation = Isolation { subnets: subnets(count), rest: BTreeSet::new() };
            table(&Rules { isolation: isolation.into(), ..rules() }).unwrap().lines().count()
        };
        assert_eq!(lines(20) - lines(10), lines(30) - lines(20), "all pairs allowed, and yet in proportion");
    }

    #[test]
    fn a_refusal_is_told_from_an_absence_and_from_somebody_else_at_work() {
        let kind = |words| refused("nft", words).map_err(|fault| fault.kind);
        assert_eq!(kind("Error: No such file or directory\nlist table"), Ok(Said::Absent));
        assert_eq!(kind("Error: Could not process rule: Device or resource busy"), Err(FaultKind::Outdated));
        assert_eq!(kind("Operation not permitted (you must be root)"), Err(FaultKind::Denied));
        assert_eq!(kind("Error: syntax error"), Err(FaultKind::Invalid));
    }

    #[test]
    fn a_name_that_would_be_more_than_a_name_is_refused() {
        for name in ["", "eth*", "a\" }; flush ruleset", "much-too-long-a-name"] {
            assert_eq!(quoted(name).unwrap_err().kind, FaultKind::Invalid, "{name}");
        }
        assert_eq!(quoted("eth0.100").unwrap(), "\"eth0.100\"");
    }
}
