//! The host's side of all links at once: what there is, and what of a link's host end is not as it should be.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use rtnetlink::{
    Handle,
    packet_route::{AddressFamily, address::AddressMessage},
};

use super::{
    address,
    link::{self, End, Wanted, is_of_host_end, mac_text, of_kind},
    neighbour::{self, Neighbour},
    route,
};
use crate::{
    addr::{Address, Family, Prefix},
    state::{Fault, GATEWAY6, HOST_MAC, link_name},
};

/// What the host has, in one dump of each kind.
#[derive(Debug)]
pub struct Seen {
    /// By their index. What knows an interface that has not changed shares it.
    pub links: Vec<Arc<End>>,
    pub routes: route::Table,
    pub neighbours: BTreeSet<Neighbour>,
    pub addresses: Vec<AddressMessage>,
    /// The kinds of addresses that containers have, and whose neighbours were read.
    families: &'static [AddressFamily],
}

impl Seen {
    /// Looks. The kernel keeps track of one dump for each socket, so they follow each other.
    pub async fn look(handle: &Handle, has_v6: bool) -> Result<Seen, Fault> {
        let families = address::families(has_v6);
        Ok(Seen {
            links: link::all().await?,
            routes: route::Table::read(handle).await?,
            neighbours: neighbour::all(handle, families).await?,
            addresses: address::all(handle).await?,
            families,
        })
    }

    /// Whether it says what there is of IPv6.
    pub fn knows_v6(&self) -> bool {
        self.families.contains(&AddressFamily::Inet6)
    }

    /// The same with these interfaces looked at anew, at a cost that does not grow with the others; `None` if one of them is not
    /// a host end of ours, since then there is no telling what else has changed. `strict` is answered what was asked for only.
    pub async fn renewed(
        mut self,
        handle: &Handle,
        strict: &Handle,
        interfaces: &BTreeSet<u32>,
        prefix: Option<Prefix>,
    ) -> Result<Option<Seen>, Fault> {
        for &index in interfaces {
            let place = self.links.binary_search_by_key(&index, |end| end.index);
            let was_ours = place.is_ok_and(|place| self.links[place].serves.is_some());
            let end = link::numbered(handle, index).await?.map(Arc::new);
            match &end {
                Some(end) if end.serves.is_none() => return Ok(None),
                None if !was_ours => return Ok(None),
                Some(_) | None => {}
            }
            self.routes.renew(strict, index, self.families).await?;
            neighbour::forget(&mut self.neighbours, index);
            self.addresses.retain(|held| held.header.index != index);
            if let Some(address) = end.as_ref().and_then(|end| end.serves) {
                for ip in addresses_of(address, prefix) {
                    self.neighbours.extend(neighbour::find(handle, index, ip).await?);
                }
                self.addresses.extend(address::of(strict, index).await?);
            }
            match (place, end) {
                (Ok(place), Some(end)) => self.links[place] = end,
                (Err(place), Some(end)) => self.links.insert(place, end),
                (Ok(place), None) => drop(self.links.remove(place)),
                (Err(_), None) => {}
            }
        }
        Ok(Some(self))
    }

    /// The host end of an address, with what was read of it alone: of routes the one that packets to that address take.
    pub async fn of_one(
        strict: &Handle,
        index: u32,
        (address, prefix): (Address, Option<Prefix>),
    ) -> Result<Option<Seen>, Fault> {
        let Some(end) = link::numbered(strict, index).await?.filter(|end| end.serves == Some(address)) else {
            return Ok(None);
        };
        let (mut routes, mut neighbours) = (route::Table::default(), BTreeSet::new());
        for ip in addresses_of(address, prefix) {
            routes.take_in(route::Table::leading_to(strict, ip).await?);
            neighbours.extend(neighbour::find(strict, index, ip).await?);
        }
        Ok(Some(Seen {
            links: vec![Arc::new(end)],
            routes,
            neighbours,
            addresses: address::of(strict, index).await?,
            families: address::families(prefix.is_some()),
        }))
    }

    /// Takes in what was read of host ends since.
    pub fn take_in(&mut self, since: Seen) {
        for end in since.links {
            let index = end.index;
            neighbour::forget(&mut self.neighbours, index);
            self.addresses.retain(|held| held.header.index != index);
            match self.links.binary_search_by_key(&index, |end| end.index) {
                Ok(place) => self.links[place] = end,
                Err(place) => self.links.insert(place, end),
            }
        }
        self.routes.take_in(since.routes);
        self.neighbours.extend(since.neighbours);
        self.addresses.extend(since.addresses);
    }

    /// The interface of that index.
    pub fn interface(&self, index: u32) -> Option<&End> {
        let place = self.links.binary_search_by_key(&index, |end| end.index);
        place.ok().map(|place| &*self.links[place])
    }

    /// The host ends of ours among these interfaces.
    pub fn host_ends(&self, interfaces: &BTreeSet<u32>) -> BTreeSet<(u32, Address)> {
        let end = |index: &u32| Some((*index, self.interface(*index)?.serves?));
        interfaces.iter().filter_map(end).collect()
    }

    /// The name of a link, fit to be shown.
    pub fn name(&self, index: u32) -> Option<String> {
        self.interface(index).map(|end| end.name.escape_default().to_string())
    }

    /// Host ends of ours, by the address that each is for. One that has its name goes before one that had it.
    pub fn ours(&self) -> BTreeMap<Address, &Arc<End>> {
        let mut ours: Vec<(Address, &Arc<End>)> =
            self.links.iter().filter_map(|end| Some((end.serves?, end))).collect();
        // Of two for one address the last is kept.
        let named = |(_, end): &(Address, &Arc<End>)| end.has_its_name();
        ours.sort_by(|one, other| one.0.cmp(&other.0).then_with(|| named(one).cmp(&named(other))));
        ours.into_iter().collect()
    }

    /// The MAC address at which the host finds a container.
    pub fn mac_of(&self, end: &End, address: Address) -> Option<&[u8]> {
        self.mac_at(end, IpAddr::V4(address.into()))
    }

    fn mac_at(&self, end: &End, address: IpAddr) -> Option<&[u8]> {
        let from = (end.index, address, Vec::new());
        let found = self.neighbours.range(from..).next();
        let (_, _, mac) = found.filter(|(index, of, _)| (*index, *of) == (end.index, address))?;
        Some(mac)
    }

    /// What is wrong with a host end.
    pub fn faults(&self, end: &End, wanted: &Wanted) -> Vec<String> {
        let mut faults = Vec::new();
        let mut check = |right: bool, wrong: &dyn Fn() -> String| {
            if !right {
                faults.push(wrong());
            }
        };
        let name = link_name(wanted.address);
        check(end.name == name, &|| format!("host end is named {}", end.name.escape_default()));
        check(end.alias == name, &|| "alias of the host end missing".into());
        check(end.veth, &|| "host end is not a veth".into());
        check(end.mtu == wanted.mtu, &|| format!("mtu of the host end is {}", end.mtu));
        check(end.up, &|| "host end down".into());
        check(end.controller.is_none(), &|| {
            let taker = end.controller.and_then(|index| self.name(index)).unwrap_or_default();
            format!("host end is a port of {taker}, which takes its packets")
        });
        check(end.mac == HOST_MAC.0, &|| format!("mac of the host end is {}", mac_text(&end.mac)));
        let mac = self.mac_of(end, wanted.address);
        for own in wanted.own() {
            let of = of_kind(&own);
            check(self.routes.holds(&route::Entry::to_container(own.address, end.index)), &|| {
                format!("host route{of} missing")
            });
            let known = self.mac_at(end, own.address).is_some_and(|found| Some(found) == mac);
            check(known, &|| format!("host neighbour{of} missing"));
        }
        let held = |held: &&AddressMessage| held.header.index == end.index;
        let has_gateway6 = || self.addresses.iter().filter(held).any(address::is_gateway6);
        check(wanted.prefix.is_none() || has_gateway6(), &|| {
            format!("address {GATEWAY6} of the host end missing")
        });
        faults.extend(end.wrong_settings(wanted.prefix.is_some()));
        for held in self.addresses.iter().filter(held).filter(|held| !is_of_host_end(held, wanted)) {
            faults.push(format!("address {} on the host end, which is to have none", address::text(held)));
        }
        faults
    }
}

/// The addresses of a container.
fn addresses_of(address: Address, prefix: Option<Prefix>) -> impl Iterator<Item = IpAddr> {
    [Family::V4].into_iter().chain(prefix.map(Family::V6)).map(move |family| family.address(address))
}
