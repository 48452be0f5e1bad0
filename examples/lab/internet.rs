//! What lies beyond the VPC's internet gateway: a link of 1500 bytes, a router, and a host that would take more.
//!
//! ```text
//!  VPC router ── igw 1500 ══ 1500 backbone 9001 ══ 9001 eth0 far away
//! ```

use std::{net::Ipv4Addr, path::PathBuf};

use tokio::process::Command;

use crate::net;

/// The gateway as routes name it.
pub const GATEWAY: &str = "igw-lab";
/// The VPC router's end of the link to it.
pub const LINK: &str = "igw";
/// A host on the other side.
pub const FAR_AWAY: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 10);

const BACKBONE: &str = "backbone";
const NAME: &str = "far-away";
/// The gateway's side and the backbone's side of the narrow link.
const NEAR: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2)];
const FAR: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);

/// How the router's kernel sends a packet there.
pub fn hop() -> String {
    format!("via {} dev {LINK}", NEAR[1])
}

/// Makes it; the namespace of the host on the other side.
pub async fn build() -> anyhow::Result<PathBuf> {
    let [gateway, backbone] = NEAR;
    for name in [BACKBONE, NAME] {
        net::run(Command::new("ip").args(["netns", "add", name])).await?;
    }
    net::ip_batch(&[
        format!("link add {LINK} mtu 1500 type veth peer name {LINK} mtu 1500 netns {BACKBONE}"),
        format!("addr add {gateway}/30 dev {LINK}"),
        format!("link set {LINK} up"),
        // A VPC's router answers for every address in it.
        format!("route add {FAR_AWAY}/32 via {backbone}"),
    ])
    .await?;
    in_namespace(
        BACKBONE,
        &[
            format!("addr add {backbone}/30 dev {LINK}"),
            format!("link set {LINK} up"),
            format!("link add eth1 mtu 9001 type veth peer name eth0 mtu 9001 netns {NAME}"),
            format!("addr add {FAR}/24 dev eth1"),
            "link set eth1 up".to_owned(),
            format!("route add default via {gateway}"),
        ],
    )
    .await?;
    let forward = ["netns", "exec", BACKBONE, "sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward"];
    net::run(Command::new("ip").args(forward)).await?;
    in_namespace(
        NAME,
        &[
            "link set lo up".to_owned(),
            format!("addr add {FAR_AWAY}/24 dev eth0"),
            "link set eth0 up".to_owned(),
            format!("route add default via {FAR}"),
        ],
    )
    .await?;
    Ok(PathBuf::from("/run/netns").join(NAME))
}

async fn in_namespace(name: &str, lines: &[String]) -> anyhow::Result<()> {
    let text = lines.join("\n") + "\n";
    net::feed(Command::new("ip").args(["-n", name, "-batch", "-"]), &text).await
}
