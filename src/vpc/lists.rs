//! Prefix lists that route tables lead somewhere: each of their entries is a route of others.
//!
//! A route names the list only; what is in it takes a call that the role may lack, and nothing but a warning rests on that.
//! Lists of AWS's own services, which gateway endpoints serve, hold no private addresses and are not asked about.

use std::collections::{BTreeMap, BTreeSet};

use aws_sdk_ec2::types::RouteTable;
use ipnet::IpNet;
use tracing::warn;

use super::{
    Ec2,
    fault::{Call, refused},
};
use crate::state::{Fault, FaultKind};

/// Looks between two looks at what seldom changes.
pub(super) const SELDOM: u64 = 10;

/// Entries on one page: as many as EC2 gives.
const PAGE_LEN: i32 = 100;
/// Pages of one list, which holds 1,000 entries at most.
const PAGES_MAX: usize = 10;
/// Lists that are read. Of more than that, the rest are taken for unread.
const LISTS_MAX: usize = 32;
/// How the names of gateway endpoints begin.
const ENDPOINT: &str = "vpce-";

/// The entries of each list by its name, `pl-…`, or why they are not known.
pub(super) type Lists = BTreeMap<String, Result<Vec<IpNet>, Fault>>;

/// What is known of the lists, and when they are asked about again.
#[derive(Debug, Default)]
pub(super) struct Memory {
    lists: Lists,
    /// The look at which they are read again.
    due: u64,
}

impl Memory {
    /// A call that failed for now leaves a list as it was, and is made again at the next look.
    fn take(&mut self, mut read: Lists, pass: u64) -> Lists {
        let failed =
            |list: &Result<_, Fault>| list.as_ref().is_err_and(|fault| fault.kind != FaultKind::Denied);
        self.due = pass + if read.values().any(failed) { 1 } else { SELDOM };
        for (id, list) in &mut read {
            let before = self.lists.remove(id);
            match (list.as_ref().err(), before) {
                (Some(_), Some(Ok(entries))) if failed(list) => *list = Ok(entries),
                (Some(fault), None | Some(Ok(_))) => {
                    warn!(list = id, %fault, "prefix list not read: it may lead addresses of the range elsewhere");
                }
                (Some(_), Some(Err(_))) | (None, _) => {}
            }
        }
        self.lists.clone_from(&read);
        read
    }
}

impl Ec2 {
    /// The lists that these tables name, read when others are named and now and then.
    pub(super) async fn lists(&self, tables: &[RouteTable], pass: u64) -> Lists {
        let named = named(tables);
        {
            let memory = &self.memory().lists;
            if pass < memory.due && memory.lists.keys().eq(&named) {
                return memory.lists.clone();
            }
        }
        let mut read = Lists::new();
        for (nth, id) in named.into_iter().enumerate() {
            let list = if nth < LISTS_MAX { self.list(&id).await } else { Err(too_many(&id)) };
            read.insert(id, list);
        }
        self.memory().lists.take(read, pass)
    }

    /// Why the entries of some lists were not known at the last look.
    pub fn unread_lists(&self) -> Vec<Fault> {
        self.memory().lists.lists.values().filter_map(|read| read.clone().err()).collect()
    }

    async fn list(&self, id: &str) -> Result<Vec<IpNet>, Fault> {
        let call = Call {
            operation: "GetManagedPrefixListEntries",
            subject: id.to_owned(),
            resource: self.arn(&format!("prefix-list/{id}")),
            by_hand: Some(format!("aws ec2 get-managed-prefix-list-entries --prefix-list-id {id}")),
            used: None,
        };
        let request = self.client.get_managed_prefix_list_entries().prefix_list_id(id).max_results(PAGE_LEN);
        let (mut entries, mut token) = (Vec::new(), None);
        for _ in 0..PAGES_MAX {
            let page = request.clone().set_next_token(token).send().await;
            let page = page.map_err(|error| refused(&call, error).fault)?;
            entries.extend(page.entries().iter().filter_map(|entry| entry.cidr()?.parse::<IpNet>().ok()));
            token = page.next_token.filter(|token| !token.is_empty());
            if token.is_none() {
                return Ok(entries);
            }
        }
        Err(unread(format!("{id} holds more than {PAGES_MAX} pages of entries")))
    }
}

fn named(tables: &[RouteTable]) -> BTreeSet<String> {
    let routes = tables.iter().flat_map(RouteTable::routes);
    let ours = routes.filter(|route| !route.gateway_id().is_some_and(|to| to.starts_with(ENDPOINT)));
    ours.filter_map(|route| Some(route.destination_prefix_list_id()?.to_owned())).collect()
}

fn too_many(id: &str) -> Fault {
    unread(format!("{id} is not read: the tables name more than {LISTS_MAX} prefix lists"))
}

fn unread(message: String) -> Fault {
    Fault { kind: FaultKind::Invalid, message, hint: None, request_id: None }
}

#[cfg(test)]
mod tests {
    use aws_sdk_ec2::types::Route;

    use super::*;

    #[test]
    fn what_was_in_a_list_is_believed_while_ec2_fails_and_not_once_it_is_denied() {
        let read = |kind: FaultKind| {
            let fault = Fault { kind, ..unread("pl-1".to_owned()) };
            let mut memory = Memory::default();
            let entries = vec!["10.33.0.0/16".parse().unwrap()];
            memory.take([("pl-1".to_owned(), Ok(entries))].into(), 1);
            let lists = memory.take([("pl-1".to_owned(), Err(fault))].into(), 11);
            (lists["pl-1"].is_ok(), memory.due)
        };
        assert_eq!(read(FaultKind::Throttled), (true, 12));
        assert_eq!(read(FaultKind::Denied), (false, 11 + SELDOM));
    }

    #[test]
    fn lists_that_gateway_endpoints_serve_are_not_asked_about() {
        let to = |list: &str, gateway: &str| {
            Route::builder().destination_prefix_list_id(list).gateway_id(gateway).build()
        };
        let table = RouteTable::builder().routes(to("pl-s3", "vpce-1")).routes(to("pl-own", "vgw-1")).build();
        assert_eq!(named(&[table]), BTreeSet::from(["pl-own".to_owned()]));
    }
}
