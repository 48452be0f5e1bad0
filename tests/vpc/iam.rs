//! The little of IAM that a denied call needs, by plain HTTP: moto checks no signature until it is
//! told to enforce permissions.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

/// By this moto knows the service and the account.
const SCOPE: &str = "Authorization: AWS4-HMAC-SHA256 Credential=console/20260101/us-east-1/iam/aws4_request, \
     SignedHeaders=host, Signature=0\r\nContent-Type: application/x-www-form-urlencoded\r\n";

/// Makes a user that may make these calls of EC2 and no other; gives its key and secret.
pub fn user_that_may(address: SocketAddr, name: &str, actions: &[&str]) -> Result<(String, String)> {
    let allowed: Vec<String> = actions.iter().map(|action| format!("ec2:{action}")).collect();
    let policy = serde_json::json!({
        "Version": "2012-10-17",
        "Statement": [{ "Effect": "Allow", "Action": allowed, "Resource": "*" }],
    });
    let policy = encode(&policy.to_string());
    ask(address, &format!("Action=CreateUser&UserName={name}"))?;
    ask(address, &format!("Action=PutUserPolicy&UserName={name}&PolicyName=p&PolicyDocument={policy}"))?;
    let keys = ask(address, &format!("Action=CreateAccessKey&UserName={name}"))?;
    Ok((element(&keys, "AccessKeyId")?, element(&keys, "SecretAccessKey")?))
}

/// Whether permissions are enforced from now on.
pub fn enforce(address: SocketAddr, on: bool) -> Result<()> {
    let after = if on { "0" } else { "inf" };
    http(address, "POST", "/moto-api/reset-auth", "Content-Type: text/plain\r\n", after).map(drop)
}

/// One request; the body of its answer.
pub fn http(address: SocketAddr, method: &str, path: &str, headers: &str, body: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let length = body.len();
    let head =
        format!("{method} {path} HTTP/1.0\r\nHost: {address}\r\n{headers}Content-Length: {length}\r\n\r\n");
    stream.write_all(format!("{head}{body}").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("an answer without a head")?;
    let status = head.split(' ').nth(1).unwrap_or_default();
    ensure!(status == "200", "{method} {path}: status {status}: {body}");
    Ok(body.to_owned())
}

fn ask(address: SocketAddr, form: &str) -> Result<String> {
    http(address, "POST", "/", SCOPE, &format!("{form}&Version=2010-05-08"))
}

fn element(xml: &str, name: &str) -> Result<String> {
    let (_, rest) = xml.split_once(&format!("<{name}>")).with_context(|| format!("no {name} in {xml}"))?;
    Ok(rest.split('<').next().unwrap_or_default().to_owned())
}

fn encode(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}
