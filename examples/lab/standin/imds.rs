//! The instance metadata service, version 2 only: a session token, then what the caller is.

use std::time::{Duration, SystemTime};

use axum::{
    http::{Method, StatusCode},
    response::{IntoResponse, Response},
};
use serde_json::json;
use weavers::sim::vpc::{InstanceId, Interface, Vpc, private_dns_name};

use super::{Asked, Cloud, mac_of, text};

const TTL_HEADER: &str = "x-aws-ec2-metadata-token-ttl-seconds";
const TOKEN_HEADER: &str = "x-aws-ec2-metadata-token";
const TTL_S_MAX: u64 = 21_600;
const ROLE: &str = "weavers-lab";
const CREDENTIALS_TTL: Duration = Duration::from_secs(6 * 3600);

/// Answers a request below `/latest/`.
pub fn answer(cloud: &Cloud, asked: &Asked) -> Response {
    let path = asked.uri.path().trim_start_matches("/latest/").trim_end_matches('/');
    if path == "api/token" {
        return token(cloud, asked);
    }
    if asked.method != Method::GET {
        return text(StatusCode::METHOD_NOT_ALLOWED, "method not allowed");
    }
    if !token_holds(cloud, asked) {
        return text(StatusCode::UNAUTHORIZED, "unauthorized");
    }
    let Some(instance) = cloud.caller(asked.from) else {
        return text(StatusCode::NOT_FOUND, "the source address belongs to no instance of the lab");
    };
    let key = cloud.key();
    match cloud.with(|vpc, _| document(vpc, &instance, path, &key)) {
        Some(body) => text(StatusCode::OK, body),
        None => text(StatusCode::NOT_FOUND, "not found"),
    }
}

/// A token carries its own end, so that none has to be remembered.
fn token(cloud: &Cloud, asked: &Asked) -> Response {
    if asked.method != Method::PUT {
        return text(StatusCode::METHOD_NOT_ALLOWED, "method not allowed");
    }
    if asked.headers.contains_key("x-forwarded-for") {
        return text(StatusCode::FORBIDDEN, "forbidden");
    }
    let ttl = asked.headers.get(TTL_HEADER).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    let Some(ttl) = ttl.filter(|ttl| (1..=TTL_S_MAX).contains(ttl)) else {
        return text(StatusCode::BAD_REQUEST, "bad request");
    };
    let end = cloud.now() + Duration::from_secs(ttl);
    ([(TTL_HEADER, ttl.to_string())], format!("lab-token-{}", end.as_micros())).into_response()
}

fn token_holds(cloud: &Cloud, asked: &Asked) -> bool {
    let token = asked.headers.get(TOKEN_HEADER).and_then(|value| value.to_str().ok());
    let end = token.and_then(|token| token.strip_prefix("lab-token-")?.parse::<u64>().ok());
    end.is_some_and(|end| cloud.now().as_micros() < end)
}

fn document(vpc: &Vpc, instance: &InstanceId, path: &str, key: &str) -> Option<String> {
    let attached = vpc.interfaces_of(instance);
    let (_, first) = attached.first()?;
    let first = &vpc.interfaces()[first];
    if let Some(path) = path.strip_prefix("meta-data/network/interfaces/macs") {
        return macs(vpc, instance, path.trim_start_matches('/'));
    }
    Some(match path {
        "meta-data" => {
            "hostname\niam/\ninstance-id\nlocal-hostname\nlocal-ipv4\nmac\nnetwork/\nplacement/".to_owned()
        }
        "meta-data/instance-id" => instance.to_string(),
        "meta-data/mac" => mac_of(first.address),
        "meta-data/local-ipv4" => first.address.to_string(),
        "meta-data/hostname" | "meta-data/local-hostname" => private_dns_name(first.address, vpc.region()),
        "meta-data/placement/region" => vpc.region().to_owned(),
        "meta-data/placement/availability-zone" => zone(vpc, first),
        "meta-data/iam/security-credentials" => ROLE.to_owned(),
        "dynamic/instance-identity/document" => identity(vpc, instance, first),
        _ if path == format!("meta-data/iam/security-credentials/{ROLE}") => credentials(key),
        _ => return None,
    })
}

fn macs(vpc: &Vpc, instance: &InstanceId, path: &str) -> Option<String> {
    let attached = vpc.interfaces_of(instance);
    if path.is_empty() {
        let macs = attached.iter().map(|(_, id)| mac_of(vpc.interfaces()[id].address) + "/");
        return Some(macs.collect::<Vec<_>>().join("\n"));
    }
    let (mac, leaf) = path.split_once('/').unwrap_or((path, ""));
    let (device, id) = attached.iter().find(|(_, id)| mac_of(vpc.interfaces()[id].address) == mac)?;
    let interface = &vpc.interfaces()[id];
    Some(match leaf {
        "" => "device-number\ninterface-id\nlocal-ipv4s\nmac\nowner-id\nsubnet-id\nsubnet-ipv4-cidr-block\n\
               vpc-id\nvpc-ipv4-cidr-block\nvpc-ipv4-cidr-blocks"
            .to_owned(),
        "interface-id" => id.to_string(),
        "subnet-id" => interface.subnet.to_string(),
        "subnet-ipv4-cidr-block" => vpc.subnets().get(&interface.subnet)?.cidr.to_string(),
        "vpc-id" => vpc.id().to_owned(),
        "device-number" => device.to_string(),
        "local-ipv4s" => interface.address.to_string(),
        "mac" => mac.to_owned(),
        "owner-id" => vpc.account().to_owned(),
        "vpc-ipv4-cidr-block" | "vpc-ipv4-cidr-blocks" => vpc.cidr().to_string(),
        _ => return None,
    })
}

fn zone(vpc: &Vpc, interface: &Interface) -> String {
    vpc.subnets().get(&interface.subnet).map(|subnet| subnet.zone.clone()).unwrap_or_default()
}

fn identity(vpc: &Vpc, instance: &InstanceId, interface: &Interface) -> String {
    let document = json!({
        "accountId": vpc.account(), "architecture": "x86_64", "availabilityZone": zone(vpc, interface),
        "imageId": "ami-00000000000000000", "instanceId": instance, "instanceType": "lab.small",
        "privateIp": interface.address, "region": vpc.region(), "version": "2017-09-30",
    });
    document.to_string()
}

/// Credentials that open nothing: the stand-in tells callers apart by address, and of a signature reads the key.
fn credentials(key: &str) -> String {
    let expiration = humantime::format_rfc3339_seconds(SystemTime::now() + CREDENTIALS_TTL).to_string();
    let updated = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    let document = json!({
        "Code": "Success", "Type": "AWS-HMAC", "LastUpdated": updated, "Expiration": expiration,
        "AccessKeyId": key, "SecretAccessKey": "lab", "Token": "lab",
    });
    document.to_string()
}
