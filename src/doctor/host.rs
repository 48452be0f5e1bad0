//! What this host says: its file, its daemon, and whether its network can carry containers.

use super::{Facts, Finding};
use crate::{
    config::Config,
    node::UNREAD_WAY_OUT,
    state::{Forward, Host, Tracking},
};

/// A shorter password is warned about: of random letters and digits so many are out of reach of all who try.
const PASSWORD_LEN_MIN: usize = 16;

pub(super) fn configuration(facts: &Facts) -> Vec<Finding> {
    let (name, config) = &facts.file;
    vec![match config {
        Ok(_) => Finding::ok("configuration", format!("{name} is valid")),
        Err(wrong) => {
            let why = "a daemon that starts now refuses it; the rest is judged by the default values";
            let others =
                facts.daemon.as_ref().ok().map(|status| &status.config.path).filter(|path| *path != name);
            let fix = match others {
                Some(path) => format!("weavers doctor --config {path}, which the daemon reads"),
                None => format!("weavers validate {name}"),
            };
            Finding::fail("configuration", format!("{name}: {wrong}"), why).fix(fix)
        }
    }]
}

/// On what a host seals for whoever answers at an address that it dials, passwords can be tried, as many as there is time for.
pub(super) fn password(read: Option<&Result<usize, String>>) -> Option<Finding> {
    Some(match read? {
        Ok(len) if *len >= PASSWORD_LEN_MIN => Finding::ok("password", format!("it has {len} characters")),
        Ok(len) => {
            let what = format!("the password of the mesh has {len} characters");
            let why =
                "whoever answers at an address that this host dials can try passwords without asking again";
            Finding::warn("password", what, why).fix(format!(
                "openssl rand -base64 24, into [mesh] password_file on every host (at least {PASSWORD_LEN_MIN} characters); then restart weavers on all"
            ))
        }
        Err(wrong) => {
            let why = "a daemon that starts now without it refuses to start; or only root may read it";
            Finding::warn("password", wrong.clone(), why).fix("sudo weavers doctor")
        }
    })
}

pub(super) fn daemon(facts: &Facts) -> Vec<Finding> {
    let status = match &facts.daemon {
        Ok(status) => status,
        Err(wrong) => {
            let why = "routes and links stay as they are, and nobody repairs them";
            return vec![Finding::warn("daemon", wrong.clone(), why).fix("systemctl start weavers")];
        }
    };
    let state = match (status.ready, status.converged) {
        (true, true) => Finding::ok("daemon", format!("weavers {} is ready and converged", status.version)),
        (ready, _) => {
            let what = if ready { "ready, not converged" } else { "not ready" };
            let wait = status.waits.first();
            let what = wait.map_or(what.to_owned(), |wait| format!("{what}: waiting for {}", wait.what));
            Finding::warn("daemon", what, "it is at work, or held up by what is named below")
                .fix("weavers status")
        }
    };
    let problems = status.problems.iter().map(|problem| {
        let why = "the daemon names it as a problem of its own";
        Finding::warn("daemon", problem.what.clone(), why).fix_if(problem.hint.clone())
    });
    let config = status.config.error.iter().map(|error| {
        let why = "the configuration before it is in force";
        Finding::warn("configuration", error.clone(), why).fix("weavers validate; weavers reload")
    });
    [state].into_iter().chain(problems).chain(config).collect()
}

pub(super) fn examine(facts: &Facts) -> Vec<Finding> {
    let config = facts.file.1.clone().unwrap_or_default();
    let mut findings = vec![nft(&facts.nft)];
    match &facts.host {
        Err(fault) => {
            let why = "links and routes of containers cannot be looked at";
            findings.push(Finding::fail("host", fault.message.clone(), why).fix_if(fault.hint.clone()));
        }
        Ok(host) => {
            findings.push(forwarding(host, facts.daemon.is_ok()));
            findings.push(firewall(host));
            findings.extend(tracking(host));
            findings.push(mtu(&config, host));
            findings.extend(foreign(host));
        }
    }
    findings
}

fn nft(version: &Result<String, String>) -> Finding {
    match version {
        Ok(version) => Finding::ok("nft", version.clone()),
        Err(wrong) => {
            let why = "the rules that masquerade, guard the metadata and stop loops are loaded with it";
            Finding::fail("nft", format!("nft cannot be run: {wrong}"), why).fix("apt-get install nftables")
        }
    }
}

/// An uplink may be kept from forwarding while all else does.
fn forwarding(host: &Host, is_kept: bool) -> Finding {
    let all = "net.ipv4.ip_forward";
    let why = "without it the kernel passes no packet on to a container";
    let closed = host
        .sysctls
        .iter()
        .find(|(_, value)| *value != "1")
        .map(|(name, value)| (name.as_str(), value.as_str()));
    let missing = (!host.sysctls.contains_key(all)).then_some((all, "?"));
    match closed.or(missing) {
        None => Finding::ok("forwarding", format!("{all} = 1")),
        Some((name, value)) => {
            let what = format!("{name} = {value}");
            let finding = if is_kept { Finding::fail } else { Finding::warn };
            finding("forwarding", what, why).fix(format!("sysctl -w {name}=1; the daemon keeps it so"))
        }
    }
}

fn firewall(host: &Host) -> Finding {
    match &host.forward {
        Forward::Open => Finding::ok("firewall", "no other forward chain is in the way"),
        Forward::Opened(chain) => Finding::ok("firewall", format!("{chain} lets containers pass")),
        Forward::Closed(chain) => {
            let what = format!("{chain} drops what containers send and receive");
            Finding::warn("firewall", what, "the daemon amends that chain when it converges")
                .fix("weavers apply")
        }
        Forward::Foreign(chain) => {
            let what = format!("{chain} drops what containers send and receive");
            let why = "an accept in a table of ours does not override a drop in another";
            Finding::fail("firewall", what, why)
                .fix("let interfaces wv+ pass there; with firewalld, put them in the zone `trusted`")
        }
        Forward::Unread(chain) => {
            let what = format!("{chain} cannot be read");
            Finding::warn("firewall", what, "it may drop what containers send and receive")
                .fix(UNREAD_WAY_OUT)
        }
    }
}

fn tracking(host: &Host) -> Option<Finding> {
    let why = "containers and this host open no connection that leaves by an uplink";
    Some(Finding::fail("tracking", host.surroundings.tracking?.to_string(), why).fix(Tracking::WAY_OUT))
}

fn mtu(config: &Config, host: &Host) -> Finding {
    let Some((uplink, carries)) = host.uplinks.iter().min_by_key(|(_, mtu)| **mtu) else {
        let why = "packets between hosts leave by the interface of the default route";
        return Finding::fail("mtu", "there is no default route", why)
            .fix("ip route add default via GATEWAY");
    };
    match config.network.mtu {
        None => Finding::ok("mtu", format!("links follow {uplink}, which carries {carries}")),
        Some(mtu) if mtu > *carries => {
            let what = format!("links have {mtu}, {uplink} carries {carries}");
            Finding::fail("mtu", what, "large packets of containers are dropped or come back as too large")
                .fix(format!("set [network] mtu = \"auto\", or at most {carries}; weavers apply"))
        }
        Some(mtu) => Finding::ok("mtu", format!("links have {mtu}, {uplink} carries {carries}")),
    }
}

fn foreign(host: &Host) -> Vec<Finding> {
    let found = host.foreign.iter().map(|(cidr, target)| {
        let what = format!("{cidr} {target} is a route of another program inside the container range");
        Finding::warn("host", what, "no address beneath it is handed out, and packets there follow it")
            .fix(format!("ip route del {cidr}"))
    });
    found.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Level;

    #[test]
    fn links_larger_than_the_uplink_are_a_failure_and_smaller_ones_are_not() {
        let host = Host { uplinks: [("ens5".to_owned(), 1500)].into(), ..Host::default() };
        let with = |mtu| {
            let mut config = Config::default();
            config.network.mtu = mtu;
            mtu_level(&config, &host)
        };
        assert_eq!(with(Some(9000)), Level::Fail);
        assert_eq!(with(Some(1376)), Level::Ok);
        assert_eq!(with(None), Level::Ok);
        assert_eq!(mtu_level(&Config::default(), &Host::default()), Level::Fail);
    }

    #[test]
    fn a_short_password_is_warned_about_and_none_is_not() {
        let level = |read: Option<Result<usize, String>>| password(read.as_ref()).map(|found| found.level);
        assert_eq!(level(None), None);
        assert_eq!(level(Some(Ok(6))), Some(Level::Warn));
        assert_eq!(level(Some(Ok(PASSWORD_LEN_MIN))), Some(Level::Ok));
        assert_eq!(level(Some(Err("permission denied".to_owned()))), Some(Level::Warn));
    }

    fn mtu_level(config: &Config, host: &Host) -> Level {
        mtu(config, host).level
    }

    #[test]
    fn a_daemon_that_runs_would_have_turned_forwarding_on() {
        let host =
            Host { sysctls: [("net.ipv4.ip_forward".to_owned(), "0".to_owned())].into(), ..Host::default() };
        assert_eq!(forwarding(&host, true).level, Level::Fail);
        assert_eq!(forwarding(&host, false).level, Level::Warn);
    }

    #[test]
    fn an_uplink_that_does_not_forward_is_a_failure_though_all_else_does() {
        let sysctls = [("net.ipv4.ip_forward", "1"), ("net.ipv4.conf.ens5.forwarding", "0")];
        let sysctls = sysctls.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let finding = forwarding(&Host { sysctls, ..Host::default() }, true);
        assert_eq!(
            (finding.level, finding.what.as_str()),
            (Level::Fail, "net.ipv4.conf.ens5.forwarding = 0")
        );
    }
}
