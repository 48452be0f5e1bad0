//! A real Docker on each host: the daemon in a mount namespace of its own, and an image without a registry.

use std::{fs, net::Ipv4Addr, path::PathBuf, process::Stdio, time::Duration};

use anyhow::{Context, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tokio::{
    process::{Child, Command},
    time::timeout,
};

use super::{
    engine::{self, Mounts},
    stage::{Ran, eventually, finish, holds},
};
use crate::lab::{Container, Lab};

/// Docker's own socket, on its host.
const SOCKET: &str = "/run/docker/docker.sock";
/// The network that containers are on.
pub const NETWORK: &str = "w";
const IMAGE: &str = "bb:1";
const UP_WITHIN: Duration = Duration::from_secs(20);
const ENDS_WITHIN: Duration = Duration::from_secs(30);

/// The daemons, by host.
pub struct Dockers {
    image: PathBuf,
    /// Of containers that outlive their daemon, too.
    mounts: Vec<Mounts>,
    /// They end with this.
    daemons: Vec<Child>,
}

impl Dockers {
    /// Makes room for Docker on every host, and has weavers know its socket. Nothing is started.
    pub async fn prepare(lab: &Lab) -> anyhow::Result<Dockers> {
        let mut dockers =
            Dockers { image: engine::image(lab).await?, mounts: Vec::new(), daemons: Vec::new() };
        for index in 0..lab.hosts.len() {
            let section = format!("[docker]\nsocket = {SOCKET:?}\n\n[reconcile]");
            lab.edit(index, "[reconcile]", &section)?;
            lab.on_host(index, &["sh", "-ec", "mkdir -p /run/docker; mount -t tmpfs tmpfs /run/docker"])
                .await?;
            dockers.mounts.push(Mounts::make(lab, index, "").await?);
        }
        Ok(dockers)
    }

    /// Starts them all, with the image.
    pub async fn start_all(&mut self, lab: &Lab) -> anyhow::Result<()> {
        for host in 0..lab.hosts.len() {
            self.daemons.push(self.spawn(lab, host)?);
        }
        for host in 0..lab.hosts.len() {
            self.await_up(lab, host).await?;
            let image = self.image.display().to_string();
            self.docker(lab, host, &["import", "--change", r#"CMD ["sleep","1000000"]"#, &image, IMAGE])
                .await?;
        }
        Ok(())
    }

    /// Starts one. Its containers would outlive it, unless a file of its own says otherwise.
    fn spawn(&self, lab: &Lab, host: usize) -> anyhow::Result<Child> {
        let dir = &lab.hosts[host].dir;
        let log = fs::File::options().create(true).append(true).open(dir.join("dockerd.log"))?;
        if !dir.join("daemon.json").exists() {
            fs::write(dir.join("daemon.json"), "{\"live-restore\": true}")?;
        }
        let mut command = self.mounts[host].enter()?;
        command
            .arg("dockerd")
            .arg("--config-file")
            .arg(dir.join("daemon.json"))
            .args(["--exec-root", "/run/docker"]);
        command.arg("--data-root").arg(dir.join("docker")).arg("--pidfile").arg(dir.join("docker.pid"));
        command.args(["-H", &format!("unix://{SOCKET}")]).stdin(Stdio::null());
        command.stdout(log.try_clone()?).stderr(log).kill_on_drop(true);
        command.spawn().context("dockerd cannot be started")
    }

    /// Waits until one answers.
    async fn await_up(&self, lab: &Lab, host: usize) -> anyhow::Result<()> {
        let up = eventually(UP_WITHIN, async || {
            let ran = self.ran(lab, host, &["version"]).await?;
            Ok(holds(ran.code == 0, || ran.stderr.clone()))
        });
        up.await?.map(drop).map_err(|why| anyhow::anyhow!("dockerd of h{}: {why}", host + 1))
    }

    /// Runs `docker` on a host, however it ends.
    pub async fn ran(&self, lab: &Lab, host: usize, args: &[&str]) -> anyhow::Result<Ran> {
        finish(&mut self.command(lab, host, args)?).await
    }

    /// The command for that.
    pub fn command(&self, lab: &Lab, host: usize, args: &[&str]) -> anyhow::Result<Command> {
        let mut command = lab.hosts[host].enter()?;
        command.env("DOCKER_HOST", format!("unix://{SOCKET}")).arg("docker").args(args).kill_on_drop(true);
        Ok(command)
    }

    /// The same; what it prints.
    pub async fn docker(&self, lab: &Lab, host: usize, args: &[&str]) -> anyhow::Result<String> {
        let ran = self.ran(lab, host, args).await?;
        ensure!(ran.code == 0, "docker {args:?} on h{} failed: {}", host + 1, ran.stderr);
        Ok(ran.stdout.trim().to_owned())
    }

    /// Runs a container on the network, which becomes one of the lab's; its index.
    pub async fn run(&self, lab: &mut Lab, host: usize, name: &str, more: &[&str]) -> anyhow::Result<usize> {
        self.run_on(lab, host, (name, NETWORK), more).await
    }

    /// The same on the network of this name.
    pub async fn run_on(
        &self,
        lab: &mut Lab,
        host: usize,
        (name, network): (&str, &str),
        more: &[&str],
    ) -> anyhow::Result<usize> {
        let start = ["run", "-d", "--name", name, "--network", network];
        self.docker(lab, host, &[&start, more, &[IMAGE]].concat()).await?;
        lab.containers.push(self.find_on(lab, host, (name, network)).await?);
        Ok(lab.containers.len() - 1)
    }

    /// A container that runs, as it is by now.
    pub async fn find(&self, lab: &Lab, host: usize, name: &str) -> anyhow::Result<Container> {
        self.find_on(lab, host, (name, NETWORK)).await
    }

    async fn find_on(
        &self,
        lab: &Lab,
        host: usize,
        (name, network): (&str, &str),
    ) -> anyhow::Result<Container> {
        let text = self.docker(lab, host, &["inspect", "--type", "container", name]).await?;
        let all: Value = serde_json::from_str(&text)?;
        let pid = all.pointer("/0/State/Pid").and_then(Value::as_u64).context("no pid")?;
        let address = all.pointer(&format!("/0/NetworkSettings/Networks/{network}/IPAddress"));
        let address: Ipv4Addr = address.and_then(Value::as_str).context("no address")?.parse()?;
        Ok(Container { name: name.to_owned(), host, netns: format!("/proc/{pid}/ns/net").into(), address })
    }

    /// Ends the daemon of a host and starts it again; its containers live on.
    pub async fn restart(&mut self, lab: &Lab, host: usize) -> anyhow::Result<()> {
        let pid = self.daemons[host].id().context("dockerd has ended")?;
        kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGTERM)?;
        timeout(ENDS_WITHIN, self.daemons[host].wait()).await.context("dockerd does not end")??;
        let new = self.spawn(lab, host)?;
        self.daemons[host] = new;
        self.await_up(lab, host).await
    }

    /// The arguments that start another one and end when it has ended.
    pub fn image(&self) -> &'static str {
        IMAGE
    }
}
