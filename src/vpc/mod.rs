//! EC2: look at route tables and the own interface, and change one route at a time.
//!
//! No decisions here: what to change is the plan's business. [`Ec2::observe`] reads, [`Ec2::apply`]
//! carries out one action, and both say why not in the words of [`fault`].

mod proxy;
pub mod fault;
mod apply;
mod calls;
mod clock;
pub mod groups;
mod lists;
mod metadata;
mod table;
mod observe;
mod peers;
mod permission;
mod peer_subnets;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use aws_config::{
    BehaviorVersion, Region, SdkConfig, default_provider::credentials::DefaultCredentialsChain,
    imds::credentials::ImdsCredentialsProvider, retry::RetryConfig, timeout::TimeoutConfig,
};
use aws_sdk_ec2::{Client, config};
use ipnet::Ipv4Net;
use tokio::time::timeout;
use tracing::warn;

use crate::{
    addr::{Family, Range},
    config::{Config, Vpc as Settings},
    kernel::uplink,
    metrics::Calls,
    state::{Fault, FaultKind, InterfaceId, Side, TableId, Vpc},
};

/// Time to reach EC2 at all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Time for one call, second attempt and credentials included.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Attempts of the metadata to say the credentials of the role, as the SDK has it.
const CREDENTIALS_ATTEMPTS: u32 = 4;
/// How long the metadata may take to say which interface carries the traffic now.
const METADATA_TIMEOUT: Duration = Duration::from_secs(1);
/// Attempts of one call. Few, so that it is the loop that tries again, after another look.
const ATTEMPTS: u32 = 2;

/// Who this host is to EC2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The instance, `i-…`.
    pub instance: String,
    /// Its interface that carries the traffic between hosts, the target of our routes.
    pub interface: InterfaceId,
    /// The subnet of that interface.
    pub subnet: String,
    /// The VPC of that subnet.
    pub vpc: String,
    /// The region of all of them.
    pub region: String,
    /// The primary private address of the instance.
    pub address: Ipv4Addr,
}

/// The hand that reads and writes one VPC for one host.
#[derive(Debug)]
pub struct Ec2 {
    client: Client,
    /// Counts its calls.
    calls: Calls,
    clock: clock::Clock,
    identity: Identity,
    memory: Mutex<Memory>,
}

/// What is kept from one look to the next, to ask less.
#[derive(Debug, Default)]
struct Memory {
    /// Looks begun.
    passes: u64,
    /// Selected tables that do not exist or cannot be used; asked for again now and then.
    lost: BTreeSet<TableId>,
    /// The source/destination check as last read.
    check: Option<bool>,
    /// The look at which the check is read again.
    check_due: u64,
    /// An interface by which packets left at the last look, other than the own one.
    rival: Option<InterfaceId>,
    /// Somebody has said anew which links carry the traffic.
    told: bool,
    /// Prefix lists that the tables name.
    lists: lists::Memory,
    /// Routes seen in each table, which tell the quota when it is full.
    used: BTreeMap<Side, usize>,
}

impl Ec2 {
    /// Learns from the instance metadata who this host is, and makes ready to call EC2. Endpoint and
    /// credentials come from the settings, the environment, the profile or the instance's role.
    pub async fn connect(config: &Config, calls: Calls) -> Result<Ec2, Fault> {
        let (settings, uplinks) = (&config.vpc, uplink::macs(config).await);
        let identity = metadata::identity(settings.region.as_deref(), &uplinks).await?;
        let sdk = credentials(&identity).await;
        Ok(Ec2::counted(identity, &sdk, settings.endpoint.as_deref(), calls))
    }

    /// The same hand with credentials that are looked for anew: those that it has are not accepted any more. The client
    /// keeps what it has once found for as long as that was meant to last, and some for ever.
    pub async fn renewed(&self, settings: &Settings) -> Ec2 {
        let sdk = credentials(&self.identity).await;
        let endpoint = settings.endpoint.as_deref();
        let fresh = Ec2::counted(self.identity.clone(), &sdk, endpoint, self.calls.clone());
        *fresh.memory() = std::mem::take(&mut *self.memory());
        fresh
    }

    /// The hand of the interface that carries the traffic now, where that is another: at once if the instance has
    /// the former one no more, or if somebody has just said which carries it, otherwise once two looks agree. What
    /// cannot be told changes nothing.
    pub async fn moved(&self, config: &Config) -> Option<Ec2> {
        let uplinks = uplink::macs(config).await;
        let other =
            timeout(METADATA_TIMEOUT, metadata::other_than(&self.identity, &uplinks)).await.ok()?.ok()?;
        let rival = other.as_ref().map(|other| other.identity.interface.clone());
        let agreed = self.agrees(rival);
        let metadata::Other { identity, had_still } = other.filter(|other| agreed || !other.had_still)?;
        let (former, now) = (&self.identity.interface, &identity.interface);
        warn!(%former, detached = !had_still, %now, "another interface carries the traffic: routes lead to it from now on");
        let sdk = credentials(&identity).await;
        Some(Ec2::counted(identity, &sdk, config.vpc.endpoint.as_deref(), self.calls.clone()))
    }

    fn agrees(&self, rival: Option<InterfaceId>) -> bool {
        let mut memory = self.memory();
        let told = std::mem::take(&mut memory.told);
        std::mem::replace(&mut memory.rival, rival.clone()) == rival || told
    }

    /// The same hand after somebody has said anew which links carry the traffic: its next look follows at once. A look of the
    /// former one that is under way may have begun before that was said.
    #[must_use]
    pub fn in_doubt_of_its_interface(&self) -> Ec2 {
        Ec2 {
            client: self.client.clone(),
            calls: self.calls.clone(),
            clock: self.clock.clone(),
            identity: self.identity.clone(),
            memory: Mutex::new(Memory { told: true, ..Memory::default() }),
        }
    }

    /// The check may have been set since it was last read: the next look reads it, too.
    pub fn doubt_check(&self) {
        self.memory().check_due = 0;
    }

    /// The same for a host that is known already.
    pub fn with_identity(identity: Identity, sdk: &SdkConfig, endpoint: Option<&str>) -> Ec2 {
        Ec2::counted(identity, sdk, endpoint, Calls::new())
    }

    fn counted(identity: Identity, sdk: &SdkConfig, endpoint: Option<&str>, calls: Calls) -> Ec2 {
        let timeouts =
            TimeoutConfig::builder().connect_timeout(CONNECT_TIMEOUT).operation_timeout(CALL_TIMEOUT).build();
        let clock = clock::Clock::new();
        let mut builder = config::Builder::from(sdk)
            .interceptor(clock.clone())
            .interceptor(calls::Counted(calls.clone()))
            .region(Region::new(identity.region.clone()))
            .retry_config(RetryConfig::standard().with_max_attempts(ATTEMPTS))
            .timeout_config(timeouts);
        if let Some(url) = endpoint {
            builder = builder.endpoint_url(url);
        }
        Ec2 { client: Client::from_conf(builder.build()), calls, clock, identity, memory: Mutex::default() }
    }

    /// Who this host is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Seconds that this host's clock is ahead of EC2's, by its last answer.
    pub fn clock_ahead_s(&self) -> Option<i64> {
        self.clock.ahead_s()
    }

    /// Never held across an `.await`; every value in it is sound by itself, also after a panic.
    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where credentials come from: the environment, the profile, the instance's role. Those of the role are asked for as the rest of
/// the metadata is: never through a proxy.
async fn credentials(identity: &Identity) -> SdkConfig {
    let region = Region::new(identity.region.clone());
    let metadata = metadata::client(CREDENTIALS_ATTEMPTS);
    let role = || ImdsCredentialsProvider::builder().imds_client(metadata.clone()).build();
    let chain = DefaultCredentialsChain::builder()
        .region(region.clone())
        .imds_client(metadata.clone())
        .with_custom_credential_source("Ec2InstanceMetadata", role());
    let loader = aws_config::defaults(BehaviorVersion::latest()).region(region);
    loader.credentials_provider(chain.build().await).load().await
}

/// A container range that shares addresses with the VPC cannot be routed to hosts: the VPC's own
/// routes win or refuse ours.
pub fn overlaps(range: Ipv4Net, vpc: &Vpc) -> Option<Fault> {
    let mut local =
        vpc.tables.iter().flat_map(|(side, table)| table.local.iter().map(move |cidr| (side, cidr)));
    let (side, taken) = local.find(|(_, cidr)| Range::from(**cidr).overlaps(range.into()))?;
    let (range, taken) = (side.destination(range), side.destination(*taken));
    let key = match side.family {
        Family::V4 => "ipam.range",
        Family::V6(_) => "network.ipv6",
    };
    Some(Fault {
        kind: FaultKind::Invalid,
        message: format!("container range {range} overlaps {taken}, which is the VPC's own"),
        hint: Some(format!("choose an `{key}` outside every CIDR of the VPC")),
        request_id: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Table;

    fn vpc(local: &[&str]) -> Vpc {
        let local = local.iter().map(|cidr| cidr.parse().unwrap()).collect();
        Vpc {
            interface: InterfaceId("eni-1".into()),
            source_dest_check: None,
            tables: [(TableId("rtb-1".into()).into(), Table { local, ..Table::default() })].into(),
            retired: BTreeMap::new(),
        }
    }

    #[test]
    fn a_range_that_touches_any_cidr_of_the_vpc_is_refused_by_name() {
        let vpc = vpc(&["10.0.0.0/16", "10.36.0.0/16"]);
        let fault = overlaps("10.32.0.0/12".parse().unwrap(), &vpc).unwrap();
        assert_eq!(fault.kind, FaultKind::Invalid);
        assert_eq!(
            fault.message,
            "container range 10.32.0.0/12 overlaps 10.36.0.0/16, which is the VPC's own"
        );
        assert!(overlaps("10.0.128.0/20".parse().unwrap(), &vpc).is_some());
    }

    #[test]
    fn what_is_said_of_the_interface_is_for_looks_that_begin_after_it() {
        let identity = Identity {
            instance: "i-1".into(),
            interface: InterfaceId("eni-1".into()),
            subnet: "subnet-1".into(),
            vpc: "vpc-1".into(),
            region: "eu-west-1".into(),
            address: "10.0.0.4".parse().unwrap(),
        };
        let sdk = SdkConfig::builder().behavior_version(BehaviorVersion::latest()).build();
        let former = Ec2::with_identity(identity, &sdk, None);
        let told = former.in_doubt_of_its_interface();
        let other = Some(InterfaceId("eni-2".into()));
        assert!(!former.agrees(other.clone()), "it was under way");
        assert!(told.agrees(other.clone()));
        assert!(former.agrees(other), "two looks agree");
    }

    #[test]
    fn a_range_beside_the_vpc_is_welcome() {
        assert_eq!(overlaps("10.32.0.0/12".parse().unwrap(), &vpc(&["10.0.0.0/16", "10.48.0.0/16"])), None);
    }
}
