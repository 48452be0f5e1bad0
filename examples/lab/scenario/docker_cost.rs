//! What `docker run` costs with our driver, beside Docker's own bridge, in turns.

use std::time::{Duration, Instant};

use super::{
    basic,
    docker::{begin, not_here},
    dockerd::{Dockers, NETWORK},
};
use crate::{lab::Lab, report::Report};

/// Runs on each network, of which the median is told.
const RUNS: usize = 20;
/// Runs before that, which find nothing in any cache.
const WARM: usize = 2;
const OWN: &str = "bridge";

/// Milliseconds of `docker run -d` and of `docker rm -f`, the medians.
pub async fn run(lab: &mut Lab) -> anyhow::Result<Report> {
    let Some((dockers, ready, _)) = begin(lab).await? else { return not_here(lab).await };
    let mut took = [(NETWORK, Vec::new(), Vec::new()), (OWN, Vec::new(), Vec::new())];
    for number in 0..WARM + RUNS {
        for (network, runs, removals) in &mut took {
            let (ran, removed) = once(lab, &dockers, network, number).await?;
            if number >= WARM {
                runs.push(ran);
                removals.push(removed);
            }
        }
    }
    let lines = took.map(|(network, runs, removals)| {
        let by = if network == NETWORK { "our driver" } else { "Docker's bridge" };
        format!("{by:16} run {}   rm -f {}", spread(runs), spread(removals))
    });
    crate::report::print(&lines.join("\n"));
    let report = basic::report(lab).await?;
    Ok(Report { ready, ..report })
}

async fn once(
    lab: &Lab,
    dockers: &Dockers,
    network: &str,
    number: usize,
) -> anyhow::Result<(Duration, Duration)> {
    let name = format!("{network}{number}");
    let begun = Instant::now();
    dockers.docker(lab, 0, &["run", "-d", "--name", &name, "--network", network, dockers.image()]).await?;
    let ran = begun.elapsed();
    let begun = Instant::now();
    dockers.docker(lab, 0, &["rm", "-f", &name]).await?;
    Ok((ran, begun.elapsed()))
}

/// The median, with the least and the most.
fn spread(mut times: Vec<Duration>) -> String {
    times.sort();
    let at = |index: usize| times.get(index).map_or(0, Duration::as_millis);
    format!("{} ms ({} to {})", at(times.len() / 2), at(0), at(times.len().saturating_sub(1)))
}
