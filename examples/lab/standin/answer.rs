//! From the model's answers to EC2's XML.

use std::{collections::BTreeMap, fmt, net::Ipv4Addr};

use weavers::sim::vpc::{
    Answer, ApiError, Association, GroupId, GroupView, Ingress, InstanceView, InterfaceView, Power,
    RouteTarget, RouteView, TableView, Vpc, power_name, private_dns_name, state_name,
};

use super::mac_of;

/// The body of an answer.
pub fn render(vpc: &Vpc, action: &str, request_id: &str, answer: &Answer) -> String {
    let (content, next_token) = match answer {
        Answer::Done => (leaf("return", "true"), &None),
        Answer::Tables { tables, next_token } => {
            (set("routeTableSet", tables.iter().map(|view| table(vpc, view))), next_token)
        }
        Answer::Instances { instances, next_token } => {
            (set("reservationSet", instances.iter().map(|view| reservation(vpc, view))), next_token)
        }
        Answer::Groups { groups, next_token } => {
            (set("securityGroupInfo", groups.iter().map(group)), next_token)
        }
    };
    let next = next_token.as_ref().map(|token| leaf("nextToken", token)).unwrap_or_default();
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <{action}Response xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\">{}{content}{next}</{action}Response>",
        leaf("requestId", request_id)
    )
}

/// The body of a refusal.
pub fn render_error(request_id: &str, error: &ApiError) -> String {
    let error = element("Error", leaf("Code", &error.code) + &leaf("Message", &error.message));
    let content = element("Errors", error) + &leaf("RequestID", request_id);
    format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n{}", element("Response", content))
}

fn table(vpc: &Vpc, view: &TableView) -> String {
    let routes = view.routes.iter().map(|view| route(vpc, "destinationCidrBlock", view));
    let routes6 = view.routes6.iter().map(|view| route(vpc, "destinationIpv6CidrBlock", view));
    [
        leaf("routeTableId", &view.id.0),
        leaf("vpcId", &view.vpc_id),
        leaf("ownerId", &view.owner),
        set("routeSet", routes.chain(routes6)),
        set("associationSet", view.associations.iter().map(|a| association(&view.id.0, a))),
        set("propagatingVgwSet", std::iter::empty()),
        tags(&view.tags),
    ]
    .concat()
}

fn route<N: fmt::Display>(vpc: &Vpc, destination: &str, view: &RouteView<N>) -> String {
    let target = match &view.target {
        RouteTarget::Local => leaf("gatewayId", "local"),
        RouteTarget::Interface(interface) => leaf("networkInterfaceId", &interface.0),
        RouteTarget::Gateway(gateway) if gateway.starts_with("nat-") => leaf("natGatewayId", gateway),
        RouteTarget::Gateway(gateway) if gateway.starts_with("tgw-") => leaf("transitGatewayId", gateway),
        RouteTarget::Gateway(gateway) if gateway.starts_with("pcx-") => {
            leaf("vpcPeeringConnectionId", gateway)
        }
        RouteTarget::Gateway(gateway) => leaf("gatewayId", gateway),
    };
    let instance =
        view.instance.as_ref().map(|id| leaf("instanceId", &id.0) + &leaf("instanceOwnerId", vpc.account()));
    [
        leaf(destination, &view.destination.to_string()),
        target,
        instance.unwrap_or_default(),
        leaf("state", state_name(view.state)),
        leaf("origin", view.origin.name()),
    ]
    .concat()
}

fn association(table: &str, view: &Association) -> String {
    [
        leaf("routeTableAssociationId", &view.id),
        leaf("routeTableId", table),
        view.subnet.as_ref().map(|id| leaf("subnetId", &id.0)).unwrap_or_default(),
        view.gateway.as_ref().map(|id| leaf("gatewayId", id)).unwrap_or_default(),
        leaf("main", &view.main.to_string()),
        element("associationState", leaf("state", "associated")),
    ]
    .concat()
}

fn reservation(vpc: &Vpc, view: &InstanceView) -> String {
    let name = format!("r-{}", view.id.0.trim_start_matches("i-"));
    [
        leaf("reservationId", &name),
        leaf("ownerId", vpc.account()),
        set("groupSet", std::iter::empty()),
        set("instancesSet", std::iter::once(instance(vpc, view))),
    ]
    .concat()
}

/// An instance shows its first interface's properties as its own; a terminated one has none.
fn instance(vpc: &Vpc, view: &InstanceView) -> String {
    let first = view.interfaces.first().map(|first| {
        [
            leaf("privateDnsName", &private_dns_name(first.address, vpc.region())),
            leaf("privateIpAddress", &first.address.to_string()),
            leaf("subnetId", &first.subnet.0),
            leaf("vpcId", vpc.id()),
            leaf("sourceDestCheck", &first.source_dest_check.to_string()),
            element("placement", leaf("availabilityZone", &first.zone)),
        ]
        .concat()
    });
    let code = match view.power {
        Power::Running => "16",
        Power::Stopped => "80",
        Power::Terminated => "48",
    };
    [
        leaf("instanceId", &view.id.0),
        element("instanceState", leaf("code", code) + &leaf("name", power_name(view.power))),
        first.unwrap_or_default(),
        set("networkInterfaceSet", view.interfaces.iter().map(|view| interface(vpc, view))),
        tags(&view.tags),
    ]
    .concat()
}

fn interface(vpc: &Vpc, view: &InterfaceView) -> String {
    let attachment = [
        leaf("attachmentId", &format!("eni-attach-{}", view.id.0.trim_start_matches("eni-"))),
        leaf("deviceIndex", &view.device.to_string()),
        leaf("status", "attached"),
    ];
    [
        leaf("networkInterfaceId", &view.id.0),
        leaf("subnetId", &view.subnet.0),
        leaf("vpcId", vpc.id()),
        leaf("ownerId", vpc.account()),
        leaf("status", "in-use"),
        leaf("macAddress", &mac_of(view.address)),
        leaf("privateIpAddress", &view.address.to_string()),
        leaf("sourceDestCheck", &view.source_dest_check.to_string()),
        set("groupSet", view.groups.iter().map(group_id)),
        element("attachment", attachment.concat()),
        set("privateIpAddressesSet", std::iter::once(address(view.address))),
    ]
    .concat()
}

fn group(view: &GroupView) -> String {
    [
        leaf("ownerId", &view.owner),
        leaf("vpcId", &view.vpc_id),
        group_id(&view.id),
        leaf("groupDescription", "a security group of the lab"),
        set("ipPermissions", view.ingress.iter().map(|ingress| permission(&view.owner, ingress))),
        set("ipPermissionsEgress", std::iter::empty()),
    ]
    .concat()
}

fn group_id(id: &GroupId) -> String {
    leaf("groupId", &id.0) + &leaf("groupName", &format!("group {id}"))
}

fn permission(owner: &str, ingress: &Ingress) -> String {
    let ports = ingress
        .ports
        .map(|(first, last)| leaf("fromPort", &first.to_string()) + &leaf("toPort", &last.to_string()));
    let groups = ingress.groups.iter().map(|id| leaf("userId", owner) + &leaf("groupId", &id.0));
    [
        leaf("ipProtocol", &ingress.protocol),
        ports.unwrap_or_default(),
        set("groups", groups),
        set("ipRanges", ingress.sources.iter().map(|cidr| leaf("cidrIp", &cidr.to_string()))),
    ]
    .concat()
}

fn address(address: Ipv4Addr) -> String {
    leaf("privateIpAddress", &address.to_string()) + &leaf("primary", "true")
}

fn tags(tags: &BTreeMap<String, String>) -> String {
    set("tagSet", tags.iter().map(|(key, value)| leaf("key", key) + &leaf("value", value)))
}

// ===== XML =====

fn set(name: &str, items: impl Iterator<Item = String>) -> String {
    element(name, items.map(|item| element("item", item)).collect())
}

fn element(name: &str, content: String) -> String {
    format!("<{name}>{content}</{name}>")
}

fn leaf(name: &str, text: &str) -> String {
    element(name, text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;"))
}
