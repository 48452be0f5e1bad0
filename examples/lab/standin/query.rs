//! From the fields of EC2's Query API, version 2016-11-15, to a call of the model.

use weavers::sim::vpc::{Action, ApiError, Call, Check, Destination, Find, Targets};

use super::form::{Fields, list};

/// Targets that are neither interface nor instance: the model does not follow them.
const GATEWAYS: [&str; 9] = [
    "GatewayId",
    "NatGatewayId",
    "TransitGatewayId",
    "VpcPeeringConnectionId",
    "VpcEndpointId",
    "LocalGatewayId",
    "CarrierGatewayId",
    "EgressOnlyInternetGatewayId",
    "CoreNetworkArn",
];

/// The call that a form stands for.
pub fn call(fields: &Fields) -> Result<Call, ApiError> {
    let action = fields.get("Action").ok_or_else(|| ApiError::missing("Action"))?;
    if fields.get("Version").is_some_and(|version| version != "2016-11-15") {
        return Err(ApiError::client("InvalidAction", "only version 2016-11-15 is served"));
    }
    let dry_run = flag(fields, "DryRun")?;
    let destination = Destination {
        v4: fields.get("DestinationCidrBlock").cloned(),
        v6: fields.get("DestinationIpv6CidrBlock").cloned(),
    };
    Ok(match action.parse()? {
        Action::CreateRoute => Call::CreateRoute {
            table: required(fields, "RouteTableId")?,
            destination,
            targets: targets(fields)?,
            dry_run,
        },
        Action::ReplaceRoute => Call::ReplaceRoute {
            table: required(fields, "RouteTableId")?,
            destination,
            targets: targets(fields)?,
            dry_run,
        },
        Action::DeleteRoute => {
            Call::DeleteRoute { table: required(fields, "RouteTableId")?, destination, dry_run }
        }
        Action::ModifyNetworkInterfaceAttribute => Call::ModifyNetworkInterfaceAttribute {
            interface: required(fields, "NetworkInterfaceId")?,
            check: check(fields)?,
            dry_run,
        },
        Action::ModifyInstanceAttribute => Call::ModifyInstanceAttribute {
            instance: required(fields, "InstanceId")?,
            check: check(fields)?,
            dry_run,
        },
        Action::DescribeRouteTables => Call::DescribeRouteTables(find(fields, "RouteTableId", dry_run)?),
        Action::DescribeInstances => Call::DescribeInstances(find(fields, "InstanceId", dry_run)?),
        Action::DescribeSecurityGroups => Call::DescribeSecurityGroups(find(fields, "GroupId", dry_run)?),
    })
}

/// The refusal of a caller whose address is nobody's.
pub fn stranger() -> ApiError {
    let message = "the lab was not able to tell who calls: the source address belongs to no instance";
    ApiError { status: 401, ..ApiError::client("AuthFailure", message) }
}

fn targets(fields: &Fields) -> Result<Targets, ApiError> {
    Ok(Targets {
        interface: fields.get("NetworkInterfaceId").cloned(),
        instance: fields.get("InstanceId").cloned(),
        gateway: GATEWAYS.iter().find_map(|name| fields.get(*name)).cloned(),
        local: flag(fields, "LocalTarget")?,
    })
}

/// The only attribute of an interface or instance that the model has.
fn check(fields: &Fields) -> Result<Check, ApiError> {
    if !fields.contains_key("SourceDestCheck.Value") {
        return Err(ApiError::combination("SourceDestCheck is the only attribute that the lab has"));
    }
    Ok(if flag(fields, "SourceDestCheck.Value")? { Check::On } else { Check::Off })
}

fn find(fields: &Fields, ids: &str, dry_run: bool) -> Result<Find, ApiError> {
    let filters = (1..).map_while(|n| {
        let name = fields.get(&format!("Filter.{n}.Name"))?;
        Some((name.clone(), list(fields, &format!("Filter.{n}.Value"))))
    });
    let max_results = fields.get("MaxResults").map(|text| {
        text.parse()
            .map_err(|_| ApiError::value(format!("value ({text}) for parameter maxResults is invalid")))
    });
    Ok(Find {
        ids: list(fields, ids),
        filters: filters.collect(),
        max_results: max_results.transpose()?,
        next_token: fields.get("NextToken").cloned(),
        dry_run,
    })
}

fn required(fields: &Fields, name: &str) -> Result<String, ApiError> {
    fields.get(name).cloned().ok_or_else(|| ApiError::missing(name))
}

fn flag(fields: &Fields, name: &str) -> Result<bool, ApiError> {
    match fields.get(name).map(String::as_str) {
        None | Some("false") => Ok(false),
        Some("true") => Ok(true),
        Some(other) => Err(ApiError::value(format!("value ({other}) for parameter {name} is invalid"))),
    }
}
