//! The unmodified EC2 client against the stand-in, over the loopback.

use aws_config::imds::{self, credentials::ImdsCredentialsProvider};
use aws_sdk_ec2::{
    Client,
    config::{BehaviorVersion, Region, retry::RetryConfig},
    error::ProvideErrorMetadata,
    types::{AttributeBooleanValue, Filter, RouteState},
};
use weavers::{
    sim::vpc::{Action, Faults, InstanceId, Power},
    state::{InterfaceId, TableId},
};

use super::*;

struct Account {
    cloud: Cloud,
    endpoint: String,
    table: TableId,
    instance: InstanceId,
    interface: InterfaceId,
}

#[tokio::test]
async fn the_metadata_service_tells_an_instance_who_it_is() {
    let account = Account::open().await;
    let imds = account.imds();
    let get = async |path: &str| imds.get(path).await.map(|text| text.as_ref().to_owned());
    assert_eq!(get("/latest/meta-data/instance-id").await.unwrap(), account.instance.0);
    let mac = get("/latest/meta-data/mac").await.unwrap();
    let of_mac = format!("/latest/meta-data/network/interfaces/macs/{mac}");
    assert_eq!(get(&format!("{of_mac}/interface-id")).await.unwrap(), account.interface.0);
    assert_eq!(get(&format!("{of_mac}/vpc-ipv4-cidr-blocks")).await.unwrap(), "10.0.0.0/16");
    assert!(get("/latest/meta-data/spot/instance-action").await.is_err());
}

#[tokio::test]
async fn a_route_is_created_once_read_back_and_deleted_once() {
    let account = Account::open().await;
    let ec2 = account.ec2();
    let create = ec2.create_route().route_table_id(&account.table.0).destination_cidr_block("10.32.0.0/12");
    let create = create.network_interface_id(&account.interface.0);
    create.clone().send().await.unwrap();
    assert_eq!(create.send().await.unwrap_err().code(), Some("RouteAlreadyExists"));

    let subnet = Filter::builder().name("association.main").values("true").build();
    let found = ec2.describe_route_tables().filters(subnet).send().await.unwrap();
    let [table] = found.route_tables() else { panic!("{found:?}") };
    let route = table.routes().iter().find(|r| r.destination_cidr_block() == Some("10.32.0.0/12")).unwrap();
    assert_eq!(route.network_interface_id(), Some(account.interface.0.as_str()));
    assert_eq!(route.instance_id(), Some(account.instance.0.as_str()));
    assert_eq!(route.state(), Some(&RouteState::Active));

    let delete = ec2.delete_route().route_table_id(&account.table.0).destination_cidr_block("10.32.0.0/12");
    delete.clone().send().await.unwrap();
    assert_eq!(delete.send().await.unwrap_err().code(), Some("InvalidRoute.NotFound"));
}

#[tokio::test]
async fn the_check_of_an_interface_is_turned_off_and_shown_off() {
    let account = Account::open().await;
    let ec2 = account.ec2();
    let off = AttributeBooleanValue::builder().value(false).build();
    let modify = ec2.modify_network_interface_attribute().network_interface_id(&account.interface.0);
    let modify = modify.source_dest_check(off);
    assert_eq!(modify.clone().send().await.unwrap_err().code(), Some("UnauthorizedOperation"));
    let caller = Caller::Instance(account.instance.clone());
    account.cloud.with(|vpc, _| vpc.permit(&caller, [Action::ModifyNetworkInterfaceAttribute]));
    modify.send().await.unwrap();

    let found = ec2.describe_instances().instance_ids(&account.instance.0).send().await.unwrap();
    let instance = &found.reservations()[0].instances()[0];
    let interface = &instance.network_interfaces()[0];
    assert_eq!(interface.source_dest_check(), Some(false));
    assert_eq!(interface.attachment().and_then(|a| a.device_index()), Some(0));
    assert_eq!(instance.private_ip_address(), Some("10.0.1.11"));
}

#[tokio::test]
async fn pages_are_followed_to_the_end() {
    let account = Account::open().await;
    account.cloud.with(|vpc, now| (0..11).for_each(|_| drop(vpc.add_table(now))));
    let ec2 = account.ec2();
    let mut pages = ec2.describe_route_tables().into_paginator().page_size(5).send();
    let mut sizes = Vec::new();
    while let Some(page) = pages.next().await {
        sizes.push(page.unwrap().route_tables().len());
    }
    assert_eq!(sizes, [5, 5, 2]);
}

#[tokio::test]
async fn a_failure_is_tried_again_by_the_client_and_a_blackhole_is_shown() {
    let account = Account::open().await;
    let fail = std::collections::BTreeMap::from([(Action::CreateRoute, 1)]);
    account.cloud.with(|vpc, _| vpc.set_faults(Faults { fail, ..Faults::default() }));
    let ec2 = account.ec2();
    let create = ec2.create_route().route_table_id(&account.table.0).destination_cidr_block("10.32.0.0/12");
    create.network_interface_id(&account.interface.0).send().await.unwrap();
    assert_eq!(account.cloud.with(|vpc, _| vpc.calls())[&Action::CreateRoute], 2);

    account.cloud.with(|vpc, now| vpc.set_power(now, &account.instance, Power::Stopped));
    let blackhole = Filter::builder().name("route.state").values("blackhole").build();
    let found = ec2.describe_route_tables().filters(blackhole).send().await.unwrap();
    assert_eq!(found.route_tables().len(), 1);
}

#[tokio::test]
async fn keys_expire_at_once_and_a_client_keeps_those_that_it_has() {
    let account = Account::open().await;
    let kept = account.ec2();
    kept.describe_route_tables().send().await.unwrap();
    account.cloud.expire_keys();
    assert_eq!(kept.describe_route_tables().send().await.unwrap_err().code(), Some("ExpiredToken"));
    account.ec2().describe_route_tables().send().await.unwrap();
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_no_answer_and_the_change_was_made() {
    let account = Account::open().await;
    let cut = std::collections::BTreeMap::from([(Action::CreateRoute, 1)]);
    account.cloud.with(|vpc, _| vpc.set_faults(Faults { cut, ..Faults::default() }));
    let ec2 = account.ec2();
    let create = ec2.create_route().route_table_id(&account.table.0).destination_cidr_block("10.32.0.0/12");
    let result = create.network_interface_id(&account.interface.0).send().await;
    assert_eq!(account.cloud.with(|vpc, _| vpc.routes(&account.table).len()), 2);
    assert!(result.is_err(), "neither a broken answer nor `RouteAlreadyExists` is success");
}

#[tokio::test]
async fn metadata_that_is_disabled_tells_nothing() {
    let account = Account::open().await;
    let metadata = Metadata::Off;
    account.cloud.with(|vpc, _| vpc.set_faults(Faults { metadata, ..Faults::default() }));
    assert!(account.imds().get("/latest/meta-data/instance-id").await.is_err());
}

impl Account {
    async fn open() -> Account {
        let now = Timestamp::ZERO;
        let mut vpc = Vpc::new("10.0.0.0/16".parse().unwrap(), "eu-central-1");
        let subnet = vpc.add_subnet(now, "10.0.1.0/24".parse().unwrap(), "eu-central-1a");
        let (instance, interface) = vpc.launch(now, &subnet, Ipv4Addr::new(10, 0, 1, 11));
        let table = vpc.main_table().clone();
        let cloud = Cloud::new(vpc).with_stranger(instance.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(cloud.clone().serve(listener));
        Account { cloud, endpoint, table, instance, interface }
    }

    fn imds(&self) -> imds::Client {
        imds::Client::builder().endpoint(&self.endpoint).expect("the endpoint is a URL").build()
    }

    /// The client with the role's credentials, as a daemon has it.
    fn ec2(&self) -> Client {
        let config = aws_sdk_ec2::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("eu-central-1"))
            .endpoint_url(&self.endpoint)
            .retry_config(RetryConfig::standard().with_initial_backoff(std::time::Duration::from_millis(10)))
            .credentials_provider(ImdsCredentialsProvider::builder().imds_client(self.imds()).build());
        Client::from_conf(config.build())
    }
}
