//! One action in the VPC.

use aws_sdk_ec2::{operation::RequestId, types::AttributeBooleanValue};
use ipnet::{IpNet, Ipv4Net};

use super::{
    Ec2,
    fault::{Call, Refused, refused},
};
use crate::state::{Ec2Action, Fault, InterfaceId, Side};

impl Ec2 {
    /// Carries out one action on a route or on the own interface, and says by which request. A route
    /// to delete that is gone is success; one to create that is there, or to replace that is not, is
    /// [`FaultKind::Outdated`].
    pub async fn apply(&self, action: &Ec2Action) -> Result<Option<String>, Fault> {
        let done = match action {
            Ec2Action::CreateRoute { table, destination, interface } => {
                self.create(table, *destination, interface).await
            }
            Ec2Action::ReplaceRoute { table, destination, interface } => {
                self.replace(table, *destination, interface).await
            }
            Ec2Action::DeleteRoute { table, destination } => self.delete(table, *destination).await,
            Ec2Action::DisableCheck { interface } => self.disable_check(interface).await,
        };
        done.map_err(Fault::from)
    }

    async fn create(
        &self,
        table: &Side,
        destination: Ipv4Net,
        interface: &InterfaceId,
    ) -> Result<Option<String>, Refused> {
        let (v4, v6) = parameters(table, destination);
        let answer = self
            .client
            .create_route()
            .route_table_id(&table.table.0)
            .set_destination_cidr_block(v4)
            .set_destination_ipv6_cidr_block(v6)
            .network_interface_id(&interface.0)
            .send()
            .await;
        let answer =
            answer.map_err(|error| refused(&self.route_call("CreateRoute", table, destination), error))?;
        Ok(answer.request_id().map(str::to_owned))
    }

    async fn replace(
        &self,
        table: &Side,
        destination: Ipv4Net,
        interface: &InterfaceId,
    ) -> Result<Option<String>, Refused> {
        let (v4, v6) = parameters(table, destination);
        let answer = self
            .client
            .replace_route()
            .route_table_id(&table.table.0)
            .set_destination_cidr_block(v4)
            .set_destination_ipv6_cidr_block(v6)
            .network_interface_id(&interface.0)
            .send()
            .await;
        let answer =
            answer.map_err(|error| refused(&self.route_call("ReplaceRoute", table, destination), error))?;
        Ok(answer.request_id().map(str::to_owned))
    }

    async fn delete(&self, table: &Side, destination: Ipv4Net) -> Result<Option<String>, Refused> {
        let (v4, v6) = parameters(table, destination);
        let answer = self
            .client
            .delete_route()
            .route_table_id(&table.table.0)
            .set_destination_cidr_block(v4)
            .set_destination_ipv6_cidr_block(v6)
            .send()
            .await;
        let answer =
            answer.map_err(|error| refused(&self.route_call("DeleteRoute", table, destination), error));
        match answer {
            Ok(answer) => Ok(answer.request_id().map(str::to_owned)),
            Err(gone) if gone.code == "InvalidRoute.NotFound" => Ok(gone.fault.request_id),
            Err(refused) => Err(refused),
        }
    }

    async fn disable_check(&self, interface: &InterfaceId) -> Result<Option<String>, Refused> {
        let answer = self
            .client
            .modify_network_interface_attribute()
            .network_interface_id(&interface.0)
            .source_dest_check(AttributeBooleanValue::builder().value(false).build())
            .send()
            .await;
        let answer = answer.map_err(|error| refused(&self.check_call(interface), error))?;
        self.doubt_check();
        Ok(answer.request_id().map(str::to_owned))
    }

    fn route_call(&self, operation: &'static str, table: &Side, destination: Ipv4Net) -> Call {
        Call {
            operation,
            subject: format!("{} in {}", table.destination(destination), table.table),
            resource: self.arn(&format!("route-table/{}", table.table)),
            by_hand: None,
            used: self.memory().used.get(table).copied(),
        }
    }

    fn check_call(&self, interface: &InterfaceId) -> Call {
        let region = &self.identity.region;
        Call {
            operation: "ModifyNetworkInterfaceAttribute",
            subject: format!("the source/destination check of {interface}"),
            resource: self.arn(&format!("network-interface/{interface}")),
            by_hand: Some(format!(
                "aws ec2 modify-network-interface-attribute --no-source-dest-check \
                 --network-interface-id {interface} --region {region}"
            )),
            used: None,
        }
    }

    /// The name by which a policy knows a thing of EC2, in whatever account.
    pub(super) fn arn(&self, thing: &str) -> String {
        let region = &self.identity.region;
        let partition = match region.split('-').take(2).collect::<Vec<_>>().as_slice() {
            ["cn", ..] => "aws-cn",
            ["us", "gov"] => "aws-us-gov",
            _ => "aws",
        };
        format!("arn:{partition}:ec2:{region}:*:{thing}")
    }
}

/// A destination as EC2 takes it: one parameter for each kind. EC2 compares text, so it is written in its one canonical form.
fn parameters(side: &Side, destination: Ipv4Net) -> (Option<String>, Option<String>) {
    match side.destination(destination.trunc()) {
        IpNet::V4(cidr) => (Some(cidr.to_string()), None),
        IpNet::V6(cidr) => (None, Some(cidr.to_string())),
    }
}
