//! The disk that holds the state fills up: what promises nothing is answered, what is connected stays so, and the disk is named.

use std::time::{Duration, Instant};

use super::stage::{Checks, NOT_CONVERGED, at_work, eventually, holds, passes, report, shell};
use crate::{lab::Lab, report::Report};

/// A question is answered within that, whatever the disk does.
const ANSWERS_WITHIN: Duration = Duration::from_secs(1);
const SOON: Duration = Duration::from_secs(10);
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
    checks.add("what the disk does not take is not promised", refused(lab).await?);
    answers(lab, &mut checks).await?;
    let both = passes(lab, 0, 1).await?.and(passes(lab, 1, 0).await?);
    checks.add("what is connected stays so", both);

    shell(lab, &format!("rm {state}/fill")).await?;
    let well = eventually(SOON, async || Ok(lab.ran(0, &["status", "--check"]).await?.says(0, &[])));
    checks.timed("with room on the disk all is well again", well.await?);
    lab.attach(0).await?;
    report(lab, ready, checks).await
}

/// Asks for addresses until one is refused.
async fn refused(lab: &Lab) -> anyhow::Result<Result<(), String>> {
    for number in 0..NAMES_MAX {
        let name = format!("{number:0>200}");
        if lab.ran(0, &["ipam", "allocate", &name, "--timeout", "2s"]).await?.code != 0 {
            return Ok(Ok(()));
        }
    }
    Ok(Err(format!("{NAMES_MAX} names were taken")))
}

/// Questions, the first of which is about the disk.
async fn answers(lab: &Lab, checks: &mut Checks) -> anyhow::Result<()> {
    let other = lab.containers[1].address.to_string();
    let disk = &["the disk, which does not take", "No space left"][..];
    let questions: [(&[&str], i32, &[&str]); 4] = [
        (&["status", "--check"], NOT_CONVERGED, disk),
        (&["plan"], 0, &[]),
        (&["explain", &other], 0, &[]),
        (&["ipam", "show"], 0, &[]),
    ];
    for (question, code, words) in questions {
        let start = Instant::now();
        let ran = lab.ran(0, question).await?;
        let took = start.elapsed();
        checks.add(format!("{} is answered", question.join(" ")), ran.says(code, words));
        checks.add("at once", holds(took < ANSWERS_WITHIN, || format!("{took:?}")));
    }
    Ok(())
}
