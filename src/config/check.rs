//! From what the files say to a `Config`, section by section. A value that is missing or wrong
//! gives way to its default, so that the search for problems goes on.

use std::collections::BTreeSet;

use ipnet::Ipv4Net;

use super::{
    Bridge, Cni, Config, Docker, Init, Ipam, Mesh, Network, OnChange, Plugin, Probe, Problem, Problems,
    Provider, Reconcile, RouteTables, SameSubnet, SourceDestCheck, Vpc, outside, paths,
    reader::{Found, Reader, syntax},
    sources::Sources,
    subnets,
    value::{self, Wrong},
};
use crate::{
    addr::{MTU6_MIN, Prefix, Range},
    ipam::HOLDS,
    peer::PeerName,
};

/// Docker's own socket.
const DOCKER_SOCKET: &str = "/run/docker.sock";
/// Docker's own configuration file.
const DOCKER_FILE: &str = "/etc/docker/daemon.json";
/// The length of the prefix of the block of `docker0`.
const DOCKER_BRIDGE_LEN: u8 = 24;
/// How long a host waits between two blocks that it offers to others.
const COMPACT_EVERY: std::time::Duration = std::time::Duration::from_secs(30);
/// Files that are larger together are not a configuration.
const TEXT_BYTES_MAX: usize = 1 << 20;

/// The configuration and the warnings, or every problem.
pub(super) fn check(sources: &Sources) -> Result<(Config, Vec<Problem>), Problems> {
    hold_to_size(sources)?;
    let tables = syntax(sources)?;
    let mut reader = Reader::new(sources, &tables);
    let ec2_tag = discovery(&mut reader);
    let (found_by_tag, mesh) = (ec2_tag.is_some(), mesh(&mut reader));
    let ipam = ipam(&mut reader, found_by_tag);
    let config = Config {
        peers: peers(&mut reader),
        network: network(&mut reader, mesh.weave_peers),
        paths: paths::read(&mut reader, &mesh, ipam.range),
        ipam,
        ec2_tag,
        vpc: vpc(&mut reader, found_by_tag, mesh.weave_peers),
        mesh,
        cni: cni(&mut reader),
        docker: docker(&mut reader),
        metrics: value_of(reader.read_unless("metrics.listen", "", value::listen)),
        probe: Probe { enable: value_of(reader.flag("probe.enable")).unwrap_or(true) },
        reconcile: reconcile(&mut reader),
    };
    reader.finish(config)
}

fn hold_to_size(sources: &Sources) -> Result<(), Problems> {
    let mut bytes = 0;
    for source in sources.iter() {
        bytes += source.text.len();
        if bytes > TEXT_BYTES_MAX {
            let message = match sources.drop_ins.is_empty() {
                true => format!("the file is larger than {TEXT_BYTES_MAX} bytes"),
                false => format!("up to its end the files are larger than {TEXT_BYTES_MAX} bytes"),
            };
            return Err(Problems(vec![Problem::at(source, 0..0, "", message)]));
        }
    }
    Ok(())
}

/// Each peer once, in the order given: naming one twice does no harm.
fn peers(reader: &mut Reader) -> Vec<String> {
    let mut peers = Vec::new();
    for peer in values(reader.list("peers", value::peer)) {
        if !peers.contains(&peer) {
            peers.push(peer);
        }
    }
    peers
}

fn cni(reader: &mut Reader) -> Cni {
    let plugins = match reader.has("cni.plugins") {
        true => values(reader.list("cni.plugins", value::plugin)),
        false => vec!["portmap".to_owned()],
    };
    Cni {
        conf_dir: value_of(reader.read("cni.conf_dir", value::path)),
        nomad_conf_dir: value_of(reader.read("cni.nomad_conf_dir", value::path)),
        plugins,
    }
}

fn docker(reader: &mut Reader) -> Docker {
    let named = ["auto", "off"].into_iter().find(|word| reader.is_word("docker.plugin", word));
    let plugin = match named {
        Some("auto") => Some(Plugin::Auto),
        Some(_) => Some(Plugin::Off),
        None => value_of(reader.read("docker.plugin", value::path)).map(Plugin::At),
    };
    let socket = value_of(reader.read("docker.socket", value::path));
    let bridge = [Bridge::Off, Bridge::Print, Bridge::Write].map(|bridge| (bridge.word(), bridge));
    let (smallest, largest) = (u32::from(*HOLDS.end()), u32::from(*HOLDS.start()));
    let size = reader.number("docker.bridge_size", largest..=smallest);
    let daemon_json = value_of(reader.read("docker.daemon_json", value::path));
    Docker {
        plugin: plugin.unwrap_or(Plugin::Auto),
        socket: socket.unwrap_or_else(|| DOCKER_SOCKET.into()),
        bridge: word(reader, "docker.bridge", &bridge).unwrap_or(Bridge::Off),
        bridge_len: size.map_or(DOCKER_BRIDGE_LEN, |found| found.value as u8),
        daemon_json: daemon_json.unwrap_or_else(|| DOCKER_FILE.into()),
    }
}

fn network(reader: &mut Reader, weave_peers: bool) -> Network {
    const MTU: u32 = 1376;
    let mtu = if reader.is_word("network.mtu", "auto") {
        None
    } else {
        Some(reader.number("network.mtu", 576..=65535).map_or(MTU, |found| found.value))
    };
    let metadata = [("block", true), ("allow", false)];
    Network {
        uplinks: auto_or_names(reader, "network.uplinks", value::interface),
        block_metadata: word(reader, "network.instance_metadata", &metadata).unwrap_or(true),
        mtu,
        ipv6: ipv6(reader, mtu, weave_peers),
    }
}

fn ipv6(reader: &mut Reader, mtu: Option<u32>, weave_peers: bool) -> Option<Prefix> {
    const KEY: &str = "network.ipv6";
    let found = reader.read(KEY, value::ipv6)?;
    if weave_peers {
        let wrong = Wrong::new("the Weave Net routers of mesh.weave_peers know no IPv6");
        reader.problem(KEY, found.place.clone(), wrong.hint("leave it out until all hosts run weavers"));
    }
    if let Some(mtu) = mtu.filter(|mtu| *mtu < MTU6_MIN) {
        let wrong = Wrong::new(format!("IPv6 needs an MTU of {MTU6_MIN} at least, and network.mtu is {mtu}"));
        reader.problem(KEY, found.place, wrong.hint("leave network.mtu out, or raise it"));
    }
    Some(found.value)
}

fn ipam(reader: &mut Reader, found_by_tag: bool) -> Ipam {
    let default: Ipv4Net = "10.32.0.0/12".parse().expect("it is written as a network");
    let range = reader.read("ipam.range", value::range);
    let init = init(reader);
    let expected = reader.number("ipam.expected_peers", 1..=10_000);
    if found_by_tag && init == Init::Consensus && !reader.has("ipam.expected_peers") {
        let wrong = Wrong::new("peers found by tag do not say how many to wait for");
        reader.problem_at_key("discovery.ec2_tag", wrong.hint("set ipam.expected_peers"));
    }
    let default_subnet = default_subnet(reader, range.as_ref(), default);
    let range = range.map_or(default, |found| found.value);
    Ipam {
        isolation: subnets::isolation(reader, range, default_subnet),
        default_subnet,
        range,
        init,
        expected_peers: expected.map(|found| found.value as usize),
        compact: word(reader, "ipam.compact", &[("on", Some(COMPACT_EVERY)), ("off", None)])
            .unwrap_or(Some(COMPACT_EVERY)),
    }
}

/// The range itself if none is named; if the range is wrong, the subnet is not judged by it.
fn default_subnet(reader: &mut Reader, range: Option<&Found<Ipv4Net>>, default: Ipv4Net) -> Ipv4Net {
    let key = "ipam.default_subnet";
    let given = if reader.has("ipam.range") { range.map(|found| found.value) } else { Some(default) };
    let subnet = reader.read(key, value::subnet);
    match (subnet, given) {
        (Some(subnet), Some(range)) => {
            if !Range::from(range).overlaps(Range::from(subnet.value)) {
                let wrong = Wrong::new(format!("{} is outside ipam.range {range}", subnet.value));
                reader.problem(key, subnet.place, wrong.hint("leave it out to use the whole range"));
            }
            subnet.value
        }
        (Some(subnet), None) => subnet.value,
        (None, range) => range.unwrap_or(default),
    }
}

fn init(reader: &mut Reader) -> Init {
    let words =
        [("consensus", Init::Consensus), ("seed", Init::Seed(Vec::new())), ("observer", Init::Observer)];
    let init = word(reader, "ipam.init", &words);
    let known = init.is_some() || !reader.has("ipam.init");
    let seed = seed(reader);
    match init.unwrap_or(Init::Consensus) {
        Init::Seed(_) if seed.is_empty() => {
            if !reader.has("ipam.seed") || reader.is_empty_list("ipam.seed") {
                let wrong = Wrong::new("init = \"seed\" needs the list of the first peers");
                reader.problem_at_key(
                    "ipam.init",
                    wrong.hint("set ipam.seed to their names, the same on every host"),
                );
            }
            Init::Seed(seed)
        }
        Init::Seed(_) => Init::Seed(seed),
        other => {
            if !seed.is_empty() && known {
                let wrong = Wrong::new(format!("has no meaning with init = \"{}\"", other.word()));
                reader.problem_at_key("ipam.seed", wrong.hint("set ipam.init = \"seed\", or leave seed out"));
            }
            other
        }
    }
}

fn seed(reader: &mut Reader) -> Vec<PeerName> {
    let mut names = Vec::new();
    for Found { value: name, place } in
        reader.list("ipam.seed", value::peer_name).map_or_else(Vec::new, |list| list.value)
    {
        if names.contains(&name) {
            reader.problem("ipam.seed", place, Wrong::new(format!("{name} is in the list twice")));
        }
        names.push(name);
    }
    names
}

fn discovery(reader: &mut Reader) -> Option<(String, String)> {
    value_of(reader.read_unless("discovery.ec2_tag", "", value::tag))
}

fn mesh(reader: &mut Reader) -> Mesh {
    Mesh {
        name: value_of(reader.read_unless("mesh.name", "auto", value::peer_name)),
        nickname: value_of(reader.read_unless("mesh.nickname", "auto", value::nickname)),
        listen: value_of(reader.read("mesh.listen", value::listen))
            .unwrap_or_else(|| ([0, 0, 0, 0], 6783).into()),
        password_file: value_of(reader.read("mesh.password_file", value::path)),
        trusted_subnets: values(reader.list("mesh.trusted_subnets", value::cidr)),
        weave_peers: value_of(reader.flag("mesh.weave_peers")).unwrap_or(false),
    }
}

fn vpc(reader: &mut Reader, found_by_tag: bool, weave_peers: bool) -> Vpc {
    let check = [
        ("disable", SourceDestCheck::Disable),
        ("warn", SourceDestCheck::Warn),
        ("ignore", SourceDestCheck::Ignore),
    ];
    let provider = word(reader, "vpc.provider", &[("aws", Provider::Aws), ("none", Provider::None)]);
    let same_subnet =
        word(reader, "vpc.same_subnet", &[("vpc", SameSubnet::Vpc), ("direct", SameSubnet::Direct)]);
    let (provider, same_subnet) = (provider.unwrap_or(Provider::Aws), same_subnet.unwrap_or(SameSubnet::Vpc));
    outside::hold(reader, (provider, same_subnet), found_by_tag, weave_peers);
    Vpc {
        provider,
        same_subnet,
        route_tables: route_tables(reader),
        source_dest_check: word(reader, "vpc.source_dest_check", &check).unwrap_or(SourceDestCheck::Disable),
        quota: reader.number("vpc.quota", 1..=10_000).map(|found| found.value as usize),
        reclaim: reclaim(reader, weave_peers),
        region: value_of(reader.read_unless("vpc.region", "auto", value::region)),
        endpoint: value_of(reader.read_unless("vpc.endpoint", "", value::endpoint)),
    }
}

/// `"auto"`, `"tag:KEY=VALUE"`, one id or several.
fn route_tables(reader: &mut Reader) -> RouteTables {
    const TAG: &str = "tag:";
    let key = "vpc.route_tables";
    if reader.is_prefixed(key, TAG) {
        let tag = reader.read(key, |text| value::tag(text.trim_start_matches(TAG)));
        return value_of(tag).map_or(RouteTables::Auto, |(key, value)| RouteTables::Tagged(key, value));
    }
    auto_or_names(reader, key, value::table).map_or(RouteTables::Auto, RouteTables::Named)
}

/// Weave Net routers take no part in agreements, so that there are none where they share the cluster.
fn reclaim(reader: &mut Reader, weave_peers: bool) -> Option<std::time::Duration> {
    let key = "vpc.reclaim";
    if reader.is_word(key, "off") {
        return None;
    }
    let grace = reader.read(key, |text| value::duration(("10s", "30days"), text));
    if let Some(grace) = grace.as_ref().filter(|_| weave_peers) {
        let what = "no effect with mesh.weave_peers: use `weavers forget`";
        reader.warning(key, grace.place.clone(), what);
    }
    Some(value_of(grace).unwrap_or(std::time::Duration::from_secs(3600)))
}

fn reconcile(reader: &mut Reader) -> Reconcile {
    let on_change = [("notice", OnChange::Notice), ("apply", OnChange::Apply)];
    let interval = reader.read("reconcile.interval", |text| value::duration(("1s", "1h"), text));
    Reconcile {
        interval: value_of(interval).unwrap_or(std::time::Duration::from_secs(30)),
        on_change: word(reader, "reconcile.on_change", &on_change).unwrap_or(OnChange::Notice),
    }
}

/// `"auto"` is `None`; otherwise one name or several, at least one.
fn auto_or_names<T: Ord>(
    reader: &mut Reader,
    key: &'static str,
    parse: impl Fn(&str) -> Result<T, Wrong>,
) -> Option<BTreeSet<T>> {
    if reader.is_word(key, "auto") {
        return None;
    }
    if reader.is_empty_list(key) {
        reader.problem_at_key(
            key,
            Wrong::new("the list is empty").hint("write \"auto\", or name at least one"),
        );
    }
    let found = reader.one_or_more(key, parse)?;
    Some(found.value.into_iter().map(|found| found.value).collect())
}

fn word<T: Clone>(reader: &mut Reader, key: &'static str, words: &[(&str, T)]) -> Option<T> {
    value_of(reader.read(key, |text| value::choice(words, text)))
}

fn value_of<T>(found: Option<Found<T>>) -> Option<T> {
    found.map(|found| found.value)
}

fn values<T>(list: Option<Found<Vec<Found<T>>>>) -> Vec<T> {
    list.map_or_else(Vec::new, |list| list.value.into_iter().map(|found| found.value).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<(Config, Vec<Problem>), Problems> {
        super::check(&text.into())
    }

    fn lines(text: &str) -> String {
        check(text).expect_err("the file has problems").to_string()
    }

    #[test]
    fn every_problem_is_reported_at_once_in_the_order_of_the_file() {
        let text = r#"
peers = ["10.0.1.11", 7, "10.0.1.256"]
colour = "blue"

[network]
mtu = 100
uplinks = []

[ipam]
range = "10.32.0.1/12"
expected_peers = 0
init = "sead"

[vpc]
route_table = "rtb-0a1"
reclaim = 3600
"#;
        insta::assert_snapshot!(lines(text), @r#"
        weave.toml:2:23: peers: expected a string, found an integer
        weave.toml:2:26: peers: "10.0.1.256" is neither an IPv4 address nor a host name
        weave.toml:3:1: colour: unknown key
        weave.toml:6:7: network.mtu: 100 is not between 576 and 65535
        weave.toml:7:11: network.uplinks: the list is empty (write "auto", or name at least one)
        weave.toml:10:9: ipam.range: 10.32.0.1/12 has bits set behind its prefix (did you mean "10.32.0.0/12"?)
        weave.toml:11:18: ipam.expected_peers: 0 is not between 1 and 10000
        weave.toml:12:8: ipam.init: "sead" is not one of "consensus", "seed", "observer" (did you mean "seed"?)
        weave.toml:15:1: vpc.route_table: unknown key (did you mean "route_tables"?)
        weave.toml:16:11: vpc.reclaim: expected a string, found an integer
        "#);
    }

    #[test]
    fn what_is_not_toml_is_reported_in_the_same_form() {
        insta::assert_snapshot!(lines("peers = [\n[network]\nmtu = \n"), @r"
        weave.toml:2:2: invalid float, expected `nan`
        weave.toml:3:1: missing comma between array elements, expected `,`
        ");
    }

    #[test]
    fn a_key_given_twice_is_a_problem() {
        assert_eq!(lines("[network]\nmtu = 1400\nmtu = 1500\n"), "weave.toml:3:1: duplicate key");
    }

    #[test]
    fn seed_and_init_go_together() {
        assert_eq!(
            lines("ipam.init = 'seed'"),
            "weave.toml:1:13: ipam.init: init = \"seed\" needs the list of the first peers \
             (set ipam.seed to their names, the same on every host)"
        );
        assert_eq!(
            lines("ipam.seed = ['::1']"),
            "weave.toml:1:13: ipam.seed: has no meaning with init = \"consensus\" \
             (set ipam.init = \"seed\", or leave seed out)"
        );
        assert_eq!(
            lines("ipam.init = 'seed'\nipam.seed = ['::1', '::1']"),
            "weave.toml:2:21: ipam.seed: 00:00:00:00:00:01 is in the list twice"
        );
        let (config, _) = check("ipam.init = 'seed'\nipam.seed = ['::1', '::2']").unwrap();
        assert_eq!(config.ipam.init, Init::Seed(vec![PeerName::from_u64(1), PeerName::from_u64(2)]));
    }

    #[test]
    fn the_default_subnet_follows_the_range_and_must_meet_it() {
        let (config, _) = check("ipam.range = '10.48.0.0/16'").unwrap();
        assert_eq!(config.ipam.default_subnet, config.ipam.range);
        assert_eq!(
            lines("ipam.range = '10.48.0.0/16'\nipam.default_subnet = '10.32.0.0/24'"),
            "weave.toml:2:23: ipam.default_subnet: 10.32.0.0/24 is outside ipam.range 10.48.0.0/16 \
             (leave it out to use the whole range)"
        );
    }

    #[test]
    fn peers_found_by_tag_need_a_number_to_wait_for() {
        assert_eq!(
            lines("discovery.ec2_tag = 'weave=prod'"),
            "weave.toml:1:21: discovery.ec2_tag: peers found by tag do not say how many to wait for \
             (set ipam.expected_peers)"
        );
        assert!(check("discovery.ec2_tag = 'weave=prod'\nipam.expected_peers = 3").is_ok());
    }

    #[test]
    fn the_dead_are_taken_over_from_after_an_hour_unless_told_otherwise() {
        let grace = |text| check(text).unwrap().0.vpc.reclaim;
        assert_eq!(grace(""), Some(std::time::Duration::from_secs(3600)));
        assert_eq!(grace("vpc.reclaim = '15m'"), Some(std::time::Duration::from_secs(900)));
        assert_eq!(grace("vpc.reclaim = 'off'"), None);
        assert!(check("vpc.reclaim = '1s'").is_err());
        let (_, warnings) = check("vpc.reclaim = '2h'\nmesh.weave_peers = true").unwrap();
        let lines: Vec<String> = warnings.iter().map(ToString::to_string).collect();
        assert_eq!(
            lines,
            ["weave.toml:1:15: vpc.reclaim: no effect with mesh.weave_peers: use `weavers forget`"]
        );
    }

    #[test]
    fn route_tables_are_found_or_named_or_bear_a_tag() {
        let tables = |text: &str| check(&format!("vpc.route_tables = {text}")).unwrap().0.vpc.route_tables;
        let named = |ids: &[&str]| {
            RouteTables::Named(ids.iter().map(|id| crate::state::TableId((*id).to_owned())).collect())
        };
        assert_eq!(tables("'auto'"), RouteTables::Auto);
        assert_eq!(tables("'rtb-0a1'"), named(&["rtb-0a1"]));
        assert_eq!(tables("['rtb-0a1', 'rtb-0b2']"), named(&["rtb-0a1", "rtb-0b2"]));
        assert_eq!(tables("'tag:weave=yes'"), RouteTables::Tagged("weave".into(), "yes".into()));
        assert_eq!(
            lines("vpc.route_tables = 'tag:weave'"),
            "weave.toml:1:20: vpc.route_tables: \"weave\" is not key=value (write it as in \"weave-cluster=prod\")"
        );
        assert_eq!(
            lines("vpc.route_tables = ['tag:weave=yes']"),
            "weave.toml:1:21: vpc.route_tables: \"tag:weave=yes\" is not the id of a route table \
             (write it as in \"rtb-0a1b2c3d\"; \"auto\" and \"tag:key=value\" stand alone)"
        );
    }

    #[test]
    fn a_host_outside_ec2_is_refused_what_only_ec2_could_give_it() {
        let (config, warnings) = check("vpc.provider = 'none'\nvpc.reclaim = '2h'").unwrap();
        assert!(!config.is_on_ec2() && warnings.is_empty());
        assert!(check("").unwrap().0.is_on_ec2());
        assert_eq!(
            lines("vpc.provider = 'none'\ndiscovery.ec2_tag = 'weave=prod'\nipam.expected_peers = 3"),
            "weave.toml:2:21: discovery.ec2_tag: EC2, which knows the tags, is not asked with vpc.provider = \"none\" \
             (leave it out, and list the hosts in `peers`)"
        );
        assert_eq!(
            lines("mesh.weave_peers = true\nvpc.provider = 'none'"),
            "weave.toml:2:16: vpc.provider: a Weave Net router tells no path, so none leads past a VPC \
             (set mesh.weave_peers = false)"
        );
        assert_eq!(
            lines("mesh.weave_peers = true\nvpc.same_subnet = 'direct'"),
            "weave.toml:2:19: vpc.same_subnet: a Weave Net router tells no path, so the VPC has to lead to it \
             (leave it out, or set mesh.weave_peers = false)"
        );
        let (_, warnings) =
            check("vpc.provider = 'none'\nvpc.region = 'eu-west-1'\nvpc.same_subnet = 'direct'").unwrap();
        let lines: Vec<String> = warnings.iter().map(ToString::to_string).collect();
        assert_eq!(
            lines,
            [
                "weave.toml:2:14: vpc.region: no effect with vpc.provider = \"none\": EC2 is not asked",
                "weave.toml:3:19: vpc.same_subnet: no effect with vpc.provider = \"none\": hosts on one link always reach \
                 each other directly",
            ]
        );
    }

    #[test]
    fn ipv6_needs_an_mtu_that_carries_it_and_peers_that_know_it() {
        let ipv6 = "network.ipv6 = 'fd00:1::/96'";
        assert!(check(&format!("{ipv6}\nnetwork.mtu = 1280")).is_ok());
        assert_eq!(
            lines(&format!("{ipv6}\nnetwork.mtu = 1279")),
            "weave.toml:1:16: network.ipv6: IPv6 needs an MTU of 1280 at least, and network.mtu is 1279 \
             (leave network.mtu out, or raise it)"
        );
        assert_eq!(
            lines(&format!("{ipv6}\nmesh.weave_peers = true")),
            "weave.toml:1:16: network.ipv6: the Weave Net routers of mesh.weave_peers know no IPv6 \
             (leave it out until all hosts run weavers)"
        );
    }

    #[test]
    fn a_tunnel_needs_a_password_of_the_mesh_and_an_end_outside_the_range() {
        let password = "mesh.password_file = '/etc/weave/password'\n";
        let paths = |text: &str| check(&format!("{password}[paths]\n{text}")).unwrap().0.paths;
        let off = check("").unwrap().0.paths;
        assert_eq!((off.tunnel, off.port, off.endpoint), (false, 6784, None));
        let endpoint = |text| paths(text).endpoint.unwrap().to_string();
        assert!(paths("tunnel = 'on'").tunnel);
        assert_eq!(endpoint("tunnel = 'on'\nendpoint = '203.0.113.7'"), "203.0.113.7:6784");
        assert_eq!(endpoint("tunnel = 'on'\nendpoint = '203.0.113.7'\nport = 7000"), "203.0.113.7:7000");
        assert_eq!(endpoint("tunnel = 'on'\nendpoint = '203.0.113.7:9'\nport = 7000"), "203.0.113.7:9");
        assert_eq!(
            lines("paths.tunnel = 'on'"),
            "weave.toml:1:16: paths.tunnel: without a password of the mesh anybody could have a key of his own believed \
             (set mesh.password_file to a file with the same password on every host, or leave it out)"
        );
        assert_eq!(
            lines(&format!("{password}mesh.weave_peers = true\npaths.tunnel = 'on'")),
            "weave.toml:3:16: paths.tunnel: a Weave Net router has no key, so no tunnel leads to it \
             (leave it out, or set mesh.weave_peers = false)"
        );
        for (wrong, said) in [
            ("port = 0", "0 is not between 1 and 65535"),
            ("encrypt = 'some'", "\"some\" is not one of \"off\", \"all\""),
            ("endpoint = '10.32.0.1'", "10.32.0.1 is inside ipam.range 10.32.0.0/12"),
            ("endpoint = '127.0.0.1'", "127.0.0.1 is no address by which others reach a host"),
            ("endpoint = 'office.example:6784'", "is not where a tunnel can end"),
            ("endpoint = '203.0.113.7:0'", "is not where a tunnel can end"),
        ] {
            let found = lines(&format!("{password}paths.tunnel = 'on'\npaths.{wrong}"));
            assert!(found.contains(said), "{wrong}: {found}");
        }
        assert!(paths("tunnel = 'on'\nencrypt = 'all'").encrypt && !off.encrypt);
        assert_eq!(
            lines("paths.encrypt = 'all'"),
            "weave.toml:1:17: paths.encrypt: without a tunnel nothing can be encrypted (set paths.tunnel = \"on\", or leave it out)"
        );
        let (_, warnings) = check("paths.port = 7000").unwrap();
        assert_eq!(
            warnings[0].to_string(),
            "weave.toml:1:14: paths.port: no effect with paths.tunnel = \"off\""
        );
    }

    #[test]
    fn mtu_may_follow_the_uplink_and_is_that_of_weave_net_where_missing() {
        assert_eq!(check("").unwrap().0.network.mtu, Some(1376));
        assert_eq!(check("network.mtu = 'auto'").unwrap().0.network.mtu, None);
        assert_eq!(check("network.mtu = 0x2328").unwrap().0.network.mtu, Some(9000));
    }

    #[test]
    fn a_peer_named_twice_is_one_peer() {
        assert_eq!(check("peers = ['b', 'a', 'b']").unwrap().0.peers, ["b", "a"]);
    }

    #[test]
    fn a_huge_or_hostile_text_ends_with_a_problem() {
        assert!(check(&"#".repeat(TEXT_BYTES_MAX + 1)).is_err());
        assert!(check(&format!("peers = {}", "[".repeat(10_000))).is_err());
    }
}
