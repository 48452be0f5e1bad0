//! The links of ours as they are. A container is looked into where something may have changed since nothing was wrong with it.

use std::collections::BTreeMap;

use super::{
    bound, far,
    known::Known,
    link::{End, Seen, Wanted},
    visit::{self, Visitor},
};
use crate::{
    addr::Address,
    state::{Fault, Host, Link, Netns, Scope},
};

/// A link that is to be looked at from inside its container.
struct Visit {
    address: Address,
    end: End,
    wanted: Link,
    netns: Netns,
    /// Where the host finds the container.
    mac: Option<Vec<u8>>,
}

/// All of them; `ours` are their host ends.
pub(super) async fn links(
    seen: &Seen,
    ours: &BTreeMap<Address, &End>,
    wanted: &Host,
    known: &mut Known,
    scope: Scope,
) -> BTreeMap<Address, Link> {
    let (mut links, mut visits) = (BTreeMap::new(), Vec::new());
    for (&address, &end) in ours {
        let wanted = wanted.links.get(&address);
        let Some((wanted, netns)) = wanted.and_then(|wanted| Some((wanted, wanted.netns.as_ref()?))) else {
            links.insert(address, Link { mtu: end.mtu, ..Link::default() });
            continue;
        };
        let link = match known.link(address, end, wanted) {
            Some(sound) if scope == Scope::Changed => sound.clone(),
            sound => {
                let faults = bound::faults(seen.faults(end, &right(address, wanted, netns)));
                let (range, far) = (wanted.range, wanted.far.clone());
                let netns = sound.and_then(|sound| sound.netns.clone());
                Link { netns, mtu: end.mtu, range, far, faults }
            }
        };
        if link.netns.is_none() {
            let mac = seen.mac_of(end, address).map(Into::into);
            let (end, wanted, netns) = (end.clone(), wanted.clone(), netns.clone());
            visits.push(Visit { address, end, wanted, netns, mac });
        } else if !link.faults.is_empty() {
            known.forget_link(address);
        }
        links.insert(address, link);
    }
    visit_all(visits, &mut links, ours, wanted, known).await;
    links
}

/// Looks into containers, and keeps what was found there.
async fn visit_all(
    visits: Vec<Visit>,
    links: &mut BTreeMap<Address, Link>,
    ours: &BTreeMap<Address, &End>,
    wanted: &Host,
    known: &mut Known,
) {
    let addresses: Vec<Address> = visits.iter().map(|visit| visit.address).collect();
    let found = visit::each(visits, |visitor, visit| Box::pin(look_inside(visitor, visit))).await;
    for (address, found) in addresses.into_iter().zip(found) {
        let Some(link) = links.get_mut(&address) else { continue };
        match found {
            Ok((netns, faults)) => {
                link.netns = Some(netns);
                link.faults.extend(faults);
            }
            Err(fault) => link.faults.push(fault.message),
        }
        link.faults = bound::faults(std::mem::take(&mut link.faults));
        if link.netns.is_some() && link.faults.is_empty() {
            known.keep_link(address, ours[&address], &wanted.links[&address], link);
        } else {
            known.forget_link(address);
        }
    }
}

/// The namespace of a link where it was found, and what is wrong with the far end. A namespace that cannot be looked into
/// is a fault of its link, not of the look.
async fn look_inside(visitor: &Visitor, visit: &Visit) -> Result<(Netns, Vec<String>), Fault> {
    let Visit { address, end, wanted, netns, mac } = visit;
    let inside = visitor.enter(netns)?;
    let faults = far::faults(&inside, end, &right(*address, wanted, netns), mac.as_deref()).await?;
    Ok((inside.netns, faults))
}

fn right<'a>(address: Address, wanted: &'a Link, netns: &'a Netns) -> Wanted<'a> {
    Wanted { address, netns, mtu: wanted.mtu, range: wanted.range, far: &wanted.far }
}
