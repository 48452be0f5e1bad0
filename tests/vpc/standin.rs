//! The stand-in of our own, which the lab serves. It is stricter than moto, and repeats our mistakes.

use std::{collections::BTreeMap, net::Ipv4Addr};

use anyhow::{Result, bail};
use futures_util::future::BoxFuture;
use tokio::net::TcpListener;
use weavers::{
    sim::vpc::{Action, Caller, Faults, Ingress, InstanceId, Power, SubnetId, Throttle, Vpc},
    state::TableId,
    vpc::{Ec2, Identity},
};

use crate::{
    cloud::{Cloud, Console, World},
    sdk,
};

#[allow(dead_code, unused_imports)] // The lab uses the rest.
#[path = "../../examples/lab/standin/mod.rs"]
mod server;

const REGION: &str = "eu-central-1";

/// A server for each case, which ends with it.
pub struct Standin;

impl Cloud for Standin {
    fn name(&self) -> &'static str {
        "standin"
    }

    fn lay_out(&self, _: &'static str) -> BoxFuture<'_, Result<World>> {
        Box::pin(lay_out())
    }
}

async fn lay_out() -> Result<World> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let endpoint = format!("http://{}", listener.local_addr()?);
    let mut vpc = Vpc::new("10.0.0.0/16".parse()?, REGION);
    let now = weavers::time::Timestamp::ZERO;
    let subnet = vpc.add_subnet(now, "10.0.1.0/24".parse()?, "eu-central-1a");
    let address = Ipv4Addr::new(10, 0, 1, 11);
    let (instance, interface) = vpc.launch(now, &subnet, address);
    let (other, neighbour) = vpc.launch(now, &subnet, Ipv4Addr::new(10, 0, 1, 12));
    let table = vpc.add_table(now);
    vpc.associate(now, &subnet, Some(&table));
    vpc.permit(&Caller::Instance(instance.clone()), Action::ALL);
    let identity = Identity {
        instance: instance.0.clone(),
        interface,
        subnet: subnet.0.clone(),
        vpc: vpc.id().to_owned(),
        region: REGION.to_owned(),
        address,
    };
    let main = vpc.main_table().clone();
    let cloud = server::Cloud::new(vpc).with_stranger(instance);
    tokio::spawn(cloud.clone().serve(listener));
    let neighbour_instance = other.0.clone();
    let console = StandinConsole { cloud, identity, subnet, other, endpoint };
    let (ec2, console) = (console.hand(), Box::new(console));
    Ok(World { ec2, table, main, neighbour, neighbour_instance, console })
}

struct StandinConsole {
    cloud: server::Cloud,
    identity: Identity,
    subnet: SubnetId,
    other: InstanceId,
    endpoint: String,
}

impl StandinConsole {
    fn hand(&self) -> Ec2 {
        Ec2::with_identity(self.identity.clone(), &sdk(REGION, "key", "secret"), Some(&self.endpoint))
    }

    fn fail(&self, faults: Faults) -> BoxFuture<'_, Result<()>> {
        self.cloud.with(|vpc, _| vpc.set_faults(faults));
        done()
    }
}

impl Console for StandinConsole {
    fn associate(&self, table: Option<TableId>) -> BoxFuture<'_, Result<()>> {
        self.cloud.with(|vpc, now| vpc.associate(now, &self.subnet, table.as_ref()));
        done()
    }

    fn add_subnet(&self) -> BoxFuture<'_, Result<SubnetId>> {
        let cidr = "10.0.2.0/24".parse().expect("it is written as a network");
        let subnet = self.cloud.with(|vpc, now| vpc.add_subnet(now, cidr, "eu-central-1b"));
        Box::pin(async { Ok(subnet) })
    }

    fn associate_other(&self, subnet: SubnetId, table: TableId) -> BoxFuture<'_, Result<()>> {
        self.cloud.with(|vpc, now| vpc.associate(now, &subnet, Some(&table)));
        done()
    }

    fn tag_table(&self, table: TableId, key: &'static str, value: &'static str) -> BoxFuture<'_, Result<()>> {
        self.cloud.with(|vpc, now| vpc.tag_table(now, &table, key, value));
        done()
    }

    fn add_tables(&self, count: usize) -> BoxFuture<'_, Result<Vec<TableId>>> {
        let tables = self.cloud.with(|vpc, now| (0..count).map(|_| vpc.add_table(now)).collect());
        Box::pin(async { Ok(tables) })
    }

    fn make_edge(&self, table: TableId) -> BoxFuture<'_, Result<()>> {
        self.cloud.with(|vpc, now| vpc.associate_edge(now, &table, "igw-1"));
        done()
    }

    fn lead_list(&self, _: TableId, _: &'static str) -> BoxFuture<'_, Result<()>> {
        Box::pin(async { bail!("the stand-in knows no prefix lists") })
    }

    fn set_quota(&self, table: TableId, quota: usize) -> BoxFuture<'_, Result<()>> {
        self.cloud.with(|vpc, now| vpc.set_quota(now, &table, quota));
        done()
    }

    fn tag_both(&self, key: &'static str, value: &'static str) -> BoxFuture<'_, Result<()>> {
        let own = InstanceId(self.identity.instance.clone());
        for instance in [&own, &self.other] {
            self.cloud.with(|vpc, now| vpc.tag_instance(now, instance, key, value));
        }
        done()
    }

    fn let_in(&self, port: u16, from: &'static str) -> BoxFuture<'_, Result<()>> {
        let sources = vec![from.parse().expect("it is written as a network")];
        self.cloud.with(|vpc, now| {
            let group = vpc.interfaces()[&self.identity.interface].groups[0].clone();
            let own = Ingress::from_itself(&group);
            let ports = Some((port, port));
            let new = Ingress { protocol: "tcp".to_owned(), ports, sources, groups: Vec::new() };
            vpc.set_ingress(now, &group, vec![own, new]);
        });
        done()
    }

    fn terminate_neighbour(&self) -> BoxFuture<'_, Result<()>> {
        self.cloud.with(|vpc, now| vpc.set_power(now, &self.other, Power::Terminated));
        done()
    }

    fn restrict(&self, actions: &'static [&'static str]) -> BoxFuture<'_, Result<Ec2>> {
        let denied = Action::ALL.into_iter().filter(|action| !actions.contains(&action.name())).collect();
        self.cloud.with(|vpc, _| vpc.set_faults(Faults { denied, ..Faults::default() }));
        Box::pin(async { Ok(self.hand()) })
    }

    fn throttle(&self) -> BoxFuture<'_, Result<()>> {
        let throttle = Throttle::Bucket { capacity: 0, per_second: 0 };
        self.fail(Faults { throttle, ..Faults::default() })
    }

    fn lose_an_answer(&self) -> BoxFuture<'_, Result<()>> {
        self.fail(Faults { lose: [(Action::CreateRoute, 1)].into(), ..Faults::default() })
    }

    fn calls(&self) -> BoxFuture<'_, Result<BTreeMap<String, u64>>> {
        let calls = self.cloud.with(|vpc, _| vpc.calls());
        Box::pin(async {
            Ok(calls.into_iter().map(|(action, count)| (action.name().to_owned(), count)).collect())
        })
    }

    fn restore(&self) -> BoxFuture<'_, Result<()>> {
        self.fail(Faults::default())
    }
}

fn done<'a>() -> BoxFuture<'a, Result<()>> {
    Box::pin(async { Ok(()) })
}
