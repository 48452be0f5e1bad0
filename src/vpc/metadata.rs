//! The instance metadata service, version 2: who this host is, without a call of EC2.

use std::error::Error;

use aws_config::{
    imds::client::{Client, error::ImdsError},
    provider_config::ProviderConfig,
};
use tracing::{info, warn};

use super::{Identity, fault::chain};
use crate::{
    state::{Fault, FaultKind, InterfaceId},
    text::printable_lines,
};

const ATTEMPTS: u32 = 2;

const WAY_OUT: &str = "an EC2 instance needs its metadata service enabled; behind a container's bridge it is one hop further away: \
     `aws ec2 modify-instance-metadata-options --instance-id i-… --http-endpoint enabled --http-put-response-hop-limit 2`; \
     on a host outside EC2 set `[vpc] provider = \"none\"`";

/// Reads who this host is. A `region` that is known is not asked for. Of several interfaces it is the one with one of these MAC
/// addresses, by which packets leave.
pub(super) async fn identity(region: Option<&str>, uplinks: &[String]) -> Result<Identity, Fault> {
    read(client(ATTEMPTS), region, uplinks).await
}

/// Who this host is now, where its packets leave by another interface than the one it was known by; and whether
/// the instance has that one still.
pub(super) async fn other_than(known: &Identity, uplinks: &[String]) -> Result<Option<Other>, Fault> {
    compare(client(1), known, uplinks).await
}

/// Asks the service itself, whatever proxy the environment names: a proxy would tell who the machine is that it runs on.
pub(super) fn client(attempts: u32) -> Client {
    let direct = aws_smithy_http_client::Builder::new().build_http();
    let config = ProviderConfig::without_region().with_http_client(direct);
    Client::builder().configure(&config).max_attempts(attempts).build()
}

/// Another interface carries the traffic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Other {
    pub identity: Identity,
    /// The former one is still the instance's.
    pub had_still: bool,
}

async fn compare(client: Client, known: &Identity, uplinks: &[String]) -> Result<Option<Other>, Fault> {
    let metadata = Metadata { client: client.clone() };
    let Some(mac) = metadata.carrier(uplinks).await? else { return Ok(None) };
    if metadata.interface(&mac).await? == known.interface {
        return Ok(None);
    }
    let mut had_still = false;
    for mac in metadata.macs().await? {
        had_still |= metadata.interface(&mac).await? == known.interface;
    }
    let identity = read(client, Some(&known.region), uplinks).await?;
    Ok((identity.instance == known.instance).then_some(Other { identity, had_still }))
}

async fn read(client: Client, region: Option<&str>, uplinks: &[String]) -> Result<Identity, Fault> {
    let metadata = Metadata { client };
    let instance = metadata.get("instance-id").await?;
    let region = match region {
        Some(region) => region.to_owned(),
        None => metadata.get("placement/region").await?,
    };
    let mac = metadata.own_mac(uplinks).await?;
    let of_interface = |key: &str| format!("network/interfaces/macs/{mac}/{key}");
    let address = metadata.get("local-ipv4").await?;
    Ok(Identity {
        instance,
        region,
        interface: metadata.interface(&mac).await?,
        subnet: metadata.get(&of_interface("subnet-id")).await?,
        vpc: metadata.get(&of_interface("vpc-id")).await?,
        address: address.parse().map_err(|_| unusable("local-ipv4", &address))?,
    })
}

struct Metadata {
    client: Client,
}

impl Metadata {
    /// That of the interface that carries the traffic, else the primary one's.
    async fn own_mac(&self, uplinks: &[String]) -> Result<String, Fault> {
        let primary = self.get("mac").await?;
        match self.carrier(uplinks).await? {
            Some(mac) if mac != primary => {
                info!(mac, "the interface that carries the traffic is not the primary one");
                Ok(mac)
            }
            None if !uplinks.is_empty() => {
                warn!(
                    primary,
                    "no uplink of this host is an interface of the instance: the primary one is taken for it"
                );
                Ok(primary)
            }
            Some(_) | None => Ok(primary),
        }
    }

    /// That of the interface by which packets leave: of several the primary one's, or the one's attached first.
    async fn carrier(&self, uplinks: &[String]) -> Result<Option<String>, Fault> {
        let primary = self.get("mac").await?;
        if uplinks.contains(&primary) {
            return Ok(Some(primary));
        }
        let mut attached = Vec::new();
        for mac in self.macs().await?.into_iter().filter(|mac| uplinks.contains(mac)) {
            let number = self.get(&format!("network/interfaces/macs/{mac}/device-number")).await?;
            attached.push((number.parse::<u32>().unwrap_or(u32::MAX), mac));
        }
        Ok(attached.into_iter().min().map(|(_, mac)| mac))
    }

    async fn macs(&self) -> Result<Vec<String>, Fault> {
        let listed = self.get("network/interfaces/macs/").await?;
        Ok(listed.lines().map(|line| line.trim_end_matches('/').to_owned()).collect())
    }

    async fn interface(&self, mac: &str) -> Result<InterfaceId, Fault> {
        self.get(&format!("network/interfaces/macs/{mac}/interface-id")).await.map(InterfaceId)
    }

    async fn get(&self, key: &str) -> Result<String, Fault> {
        let answer = self.client.get(format!("/latest/meta-data/{key}")).await;
        let value = answer.map_err(|error| unread(key, &error))?;
        let value = printable_lines(value.as_ref().trim());
        if value.is_empty() { Err(unusable(key, &value)) } else { Ok(value) }
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

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use axum::{Router, extract::Path, http::HeaderMap, http::StatusCode, routing};
    use tokio::net::TcpListener;

    use super::{super::credentials, *};

    const ROLE: &str = r#"{"Code":"Success","LastUpdated":"2026-11-01T00:00:00Z","Type":"AWS-HMAC",
        "AccessKeyId":"AKIAOWN","SecretAccessKey":"secret","Token":"token","Expiration":"2100-01-01T00:00:00Z"}"#;

    fn answer(key: &str) -> Option<&'static str> {
        Some(match key {
            "instance-id" => "i-1",
            "iam/security-credentials/" => "role",
            "iam/security-credentials/role" => ROLE,
            "placement/region" => "eu-west-1",
            "mac" => "02:00:00:00:00:01",
            "local-ipv4" => "10.0.1.11",
            "network/interfaces/macs/02:00:00:00:00:01/interface-id" => "eni-1",
            "network/interfaces/macs/02:00:00:00:00:01/subnet-id" => "subnet-1",
            "network/interfaces/macs/02:00:00:00:00:01/vpc-id" => "vpc-1\n",
            "network/interfaces/macs/" => "02:00:00:00:00:01/\n02:00:00:00:00:02/\n02:00:00:00:00:03/",
            "network/interfaces/macs/02:00:00:00:00:02/device-number" => "2",
            "network/interfaces/macs/02:00:00:00:00:03/device-number" => "1",
            "network/interfaces/macs/02:00:00:00:00:02/interface-id" => "eni-2",
            "network/interfaces/macs/02:00:00:00:00:03/interface-id" => "eni-3",
            "network/interfaces/macs/02:00:00:00:00:03/subnet-id" => "subnet-3",
            "network/interfaces/macs/02:00:00:00:00:03/vpc-id" => "vpc-1",
            _ => return None,
        })
    }

    async fn get(Path(key): Path<String>, headers: HeaderMap) -> Result<&'static str, StatusCode> {
        match headers.get("x-aws-ec2-metadata-token") {
            Some(token) if token == "secret" => answer(&key).ok_or(StatusCode::NOT_FOUND),
            _ => Err(StatusCode::UNAUTHORIZED),
        }
    }

    async fn service(router: Router) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await });
        address
    }

    async fn version_two() -> SocketAddr {
        let token = || async { ([("x-aws-ec2-metadata-token-ttl-seconds", "21600")], "secret") };
        let router = Router::new().route("/latest/api/token", routing::put(token));
        service(router.route("/latest/meta-data/{*key}", routing::get(get))).await
    }

    async fn ask(address: SocketAddr, region: Option<&str>) -> Result<Identity, Fault> {
        let builder = Client::builder().max_attempts(1).endpoint(format!("http://{address}")).unwrap();
        read(builder.build(), region, &[]).await
    }

    /// The interface of a host whose packets leave by links with these MAC addresses.
    async fn own_interface(uplinks: &[&str]) -> (String, String) {
        let service = format!("http://{}", version_two().await);
        let builder = Client::builder().max_attempts(1).endpoint(service).unwrap();
        let uplinks: Vec<String> = uplinks.iter().map(|mac| (*mac).to_owned()).collect();
        let identity = read(builder.build(), None, &uplinks).await.unwrap();
        (identity.interface.0, identity.subnet)
    }

    #[tokio::test]
    async fn of_several_interfaces_the_one_that_carries_the_traffic_is_taken() {
        let of = |uplinks: &'static [&'static str]| own_interface(uplinks);
        let (first, third) = (("eni-1".into(), "subnet-1".into()), ("eni-3".into(), "subnet-3".into()));
        assert_eq!(of(&["02:00:00:00:00:03"]).await, third);
        assert_eq!(of(&["02:00:00:00:00:02", "02:00:00:00:00:03"]).await, third, "the one attached first");
        assert_eq!(of(&["02:00:00:00:00:03", "02:00:00:00:00:01"]).await, first);
        assert_eq!(of(&[]).await, first);
        assert_eq!(of(&["02:42:ac:11:00:02"]).await, first, "a bridge's is no interface of the instance");
    }

    #[tokio::test]
    async fn another_interface_that_carries_the_traffic_is_noticed() {
        let service = format!("http://{}", version_two().await);
        let client = || Client::builder().max_attempts(1).endpoint(&service).unwrap().build();
        let (first, third) = ("02:00:00:00:00:01".to_owned(), "02:00:00:00:00:03".to_owned());
        let known = read(client(), None, std::slice::from_ref(&first)).await.unwrap();
        let compare = async |known: &Identity, uplinks: &[String]| {
            let other = compare(client(), known, uplinks).await.unwrap();
            other.map(|other| (other.identity.interface.0, other.had_still))
        };
        assert_eq!(compare(&known, &[first]).await, None);
        assert_eq!(compare(&known, &[]).await, None, "what cannot be told changes nothing");
        assert_eq!(compare(&known, &["02:42:ac:11:00:02".to_owned()]).await, None);
        assert_eq!(compare(&known, std::slice::from_ref(&third)).await, Some(("eni-3".to_owned(), true)));
        let detached = Identity { interface: InterfaceId("eni-4".to_owned()), ..known };
        assert_eq!(compare(&detached, &[third]).await, Some(("eni-3".to_owned(), false)));
    }

    #[tokio::test]
    async fn a_host_learns_who_it_is_with_a_session_token() {
        let identity = ask(version_two().await, None).await.unwrap();
        let expected = Identity {
            instance: "i-1".into(),
            interface: InterfaceId("eni-1".into()),
            subnet: "subnet-1".into(),
            vpc: "vpc-1".into(),
            region: "eu-west-1".into(),
            address: "10.0.1.11".parse().unwrap(),
        };
        assert_eq!(identity, expected);
    }

    /// Not a test: what the process of the next one does.
    #[tokio::test]
    #[allow(clippy::print_stdout)]
    #[ignore = "run by another test, in an environment of its own"]
    async fn say_who_this_host_is() {
        let who = identity(None, &[]).await.unwrap();
        let provider = credentials(&who).await.credentials_provider().unwrap();
        let keys = aws_sdk_ec2::config::ProvideCredentials::provide_credentials(&provider).await;
        println!("instance {} key {}", who.instance, keys.unwrap().access_key_id());
    }

    #[tokio::test]
    async fn a_host_beside_a_proxy_is_not_taken_for_the_machine_of_the_proxy() {
        let (own, proxy) = (version_two().await, another_instance().await);
        let mut child = tokio::process::Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "vpc::metadata::tests::say_who_this_host_is", "--ignored", "--nocapture"]);
        child.env("AWS_EC2_METADATA_SERVICE_ENDPOINT", format!("http://{own}"));
        for variable in ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"] {
            child.env(variable, format!("http://{proxy}"));
        }
        for variable in ["NO_PROXY", "no_proxy", "AWS_ACCESS_KEY_ID", "AWS_PROFILE"] {
            child.env_remove(variable);
        }
        child.env("AWS_CONFIG_FILE", "/dev/null").env("AWS_SHARED_CREDENTIALS_FILE", "/dev/null");
        let output = child.output().await.unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(
            said.contains("instance i-1 key AKIAOWN"),
            "{said}{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// What answers where a proxy is asked for the metadata: those of its own machine.
    async fn another_instance() -> SocketAddr {
        let token = ([("x-aws-ec2-metadata-token-ttl-seconds", "21600")], "secret");
        let router = Router::new().fallback(move |request: axum::extract::Request| async move {
            let key = request.uri().path().to_owned();
            if key.ends_with("api/token") {
                return axum::response::IntoResponse::into_response(token);
            }
            let answer = match key.trim_start_matches("/latest/meta-data/") {
                "instance-id" => Some("i-proxy"),
                key => answer(key),
            };
            axum::response::IntoResponse::into_response(answer.ok_or(StatusCode::NOT_FOUND))
        });
        service(router).await
    }

    #[tokio::test]
    async fn a_configured_region_wins() {
        let identity = ask(version_two().await, Some("us-gov-east-1")).await.unwrap();
        assert_eq!(identity.region, "us-gov-east-1");
    }

    #[tokio::test]
    async fn a_service_that_does_not_answer_is_named_with_the_hop_limit() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let nobody = listener.local_addr().unwrap();
        drop(listener);
        let fault = ask(nobody, None).await.unwrap_err();
        assert_eq!(fault.kind, FaultKind::Unreachable);
        assert!(fault.message.contains("instance metadata service"), "{fault}");
        let hint = fault.hint.unwrap();
        assert!(hint.contains("modify-instance-metadata-options") && hint.contains("hop-limit"), "{hint}");
    }

    #[tokio::test]
    async fn a_value_that_is_not_there_is_named() {
        let token = || async { ([("x-aws-ec2-metadata-token-ttl-seconds", "21600")], "secret") };
        let bare = service(Router::new().route("/latest/api/token", routing::put(token))).await;
        let fault = ask(bare, None).await.unwrap_err();
        assert_eq!(fault.kind, FaultKind::Invalid);
        assert_eq!(fault.message, "instance metadata service answered 404 for instance-id");
    }
}
