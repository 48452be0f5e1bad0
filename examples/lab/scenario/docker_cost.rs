//! What `docker run` costs with our driver, in turns with Docker's own: a bridge that somebody made, as ours was, and `docker0`. In
//! containers of networks that somebody made Docker sets up a name server, which takes its time whoever the driver is.

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
/// A network of Docker's own driver.
const MADE: &str = "made";
/// The one that is always there.
const DOCKER0: &str = "bridge";

/// Milliseconds of `docker run -d` and of `docker rm -f`, the medians.
pub async fn run(lab: &mut Lab) -> anyhow::Result<Report> {
    let Some((dockers, ready, _)) = begin(lab).await? else { return not_here(lab).await };
    dockers.docker(lab, 0, &["network", "create", MADE]).await?;
    let mut took = [NETWORK, MADE, DOCKER0].map(|network| (network, Vec::new(), Vec::new()));
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
        let by = match network {
            NETWORK => "weavers",
            MADE => "a bridge of Docker",
            _ => "docker0",
        };
        format!("{by:18} run {}   rm -f {}", spread(runs), spread(removals))
    });
    crate::report::print(&(lines.join("\n") + "\n"));
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
