//! The links of ours as they are. A container is looked into where something may have changed since nothing was wrong with it.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    bound, container_end,
    known::{Known, share},
    link::{End, Wanted},
    seen::Seen,
    visit::{self, Visitor},
};
use crate::{
    addr::Address,
    state::{Fault, Host, Link, Links, Netns, Scope},
};

/// A link that is to be looked at from inside its container.
struct Visit {
    address: Address,
    end: Arc<End>,
    wanted: Arc<Link>,
    netns: Netns,
    /// Where the host finds the container.
    mac: Option<Vec<u8>>,
}

/// All of them; `ours` are their host ends.
pub(super) async fn links(
    seen: &Seen,
    ours: &BTreeMap<Address, &Arc<End>>,
    wanted: &Host,
    known: &mut Known,
    scope: Scope,
) -> Links {
    let (mut links, mut visits) = (Vec::with_capacity(ours.len()), Vec::new());
    for (&address, &end) in ours {
        let wanted = wanted.links.get(&address).filter(|one| one.netns.is_some() || one.far.moved);
        let Some(wanted) = wanted else {
            links.push((address, Arc::new(Link { mtu: end.mtu, ..Link::default() })));
            continue;
        };
        let sound = known.link(address, end, wanted);
        let is_known = sound.is_some();
        let link = match sound {
            Some(sound) if scope == Scope::Changed => sound.clone(),
            sound => {
                let faults = bound::faults(seen.faults(end, &right(address, wanted)));
                let (range, prefix, far) = (wanted.range, wanted.prefix, wanted.far.clone());
                let netns = sound.and_then(|sound| sound.netns.clone());
                Arc::new(Link { netns, mtu: end.mtu, range, prefix, far, faults })
            }
        };
        match &wanted.netns {
            Some(netns) if !is_known => {
                let mac = seen.mac_of(end, address).map(Into::into);
                let (end, wanted, netns) = (end.clone(), wanted.clone(), netns.clone());
                visits.push(Visit { address, end, wanted, netns, mac });
            }
            Some(_) | None if !link.is_sound() => known.forget_link(address),
            // What a runtime moved is not looked into.
            None if !is_known => known.keep_link(address, end, wanted, &link),
            Some(_) | None => {}
        }
        links.push((address, link));
    }
    let mut links = links.into_iter().collect();
    visit_all(visits, &mut links, ours, wanted, known).await;
    links
}

/// Looks into containers, and keeps what was found there.
async fn visit_all(
    visits: Vec<Visit>,
    links: &mut Links,
    ours: &BTreeMap<Address, &Arc<End>>,
    wanted: &Host,
    known: &mut Known,
) {
    let addresses: Vec<Address> = visits.iter().map(|visit| visit.address).collect();
    let found = visit::each(visits, |visitor, visit| Box::pin(look_inside(visitor, visit))).await;
    for (address, found) in addresses.into_iter().zip(found) {
        let Some(shared) = links.get_mut(&address) else { continue };
        let link = Arc::make_mut(shared);
        match found {
            Ok((netns, faults)) => {
                link.netns = Some(netns);
                link.faults.extend(faults);
            }
            Err(fault) => link.faults.push(fault.message),
        }
        link.faults = bound::faults(std::mem::take(&mut link.faults));
        if link.is_sound() {
            share(shared, &wanted.links[&address]);
            known.keep_link(address, ours[&address], &wanted.links[&address], shared);
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
    let faults = container_end::faults(&inside, end, &right(*address, wanted), mac.as_deref()).await?;
    Ok((inside.netns, faults))
}

fn right(address: Address, wanted: &Link) -> Wanted<'_> {
    let Link { mtu, range, prefix, .. } = *wanted;
    Wanted { address, mtu, range, prefix, far: &wanted.far }
}
