//! The end of links. For each call the kernel waits until no processor uses what goes, and not longer for a hundred links than
//! for one; so those that are to go together are put into one group, and the group goes.

use std::collections::{BTreeMap, BTreeSet};

use rtnetlink::{
    Handle, LinkUnspec,
    packet_route::link::{LinkAttribute, LinkMessage},
};

use super::{
    bound,
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
    /// Removes links, both ends, and says of each how that went. What is already gone is success.
    pub async fn remove(&self, addresses: BTreeSet<Address>) -> BTreeMap<Address, Result<(), Fault>> {
        let going = addresses.clone();
        let work = async move |visitor: visit::Visitor| Ok(remove(&visitor.host, &going).await);
        match visit::apart(&visit::FOR_LINKS, "removing links", bound::CHANGE, work).await {
            Ok((interfaces, results)) => {
                self.changes.tell(interfaces);
                results
            }
            Err(fault) => addresses.into_iter().map(|address| (address, Err(fault.clone()))).collect(),
        }
    }
}

type Results = BTreeMap<Address, Result<(), Fault>>;

/// The interfaces that were there, and how it went.
async fn remove(host: &Handle, addresses: &BTreeSet<Address>) -> (BTreeSet<u32>, Results) {
    let (mut going, mut results) = (BTreeMap::new(), Results::new());
    for &address in addresses {
        match link::host_end(host, address).await {
            Ok(end) => going.extend(end.map(|end| (address, end.index))),
            Err(fault) => drop(results.insert(address, Err(fault))),
        }
    }
    if going.len() > 1 {
        results.extend(remove_group(host, &going).await);
    } else {
        for (&address, &index) in &going {
            results.insert(address, link::remove(host, address, index).await);
        }
    }
    for &address in addresses {
        results.entry(address).or_insert(Ok(()));
    }
    (going.into_values().collect(), results)
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
