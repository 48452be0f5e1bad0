//! What a case needs of a cloud: a small VPC, and a colleague with a console.

use std::collections::BTreeMap;

use anyhow::Result;
use futures_util::future::BoxFuture;
use weavers::{
    state::{InterfaceId, SubnetId, TableId},
    vpc::Ec2,
};

/// A stand-in for EC2.
pub trait Cloud: Send + Sync {
    /// Its name, by which cases know its differences.
    fn name(&self) -> &'static str;

    /// A VPC `10.0.0.0/16` of its own for a case: one subnet with a table, two instances in it.
    fn lay_out(&self, case: &'static str) -> BoxFuture<'_, Result<World>>;
}

/// What a case works with.
pub struct World {
    /// The hand of the first instance, which may do everything.
    pub ec2: Ec2,
    /// The table associated with the subnet.
    pub table: TableId,
    /// The VPC's main table.
    pub main: TableId,
    /// The interface of the second instance.
    pub neighbour: InterfaceId,
    /// Its id.
    pub neighbour_instance: String,
    /// The colleague.
    pub console: Box<dyn Console>,
}

/// What others do to the VPC.
pub trait Console: Send + Sync {
    /// Gives the subnet a table of its own, or leaves it to the main one.
    fn associate(&self, table: Option<TableId>) -> BoxFuture<'_, Result<()>>;

    /// Makes a second subnet, without a table of its own.
    fn add_subnet(&self) -> BoxFuture<'_, Result<SubnetId>>;

    /// Gives that subnet a table of its own.
    fn associate_other(&self, subnet: SubnetId, table: TableId) -> BoxFuture<'_, Result<()>>;

    /// Gives a table a tag.
    fn tag_table(&self, table: TableId, key: &'static str, value: &'static str) -> BoxFuture<'_, Result<()>>;

    /// Makes tables.
    fn add_tables(&self, count: usize) -> BoxFuture<'_, Result<Vec<TableId>>>;

    /// Makes a table serve an internet gateway.
    fn make_edge(&self, table: TableId) -> BoxFuture<'_, Result<()>>;

    /// A route by a new prefix list that holds `entry`, to a gateway.
    fn lead_list(&self, table: TableId, entry: &'static str) -> BoxFuture<'_, Result<()>>;

    /// Says how many routes a table may hold.
    fn set_quota(&self, table: TableId, quota: usize) -> BoxFuture<'_, Result<()>>;

    /// Gives both instances a tag.
    fn tag_both(&self, key: &'static str, value: &'static str) -> BoxFuture<'_, Result<()>>;

    /// Has the security group of the first instance let in TCP at this port from there.
    fn let_in(&self, port: u16, from: &'static str) -> BoxFuture<'_, Result<()>>;

    /// Terminates the second instance.
    fn terminate_neighbour(&self) -> BoxFuture<'_, Result<()>>;

    /// The hand of an instance whose role allows these actions and no other.
    fn restrict(&self, actions: &'static [&'static str]) -> BoxFuture<'_, Result<Ec2>>;

    /// Lets no call through.
    fn throttle(&self) -> BoxFuture<'_, Result<()>>;

    /// Carries out the next CreateRoute and loses its answer.
    fn lose_an_answer(&self) -> BoxFuture<'_, Result<()>>;

    /// Calls so far, by action.
    fn calls(&self) -> BoxFuture<'_, Result<BTreeMap<String, u64>>>;

    /// Leaves no restriction to the next case.
    fn restore(&self) -> BoxFuture<'_, Result<()>>;
}
