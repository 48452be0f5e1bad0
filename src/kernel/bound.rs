//! Bounds on what a container's namespace is asked and told about. Whoever is root in there may have put anything there,
//! and as much of it as there is memory.

use std::{future::Future, pin::pin, time::Duration};

use futures_util::{Stream, StreamExt};
use nix::errno::Errno;
use rtnetlink::Error;
use tokio::time::timeout;

use super::fault::{Cause, fault, found};
use crate::state::{Fault, FaultKind};

/// Things of one kind that are read of a namespace. What is ours there is a handful.
pub const READ_MAX: usize = 256;
/// Namespaces that are looked into at the same time.
pub const VISITS_MAX: usize = 8;
/// Time that a look into one namespace may take. It takes a millisecond where nothing is wrong and the host has little to do.
pub const VISIT: Duration = Duration::from_secs(3);
/// Time that a change of one link may take.
pub const CHANGE: Duration = Duration::from_secs(5);
/// Faults that are named of one link.
const FAULTS_MAX: usize = 8;
/// Characters of each.
const FAULT_LEN_MAX: usize = 200;

/// All that a dump brings; refused where there is more than `most`. The rest of such a dump is still on its way, so the
/// handle is to be let go then.
pub async fn all<T>(
    dump: impl Stream<Item = Result<T, Error>>,
    what: &str,
    most: usize,
) -> Result<Vec<T>, Fault> {
    let things = first(dump, what, most + 1).await?;
    if things.len() <= most {
        return Ok(things);
    }
    Err(Fault {
        hint: Some("look who adds them: nsenter --net=… ip addr, ip route".into()),
        ..found(FaultKind::Invalid, format!("more than {most} {what} on the far end: it is left alone"))
    })
}

/// What a dump brings first.
pub async fn first<T>(
    dump: impl Stream<Item = Result<T, Error>>,
    what: &str,
    most: usize,
) -> Result<Vec<T>, Fault> {
    let mut dump = pin!(dump.take(most));
    let mut things = Vec::new();
    while let Some(thing) = dump.next().await {
        match thing {
            Ok(thing) => things.push(thing),
            // A routing table that never had a route is not there.
            Err(error) if error.errno() == Errno::ENOENT => break,
            Err(error) => return Err(fault(format_args!("reading the {what} of a container"), &error)),
        }
    }
    Ok(things)
}

/// What comes of work, unless it takes longer than `most`.
pub async fn within<T>(
    most: Duration,
    what: &str,
    work: impl Future<Output = Result<T, Fault>>,
) -> Result<T, Fault> {
    let late = || found(FaultKind::Unreachable, format!("{what} did not end within {} s", most.as_secs()));
    timeout(most, work).await.unwrap_or_else(|_| Err(late()))
}

/// As many faults as a person reads, none longer than a line or two.
pub fn faults(faults: Vec<String>) -> Vec<String> {
    let more = faults.len().saturating_sub(FAULTS_MAX);
    let short = |fault: String| match fault.char_indices().nth(FAULT_LEN_MAX) {
        Some((end, _)) => format!("{}…", &fault[..end]),
        None => fault,
    };
    let named = faults.into_iter().take(FAULTS_MAX).map(short);
    named.chain((more > 0).then(|| format!("and {more} more"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_a_link_is_a_few_lines_however_much_is_wrong() {
        let said = faults(vec!["ä".repeat(100_000); 300]);
        assert_eq!((said.len(), said.last().unwrap().as_str()), (9, "and 292 more"));
        assert!(said.iter().all(|fault| fault.chars().count() <= FAULT_LEN_MAX + 1));
        assert_eq!(faults(vec!["lo down".into()]), ["lo down"]);
    }
}
