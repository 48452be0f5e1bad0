//! A mesh with a password: nothing of what the peers say can be read on the wire, and whoever does not have it stays out.

use std::{fs, time::Duration};

use anyhow::Context;

use super::{
    refusal::{named, two_at_work, undisturbed},
    stage::{Checks, eventually, holds, report, same},
};
use crate::{lab::Lab, pinger::end_without_loss, report::Report, tap::Tap};

/// How long until all are connected again.
const TOGETHER_WITHIN: Duration = Duration::from_secs(20);
/// What peers say in clear without a password: their nicknames, and the channel of the address manager.
const WORDS: [&str; 4] = ["nickname-of-h1", "nickname-of-h2", "nickname-of-h3", "IPallocation"];

/// Two hosts have the password. The third comes without it, with another, and with theirs. Then all
/// change it, one after the other, and in the end do without.
pub async fn run(lab: &mut Lab) -> anyhow::Result<Report> {
    let mut checks = Checks::default();
    for host in 0..lab.hosts.len() {
        let mesh = format!("[mesh]\nnickname = \"nickname-of-h{}\"\n", host + 1);
        lab.edit(host, "[vpc]", &format!("{mesh}{}\n[vpc]", setting(lab, host)))?;
        set(lab, host, "first")?;
    }
    unreadable(lab, &mut checks).await?;
    let tap = Tap::open()?;
    let ready = two_at_work(lab).await?;
    strangers(lab, &mut checks).await?;
    checks.timed("all three are connected", together(lab).await?);
    change(lab, &mut checks).await?;
    let (len, heard) = tap.heard(&WORDS)?;
    checks.add(format!("none of {WORDS:?} is among {len} bytes on the wire"), same(&Vec::new(), &heard));

    // Without a password they are: the tap is none that hears nothing.
    let tap = Tap::open()?;
    for host in 0..lab.hosts.len() {
        lab.stop_host(host).await?;
        lab.edit(host, &setting(lab, host), "")?;
        lab.start_host(host)?;
    }
    checks.timed("all are connected without a password, too", together(lab).await?);
    let (_, heard) = tap.heard(&WORDS)?;
    checks.add("then each of the words is heard", same(&WORDS.to_vec(), &heard));
    report(lab, ready, checks).await
}

/// A daemon that was told to use a password does not start without.
async fn unreadable(lab: &Lab, checks: &mut Checks) -> anyhow::Result<()> {
    let file = lab.hosts[2].dir.join("password");
    let name = file.display().to_string();
    fs::remove_file(&file)?;
    let ran = lab.ran_in_place(2, &["run"]).await?;
    checks.add("run refuses a password file that is not there", ran.says(1, &["password_file", &name]));
    set(lab, 2, "")?;
    let ran = lab.ran_in_place(2, &["run"]).await?;
    checks.add("run refuses an empty one", ran.says(1, &["password_file", &name, "is empty"]));
    Ok(())
}

/// The third host is kept out, and both sides say why, until it has the password.
async fn strangers(lab: &mut Lab, checks: &mut Checks) -> anyhow::Result<()> {
    let address = lab.hosts[0].address.to_string();
    let setting = setting(lab, 2);
    lab.edit(2, &setting, "")?;
    lab.start_host(2)?;
    let words = [&address[..], "the other side has a password and we have none"];
    checks.timed("a host without a password says why it is kept out", named(lab, 2, &words).await?);
    let words = ["we have a password and the other side has none"];
    checks.timed("so do the others", named(lab, 0, &words).await?);
    checks.add("they are as before", undisturbed(lab).await?);
    lab.stop_host(2).await?;

    lab.edit(2, "nickname-of-h3\"\n", &format!("nickname-of-h3\"\n{setting}"))?;
    set(lab, 2, "another")?;
    lab.start_host(2)?;
    checks
        .timed("a host with another says why it is kept out", named(lab, 2, &[&address, "password"]).await?);
    checks.timed("so do the others", named(lab, 0, &["password"]).await?);
    checks.add("they are as before", undisturbed(lab).await?);
    lab.stop_host(2).await?;

    set(lab, 2, "first")?;
    lab.start_host(2)?;
    lab.await_ready(2).await?;
    lab.attach(2).await.map(|_| ())
}

/// Each host gets the new password and is restarted. Containers do not notice.
async fn change(lab: &mut Lab, checks: &mut Checks) -> anyhow::Result<()> {
    lab.settle().await?;
    let pingers = lab.ping_ring(&Vec::from_iter(0..lab.containers.len()))?;
    for host in 0..lab.hosts.len() {
        set(lab, host, "second")?;
        lab.stop_host(host).await?;
        lab.start_host(host)?;
    }
    checks.timed("the password was changed: all are connected again", together(lab).await?);
    for host in 0..lab.hosts.len() {
        let settled = lab.settled(host).await?;
        checks.timed(format!("the password was changed: h{} has nothing to do", host + 1), settled);
    }
    let (sent, lost) = end_without_loss(pingers).await?;
    checks.add(format!("none of {sent} pings was lost meanwhile"), lost);
    lab.attach(0).await.map(|_| ())
}

/// Writes a host's password file.
pub(super) fn set(lab: &Lab, host: usize, password: &str) -> anyhow::Result<()> {
    let file = lab.hosts[host].dir.join("password");
    fs::write(&file, format!("{password}\n")).with_context(|| file.display().to_string())
}

/// The line of a host's `weave.toml` that names its password file.
pub(super) fn setting(lab: &Lab, host: usize) -> String {
    format!("password_file = \"{}\"\n", lab.hosts[host].dir.join("password").display())
}

/// Waits until each host has a connection to each other that both call established.
async fn together(lab: &Lab) -> anyhow::Result<Result<Duration, String>> {
    eventually(TOGETHER_WITHIN, async || {
        for host in 0..lab.hosts.len() {
            let ran = lab.ran_when_up(host, &["status", "--json"]).await?;
            let established = ran.stdout.matches("\"established\"").count();
            let all = established == lab.hosts.len() - 1;
            if !all {
                return Ok(holds(all, || format!("h{} has {established} connections", host + 1)));
            }
        }
        Ok(Ok(()))
    })
    .await
}
