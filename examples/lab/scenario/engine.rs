//! What the engines that run containers need of a host: the machine's control groups, and a file system with one program in it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::Context;
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

use crate::{
    lab::{Container, Lab},
    net,
};

/// Where Debian puts it.
const BUSYBOX: [&str; 2] = ["/bin/busybox", "/usr/bin/busybox"];

/// A mount namespace of a host, as long as this lives. Beneath the host's own `/sys` lie the control groups of the machine.
pub struct Mounts(Child);

impl Mounts {
    /// Makes one, and does this in it.
    pub async fn make(lab: &Lab, host: usize, script: &str) -> anyhow::Result<Mounts> {
        let script = format!("umount /sys; {script}\necho up; exec sleep infinity");
        let mut keeper = lab.hosts[host].enter()?;
        keeper.args(["unshare", "--mount", "--propagation", "slave", "sh", "-ec", &script]);
        let mut keeper = keeper.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
        let stdout = keeper.stdout.take().context("no stdout")?;
        let said = BufReader::new(stdout).lines().next_line().await?;
        anyhow::ensure!(said.as_deref() == Some("up"), "the mounts of h{} could not be made", host + 1);
        Ok(Mounts(keeper))
    }

    /// A command that runs its arguments there.
    pub fn enter(&self) -> anyhow::Result<Command> {
        let keeper = self.0.id().context("the keeper of an engine's mounts has ended")?;
        let mut command = Command::new("nsenter");
        command.args(["--target", &keeper.to_string(), "--net", "--uts", "--mount", "--"]);
        Ok(command)
    }
}

/// A root file system with busybox in it.
pub fn root(lab: &Lab) -> anyhow::Result<PathBuf> {
    let busybox = BUSYBOX.iter().find(|path| Path::new(path).is_file());
    let busybox = busybox.context("busybox is missing: apt-get install busybox-static")?;
    let root = lab.dir().join("image");
    for dir in ["bin", "etc", "proc", "sys", "dev", "run", "tmp"] {
        fs::create_dir_all(root.join(dir))?;
    }
    fs::copy(busybox, root.join("bin/busybox"))?;
    for name in ["sh", "sleep", "ip", "ping", "cat"] {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(name))?;
    }
    Ok(root)
}

/// The same as a tar file.
pub async fn image(lab: &Lab) -> anyhow::Result<PathBuf> {
    let (root, tar) = (root(lab)?, lab.dir().join("image.tar"));
    net::run(Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(&tar).arg(".")).await?;
    Ok(tar)
}

/// The container that weavers has filed under a name that holds this one becomes one of the lab's; its index.
pub async fn adopt(lab: &mut Lab, host: usize, name: &str, pid: u32) -> anyhow::Result<usize> {
    let status = lab.status(host).await?;
    let all = status["attachments"].as_array().cloned().unwrap_or_default();
    let found = all.iter().find(|one| one["ident"].to_string().contains(name) || one["name"] == name);
    let address = found.and_then(|one| one["address"].as_str());
    let address =
        address.with_context(|| format!("{name} is not attached: {}", Value::Array(all.clone())))?;
    let netns = format!("/proc/{pid}/ns/net").into();
    lab.containers.push(Container { name: name.to_owned(), host, netns, address: address.parse()? });
    Ok(lab.containers.len() - 1)
}
