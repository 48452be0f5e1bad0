//! The end of links. For each call the kernel waits until no processor uses what goes, and not longer for a hundred links than
//! for one; so those that are to go together are put into one group, and the group goes.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};

use rtnetlink::{
    Handle, LinkUnspec,
    packet_route::link::{LinkAttribute, LinkMessage},
};
use tokio::sync::oneshot;

use super::{
    bound,
    farewell::Farewells,
    fault::{already_gone, fault},
    link, visit,
    watch::Changes,
};
use crate::{
    addr::Address,
    state::{Fault, link_name},
};

/// Removes links beside all else that is done on the host.
#[derive(Debug)]
pub struct Remover {
    pub(super) changes: Changes,
}

impl Remover {
    /// Removes links, both ends, and says of each how that went. What is already gone is success. A link is gone once nobody finds it any
    /// more, though the kernel may have to wait a while longer.
    pub async fn remove(&self, addresses: BTreeSet<Address>) -> BTreeMap<Address, Result<(), Fault>> {
        let farewells = Farewells::listen();
        let (begin, begun) = oneshot::channel();
        let wanted = addresses.clone();
        let work = async move |visitor: visit::Visitor| {
            let found = Found::look(&visitor.host, &wanted).await;
            // Whoever waits for nothing but the end has not asked for it.
            let _ = begin.send(found.clone());
            Ok(found.remove(&visitor.host).await)
        };
        let ended = tokio::select! {
            ended = visit::apart(&visit::FOR_LINKS, "removing links", bound::CHANGE, work) => ended,
            Some(gone) = all_gone(farewells, begun) => Ok(gone),
        };
        match ended {
            Ok(Found { going, results }) => {
                self.changes.tell(going.into_values());
                results
            }
            Err(fault) => addresses.into_iter().map(|address| (address, Err(fault.clone()))).collect(),
        }
    }
}

type Results = BTreeMap<Address, Result<(), Fault>>;

/// What the removal of some links has come to.
#[derive(Clone)]
struct Found {
    /// The interfaces that were there.
    going: BTreeMap<Address, u32>,
    /// How it went with each link, as long as nothing else is known.
    results: Results,
}

impl Found {
    async fn look(host: &Handle, addresses: &BTreeSet<Address>) -> Found {
        let mut found = Found { going: BTreeMap::new(), results: Results::new() };
        for &address in addresses {
            let end = link::host_end(host, address).await;
            found.going.extend(end.iter().flatten().map(|end| (address, end.index)));
            found.results.insert(address, end.map(drop));
        }
        found
    }

    async fn remove(mut self, host: &Handle) -> Found {
        if self.going.len() > 1 {
            self.results.extend(remove_group(host, &self.going).await);
        } else {
            for (&address, &index) in &self.going {
                self.results.insert(address, link::remove(host, address, index).await);
            }
        }
        self
    }
}

/// What was found, once all of it is gone; `None` where that is not told.
async fn all_gone(farewells: io::Result<Farewells>, begun: oneshot::Receiver<Found>) -> Option<Found> {
    let (farewells, found) = (farewells.ok()?, begun.await.ok()?);
    farewells.of(found.going.values().copied().collect()).await.ok()?;
    Some(found)
}

/// Removes links as a group that nobody else knows of: its number is taken by chance, of two thousand million.
async fn remove_group(host: &Handle, going: &BTreeMap<Address, u32>) -> Results {
    let group = rand::random_range(1..=i32::MAX.cast_unsigned());
    let mut results = Results::new();
    for (&address, &index) in going {
        results.insert(address, join_group(host, address, index, group).await);
    }
    let mut removal = host.link().del(0);
    removal.message_mut().attributes.push(LinkAttribute::Group(group));
    if let Err(error) = already_gone(removal.execute().await) {
        let failed = fault(format_args!("removing {} links", going.len()), &error);
        results.values_mut().for_each(|result| *result = Err(failed.clone()));
    }
    results
}

async fn join_group(host: &Handle, address: Address, index: u32, group: u32) -> Result<(), Fault> {
    let mut message: LinkMessage = LinkUnspec::new_with_index(index).build();
    message.attributes.push(LinkAttribute::Group(group));
    let joined = already_gone(host.link().set(message).execute().await);
    joined.map_err(|error| fault(format_args!("removing link {}", link_name(address)), &error))
}
