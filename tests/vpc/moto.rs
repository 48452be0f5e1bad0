//! moto, a stand-in for AWS that others wrote, in a Python environment of its own.

use std::{
    collections::BTreeMap,
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::OnceLock,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use aws_config::SdkConfig;
use aws_sdk_ec2::{
    Client,
    types::{AddPrefixListEntry, Filter, InstanceType},
};
use futures_util::future::BoxFuture;
use weavers::{
    state::{InterfaceId, SubnetId, TableId},
    vpc::{Ec2, Identity},
};

use crate::{
    cloud::{Cloud, Console, World},
    sdk,
};

#[path = "iam.rs"]
mod iam;

const REGION: &str = "eu-west-1";
const START_TIMEOUT: Duration = Duration::from_secs(90);

/// The server, started by the first case and stopped with the last.
#[derive(Default)]
pub struct Moto {
    server: OnceLock<Result<Server, String>>,
}

struct Server {
    process: Child,
    address: SocketAddr,
}

impl Cloud for Moto {
    fn name(&self) -> &'static str {
        "moto"
    }

    fn lay_out(&self, case: &'static str) -> BoxFuture<'_, Result<World>> {
        Box::pin(async move {
            let server = self.server.get_or_init(|| Server::start().map_err(|error| format!("{error:#}")));
            let address = server.as_ref().map_err(|error| anyhow::anyhow!("moto: {error}"))?.address;
            lay_out(case, address).await
        })
    }
}

// ===== the server =====

impl Server {
    fn start() -> Result<Server> {
        let environment = environment()?;
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let process = Command::new(environment.join("bin/python"))
            .args(["-m", "moto.server", "-H", "127.0.0.1", "-p", &address.port().to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("moto cannot be started")?;
        let mut server = Server { process, address };
        server.wait()?;
        Ok(server)
    }

    fn wait(&mut self) -> Result<()> {
        let start = Instant::now();
        while start.elapsed() < START_TIMEOUT {
            if iam::http(self.address, "GET", "/moto-api/data.json", "", "").is_ok() {
                return Ok(());
            }
            if let Some(status) = self.process.try_wait()? {
                bail!("moto ended with {status}");
            }
            thread::sleep(Duration::from_millis(100));
        }
        bail!("moto does not answer after {START_TIMEOUT:?}")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already; then there is nothing to stop.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The Python environment that holds moto, made once. It is moved into place whole, so that one
/// that was interrupted is not taken for finished.
fn environment() -> Result<PathBuf> {
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join("moto-5.2.5");
    if place.join("bin/python").exists() {
        return Ok(place);
    }
    let draft = place.with_extension(std::process::id().to_string());
    run(Command::new("python3").args(["-m", "venv"]).arg(&draft)).context("python3 with venv is needed")?;
    let list = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vpc/requirements.txt");
    run(Command::new(draft.join("bin/python")).args(["-m", "pip", "install", "--quiet", "-r"]).arg(list))?;
    if fs::rename(&draft, &place).is_err() {
        fs::remove_dir_all(&draft)?;
    }
    ensure!(place.join("bin/python").exists(), "{} was not made", place.display());
    Ok(place)
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("{command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

// ===== a VPC =====

async fn lay_out(case: &'static str, address: SocketAddr) -> Result<World> {
    let sdk = sdk(REGION, "console", "console");
    let client = client(&sdk, address);
    let vpc = client.create_vpc().cidr_block("10.0.0.0/16").send().await?;
    let vpc = vpc.vpc().and_then(|vpc| vpc.vpc_id()).context("no VPC")?.to_owned();
    let subnet = client.create_subnet().vpc_id(&vpc).cidr_block("10.0.1.0/24").send().await?;
    let subnet = subnet.subnet().and_then(|subnet| subnet.subnet_id()).context("no subnet")?.to_owned();
    let of_vpc = |name: &str, value: &str| Filter::builder().name(name).values(value).build();
    let main = client.describe_route_tables().filters(of_vpc("vpc-id", &vpc)).send().await?;
    let main = main.route_tables().first().and_then(|table| table.route_table_id()).context("no table")?;
    let (main, identity) = (TableId(main.to_owned()), launch(&client, &vpc, &subnet).await?);
    let neighbour = launch(&client, &vpc, &subnet).await?;
    let ec2 = Ec2::with_identity(identity.clone(), &sdk, Some(&url(address)));
    let neighbour_instance = neighbour.instance.clone();
    let console = MotoConsole { case, address, client, identity, neighbour: neighbour.instance };
    let table = console.add_tables(1).await?.remove(0);
    console.associate(Some(table.clone())).await?;
    let (neighbour, console) = (neighbour.interface, Box::new(console));
    Ok(World { ec2, table, main, neighbour, neighbour_instance, console })
}

async fn launch(client: &Client, vpc: &str, subnet: &str) -> Result<Identity> {
    let request = client.run_instances().image_id("ami-12c6146b").instance_type(InstanceType::T3Micro);
    let answer = request.min_count(1).max_count(1).subnet_id(subnet).send().await?;
    let instance = answer.instances().first().context("no instance")?;
    let interface = instance.network_interfaces().first().context("no interface")?;
    Ok(Identity {
        instance: instance.instance_id().context("no id")?.to_owned(),
        interface: InterfaceId(interface.network_interface_id().context("no id")?.to_owned()),
        subnet: subnet.to_owned(),
        vpc: vpc.to_owned(),
        region: REGION.to_owned(),
        address: instance.private_ip_address().context("no address")?.parse()?,
    })
}

fn url(address: SocketAddr) -> String {
    format!("http://{address}")
}

fn client(sdk: &SdkConfig, address: SocketAddr) -> Client {
    Client::from_conf(aws_sdk_ec2::config::Builder::from(sdk).endpoint_url(url(address)).build())
}

// ===== the colleague =====

struct MotoConsole {
    case: &'static str,
    address: SocketAddr,
    client: Client,
    identity: Identity,
    neighbour: String,
}

impl MotoConsole {
    /// A gateway to the outside.
    async fn add_gateway(&self) -> Result<String> {
        let gateway = self.client.create_internet_gateway().send().await?;
        let gateway =
            gateway.internet_gateway().and_then(|one| one.internet_gateway_id()).context("no id")?;
        let request = self.client.attach_internet_gateway().internet_gateway_id(gateway);
        request.vpc_id(&self.identity.vpc).send().await?;
        Ok(gateway.to_owned())
    }
}

impl Console for MotoConsole {
    fn associate(&self, table: Option<TableId>) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let subnet = &self.identity.subnet;
            let of_subnet = Filter::builder().name("association.subnet-id").values(subnet).build();
            let found = self.client.describe_route_tables().filters(of_subnet).send().await?;
            let all = found.route_tables().iter().flat_map(|table| table.associations());
            for old in all.filter(|one| one.subnet_id() == Some(subnet)) {
                let id = old.route_table_association_id().context("no id")?;
                self.client.disassociate_route_table().association_id(id).send().await?;
            }
            if let Some(table) = table {
                let request = self.client.associate_route_table().route_table_id(table.0);
                request.subnet_id(subnet).send().await?;
            }
            Ok(())
        })
    }

    fn add_subnet(&self) -> BoxFuture<'_, Result<SubnetId>> {
        Box::pin(async {
            let request = self.client.create_subnet().vpc_id(&self.identity.vpc).cidr_block("10.0.2.0/24");
            let made = request.send().await?;
            let id = made.subnet().and_then(|subnet| subnet.subnet_id()).context("no subnet")?;
            Ok(SubnetId(id.to_owned()))
        })
    }

    fn associate_other(&self, subnet: SubnetId, table: TableId) -> BoxFuture<'_, Result<()>> {
        Box::pin(async {
            let request = self.client.associate_route_table().route_table_id(table.0);
            request.subnet_id(subnet.0).send().await?;
            Ok(())
        })
    }

    fn tag_table(&self, table: TableId, key: &'static str, value: &'static str) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let tag = aws_sdk_ec2::types::Tag::builder().key(key).value(value).build();
            self.client.create_tags().tags(tag).resources(table.0).send().await?;
            Ok(())
        })
    }

    fn add_tables(&self, count: usize) -> BoxFuture<'_, Result<Vec<TableId>>> {
        Box::pin(async move {
            let mut tables = Vec::new();
            for _ in 0..count {
                let made = self.client.create_route_table().vpc_id(&self.identity.vpc).send().await?;
                let id = made.route_table().and_then(|table| table.route_table_id()).context("no id")?;
                tables.push(TableId(id.to_owned()));
            }
            Ok(tables)
        })
    }

    fn make_edge(&self, table: TableId) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let gateway = self.add_gateway().await?;
            let request = self.client.associate_route_table().route_table_id(table.0);
            request.gateway_id(gateway).send().await?;
            Ok(())
        })
    }

    fn lead_list(&self, table: TableId, entry: &'static str) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let gateway = self.add_gateway().await?;
            let held = AddPrefixListEntry::builder().cidr(entry).build();
            let request = self.client.create_managed_prefix_list().prefix_list_name("office");
            let list = request.address_family("IPv4").max_entries(5).entries(held).send().await?;
            let list = list.prefix_list().and_then(|list| list.prefix_list_id()).context("no id")?;
            let request = self.client.create_route().route_table_id(table.0).destination_prefix_list_id(list);
            request.gateway_id(gateway).send().await?;
            Ok(())
        })
    }

    fn set_quota(&self, _: TableId, _: usize) -> BoxFuture<'_, Result<()>> {
        Box::pin(async { Ok(()) })
    }

    fn tag_both(&self, key: &'static str, value: &'static str) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let tag = aws_sdk_ec2::types::Tag::builder().key(key).value(value).build();
            let request = self.client.create_tags().tags(tag);
            request.resources(&self.identity.instance).resources(&self.neighbour).send().await?;
            Ok(())
        })
    }

    fn let_in(&self, port: u16, from: &'static str) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let own = &self.identity.instance;
            let found = self.client.describe_instances().instance_ids(own).send().await?;
            let instance = found.reservations().first().and_then(|one| one.instances().first());
            let group =
                instance.and_then(|one| one.network_interfaces().first()?.groups().first()?.group_id());
            let request = self.client.authorize_security_group_ingress().group_id(group.context("no group")?);
            let port = i32::from(port);
            let request = request.ip_protocol("tcp").from_port(port).to_port(port).cidr_ip(from);
            request.send().await?;
            Ok(())
        })
    }

    fn terminate_neighbour(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async {
            self.client.terminate_instances().instance_ids(&self.neighbour).send().await?;
            Ok(())
        })
    }

    fn restrict(&self, actions: &'static [&'static str]) -> BoxFuture<'_, Result<Ec2>> {
        Box::pin(async move {
            let (key, secret) = iam::user_that_may(self.address, self.case, actions)?;
            iam::enforce(self.address, true)?;
            let sdk = sdk(REGION, &key, &secret);
            Ok(Ec2::with_identity(self.identity.clone(), &sdk, Some(&url(self.address))))
        })
    }

    fn throttle(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async { bail!("moto does not throttle") })
    }

    fn lose_an_answer(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async { bail!("moto loses no answer") })
    }

    fn calls(&self) -> BoxFuture<'_, Result<BTreeMap<String, u64>>> {
        Box::pin(async { bail!("moto does not count calls") })
    }

    fn restore(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async { iam::enforce(self.address, false) })
    }
}
