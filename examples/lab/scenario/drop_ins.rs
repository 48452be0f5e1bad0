//! Files of `conf.d` beside `weave.toml`: seen as they come, are edited and go, tried, and back after a roll-back.

use std::{fs, time::Duration};

use super::{
    reload::mtus_of,
    stage::{Checks, at_work, eventually, holds, report, same},
};
use crate::{lab::Lab, report::Report};

/// How long until a file that came, was edited or went is noticed: the timer of the watcher, where its directory is new.
const NOTICED_WITHIN: Duration = Duration::from_secs(7);
const TRIAL: &str = "2s";
const BACK_WITHIN: Duration = Duration::from_secs(4);

pub async fn drop_ins(lab: &mut Lab) -> anyhow::Result<Report> {
    let ready = at_work(lab).await?;
    let mut checks = Checks::default();
    let directory = lab.hosts[0].dir.join("conf.d");
    let (path, late) = (directory.join("10-mtu.toml"), directory.join("20-mtu.toml"));
    let (main, file) = (lab.hosts[0].config().display().to_string(), path.display().to_string());
    fs::create_dir(&directory)?;

    fs::write(&path, "# as the uplink has it\n[network]\nmtu = 1500\n")?;
    checks.timed("a drop-in that comes is shown as pending", noticed(lab, "edited, not adopted").await?);
    let shown = lab.ran_in_place(0, &["config", "show", "--origins"]).await?;
    let words = [&format!("{file}:3"), "not in force yet", "default"];
    checks.add("config show tells what it says", shown.says(0, &words));
    let plan = lab.ran_in_place(0, &["plan", "--detailed-exitcode"]).await?;
    checks.add("plan shows what it would change", plan.says(2, &["mtu 9000 -> 1500"]));
    checks.add("apply adopts it", lab.ran(0, &["apply"]).await?.says(0, &["The configuration is adopted."]));
    checks.add("as it is", same(&vec![1500; 2], &mtus_of(lab, 0).await?));
    let status = lab.ran(0, &["status"]).await?;
    let not_pending = holds(!status.stdout.contains("edited"), || status.stdout.clone());
    checks.add("status names it, and that nothing is pending", status.says(0, &[&file]).and(not_pending));

    fs::write(&late, "[network]\nmut = 1400\n")?;
    let place = format!("{}:2:1: network.mut: unknown key (did you mean \"mtu\"?)", late.display());
    checks.timed("one with a mistake is named, with its own place", noticed(lab, &place).await?);
    checks.add("reload refuses it", lab.ran(0, &["reload"]).await?.says(78, &[&place]));
    checks.add("so does validate", lab.ran_in_place(0, &["validate"]).await?.says(78, &[&place]));
    checks.add("but not of weave.toml alone", lab.ran(0, &["validate", &main]).await?.says(0, &["valid"]));
    checks.add("what was adopted is in force", same(&vec![1500; 2], &mtus_of(lab, 0).await?));

    fs::write(&late, "[network]\nmtu = 1400\n")?;
    let tried = lab.ran(0, &["apply", "--confirm-timeout", TRIAL]).await?;
    checks.add("the last has the last word", tried.says(0, &["Applied: 2 replaced.", "`weavers confirm`"]));
    checks.add("on trial", same(&vec![1400; 2], &mtus_of(lab, 0).await?));
    fs::remove_file(&path)?;
    checks.timed("nobody confirms: what all files said before is back", back(lab, 1500).await?);
    fs::write(&path, "# as the uplink has it\n[network]\nmtu = 1500\n")?;
    fs::remove_file(&late)?;
    let tried = lab.ran(0, &["apply", "--confirm-timeout", "1h"]).await?;
    let words = ["there is nothing to confirm"];
    checks.add("with the files as they were there is nothing to try", tried.says(0, &words));

    fs::remove_file(&path)?;
    checks.timed("a drop-in that goes is shown as pending", noticed(lab, "edited, not adopted").await?);
    let tried = lab.ran(0, &["apply", "--confirm-timeout", "1h"]).await?;
    checks.add("it is tried to be without", tried.says(0, &["Applied: 2 replaced."]));
    lab.kill_host(0).await?;
    lab.start_host(0)?;
    lab.await_ready(0).await?;
    checks.timed("the daemon is killed: the drop-in holds again, though it is gone", back(lab, 1500).await?);
    checks.add("status says why", lab.ran(0, &["status"]).await?.says(0, &["rolled back: it was not"]));
    checks.add("reload adopts the rest", lab.ran(0, &["reload"]).await?.says(0, &["adopted"]));
    checks.timed("as it is", back(lab, 9000).await?);
    report(lab, ready, checks).await
}

async fn noticed(lab: &Lab, word: &str) -> anyhow::Result<Result<Duration, String>> {
    eventually(NOTICED_WITHIN, async || Ok(lab.ran(0, &["status"]).await?.says(0, &[word]))).await
}

async fn back(lab: &Lab, mtu: u32) -> anyhow::Result<Result<Duration, String>> {
    eventually(BACK_WITHIN, async || Ok(same(&vec![mtu; 2], &mtus_of(lab, 0).await?))).await
}
