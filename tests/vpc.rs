//! What `weavers::vpc` relies on, asked of stand-ins for EC2 through the real SDK.
//!
//! Every case of [`cases::ALL`] runs against every cloud of [`clouds`]. Where a cloud is known to
//! differ from EC2, the case must fail there: when it passes, the mark has to go.

use std::sync::Arc;

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_ec2::config::{Credentials, SharedCredentialsProvider};
use libtest_mimic::{Arguments, Failed, Trial};

#[path = "vpc/cases.rs"]
mod cases;
#[path = "vpc/cloud.rs"]
mod cloud;
#[path = "vpc/moto.rs"]
mod moto;
#[path = "vpc/standin.rs"]
mod standin;

use cases::Case;
use cloud::Cloud;

/// The stand-ins. Each starts when its first case runs.
fn clouds() -> Vec<Arc<dyn Cloud>> {
    vec![Arc::new(standin::Standin), Arc::new(moto::Moto::default())]
}

fn main() {
    let mut arguments = Arguments::from_args();
    // One at a time: moto is not thread safe, and its permissions are those of the whole server.
    arguments.test_threads = Some(1);
    let clouds = clouds();
    let trials = clouds.iter().flat_map(|cloud| cases::ALL.iter().map(|case| trial(cloud, case)));
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    drop(clouds);
    conclusion.exit();
}

fn trial(cloud: &Arc<dyn Cloud>, case: &'static Case) -> Trial {
    let cloud = cloud.clone();
    let differs = case.differs.iter().find(|(name, _)| *name == cloud.name());
    Trial::test(format!("{}::{}", cloud.name(), case.name), move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let outcome = runtime.block_on(async {
            let world = cloud.lay_out(case.name).await?;
            let outcome = (case.run)(&world).await;
            world.console.restore().await?;
            outcome
        });
        match (outcome, differs) {
            (Ok(()), None) | (Err(_), Some(_)) => Ok(()),
            (Err(error), None) => Err(Failed::from(format!("{error:#}"))),
            (Ok(()), Some((name, how))) => {
                Err(Failed::from(format!("{name} does as EC2 does; it was thought that it {how}")))
            }
        }
    })
}

/// How a host with these credentials calls AWS.
fn sdk(region: &'static str, key: &str, secret: &str) -> SdkConfig {
    let credentials = Credentials::builder().access_key_id(key).secret_access_key(secret);
    SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(region))
        .credentials_provider(SharedCredentialsProvider::new(credentials.provider_name("test").build()))
        .build()
}
