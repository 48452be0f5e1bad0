//! What would become of a Weave Net host, and what is left of it.

use clap::builder::styling::AnsiColor;

use super::{columns, count, paint};
use crate::migrate::{
    Plan, Survey,
    plan::{Fate, Meanwhile, Peer, Used},
};

/// The plan, with a line for each address, each other peer and what was not read.
pub fn sheet(plan: &Plan) -> String {
    let owned: Vec<String> = plan.owned.iter().map(ToString::to_string).collect();
    let owned = if owned.is_empty() { "nothing".to_owned() } else { owned.join(", ") };
    let head = format!("This host becomes peer {}, as its Weave Net router was. It owns {owned}.", plan.name);
    let rows: Vec<Vec<String>> = plan.addresses.iter().map(row).chain(plan.peers.iter().map(peer)).collect();
    let unread = plan.unread.iter().map(|why| format!("! unread   {why}"));
    let lines = columns(&rows, &[1, 3, 2]).into_iter().map(|line| coloured(&line)).chain(unread);
    let lines: String = lines.map(|line| format!("{line}\n")).collect();
    let of = |is: fn(&Fate) -> bool| plan.addresses.iter().filter(|used| is(&used.fate)).count();
    let containers = of(|fate| matches!(fate, Fate::Move { .. }));
    let free = of(|fate| matches!(fate, Fate::Free { .. }));
    let free = if free == 1 { "1 address".to_owned() } else { format!("{free} addresses") };
    let containers = count(containers, "container");
    format!("{head}\n{lines}Plan: {containers} to reconnect, {free} to free. Nothing was changed.\n")
}

fn row(used: &Used) -> Vec<String> {
    let address = used.address.addr().to_string();
    let (mark, verb, what) = match &used.fate {
        Fate::Move { netns, interface, host_end, .. } => {
            ("  ~", "reconnect", format!("{interface} in {netns}, until now by {host_end}"))
        }
        Fate::Moved => ("  =", "reconnected", String::new()),
        Fate::Keep { why } => ("  =", "keep", why.clone()),
        Fate::Free { why } => ("  -", "free", why.clone()),
    };
    vec![mark.into(), verb.into(), address, short(&used.ident), what]
}

fn peer(Peer { name, addresses, meanwhile }: &Peer) -> Vec<String> {
    let what = match meanwhile {
        Meanwhile::ByVpc => {
            "while its host is a router: packets pass by the VPC; the two peers do not connect, and hand out only what they own"
        }
        Meanwhile::NotAtAll => {
            "while its host is a router: no packets pass between its containers and those here"
        }
        Meanwhile::Unknown => "while its host is a router: packets pass only if it is in AWS-VPC mode",
    };
    vec!["   ".into(), "peer".into(), name.to_string(), format!("{addresses} addresses"), what.into()]
}

fn coloured(line: &str) -> String {
    match line.get(..3) {
        Some("  ~") => paint(AnsiColor::Yellow, line),
        Some("  -") => paint(AnsiColor::Red, line),
        _ => line.to_owned(),
    }
}

/// An id of a container as its runtime shortens it.
fn short(ident: &str) -> String {
    const ID_LEN: usize = 12;
    let is_id = ident.len() == 64 && ident.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_id { ident[..ID_LEN].to_owned() } else { ident.to_owned() }
}

/// So many containers are reconnected, so many stay on the bridge; and what is left of Weave Net.
pub fn done(reconnected: usize, staying: usize, survey: &Survey) -> String {
    let done = format!("{} reconnected.", count(reconnected, "container"));
    if survey.bridge.is_none() {
        return format!("{done} Nothing of Weave Net is left in the network of this host.");
    }
    let first = match staying {
        0 => String::new(),
        1 => "1 container is still on the bridge: make it anew first.\n".to_owned(),
        many => format!("{many} containers are still on the bridge: make them anew first.\n"),
    };
    let left: String = left(survey).iter().map(|command| format!("  {command}\n")).collect();
    format!(
        "{done}\n{first}What is left of Weave Net goes by these commands. Until its bridge is gone no new container gets an address beneath its routes:\n{left}\
         `weave reset --force` does the same and removes its data, so that there is no way back."
    )
}

/// Commands that remove what is left of Weave Net, and not its data.
pub fn left(survey: &Survey) -> &'static [&'static str] {
    const COMMANDS: &[&str] = &[
        "docker rm -f weave",
        "ip link del weave",
        "ip link del vethwe-bridge",
        "iptables -t nat -D POSTROUTING -j WEAVE; iptables -t nat -F WEAVE; iptables -t nat -X WEAVE",
        "iptables -D FORWARD -o weave -j WEAVE-EXPOSE; iptables -F WEAVE-EXPOSE; iptables -X WEAVE-EXPOSE",
        "iptables -D FORWARD -i weave ! -o weave -j ACCEPT; iptables -D FORWARD -i weave -o weave -j ACCEPT",
        "iptables -D FORWARD -o weave -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        "iptables -D FORWARD -i docker0 -o weave -j DROP",
        "iptables -S INPUT | sed -nE '/Weave Net control port|-i docker0 .*--dport (53|678[34]) /s/^-A/iptables -D/p' | sh",
        "for table in mangle nat filter; do iptables -t $table -X WEAVE-CANARY; done",
    ];
    if survey.bridge.is_some() { COMMANDS } else { &[] }
}
