//! Other programs' forward chains, which may drop what ours lets through.
//!
//! An accept in a table of ours does not override a drop in another, so a rule has to stand in the table
//! that drops. Docker offers a chain for that, `DOCKER-USER`. Anybody else's chains are theirs to amend.

use std::{collections::BTreeSet, fs};

use ipnet::Ipv4Net;
use serde_json::Value;
use tokio::process::Command;

use super::{
    fault::found,
    generation,
    nft::{self, Said, quoted, run, run_command},
};
use crate::state::{Docker0, Fault, FaultKind, Forward};

/// Our links, as nft and as iptables write it.
const LINKS: &str = "wv*";
const LINKS_IPTABLES: &str = "wv+";

/// The families of the tables that iptables keeps, IPv4 first.
const FAMILIES: [&str; 2] = ["ip", "ip6"];

/// What the chains of nftables said, and the number that the ruleset had then.
#[derive(Debug, Default)]
pub struct Observed {
    last: Option<(u32, Wanted, Forward)>,
    drops_for_docker0: bool,
}

/// What is to pass.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wanted {
    /// Between our links and these.
    uplinks: BTreeSet<String>,
    /// Whatever is of this range, by any interface.
    range: Option<Ipv4Net>,
    /// Of IPv6 as well.
    has_v6: bool,
}

impl Observed {
    /// Whether packets between our links and the uplinks pass, and those of a range of which something was lent.
    pub async fn observe(
        &mut self,
        uplinks: &BTreeSet<String>,
        range: Option<Ipv4Net>,
        has_v6: bool,
    ) -> Result<Forward, Fault> {
        let wanted = Wanted { uplinks: uplinks.clone(), range, has_v6 };
        let forward = match (generation::of_ruleset(), &self.last) {
            (Some(number), Some((before, by, forward))) if number == *before && *by == wanted => {
                forward.clone()
            }
            (number, _) => {
                let chains = list(&["chains"], "chain").await?.unwrap_or_default();
                let forward = by_nftables(&chains, &wanted).await?;
                self.drops_for_docker0 = drops_for_docker0(&chains).await?;
                self.last = number.map(|number| (number, wanted, forward.clone()));
                forward
            }
        };
        if matches!(forward, Forward::Closed(_) | Forward::Foreign(_)) {
            return Ok(forward);
        }
        Ok(match legacy().await {
            Legacy::Passes => forward,
            Legacy::Drops => Forward::Foreign("iptables-legacy FORWARD".into()),
            Legacy::Unread(why) => Forward::Unread(format!("iptables-legacy FORWARD ({why})")),
        })
    }

    /// Whether Docker was last seen to drop what comes for `docker0` by another interface.
    pub fn drops_for_docker0(&self) -> bool {
        self.drops_for_docker0
    }
}

async fn by_nftables(chains: &[Value], wanted: &Wanted) -> Result<Forward, Fault> {
    let mut forward = Forward::Open;
    for chain in chains.iter().filter(|chain| is_foreign_forward(chain, wanted.has_v6)) {
        let [family, table, name] = ["family", "table", "name"].map(|key| text(chain, key));
        let docker =
            docker_of(chain).filter(|family| chains.iter().any(|chain| is_docker_user(chain, family)));
        let in_its_way = if let Some(family) = docker {
            Docker::look(family).await?.map(|docker| docker.forward(wanted))
        } else if blocks(chain, &rules(family, table, name).await?) && !knows_our_links(family, table).await?
        {
            Some(Forward::Foreign(format!("{family} {table} {name}")))
        } else {
            None
        };
        match in_its_way {
            // What we can amend comes first; what is left is seen after that.
            Some(closed @ Forward::Closed(_)) => return Ok(closed),
            Some(foreign @ Forward::Foreign(_)) => forward = foreign,
            Some(opened @ Forward::Opened(_)) if forward == Forward::Open => forward = opened,
            Some(Forward::Open | Forward::Opened(_) | Forward::Unread(_)) | None => {}
        }
    }
    Ok(forward)
}

/// Whether Docker drops, before anybody is asked, what comes for containers of its own bridge by another interface: as version 28 does.
async fn drops_for_docker0(chains: &[Value]) -> Result<bool, Fault> {
    let is_raw = |chain: &Value| {
        ["family", "table", "name"].map(|key| text(chain, key)) == ["ip", "raw", "PREROUTING"]
    };
    if !chains.iter().any(is_raw) {
        return Ok(false);
    }
    let rules = list(&["chain", "ip", "raw", "PREROUTING"], "rule").await?.unwrap_or_default();
    Ok(rules.iter().any(is_drop_for_docker0))
}

fn is_drop_for_docker0(rule: &Value) -> bool {
    let expressions = || rule["expr"].as_array().into_iter().flatten();
    let by_others = |expression: &Value| {
        let found = &expression["match"];
        let is_interface = found["left"]["meta"]["key"] == "iifname" && found["right"] == Docker0::NAME;
        is_interface && found["op"] == "!="
    };
    let to_containers = |expression: &Value| expression["match"]["left"]["payload"]["field"] == "daddr";
    let drops = |expression: &Value| expression.get("drop").is_some();
    expressions().any(by_others) && expressions().any(to_containers) && expressions().any(drops)
}

/// Lets our packets through Docker's chain, in one transaction.
pub async fn open(uplinks: &BTreeSet<String>, range: Option<Ipv4Net>, has_v6: bool) -> Result<(), Fault> {
    let mut script = String::new();
    for family in FAMILIES.into_iter().filter(|family| *family == FAMILIES[0] || has_v6) {
        if let Some(docker) = Docker::look(family).await? {
            script += &docker.opening(uplinks, range)?;
        }
    }
    if script.is_empty() {
        return Err(found(FaultKind::Outdated, "chain ip filter DOCKER-USER is not there"));
    }
    load(&script).await
}

/// What lets packets of a range pass by interfaces that are not ours: among each other, out, and back what answers.
fn of_range(range: Ipv4Net, uplinks: &BTreeSet<String>) -> impl Iterator<Item = Result<String, Fault>> {
    let out = uplinks
        .iter()
        .map(move |uplink| Ok(format!("ip saddr {range} ip daddr != {range} oifname {}", quoted(uplink)?)));
    let within = format!("ip saddr {range} ip daddr {range}");
    let back = format!("ip daddr {range} ct state established,related");
    [Ok(within), Ok(back)].into_iter().chain(out)
}

/// Removes what [`open`] added, and nothing else.
pub async fn close() -> Result<(), Fault> {
    let mut script = String::new();
    for family in FAMILIES {
        script += &Docker::look(family).await?.map(|docker| docker.removal()).unwrap_or_default();
    }
    if script.is_empty() { Ok(()) } else { load(&script).await }
}

/// Docker's part of the table that iptables keeps.
struct Docker {
    family: &'static str,
    forward: Vec<Rule>,
    drops: bool,
    user: Vec<Rule>,
}

impl Docker {
    async fn look(family: &'static str) -> Result<Option<Docker>, Fault> {
        let Some(user) = list(&["chain", family, "filter", "DOCKER-USER"], "rule").await? else {
            return Ok(None);
        };
        let chain = list(&["chain", family, "filter", "FORWARD"], "chain").await?.unwrap_or_default();
        Ok(Some(Docker {
            family,
            forward: rules(family, "filter", "FORWARD").await?,
            drops: chain.iter().any(|chain| text(chain, "policy") == "drop"),
            user: user.iter().map(Rule::read).collect(),
        }))
    }

    fn forward(&self, wanted: &Wanted) -> Forward {
        let chain = format!("{} filter DOCKER-USER", self.family);
        let open = self.is_open(&wanted.uplinks) && self.is_open_to(wanted);
        if open { Forward::Opened(chain) } else { Forward::Closed(chain) }
    }

    /// Whether the rules of a range stand where they count; without one, none.
    fn is_open_to(&self, Wanted { uplinks, range, .. }: &Wanted) -> bool {
        let range = range.filter(|_| self.has_the_range());
        let ends = self.user.iter().position(Rule::is_end).unwrap_or(self.user.len());
        let of_range = self.user[..ends].iter().filter(|rule| rule.is_of_range());
        of_range.count() == range.map_or(0, |range| of_range_count(range, uplinks))
    }

    /// Whether our rules stand where they count.
    fn is_open(&self, uplinks: &BTreeSet<String>) -> bool {
        let counts = |accepts: &dyn Fn(&Rule) -> bool| {
            self.user.iter().take_while(|rule| !rule.is_end()).any(|rule| rule.is_ours() && accepts(rule))
        };
        counts(&|rule| rule.iif.is_none() && rule.oif.as_deref() == Some(LINKS))
            && uplinks.iter().all(|uplink| counts(&|rule| rule.oif.as_ref() == Some(uplink)))
            && self.is_asked_first()
    }

    /// Whether packets come by `DOCKER-USER` before they are dropped; a flush of `FORWARD` takes the way there.
    fn is_asked_first(&self) -> bool {
        let jump = |rule: &Rule| rule.always() && rule.verdict == "jump DOCKER-USER";
        !self.drops || self.forward.iter().take_while(|rule| !rule.is_end()).any(jump)
    }

    /// What was lent has addresses of IPv4 only.
    fn has_the_range(&self) -> bool {
        self.family == FAMILIES[0]
    }

    fn opening(&self, uplinks: &BTreeSet<String>, range: Option<Ipv4Net>) -> Result<String, Fault> {
        let insert = |chain: &str, rule: &str| {
            format!("insert rule {} filter {chain} {rule} comment \"weave\"\n", self.family)
        };
        let mut script = self.removal();
        for uplink in uplinks {
            let rule = format!("iifname \"{LINKS}\" oifname {} counter accept", quoted(uplink)?);
            script += &insert("DOCKER-USER", &rule);
        }
        script += &insert("DOCKER-USER", &format!("oifname \"{LINKS}\" counter accept"));
        let range = range.filter(|_| self.has_the_range());
        for rule in range.into_iter().flat_map(|range| of_range(range, uplinks)) {
            script += &insert("DOCKER-USER", &format!("{} counter accept", rule?));
        }
        if !self.is_asked_first() {
            script += &insert("FORWARD", "counter jump DOCKER-USER");
        }
        Ok(script)
    }

    fn removal(&self) -> String {
        let delete = |chain: &str, rule: &Rule| {
            format!("delete rule {} filter {chain} handle {}\n", self.family, rule.handle)
        };
        let jumps =
            self.forward.iter().filter(|rule| rule.comment == "weave" && rule.verdict == "jump DOCKER-USER");
        let user = self.user.iter().filter(|rule| rule.is_ours() || rule.is_of_range());
        let user = user.map(|rule| delete("DOCKER-USER", rule));
        jumps.map(|rule| delete("FORWARD", rule)).chain(user).collect()
    }
}

/// What matters here of a rule.
#[derive(Debug, Default, PartialEq, Eq)]
struct Rule {
    handle: u64,
    comment: String,
    iif: Option<String>,
    oif: Option<String>,
    /// It asks for more than interfaces.
    narrower: bool,
    /// It asks for addresses.
    of_addresses: bool,
    /// `accept`, `drop`, `jump CHAIN`, …; empty if none.
    verdict: String,
}

impl Rule {
    fn read(value: &Value) -> Rule {
        let mut rule = Rule {
            handle: value["handle"].as_u64().unwrap_or_default(),
            comment: text(value, "comment").into(),
            ..Rule::default()
        };
        let expressions = value["expr"].as_array().into_iter().flatten();
        for (kind, body) in expressions.filter_map(|expression| expression.as_object()?.iter().next()) {
            rule.read_expression(kind, body);
        }
        rule
    }

    fn read_expression(&mut self, kind: &str, body: &Value) {
        let name = || body["right"].as_str().map(ToOwned::to_owned);
        match (kind, body["left"]["meta"]["key"].as_str(), body["op"].as_str()) {
            ("match", Some("iifname"), Some("==")) => self.iif = name(),
            ("match", Some("oifname"), Some("==")) => self.oif = name(),
            ("match", ..) if ["saddr", "daddr"].contains(&text(&body["left"]["payload"], "field")) => {
                (self.narrower, self.of_addresses) = (true, true);
            }
            ("counter" | "log", ..) => {}
            ("accept" | "drop" | "reject" | "return", ..) => self.verdict = kind.into(),
            ("jump" | "goto", ..) => self.verdict = format!("{kind} {}", text(body, "target")),
            // A rule that iptables made: its comment is a match, its reject a target.
            ("xt", ..) if text(body, "name") == "comment" => {}
            ("xt", ..) if text(body, "type") == "target" => self.verdict = text(body, "name").to_lowercase(),
            _ => self.narrower = true,
        }
    }

    /// Whether every packet matches.
    fn always(&self) -> bool {
        self.iif.is_none() && self.oif.is_none() && !self.narrower
    }

    /// Whether no packet gets past it.
    fn is_end(&self) -> bool {
        self.always() && ["accept", "drop", "reject", "return"].contains(&&*self.verdict)
    }

    /// Whether it is one of [`of_range`], by the word that we leave on them.
    fn is_of_range(&self) -> bool {
        self.verdict == "accept" && self.of_addresses && self.comment == "weave"
    }

    /// Whether it lets packets of our links through and does nothing else. It may have lost its comment:
    /// iptables-restore writes that in its own way.
    fn is_ours(&self) -> bool {
        let to_links = self.iif.is_none() && self.oif.as_deref() == Some(LINKS);
        let from_links =
            self.iif.as_deref() == Some(LINKS) && self.oif.as_deref().is_some_and(|name| name != LINKS);
        self.verdict == "accept" && !self.narrower && (to_links || from_links)
    }
}

fn of_range_count(range: Ipv4Net, uplinks: &BTreeSet<String>) -> usize {
    of_range(range, uplinks).count()
}

fn is_foreign_forward(chain: &Value, has_v6: bool) -> bool {
    let family = text(chain, "family");
    let sees_us = ["ip", "inet"].contains(&family) || has_v6 && family == "ip6";
    let ours = family == "inet" && text(chain, "table") == "weave";
    sees_us && !ours && text(chain, "hook") == "forward" && text(chain, "type") == "filter"
}

/// The family of the chain, if it is the one into which Docker writes.
fn docker_of(chain: &Value) -> Option<&'static str> {
    let is_it = text(chain, "table") == "filter" && text(chain, "name") == "FORWARD";
    FAMILIES.into_iter().find(|family| is_it && text(chain, "family") == *family)
}

fn is_docker_user(chain: &Value, family: &str) -> bool {
    text(chain, "family") == family
        && text(chain, "table") == "filter"
        && text(chain, "name") == "DOCKER-USER"
}

/// Whether a packet that no rule lets through is dropped.
fn blocks(chain: &Value, rules: &[Rule]) -> bool {
    let last = rules.iter().find(|rule| rule.is_end()).map(|rule| rule.verdict.as_str());
    match last {
        Some("drop" | "reject") => true,
        Some(_) => false,
        None => text(chain, "policy") == "drop",
    }
}

/// Whether the owner of a table has written a rule on our links: then it is taken to be the right one.
async fn knows_our_links(family: &str, table: &str) -> Result<bool, Fault> {
    match run(&["list", "table", family, table], "").await? {
        Said::Text(listing) => Ok(listing.contains("\"wv*\"")),
        Said::Absent | Said::NotInstalled => Ok(false),
    }
}

/// What the old tables of iptables do with what is forwarded.
#[derive(Debug, PartialEq, Eq)]
enum Legacy {
    Passes,
    Drops,
    /// They are there and cannot be read: why.
    Unread(String),
}

/// They raise no event, and nft does not see them.
async fn legacy() -> Legacy {
    let tables = fs::read_to_string("/proc/thread-self/net/ip_tables_names").unwrap_or_default();
    if !tables.lines().any(|table| table == "filter") {
        return Legacy::Passes;
    }
    let mut command = Command::new("iptables-legacy");
    command.args(["-w", "5", "-S", "FORWARD"]);
    Legacy::told(run_command(command, "").await)
}

impl Legacy {
    /// By what `iptables-legacy` says of the chain. It needs more capabilities than all else here.
    fn told(said: Result<Said, Fault>) -> Legacy {
        match said {
            Ok(Said::Text(rules)) if legacy_blocks(&rules) => Legacy::Drops,
            Ok(Said::Text(_)) => Legacy::Passes,
            Ok(Said::Absent | Said::NotInstalled) => {
                Legacy::Unread("iptables-legacy is not installed".into())
            }
            Err(fault) => Legacy::Unread(fault.message),
        }
    }
}

fn legacy_blocks(rules: &str) -> bool {
    let mut words = rules.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let drops = words.any(|line| {
        let line = line.as_slice();
        matches!(line, ["-P", "FORWARD", "DROP"] | ["-A", "FORWARD", "-j", "DROP" | "REJECT", ..])
    });
    drops && !rules.contains(LINKS_IPTABLES)
}

async fn rules(family: &str, table: &str, chain: &str) -> Result<Vec<Rule>, Fault> {
    let rules = list(&["chain", family, table, chain], "rule").await?.unwrap_or_default();
    Ok(rules.iter().map(Rule::read).collect())
}

/// The objects of one kind in a listing; `None` if there is no such thing, or no nft to ask.
async fn list(what: &[&str], kind: &str) -> Result<Option<Vec<Value>>, Fault> {
    let Said::Text(json) = run(&[&["-j", "list"], what].concat(), "").await? else {
        return Ok(None);
    };
    let mut document: Value = serde_json::from_str(&json)
        .map_err(|error| found(FaultKind::Invalid, format!("nft -j list {}: {error}", what.join(" "))))?;
    let objects = document["nftables"].as_array_mut().map(std::mem::take).unwrap_or_default();
    Ok(Some(objects.into_iter().filter_map(|mut object| object.get_mut(kind).map(Value::take)).collect()))
}

async fn load(script: &str) -> Result<(), Fault> {
    match run(&["-f", "-"], script).await? {
        Said::Text(_) => Ok(()),
        Said::Absent => {
            Err(found(FaultKind::Outdated, "chain ip filter DOCKER-USER changed while it was amended"))
        }
        Said::NotInstalled => Err(nft::not_installed()),
    }
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rule(expressions: Value) -> Rule {
        Rule::read(&json!({ "handle": 7, "expr": expressions }))
    }

    fn from(interface: &str) -> Value {
        json!({ "match": { "op": "==", "left": { "meta": { "key": "iifname" } }, "right": interface } })
    }

    fn to(interface: &str) -> Value {
        json!({ "match": { "op": "==", "left": { "meta": { "key": "oifname" } }, "right": interface } })
    }

    fn docker(user: Vec<Rule>) -> Docker {
        let jump = rule(json!([{ "counter": {} }, { "jump": { "target": "DOCKER-USER" } }]));
        Docker { family: FAMILIES[0], forward: vec![jump], drops: true, user }
    }

    fn returns() -> Rule {
        rule(json!([{ "counter": {} }, { "return": null }]))
    }

    #[test]
    fn our_rules_count_only_before_the_return() {
        let both = || {
            let comment = json!({ "xt": { "type": "match", "name": "comment" } });
            [
                rule(json!([to("wv*"), comment, { "accept": null }])),
                rule(json!([from("wv*"), to("eth0"), { "accept": null }])),
            ]
        };
        let uplinks = ["eth0".to_owned()].into();
        assert!(docker(both().into_iter().chain([returns()]).collect()).is_open(&uplinks));
        assert!(!docker([returns()].into_iter().chain(both()).collect()).is_open(&uplinks));
        assert!(
            !docker(both().into_iter().collect()).is_open(&["eth0".to_owned(), "eth1".to_owned()].into())
        );
    }

    #[test]
    fn a_flushed_forward_chain_never_asks_docker_s_users() {
        let mut docker = docker(vec![]);
        assert!(docker.is_asked_first());
        docker.forward.clear();
        assert!(!docker.is_asked_first());
        docker.drops = false;
        assert!(docker.is_asked_first());
    }

    #[test]
    fn a_rule_that_asks_for_more_is_somebody_else_s() {
        let address = json!({ "match": { "op": "==", "left": { "payload": {} }, "right": "10.0.0.1" } });
        assert!(!rule(json!([to("wv*"), address, { "accept": null }])).is_ours());
        assert!(!rule(json!([from("wv*"), { "accept": null }])).is_ours());
        assert!(!rule(json!([to("wv*"), { "drop": null }])).is_ours());
    }

    #[test]
    fn a_chain_blocks_by_its_last_word() {
        let reject =
            || vec![rule(json!([from("lo"), { "accept": null }])), rule(json!([{ "reject": null }]))];
        assert!(blocks(&json!({ "policy": "accept" }), &reject()));
        assert!(blocks(&json!({ "policy": "drop" }), &[]));
        assert!(!blocks(&json!({ "policy": "accept" }), &[]));
    }

    #[test]
    fn old_iptables_that_cannot_be_read_are_not_said_to_drop() {
        let refused = found(FaultKind::Invalid, "iptables-legacy: can't initialize iptables table `filter'");
        assert_eq!(Legacy::told(Err(refused.clone())), Legacy::Unread(refused.message));
        assert!(matches!(Legacy::told(Ok(Said::NotInstalled)), Legacy::Unread(_)));
        assert_eq!(Legacy::told(Ok(Said::Text("-P FORWARD DROP\n".into()))), Legacy::Drops);
    }

    #[test]
    fn old_iptables_block_unless_they_know_our_links() {
        assert!(legacy_blocks("-P FORWARD DROP\n"));
        assert!(legacy_blocks(
            "-P FORWARD ACCEPT\n-A FORWARD -j REJECT --reject-with icmp-host-prohibited\n"
        ));
        assert!(!legacy_blocks("-P FORWARD ACCEPT\n-A FORWARD -s 10.0.0.1/32 -j DROP\n"));
        assert!(!legacy_blocks("-P FORWARD DROP\n-A FORWARD -o wv+ -j ACCEPT\n"));
    }
}
