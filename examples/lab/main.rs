//! A stand-in for AWS on the loopback, one instance in one subnet.

mod standin;

use weavers::{sim::vpc::Vpc, time::Timestamp};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let now = Timestamp::ZERO;
    let mut vpc = Vpc::new("10.0.0.0/16".parse()?, "eu-central-1");
    let subnet = vpc.add_subnet(now, "10.0.1.0/24".parse()?, "eu-central-1a");
    let (instance, _) = vpc.launch(now, &subnet, "10.0.1.11".parse()?);
    let cloud = standin::Cloud::new(vpc).with_stranger(instance);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:8080").await?;
    Ok(cloud.serve(listener).await?)
}
