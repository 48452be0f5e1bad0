//! Containers of Podman: by CNI, as Debian 12 has it, and what netavark would call.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::ensure;
use serde_json::{Value, json};

use super::{
    basic, engine,
    stage::{Checks, Ran, eventually, finish, holds, passes, same},
    v6,
};
use crate::{
    fabric::addresses6,
    lab::{Lab, Namespace},
    net,
    report::Report,
};

const SOON: Duration = Duration::from_secs(10);
/// A daemon tells runtimes that it can serve some seconds after it can.
const WRITTEN_WITHIN: Duration = Duration::from_secs(10);

/// Podman on each host, and our plugin.
struct Podman {
    root: PathBuf,
    plugin: PathBuf,
}

/// Two containers on each host, and one by netavark's plugin.
pub async fn run(lab: &mut Lab) -> anyhow::Result<Report> {
    if !lab.is_root() {
        return basic::run(lab).await;
    }
    v6::give_all(lab).await?;
    let podman = Podman::prepare(lab).await?;
    let ready = lab.start_all().await?;
    let mut checks = Checks::default();
    for host in 0..lab.hosts.len() {
        let conflist = lab.hosts[host].dir.join("net.d/10-weavers.conflist");
        let written =
            eventually(WRITTEN_WITHIN, async || Ok(holds(conflist.is_file(), || "no conflist".to_owned())));
        written.await?.map_err(anyhow::Error::msg)?;
        for number in 1..=2 {
            podman.start(lab, host, &format!("h{}p{number}", host + 1), &[]).await?;
        }
    }
    let status = lab.weavers(0, &["status"]).await?;
    checks.add(
        "`weavers status` calls containers as Podman does",
        holds(status.contains("h1p1"), || status.clone()),
    );
    let owned = basic::owned(lab, 0).await?[0];
    let ip = std::net::Ipv4Addr::from(u32::from(owned.network()) + 0x1234);
    let more = ["--ip", &ip.to_string(), "--mac-address", "02:00:00:00:12:34", "-p", "8080:80"];
    let index = podman.start(lab, 0, "wish", &more).await?;
    checks.add("the wanted address is given", same(&ip, &lab.containers[index].address));
    let (netns, far) = (lab.containers[index].netns.clone(), lab.containers[2].netns.clone());
    let through = net::tcp_echo_by(&far, &netns, 80, (lab.hosts[0].address, 8080)).await;
    checks.add("a port leads to it, by portmap", through.map_err(|error| format!("{error:#}")));
    let [_, address6] = addresses6(lab.hosts[0].address);
    let through = net::tcp_echo_by(&far, &netns, 80, (address6, 8080)).await;
    checks.add("by IPv6, too", through.map_err(|error| format!("{error:#}")));
    let pings = lab.ping_all().await?;
    v6::reached(lab, &mut checks).await?;
    netavark(lab, &podman, &mut checks).await?;
    for host in 0..lab.hosts.len() {
        podman.podman(lab, host, &["rm", "-f", "-t", "0", "--all"]).await?;
        let left = eventually(SOON, async || {
            let status = lab.status(host).await?;
            Ok(same(&Some(0), &status["attachments"].as_array().map(Vec::len)))
        });
        checks.timed(format!("nothing is attached on h{} once all are removed", host + 1), left.await?);
    }
    lab.containers.clear();
    let mut report = basic::report(lab).await?;
    (report.ready, report.pings) = (ready, pings);
    report.checks.extend(checks.0);
    Ok(report)
}

impl Podman {
    async fn prepare(lab: &Lab) -> anyhow::Result<Podman> {
        let bin = lab.dir().join("cni");
        fs::create_dir_all(&bin)?;
        let plugin = bin.join("weavers");
        let ours = lab.binary().with_file_name("weavers-cni");
        ensure!(ours.is_file(), "{} is not there: build it", ours.display());
        symlink(ours, &plugin)?;
        let podman = Podman { root: engine::root(lab)?, plugin };
        for (index, host) in lab.hosts.iter().enumerate() {
            let conf_dir = host.dir.join("net.d");
            fs::create_dir_all(&conf_dir)?;
            let section = format!("[cni]\nconf_dir = {conf_dir:?}\n\n[reconcile]");
            lab.edit(index, "[reconcile]", &section)?;
            // Without CAP_SYS_RESOURCE its own limits cannot be set.
            let config = format!(
                "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n\
                 [engine]\nruntime = \"runc\"\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\n\
                 [network]\nnetwork_backend = \"cni\"\ncni_plugin_dirs = [{bin:?}, \"/usr/lib/cni\"]\n\
                 network_config_dir = {conf_dir:?}\n"
            );
            fs::write(host.dir.join("containers.conf"), config)?;
            // Beneath the host's own /sys lie the control groups of the machine. Namespaces that Podman mounts are to be seen by weavers.
            lab.on_host(index, &["umount", "/sys"]).await?;
        }
        Ok(podman)
    }

    async fn ran(&self, lab: &Lab, host: usize, args: &[&str]) -> anyhow::Result<Ran> {
        let dir = &lab.hosts[host].dir;
        let mut command = lab.hosts[host].enter()?;
        command.env("CONTAINERS_CONF", dir.join("containers.conf")).arg("podman");
        command.arg("--root").arg(dir.join("podman")).arg("--runroot").arg(dir.join("podman-run"));
        command.arg("--tmpdir").arg(dir.join("podman-tmp")).args(["--storage-driver", "vfs"]);
        finish(command.args(args)).await
    }

    async fn podman(&self, lab: &Lab, host: usize, args: &[&str]) -> anyhow::Result<String> {
        let ran = self.ran(lab, host, args).await?;
        ensure!(ran.code == 0, "podman {args:?} on h{} failed: {}", host + 1, ran.stderr);
        Ok(ran.stdout.trim().to_owned())
    }

    /// Starts a container, which becomes one of the lab's; its index.
    async fn start(&self, lab: &mut Lab, host: usize, name: &str, more: &[&str]) -> anyhow::Result<usize> {
        // No two containers write to one root.
        let root = lab.dir().join(format!("root-{name}"));
        net::run(tokio::process::Command::new("cp").arg("-a").arg(&self.root).arg(&root)).await?;
        let root = root.display().to_string();
        let start = ["run", "-d", "--name", name, "--network", "weavers"];
        let program = ["--rootfs", &root, "/bin/sleep", "1000000"];
        self.podman(lab, host, &[&start, more, &program].concat()).await?;
        let pid = self.podman(lab, host, &["inspect", "-f", "{{.State.Pid}}", name]).await?;
        engine::adopt(lab, host, name, pid.parse()?).await
    }

    async fn netavark(&self, lab: &Lab, args: &[&str], stdin: &Value) -> anyhow::Result<Ran> {
        call_as_netavark(lab, &self.plugin, args, stdin).await
    }
}

/// Calls our plugin on h1 as netavark does.
pub async fn call_as_netavark(lab: &Lab, plugin: &Path, args: &[&str], stdin: &Value) -> anyhow::Result<Ran> {
    let mut command = lab.hosts[0].enter()?;
    command.env("STDIN", stdin.to_string()).args(["sh", "-c", "printf %s \"$STDIN\" | \"$0\" \"$@\""]);
    finish(command.arg(plugin).args(args)).await
}

/// What netavark calls, with a container of the lab's own.
async fn netavark(lab: &mut Lab, podman: &Podman, checks: &mut Checks) -> anyhow::Result<()> {
    let info = podman.netavark(lab, &["info"], &Value::Null).await?;
    checks.add("netavark is told what we are", info.says(0, &["\"api_version\":\"1.0.0\""]));
    let network = json!({
        "name": "w", "id": "2f25", "driver": "weavers", "created": "0001-01-01T00:00:00Z", "ipv6_enabled": false,
        "internal": false, "dns_enabled": true, "labels": {}, "options": {}, "ipam_options": {},
    });
    let made = podman.netavark(lab, &["create"], &network).await?;
    checks.add("a network is created", made.says(0, &["\"driver\":\"none\"", "\"dns_enabled\":false"]));
    let mut outside = network.clone();
    outside["subnets"] = json!([{ "subnet": "172.30.0.0/16" }]);
    let refused = podman.netavark(lab, &["create"], &outside).await?;
    checks.add(
        "one outside of the range is not",
        refused.says(1, &["{\"error\":\"subnet", "outside [ipam] range"]),
    );

    let namespace = lab.make_netns(0).await?;
    let path = namespace.path.display().to_string();
    let network: Value = serde_json::from_str(&made.stdout)?;
    let container = json!({
        "container_id": "c1", "container_name": "by-netavark", "network": network,
        "port_mappings": [{ "container_port": 80, "host_ip": "", "host_port": 8090, "protocol": "tcp", "range": 1 }],
        "network_options": { "interface_name": "eth0", "static_ips": null, "static_mac": null },
    });
    let start = Instant::now();
    let setup = podman.netavark(lab, &["setup", &path], &container).await?;
    checks.add(
        format!("a container is set up ({} ms)", start.elapsed().as_millis()),
        setup.says(0, &["/32", "169.254.1.1"]),
    );
    let index = lab.adopt(0, Namespace { name: namespace.name.clone(), path: namespace.path }).await?;
    let both = passes(lab, index, 2).await?.and(passes(lab, 2, index).await?);
    checks.add("it is reached, and reaches others", both);
    let (netns, far) = (lab.containers[index].netns.clone(), lab.containers[2].netns.clone());
    let through = net::tcp_echo_by(&far, &netns, 80, (lab.hosts[0].address, 8090)).await;
    checks.add("a port leads to it, by weavers", through.map_err(|error| format!("{error:#}")));
    let status = lab.weavers(0, &["status"]).await?;
    let shown = status.contains("by-netavark") && status.contains("8090->80/tcp");
    checks.add("`weavers status` shows its name and its port", holds(shown, || status.clone()));
    let mut other = container.clone();
    other["container_id"] = json!("c2");
    let late = lab.make_netns(0).await?;
    let refused = podman.netavark(lab, &["setup", &late.path.display().to_string()], &other).await?;
    checks.add("another has not the same port", refused.says(1, &["8090/tcp is published by `by-netavark`"]));
    let address = lab.containers[index].address;
    for what in ["a network is reloaded: torn down", "and torn down twice"] {
        let down = podman.netavark(lab, &["teardown", &path], &container).await?;
        checks.add(what, down.says(0, &[]));
    }
    let mut again = container.clone();
    again["network_options"]["static_ips"] = json!([address]);
    let back = podman.netavark(lab, &["setup", &path], &again).await?;
    checks.add("and set up again with the same address", back.says(0, &[&address.to_string()]));
    lab.kill_host(0).await?;
    let refused = podman.netavark(lab, &["setup", &path], &other).await?;
    checks.add("without a daemon it is an error", refused.says(1, &["cannot be reached"]));
    let down = podman.netavark(lab, &["teardown", &path], &container).await?;
    checks.add("and tearing down is none", down.says(0, &[]));
    lab.start_host(0)?;
    lab.await_ready(0).await?;
    lab.containers.remove(index);
    Ok(())
}
