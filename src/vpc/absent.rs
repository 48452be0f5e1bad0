//! In the place of EC2 where the program was built without its client: nothing of the VPC can be read, so nothing
//! there is changed. All else works, which is enough to measure and to fuzz.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use ipnet::Ipv4Net;

use crate::{
    addr::Universe,
    config::{Config, Vpc as Settings},
    metrics::Calls,
    node::protocol::request::Permission,
    state::{Ec2Action, Fault, FaultKind, InstanceState, InterfaceId, SubnetId, TableId, Tables, Vpc},
};

/// Who this host is to EC2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The instance, `i-…`.
    pub instance: String,
    /// Its interface that carries the traffic between hosts.
    pub interface: InterfaceId,
    /// The subnet of that interface.
    pub subnet: String,
    /// The VPC of that subnet.
    pub vpc: String,
}

/// The hand that nobody has.
#[derive(Debug)]
pub enum Ec2 {}

#[allow(clippy::unused_async)] // As the client that is absent.
#[allow(missing_docs)] // It says what they do.
impl Ec2 {
    pub async fn connect(_config: &Config, _calls: Calls) -> Result<Ec2, Fault> {
        Err(Fault {
            kind: FaultKind::Invalid,
            message: "this program was built without its EC2 client".to_owned(),
            hint: Some("build it with the feature aws".to_owned()),
            request_id: None,
        })
    }

    pub async fn renewed(&self, _settings: &Settings) -> Ec2 {
        match *self {}
    }

    pub async fn moved(&self, _config: &Config) -> Option<Ec2> {
        match *self {}
    }

    pub fn doubt_check(&self) {
        match *self {}
    }

    #[must_use]
    pub fn in_doubt_of_its_interface(&self) -> Ec2 {
        match *self {}
    }

    pub fn identity(&self) -> &Identity {
        match *self {}
    }

    pub async fn observe(&self, _universe: &Universe, _tables: &Tables) -> Result<Vpc, Fault> {
        match *self {}
    }

    pub async fn peers(&self, _key: &str, _value: &str) -> Result<BTreeSet<Ipv4Addr>, Fault> {
        match *self {}
    }

    pub async fn places(&self, _of: &BTreeSet<Ipv4Addr>) -> Result<BTreeMap<Ipv4Addr, SubnetId>, Fault> {
        match *self {}
    }

    pub async fn running(&self, _of: &BTreeSet<Ipv4Addr>) -> Result<BTreeSet<Ipv4Addr>, Fault> {
        match *self {}
    }

    pub async fn instances(&self, _ids: &BTreeSet<String>) -> Result<BTreeMap<String, InstanceState>, Fault> {
        match *self {}
    }

    pub async fn permissions(&self, _table: Option<&TableId>, _range: Ipv4Net) -> Vec<Permission> {
        match *self {}
    }

    pub async fn apply(&self, _action: &Ec2Action) -> Result<Option<String>, Fault> {
        match *self {}
    }
}
