//! The instance metadata service, version 2: who this host is, without a call of EC2.

use std::error::Error;

use aws_config::imds::client::{Client, error::ImdsError};

use super::{Identity, fault::chain};
use crate::state::{Fault, FaultKind, InterfaceId};

const WAY_OUT: &str = "weavers runs on an EC2 instance whose metadata service is enabled; behind a container's bridge \
     it is one hop further away: `aws ec2 modify-instance-metadata-options --instance-id i-… \
     --http-endpoint enabled --http-put-response-hop-limit 2`";

/// Reads who this host is. A `region` that is known is not asked for.
pub(super) async fn identity(region: Option<&str>) -> Result<Identity, Fault> {
    let metadata = Metadata { client: Client::builder().max_attempts(2).build() };
    let instance = metadata.get("instance-id").await?;
    let region = match region {
        Some(region) => region.to_owned(),
        None => metadata.get("placement/region").await?,
    };
    let mac = metadata.get("mac").await?;
    let of_interface = |key: &str| format!("network/interfaces/macs/{mac}/{key}");
    let address = metadata.get("local-ipv4").await?;
    Ok(Identity {
        instance,
        region,
        interface: InterfaceId(metadata.get(&of_interface("interface-id")).await?),
        subnet: metadata.get(&of_interface("subnet-id")).await?,
        vpc: metadata.get(&of_interface("vpc-id")).await?,
        address: address.parse().map_err(|_| unusable("local-ipv4", &address))?,
    })
}

struct Metadata {
    client: Client,
}

impl Metadata {
    async fn get(&self, key: &str) -> Result<String, Fault> {
        let answer = self.client.get(format!("/latest/meta-data/{key}")).await;
        let value = answer.map_err(|error| unread(key, &error))?;
        let value = value.as_ref().trim();
        if value.is_empty() { Err(unusable(key, value)) } else { Ok(value.to_owned()) }
    }
}

fn unread(key: &str, error: &ImdsError) -> Fault {
    if let ImdsError::ErrorResponse(answer) = error {
        let status = answer.response().status().as_u16();
        let message = format!("instance metadata service answered {status} for {key}");
        let kind = if status >= 500 { FaultKind::Unreachable } else { FaultKind::Invalid };
        return Fault { kind, message, hint: None, request_id: None };
    }
    let cause = error.source().map_or_else(|| error.to_string(), chain);
    Fault {
        kind: FaultKind::Unreachable,
        message: format!("instance metadata service does not answer for {key}: {cause}"),
        hint: Some(WAY_OUT.to_owned()),
        request_id: None,
    }
}

fn unusable(key: &str, value: &str) -> Fault {
    Fault {
        kind: FaultKind::Invalid,
        message: format!("instance metadata service answered `{value}` for {key}"),
        hint: None,
        request_id: None,
    }
}
