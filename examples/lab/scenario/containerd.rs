//! Containers of containerd, by its own client: CNI in the directories that it takes for given.

use std::{process::Stdio, time::Duration};

use anyhow::{Context, ensure};
use tokio::process::Child;

use super::{
    basic,
    engine::{self, Mounts},
    stage::{Checks, Ran, eventually, finish, holds, same},
};
use crate::{lab::Lab, net, report::Report};

const UP_WITHIN: Duration = Duration::from_secs(20);
/// A daemon tells runtimes that it can serve some seconds after it can.
const WRITTEN_WITHIN: Duration = Duration::from_secs(10);
const SOON: Duration = Duration::from_secs(10);

/// Two containers on each of the hosts.
pub async fn run(lab: &mut Lab) -> anyhow::Result<Report> {
    if !lab.is_root() {
        return basic::run(lab).await;
    }
    let root = engine::root(lab)?;
    let mut engines = Vec::new();
    for host in 0..lab.hosts.len() {
        let section = "[cni]\nconf_dir = \"/run/weave/net.d\"\nplugins = []\n\n[reconcile]";
        lab.edit(host, "[reconcile]", section)?;
        lab.on_host(host, &["mkdir", "-p", "/run/weave/net.d"]).await?;
        engines.push(Engine::start(lab, host).await?);
    }
    let ready = lab.start_all().await?;
    let mut checks = Checks::default();
    for (host, engine) in engines.iter().enumerate() {
        let written = eventually(WRITTEN_WITHIN, async || {
            let ran = engine.ran(&["ls", "/etc/cni/net.d"]).await?;
            Ok(holds(ran.stdout.contains("10-weavers.conflist"), || ran.stderr.clone()))
        });
        written.await?.map_err(anyhow::Error::msg)?;
        for number in 1..=2 {
            let name = format!("h{}t{number}", host + 1);
            let own = lab.dir().join(format!("root-{name}"));
            net::run(tokio::process::Command::new("cp").arg("-a").arg(&root).arg(&own)).await?;
            let own = own.display().to_string();
            engine.ctr(&["run", "-d", "--cni", "--rootfs", &own, &name, "/bin/sleep", "1000000"]).await?;
            let tasks = engine.ctr(&["task", "ls"]).await?;
            let line = tasks.lines().find(|line| line.starts_with(&name)).context("no task")?;
            let pid = line.split_whitespace().nth(1).context("no pid")?.parse()?;
            engine::adopt(lab, host, &name, pid).await?;
        }
    }
    let pings = lab.ping_all().await?;
    for (host, engine) in engines.iter().enumerate() {
        for number in 1..=2 {
            let name = format!("h{}t{number}", host + 1);
            engine.ctr(&["task", "kill", "-s", "SIGKILL", &name]).await?;
        }
        // Nobody has said DEL: the namespaces are gone.
        let left = eventually(SOON, async || {
            let status = lab.status(host).await?;
            Ok(same(&Some(0), &status["attachments"].as_array().map(Vec::len)))
        });
        checks.timed(format!("nothing is attached on h{} once all are killed", host + 1), left.await?);
    }
    lab.containers.clear();
    let mut report = basic::report(lab).await?;
    (report.ready, report.pings) = (ready, pings);
    report.checks.extend(checks.0);
    Ok(report)
}

/// A containerd, which ends with this.
struct Engine {
    mounts: Mounts,
    socket: String,
    _daemon: Child,
}

impl Engine {
    async fn start(lab: &Lab, host: usize) -> anyhow::Result<Engine> {
        let dir = lab.hosts[host].dir.display().to_string();
        let plugin = lab.binary().with_file_name("weavers-cni");
        ensure!(plugin.is_file(), "{} is not there: build it", plugin.display());
        // Its client takes both directories for given; the machine's own are neither read nor written.
        let script = format!(
            "mkdir -p {dir}/over; mount -t tmpfs tmpfs {dir}/over; cd {dir}/over; mkdir etc etc-work opt opt-work\n\
             mount -t overlay -o lowerdir=/etc,upperdir=etc,workdir=etc-work overlay /etc\n\
             mount -t overlay -o lowerdir=/opt,upperdir=opt,workdir=opt-work overlay /opt\n\
             rm -rf /etc/cni; mkdir -p /etc/cni /opt/cni/bin; ln -s /run/weave/net.d /etc/cni/net.d\n\
             ln -sf {} /opt/cni/bin/weavers",
            plugin.display()
        );
        let mounts = Mounts::make(lab, host, &script).await?;
        let socket = format!("{dir}/containerd.sock");
        let config = format!(
            "version = 2\nroot = \"{dir}/containerd\"\nstate = \"{dir}/containerd-run\"\n[grpc]\naddress = \"{socket}\"\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n"
        );
        std::fs::write(format!("{dir}/containerd.toml"), config)?;
        let log = std::fs::File::create(format!("{dir}/containerd.log"))?;
        let mut command = mounts.enter()?;
        command.args(["containerd", "--config", &format!("{dir}/containerd.toml")]);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).kill_on_drop(true);
        let daemon = command.spawn().context("containerd cannot be started")?;
        let engine = Engine { mounts, socket, _daemon: daemon };
        let up = eventually(UP_WITHIN, async || {
            let ran = engine.ran(&["ctr", "-a", &engine.socket, "version"]).await?;
            Ok(holds(ran.code == 0, || ran.stderr.clone()))
        });
        up.await?.map_err(|why| anyhow::anyhow!("containerd of h{}: {why}", host + 1))?;
        Ok(engine)
    }

    async fn ran(&self, args: &[&str]) -> anyhow::Result<Ran> {
        finish(self.mounts.enter()?.args(args)).await
    }

    async fn ctr(&self, args: &[&str]) -> anyhow::Result<String> {
        let ran = self.ran(&[&["ctr", "-a", &self.socket], args].concat()).await?;
        ensure!(ran.code == 0, "ctr {args:?} failed: {}{}", ran.stdout, ran.stderr);
        Ok(ran.stdout)
    }
}
