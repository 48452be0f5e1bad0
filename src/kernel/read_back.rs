//! A link that was made or mended is read back by whoever did it, in the place where he is: then no look need follow before somebody
//! relies on it.
//!
//! What is not as it should be is left to a look, and so is everything where more has changed than the link.

use std::sync::Arc;

use super::{
    container_end,
    link::{End, Wanted},
    path::Carriers,
    seen::Seen,
    visit::{Inside, Visitor},
    watch::Changes,
};
use crate::state::{Fault, Link, Made, Path};

/// What a link is read back by.
#[derive(Clone)]
pub(super) struct Reader {
    pub changes: Changes,
    /// By what packets for containers come in.
    pub carriers: Option<Arc<Carriers>>,
}

/// A link that is whole, and all that was read of its host end.
#[derive(Debug)]
pub struct ReadBack {
    /// The link.
    pub made: Made,
    pub(super) seen: Seen,
}

impl Reader {
    /// Reads a link of this host end back; `None` where it takes a look to tell how it is.
    pub async fn read(
        &self,
        visitor: &Visitor,
        inside: &Inside,
        near: &End,
        wanted: &Wanted<'_>,
    ) -> Result<Option<ReadBack>, Fault> {
        let (Some(carriers), Some(namespace)) = (&self.carriers, near.namespace) else { return Ok(None) };
        if !self.changes.absorb(near.index, namespace) {
            return Ok(None);
        }
        let host = &visitor.host;
        let Some(seen) = Seen::of_one(host, near.index, (wanted.address, wanted.prefix)).await? else {
            return Ok(None);
        };
        let Some(end) = seen.links.first() else { return Ok(None) };
        let mac = seen.mac_of(end, wanted.address);
        let is_whole = seen.faults(end, wanted).is_empty()
            && container_end::faults(inside, end, wanted, mac).await?.is_empty();
        if !is_whole {
            return Ok(None);
        }
        let paths = carriers.lead_to(host, &seen, wanted.address).await?;
        Ok(paths.map(|paths| ReadBack { made: made(inside, wanted, paths), seen }))
    }
}

fn made(inside: &Inside, wanted: &Wanted<'_>, paths: Vec<Arc<Path>>) -> Made {
    let &Wanted { address, mtu, range, prefix, far } = wanted;
    let (netns, far) = (Some(inside.netns.clone()), far.clone());
    let link = Link { netns, mtu, range, prefix, far, faults: Vec::new() };
    Made { address, link: Arc::new(link), paths }
}
