//! What a container runtime does to us by CNI: with the library that all of them use, and by hand where that library does nothing.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use tokio::process::Command;

use super::stage::{Ran, finish};
use crate::{
    lab::{Lab, Namespace},
    net,
};

/// Where Debian keeps the plugins of others.
const PLUGINS: &str = "/usr/lib/cni";
/// Where Debian keeps the library.
const GO_PATH: &str = "/usr/share/gocode";

/// The programs that a runtime is made of.
pub struct Runtime {
    library: PathBuf,
    /// Our plugin, under the name that configurations call it by.
    plugin: PathBuf,
    path: String,
}

impl Runtime {
    /// Makes the library a program, and has every host write a file in which these plugins come after ours.
    pub async fn prepare(lab: &Lab, plugins: &[&str]) -> anyhow::Result<Runtime> {
        let bin = lab.dir().join("cni");
        fs::create_dir_all(&bin)?;
        let (library, plugin) = (bin.join("libcni"), bin.join("weavers"));
        let ours = lab.binary().with_file_name("weavers-cni");
        ensure!(ours.is_file(), "{} is not there: build it", ours.display());
        for name in ["weavers", "weavers-ipam"] {
            std::os::unix::fs::symlink(&ours, bin.join(name))?;
        }
        build(lab, &library).await?;
        for (index, host) in lab.hosts.iter().enumerate() {
            let conf_dir = host.dir.join("net.d");
            fs::create_dir_all(&conf_dir)?;
            let section = format!("[cni]\nconf_dir = {conf_dir:?}\nplugins = {plugins:?}\n\n[reconcile]");
            lab.edit(index, "[reconcile]", &section)?;
        }
        Ok(Runtime { library, plugin, path: format!("{}:{PLUGINS}", bin.display()) })
    }

    /// The file by which a runtime of this host finds us.
    pub fn conflist(lab: &Lab, host: usize) -> PathBuf {
        lab.hosts[host].dir.join("net.d/10-weavers.conflist")
    }

    /// The library does this to the whole list: `add`, `check`, `del`, `validate`. `more`: capabilities, arguments.
    pub async fn list(
        &self,
        lab: &Lab,
        host: usize,
        verb: &str,
        container: &Namespace,
        more: (&Value, &str),
    ) -> anyhow::Result<Ran> {
        self.list_of(lab, host, ("weavers", verb), container, more).await
    }

    /// The same to the list of this name.
    pub async fn list_of(
        &self,
        lab: &Lab,
        host: usize,
        (network, verb): (&str, &str),
        container: &Namespace,
        more: (&Value, &str),
    ) -> anyhow::Result<Ran> {
        let mut command = lab.hosts[host].enter()?;
        let dir = &lab.hosts[host].dir;
        command.env("CNI_PATH", &self.path).arg(&self.library).arg(dir.join("net.d")).args([network, verb]);
        command.arg(dir.join("cache")).arg(&container.name).arg(&container.path).arg("eth0");
        finish(command.arg(more.0.to_string()).arg(more.1)).await
    }

    /// Our plugin alone does this, in the newest version.
    pub fn ours(&self, lab: &Lab, host: usize, verb: &str, container: Call<'_>) -> anyhow::Result<Command> {
        let config = json!({ "cniVersion": "1.1.0", "name": "weavers", "type": "weavers" });
        self.plugin(lab, host, verb, container, config)
    }

    /// What lends addresses does this, to a network of `ptp` or of a bridge, by its name.
    pub async fn lender(
        &self,
        lab: &Lab,
        host: usize,
        (network, upper, verb): (&str, &str, &str),
        container: Call<'_>,
    ) -> anyhow::Result<Ran> {
        let ipam = json!({ "type": "weavers-ipam" });
        let config = json!({ "cniVersion": "1.1.0", "name": network, "type": upper, "ipam": ipam });
        finish(&mut self.plugin(lab, host, verb, container, config)?).await
    }

    fn plugin(
        &self,
        lab: &Lab,
        host: usize,
        verb: &str,
        container: Call<'_>,
        mut config: Value,
    ) -> anyhow::Result<Command> {
        if let Some(previous) = container.previous {
            config["prevResult"] = previous.clone();
        }
        let mut command = lab.hosts[host].enter()?;
        command.env("CNI_COMMAND", verb).env("CNI_CONTAINERID", container.id).env("CNI_IFNAME", "eth0");
        command.env("CNI_NETNS", container.netns).env("CNI_ARGS", "").env("CONFIG", config.to_string());
        let is_lender = config.get("ipam").is_some();
        let program =
            if is_lender { self.plugin.with_file_name("weavers-ipam") } else { self.plugin.clone() };
        command.args(["sh", "-c", "printf %s \"$CONFIG\" | \"$0\""]).arg(program);
        command.kill_on_drop(true);
        Ok(command)
    }

    /// The same, to its end; how long that took.
    pub async fn call(
        &self,
        lab: &Lab,
        host: usize,
        verb: &str,
        container: Call<'_>,
    ) -> anyhow::Result<(Ran, Duration)> {
        let mut command = self.ours(lab, host, verb, container)?;
        let start = Instant::now();
        let ran = finish(&mut command).await?;
        Ok((ran, start.elapsed()))
    }
}

/// Whom a call is about.
#[derive(Clone, Copy, Default)]
pub struct Call<'a> {
    /// Its id.
    pub id: &'a str,
    /// Its network namespace.
    pub netns: &'a str,
    /// What ADD was answered.
    pub previous: Option<&'a Value>,
}

async fn build(lab: &Lab, library: &Path) -> anyhow::Result<()> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cni/main.go");
    let cache = lab.binary().with_file_name("go-cache");
    let mut go = Command::new("go");
    go.args(["build", "-o"]).args([library, &source]).current_dir(lab.dir());
    // Nothing is fetched, and no home directory is needed.
    go.env("GO111MODULE", "off").env("GOFLAGS", "").env("GOTOOLCHAIN", "local").env("GOPATH", GO_PATH);
    net::run(go.env("GOCACHE", cache)).await.map(drop).context("the library of CNI cannot be built")
}

/// What a plugin printed, as JSON.
pub fn told(ran: &Ran) -> Value {
    serde_json::from_str(&ran.stdout).unwrap_or_default()
}
