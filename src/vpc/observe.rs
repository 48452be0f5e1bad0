//! What is in the VPC: the selected tables, and the check of the own interface.
//!
//! One DescribeRouteTables a look: where the tables are to be found, all of the VPC are read, so that what changed is seen at once.

use std::collections::BTreeSet;

use aws_sdk_ec2::{
    operation::describe_route_tables::builders::DescribeRouteTablesFluentBuilder,
    types::{self, Filter, RouteTable},
};
use tracing::{info, warn};

use super::{
    Ec2,
    fault::{Call, Refused, refused},
    lists::SELDOM,
    table::{id, read_table, serving, usable},
};
use crate::{
    addr::{Family, Universe},
    state::{Fault, FaultKind, Side, SubnetId, TableId, Tables, Vpc},
};

/// Tables on one page: as many as EC2 gives.
const PAGE_LEN: i32 = 100;
/// Pages of one answer. A VPC holds 200 tables unless somebody asked for more.
const PAGES_MAX: usize = 50;

impl Ec2 {
    /// Reads the selected tables. A named table that does not exist is left out and logged; if none is left, that is the fault.
    pub async fn observe(&self, universe: &Universe, tables: &Tables) -> Result<Vpc, Fault> {
        let pass = self.begin_pass();
        let tables = match tables {
            Tables::Serving(others) => self.serving_tables(others).await?,
            Tables::Named(ids) => self.named_tables(ids, pass).await?,
            Tables::Tagged(key, value) => self.tagged_tables(key, value).await?,
        };
        let lists = self.lists(&tables, pass).await;
        let sides = |families: &[Family]| {
            let read = |table: &RouteTable, family: Family| {
                let side = Side { table: id(table)?, family };
                Some((side, read_table(table, family, universe.range, &lists)))
            };
            let all = tables
                .iter()
                .flat_map(|table| families.iter().filter_map(move |family| read(table, *family)));
            all.collect()
        };
        let retired: Vec<Family> = universe.retired.iter().copied().map(Family::V6).collect();
        let (kept, retired) = (sides(&universe.families().collect::<Vec<_>>()), sides(&retired));
        let source_dest_check = self.source_dest_check(pass).await;
        let interface = self.identity.interface.clone();
        let vpc = Vpc { interface, source_dest_check, tables: kept, retired };
        self.remember(&vpc);
        Ok(vpc)
    }

    fn remember(&self, vpc: &Vpc) {
        let mut memory = self.memory();
        if !memory.used.keys().eq(vpc.tables.keys().chain(vpc.retired.keys()).collect::<BTreeSet<_>>()) {
            let tables: Vec<String> = vpc.tables.keys().map(ToString::to_string).collect();
            info!(tables = tables.join(", "), "route tables to keep");
        }
        memory.used =
            vpc.tables.iter().chain(&vpc.retired).map(|(id, table)| (id.clone(), table.used)).collect();
    }

    fn begin_pass(&self) -> u64 {
        let mut memory = self.memory();
        memory.passes += 1;
        memory.passes
    }

    // ===== which tables =====

    async fn named_tables(&self, ids: &BTreeSet<TableId>, pass: u64) -> Result<Vec<RouteTable>, Fault> {
        let mut asked: BTreeSet<TableId> = ids.difference(&self.memory().lost).cloned().collect();
        if asked.is_empty() || pass.is_multiple_of(SELDOM) {
            asked = ids.clone();
        }
        // One unknown table fails the whole call; each turn leaves one of them out.
        while !asked.is_empty() {
            match self.by_id(&asked).await {
                Ok(tables) => {
                    let usable = usable(tables);
                    self.note_lost(ids, &usable);
                    return if usable.is_empty() { Err(none_usable(ids)) } else { Ok(usable) };
                }
                Err(refused) if unknown_table(&refused) => {
                    let named = asked.iter().find(|id| refused.text.contains(&id.0)).cloned();
                    let Some(named) = named else { return Err(refused.fault) };
                    asked.remove(&named);
                }
                Err(refused) => return Err(refused.fault),
            }
        }
        Err(none_usable(ids))
    }

    fn note_lost(&self, ids: &BTreeSet<TableId>, tables: &[RouteTable]) {
        let found: BTreeSet<TableId> = tables.iter().filter_map(id).collect();
        let lost: BTreeSet<TableId> = ids.difference(&found).cloned().collect();
        let mut memory = self.memory();
        for table in lost.difference(&memory.lost) {
            warn!(%table, "selected route table does not exist or serves a gateway");
        }
        memory.lost = lost;
    }

    /// The tables of our subnet and of others.
    async fn serving_tables(&self, others: &BTreeSet<SubnetId>) -> Result<Vec<RouteTable>, Fault> {
        let own = SubnetId(self.identity.subnet.clone());
        let subnets: BTreeSet<SubnetId> = others.iter().cloned().chain([own]).collect();
        let tables = usable(serving(self.of_vpc(Vec::new()).await?, &subnets));
        if !tables.is_empty() {
            return Ok(tables);
        }
        Err(Fault {
            kind: FaultKind::Invalid,
            message: format!("no route table found for {} in {}", self.identity.subnet, self.identity.vpc),
            hint: Some("name the tables in `vpc.route_tables`".to_owned()),
            request_id: None,
        })
    }

    async fn tagged_tables(&self, key: &str, value: &str) -> Result<Vec<RouteTable>, Fault> {
        let tables = usable(self.of_vpc(vec![filter(&format!("tag:{key}"), value)]).await?);
        if !tables.is_empty() {
            return Ok(tables);
        }
        Err(Fault {
            kind: FaultKind::Invalid,
            message: format!(
                "no route table of {} that serves subnets bears the tag {key}={value}",
                self.identity.vpc
            ),
            hint: Some(format!("aws ec2 create-tags --resources rtb-… --tags 'Key={key},Value={value}'")),
            request_id: None,
        })
    }

    async fn of_vpc(&self, mut filters: Vec<Filter>) -> Result<Vec<RouteTable>, Fault> {
        filters.push(filter("vpc-id", &self.identity.vpc));
        let call = describe_call(format!("the route tables of {}", self.identity.vpc));
        Ok(paged(&call, self.client.describe_route_tables().set_filters(Some(filters))).await?)
    }

    async fn by_id(&self, ids: &BTreeSet<TableId>) -> Result<Vec<RouteTable>, Refused> {
        let names: Vec<String> = ids.iter().map(|id| id.0.clone()).collect();
        let call = describe_call(names.join(", "));
        paged(&call, self.client.describe_route_tables().set_route_table_ids(Some(names))).await
    }

    // ===== the own interface =====

    /// Read until it is off, and now and then after. Where it cannot be read, the routes still can.
    async fn source_dest_check(&self, pass: u64) -> Option<bool> {
        {
            let memory = self.memory();
            if pass < memory.check_due {
                return memory.check;
            }
        }
        let read = self.read_check().await;
        let mut memory = self.memory();
        // Once it is off it seldom comes back on; and it may take a while to be seen off.
        memory.check_due = match &read {
            Ok(Some(false)) => pass + SELDOM,
            Err(fault) if fault.kind == FaultKind::Denied => pass + SELDOM,
            Ok(_) | Err(_) => pass + 1,
        };
        memory.check = read.unwrap_or_else(|fault| {
            warn!(%fault, "source/destination check not read");
            None
        });
        memory.check
    }

    async fn read_check(&self) -> Result<Option<bool>, Fault> {
        let instance = &self.identity.instance;
        let call = Call {
            operation: "DescribeInstances",
            subject: instance.clone(),
            resource: "*".to_owned(),
            by_hand: None,
            used: None,
        };
        let answer = self.client.describe_instances().instance_ids(instance).send().await;
        let answer = answer.map_err(|error| refused(&call, error))?;
        let instances = answer.reservations().iter().flat_map(types::Reservation::instances);
        let mut interfaces = instances.flat_map(types::Instance::network_interfaces);
        let own = interfaces.find(|one| one.network_interface_id() == Some(&self.identity.interface.0));
        Ok(own.and_then(types::InstanceNetworkInterface::source_dest_check))
    }
}

// ===== asking =====

fn describe_call(subject: String) -> Call {
    Call { operation: "DescribeRouteTables", subject, resource: "*".to_owned(), by_hand: None, used: None }
}

/// Every page of an answer.
async fn paged(call: &Call, request: DescribeRouteTablesFluentBuilder) -> Result<Vec<RouteTable>, Refused> {
    let mut tables = Vec::new();
    let mut token = None;
    for _ in 0..PAGES_MAX {
        let page = request.clone().max_results(PAGE_LEN).set_next_token(token).send().await;
        let page = page.map_err(|error| refused(call, error))?;
        tables.extend(page.route_tables.unwrap_or_default());
        token = page.next_token.filter(|token| !token.is_empty());
        if token.is_none() {
            return Ok(tables);
        }
    }
    let fault = Fault {
        kind: FaultKind::Invalid,
        message: format!("{} of {}: more than {PAGES_MAX} pages", call.operation, call.subject),
        hint: None,
        request_id: None,
    };
    Err(Refused { code: String::new(), text: String::new(), fault })
}

pub(super) fn filter(name: &str, value: &str) -> Filter {
    Filter::builder().name(name).values(value).build()
}

fn unknown_table(refused: &Refused) -> bool {
    refused.code.starts_with("InvalidRouteTableI")
}

fn none_usable(ids: &BTreeSet<TableId>) -> Fault {
    let names: Vec<&str> = ids.iter().map(|id| id.0.as_str()).collect();
    Fault {
        kind: FaultKind::Invalid,
        message: format!("no usable route table among those selected ({})", names.join(", ")),
        hint: Some(
            "name tables of this region that exist and serve subnets in `vpc.route_tables`".to_owned(),
        ),
        request_id: None,
    }
}
