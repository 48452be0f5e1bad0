//! The disk that holds the state fills up: what promises nothing is answered, what is connected stays so, and the disk is named.

use std::time::{Duration, Instant};

use super::stage::{Checks, at_work, eventually, holds, passes, report, shell};
use crate::{lab::Lab, report::Report};

/// A question is answered within that, whatever the disk does.
const ANSWERS_WITHIN: Duration = Duration::from_secs(1);
const SOON: Duration = Duration::from_secs(10);
/// `status --check` of a host with a problem.
const PROBLEM: i32 = 3;
/// So many names of 200 bytes are more than a store holds without growing.
const NAMES_MAX: usize = 300;
/// Enough for a store, and soon full.
const SIZE: &str = "8m";

/// On the first host.
pub async fn run(lab: &mut Lab) -> anyhow::Result<Report> {
    let state = lab.hosts[0].store().parent().map(|dir| dir.display().to_string()).unwrap_or_default();
    shell(lab, &format!("mount -t tmpfs -o size={SIZE} tmpfs {state}")).await?;
    let ready = at_work(lab).await?;
    let mut checks = Checks::default();

    shell(lab, &format!("dd if=/dev/zero of={state}/fill bs=4k 2>/dev/null || true")).await?;
    let mut refused = Err(format!("{NAMES_MAX} names were taken"));
    let mut promised = Vec::new();
    for number in 0..NAMES_MAX {
        let name = format!("{number:0>200}");
        let ran = lab.ran(0, &["ipam", "allocate", &name, "--timeout", "2s"]).await?;
        if ran.code != 0 {
            refused = Ok(());
            break;
        }
        promised.push(name);
    }
    checks.add("what the disk does not take is not promised", refused);
    let netns = lab.make_netns(0).await?;
    let path = netns.path.to_string_lossy().into_owned();
    let start = Instant::now();
    let named = lab.ran(0, &["status", "--check"]).await?;
    checks.add(
        "status names the disk",
        named.says(PROBLEM, &["the disk, which does not take", "No space left"]),
    );
    let took = start.elapsed();
    checks.add("status does not wait for the disk", holds(took < ANSWERS_WITHIN, || format!("{took:?}")));
    for ask in [&["plan"][..], &["explain", &lab.containers[1].address.to_string()], &["ipam", "show"]] {
        let start = Instant::now();
        let ran = lab.ran(0, ask).await?;
        let took = start.elapsed();
        let why = || format!("{took:?}: {}{}", ran.stdout, ran.stderr);
        checks
            .add(format!("{} is answered", ask.join(" ")), holds(took < ANSWERS_WITHIN && ran.code < 2, why));
    }
    let both = passes(lab, 0, 1).await?.and(passes(lab, 1, 0).await?);
    checks.add("what is connected stays so", both);

    shell(lab, &format!("rm {state}/fill")).await?;
    let well = eventually(SOON, async || Ok(lab.ran(0, &["status", "--check"]).await?.says(0, &[])));
    checks.timed("with room on the disk all is well again", well.await?);
    let attach = lab.ran(0, &["attach", &path]).await?;
    checks.add("and a container is connected", attach.says(0, &[]));
    lab.adopt(0, netns).await?;
    report(lab, ready, checks).await
}
