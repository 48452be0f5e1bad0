//! The keys of `weave.toml`: the one list that the reader, `weave.toml.example` and the manual
//! are held to.

/// A key that may stand in the file.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Its section and name, with a dot between; the first keys of the file have no section.
    pub path: &'static str,
    /// What holds where it is missing.
    pub missing: Missing,
    /// A reload adopts a new value; otherwise it needs a restart.
    pub live: bool,
}

/// What holds where a key is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// This value, as it would be written.
    Default(&'static str),
    /// No value, or one that follows from elsewhere; this is what one would look like.
    Example(&'static str),
}

use Missing::{Default, Example};

/// Every key, in the order of the file.
pub const KEYS: &[Key] = &[
    live("peers", Default("[]")),
    live("network.uplinks", Default("\"auto\"")),
    live("network.instance_metadata", Default("\"block\"")),
    live("network.mtu", Default("1376")),
    live("network.ipv6", Example("\"fd12:3456:789a:1::/96\"")),
    fixed("ipam.range", Default("\"10.32.0.0/12\"")),
    live("ipam.default_subnet", Example("\"10.32.0.0/12\"")),
    live("ipam.subnet", Default("[]")),
    fixed("ipam.init", Default("\"consensus\"")),
    live("ipam.expected_peers", Example("3")),
    fixed("ipam.seed", Default("[]")),
    live("ipam.compact", Default("\"on\"")),
    live("discovery.ec2_tag", Default("\"\"")),
    fixed("mesh.name", Default("\"auto\"")),
    fixed("mesh.nickname", Default("\"auto\"")),
    fixed("mesh.listen", Default("\"0.0.0.0:6783\"")),
    fixed("mesh.password_file", Example("\"/etc/weave/password\"")),
    live("mesh.trusted_subnets", Default("[]")),
    fixed("mesh.weave_peers", Default("false")),
    fixed("vpc.provider", Default("\"aws\"")),
    live("vpc.same_subnet", Default("\"vpc\"")),
    live("vpc.route_tables", Default("\"auto\"")),
    live("vpc.source_dest_check", Default("\"disable\"")),
    live("vpc.quota", Example("500")),
    live("vpc.reclaim", Default("\"1h\"")),
    live("vpc.region", Default("\"auto\"")),
    live("vpc.endpoint", Default("\"\"")),
    fixed("paths.tunnel", Default("\"off\"")),
    live("paths.port", Default("6784")),
    live("paths.encrypt", Default("\"off\"")),
    live("paths.endpoint", Example("\"203.0.113.7:6784\"")),
    live("probe.enable", Default("true")),
    live("cni.conf_dir", Example("\"/etc/cni/net.d\"")),
    live("cni.nomad_conf_dir", Example("\"/opt/cni/config\"")),
    live("cni.plugins", Default("[\"portmap\"]")),
    fixed("docker.plugin", Default("\"auto\"")),
    fixed("docker.socket", Default("\"/run/docker.sock\"")),
    live("docker.bridge", Default("\"off\"")),
    live("docker.bridge_size", Default("24")),
    live("docker.daemon_json", Default("\"/etc/docker/daemon.json\"")),
    live("metrics.listen", Default("\"\"")),
    live("reconcile.interval", Default("\"30s\"")),
    live("reconcile.on_change", Default("\"notice\"")),
];

/// Keys of each table of `ipam.subnet`.
pub const SUBNET_KEYS: [&str; 3] = ["name", "cidr", "allow"];

const fn live(path: &'static str, missing: Missing) -> Key {
    Key { path, missing, live: true }
}

const fn fixed(path: &'static str, missing: Missing) -> Key {
    Key { path, missing, live: false }
}

impl Key {
    /// Its section; empty for the first keys of the file.
    pub fn section(&self) -> &'static str {
        self.path.split_once('.').map_or("", |(section, _)| section)
    }

    /// Its name within the section.
    pub fn name(&self) -> &'static str {
        self.path.split_once('.').map_or(self.path, |(_, name)| name)
    }
}

/// The key of this section and name.
pub fn find(section: &str, name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.section() == section && key.name() == name)
}

/// Whether the file has a section of this name.
pub fn is_section(name: &str) -> bool {
    !name.is_empty() && KEYS.iter().any(|key| key.section() == name)
}

/// What the author of an unknown key may have meant.
pub fn suggest(section: &str, name: &str) -> Option<String> {
    if let Some(key) = KEYS.iter().find(|key| key.name() == name) {
        let home = key.section();
        return Some(match home {
            "" => format!("`{name}` stands before the first section"),
            _ => format!("`{name}` belongs under [{home}]"),
        });
    }
    let names = KEYS.iter().filter(|key| key.section() == section).map(Key::name);
    let sections = KEYS.iter().map(Key::section).filter(|_| section.is_empty());
    let near = nearest(name, names.chain(sections));
    let near = near.or_else(|| nearest(name, KEYS.iter().map(|key| key.name())));
    near.map(did_you_mean)
}

/// The hint that goes with a misspelt word.
pub fn did_you_mean(word: &str) -> String {
    format!("did you mean \"{word}\"?")
}

/// The word that is a slip or two away from `typed`.
pub fn nearest<'w>(typed: &str, words: impl IntoIterator<Item = &'w str>) -> Option<&'w str> {
    let slips_max = (typed.chars().count() / 3).clamp(1, 3);
    let near = words.into_iter().filter(|word| !word.is_empty()).map(|word| (slips(typed, word), word));
    near.min().filter(|&(slips, _)| slips <= slips_max).map(|(_, word)| word)
}

/// Letters to add, drop, change or swap to make one word of the other; a word too long to be a slip
/// is far.
fn slips(from: &str, to: &str) -> usize {
    const LENGTH_MAX: usize = 40;
    if from.len() > LENGTH_MAX {
        return usize::MAX;
    }
    let (from, to): (Vec<char>, Vec<char>) = (from.chars().collect(), to.chars().collect());
    // Row i, column j: the slips between the first i letters of one and the first j of the other.
    let mut rows: Vec<Vec<usize>> = vec![(0..=to.len()).collect()];
    for i in 1..=from.len() {
        let mut row = vec![i];
        for j in 1..=to.len() {
            let change = rows[i - 1][j - 1] + usize::from(from[i - 1] != to[j - 1]);
            let mut least = change.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && from[i - 1] == to[j - 2] && from[i - 2] == to[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[from.len()][to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_pen_is_understood() {
        assert_eq!(suggest("vpc", "route_table").unwrap(), "did you mean \"route_tables\"?");
        assert_eq!(suggest("", "netwrok").unwrap(), "did you mean \"network\"?");
        assert_eq!(suggest("network", "mut").unwrap(), "did you mean \"mtu\"?");
    }

    #[test]
    fn a_key_in_the_wrong_section_is_sent_home() {
        assert_eq!(suggest("mesh", "range").unwrap(), "`range` belongs under [ipam]");
        assert_eq!(suggest("mesh", "peers").unwrap(), "`peers` stands before the first section");
    }

    #[test]
    fn a_word_that_is_like_no_key_gets_no_suggestion() {
        assert_eq!(suggest("vpc", "colour"), None);
        assert_eq!(suggest("vpc", &"x".repeat(100_000)), None);
    }
}
