//! A configuration that is adopted on terms: only if the plan is still what it takes, or only until
//! nobody confirms it.

use std::time::Duration;

use tokio::time::sleep;

use super::{
    reload::mtus_of,
    stage::{Checks, at_work, eventually, holds, report, same},
};
use crate::{lab::Lab, report::Report};

/// How long a trial lasts where nobody is to confirm.
const TRIAL: &str = "2s";
const BACK_WITHIN: Duration = Duration::from_secs(4);
/// How long a peer may be lost during a trial, and until when the former configuration is back then.
const GRACE: Duration = Duration::from_secs(5);
const LOST_WITHIN: Duration = Duration::from_secs(7);
/// How long until an edit is adopted that came during a trial.
const LATE_WITHIN: Duration = Duration::from_secs(12);
/// How long a peer is away that is started anew: long enough for all others to notice.
const AWAY: Duration = Duration::from_secs(1);

/// A plan is kept and carried out as it is, or not at all.
pub async fn file(lab: &mut Lab) -> anyhow::Result<Report> {
    let ready = at_work(lab).await?;
    let mut checks = Checks::default();
    let file = lab.hosts[0].dir.join("plan.json").display().to_string();
    let (plan, apply) = (["plan", "--out", &file], ["apply", &file]);

    for host in [0, 1] {
        lab.edit(host, "mtu = 9000", "mtu = 1500")?;
    }
    let ran = lab.ran_in_place(0, &plan).await?;
    let words = ["mtu 9000 -> 1500", "touches 1 container", "Nothing was changed.", "weavers apply"];
    checks.add("plan --out shows the plan and the containers that it touches", ran.says(0, &words));
    lab.attach(0).await?;
    let ran = lab.ran(0, &apply).await?;
    let words = ["the world has moved", "mend link", "is needed now, too", "weavers plan --out"];
    checks.add("a container more: apply refuses, and names the difference", ran.says(5, &words));
    checks.add("nothing was changed", same(&vec![9000; 4], &mtus_of(lab, 0).await?));

    checks.add("a new plan is made", lab.ran_in_place(0, &plan).await?.says(0, &["3 to replace"]));
    lab.edit(0, "mtu = 1500", "mtu = 1400")?;
    let ran = lab.ran(0, &apply).await?;
    checks.add("another file: apply refuses", ran.says(5, &["not the one that the plan was made from"]));
    lab.edit(0, "mtu = 1400", "mtu = 1500")?;
    let ran = lab.ran(1, &apply).await?;
    checks.add("another host: apply refuses", ran.says(5, &["the plan is", "and this is"]));
    checks.add("nothing was changed", same(&vec![9000; 4], &mtus_of(lab, 0).await?));
    let ran = lab.ran(0, &apply).await?;
    checks.add("nothing has moved: it is carried out", ran.says(0, &["Applied: 3 replaced."]));
    checks.add("as it was shown", same(&vec![1500; 4], &mtus_of(lab, 0).await?));
    let ran = lab.ran(0, &apply).await?;
    checks.add("a second time is refused", ran.says(5, &["the world has moved", "is not what it takes now"]));
    let toml = lab.hosts[0].config().display().to_string();
    checks.add("what is no plan is named", lab.ran(0, &["apply", &toml]).await?.says(1, &["is not a plan"]));
    lab.edit(2, "mtu = 9000", "mtu = 1500")?;
    for host in [1, 2] {
        checks.add(format!("h{} follows", host + 1), lab.ran(host, &["apply"]).await?.says(0, &["replaced"]));
    }
    lab.options.mtu = 1500;
    report(lab, ready, checks).await
}

/// A configuration is tried: it goes unless it is confirmed, whoever dies, and soon when a peer is lost.
pub async fn confirm(lab: &mut Lab) -> anyhow::Result<Report> {
    let ready = at_work(lab).await?;
    let mut checks = Checks::default();
    let ran = lab.ran(0, &["confirm"]).await?;
    checks.add("there is nothing to confirm at first", ran.says(1, &["no configuration is being tried"]));

    lab.edit(0, "mtu = 9000", "mtu = 1500")?;
    let ran = lab.ran(0, &["apply", "--confirm-timeout", TRIAL]).await?;
    checks.add("apply on trial carries it out", ran.says(0, &["Applied: 2 replaced.", "`weavers confirm`"]));
    checks.add("it is in force", same(&vec![1500; 2], &mtus_of(lab, 0).await?));
    checks.add("status says that it is tried", lab.ran(0, &["status"]).await?.says(0, &["on trial"]));
    let other = lab.ran(0, &["reload"]).await?;
    let words = ["a configuration is being tried", "weavers confirm", "s; then adopt another"];
    checks.add("nothing else is adopted meanwhile, and the way out is named", other.says(5, &words));
    checks.timed("nobody confirms: the former one is back", back(lab, 9000).await?);
    let said = lab.ran(0, &["status"]).await?.says(0, &["rolled back: nobody confirmed it in time"]);
    checks.add("status says why", said);
    lab.stop_host(0).await?;
    lab.start_host(0)?;
    lab.await_ready(0).await?;
    checks.add("a restart does not adopt it either", same(&vec![9000; 2], &mtus_of(lab, 0).await?));

    let ran = lab.ran(0, &["apply", "--confirm-timeout", TRIAL]).await?;
    checks.add("it is tried once more", ran.says(0, &["Applied: 2 replaced."]));
    checks.add("and confirmed", lab.ran(0, &["confirm"]).await?.says(0, &["kept"]));
    sleep(BACK_WITHIN).await;
    checks.add("so it stays", same(&vec![1500; 2], &mtus_of(lab, 0).await?));

    lab.edit(0, "mtu = 1500", "mtu = 9000")?;
    let ran = lab.ran(0, &["apply", "--confirm-timeout", "1h"]).await?;
    checks.add("the next is tried", ran.says(0, &["Applied: 2 replaced."]));
    lab.kill_host(0).await?;
    lab.start_host(0)?;
    lab.await_ready(0).await?;
    checks.timed("the daemon is killed: the former one is back", back(lab, 1500).await?);
    let said = lab.ran(0, &["status"]).await?.says(0, &["rolled back: it was not confirmed before"]);
    checks.add("status says why", said);

    for host in 1..lab.hosts.len() {
        let ran = lab.ran(host, &["status", "--wait", "ready"]).await?;
        checks.add(format!("h{} is there", host + 1), ran.says(0, &[]));
    }
    let met = eventually(BACK_WITHIN, async || {
        let status = lab.ran(0, &["status"]).await?;
        Ok(holds(status.stdout.matches("established").count() == 2, || status.stdout))
    });
    checks.timed("all peers are connected", met.await?);
    let ran = lab.ran(0, &["apply", "--confirm-timeout", "1h"]).await?;
    checks.add("it is tried while all peers are reachable", ran.says(0, &["Applied: 2 replaced."]));
    lab.kill_host(1).await?;
    sleep(AWAY).await;
    lab.start_host(1)?;
    lab.await_ready(1).await?;
    sleep(GRACE).await;
    checks.add("a peer is started anew: the trial goes on", same(&vec![9000; 2], &mtus_of(lab, 0).await?));
    lab.kill_host(1).await?;
    let gone = eventually(LOST_WITHIN, async || Ok(same(&vec![1500; 2], &mtus_of(lab, 0).await?)));
    checks.timed("a peer is lost: the former one is back in a few seconds", gone.await?);
    let said =
        lab.ran(0, &["status"]).await?.says(0, &["rolled back: peer", "(h2) can no longer be reached"]);
    checks.add("status names the peer", said);
    lab.start_host(1)?;
    lab.await_ready(1).await?;

    checks.add("reload adopts it all the same", lab.ran(0, &["reload"]).await?.says(0, &["adopted"]));
    checks.timed("as it is", back(lab, 9000).await?);
    edited_meanwhile(lab, &mut checks).await?;
    report(lab, ready, checks).await
}

/// Edits that come while something is tried.
async fn edited_meanwhile(lab: &mut Lab, checks: &mut Checks) -> anyhow::Result<()> {
    let trial = ["apply", "--confirm-timeout", TRIAL];
    lab.edit(0, "mtu = 9000", "mtu = 1500")?;
    checks.add("one more is tried", lab.ran(0, &trial).await?.says(0, &["Applied: 2 replaced."]));
    lab.edit(0, "mtu = 1500", "mtu = 9000")?;
    checks.timed("nobody confirms: the former one is back", back(lab, 9000).await?);
    let pending = async || Ok(same(&false, &(lab.status(0).await?["config"]["pending"] == true)));
    let settled = eventually(BACK_WITHIN, pending).await?;
    checks.timed("so is its file, and nothing is pending", settled);

    lab.edit(0, "interval =", "on_change = \"apply\"\ninterval =")?;
    checks.add("edits are adopted at once", lab.ran(0, &["reload"]).await?.says(0, &["adopted"]));
    // It is adopted by whoever is first: the trial, or the edit, after which there is nothing to try.
    lab.edit(0, "mtu = 9000", "mtu = 1500")?;
    lab.ran(0, &["apply", "--confirm-timeout", "3s"]).await?;
    lab.edit(0, "mtu = 1500", "mtu = 1400")?;
    let late = eventually(LATE_WITHIN, async || Ok(same(&vec![1400; 2], &mtus_of(lab, 0).await?)));
    checks.timed("so is one that comes during a trial, once that is over", late.await?);
    lab.edit(0, "mtu = 1400", "mtu = 9000")?;
    let last = eventually(LATE_WITHIN, async || Ok(same(&vec![9000; 2], &mtus_of(lab, 0).await?)));
    checks.timed("and the last is what it was", last.await?);
    Ok(())
}

async fn back(lab: &Lab, mtu: u32) -> anyhow::Result<Result<Duration, String>> {
    eventually(BACK_WITHIN, async || Ok(same(&vec![mtu; 2], &mtus_of(lab, 0).await?))).await
}
