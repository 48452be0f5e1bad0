//! What a host outside EC2 can have, and what has no meaning where hosts tell each other no paths.

use super::{Provider, SameSubnet, reader::Reader, value::Wrong};

const PROVIDER: &str = "vpc.provider";
const SAME_SUBNET: &str = "vpc.same_subnet";
const EC2_TAG: &str = "discovery.ec2_tag";

/// Keys that say how EC2 is asked, and what for.
const OF_EC2: [&str; 5] =
    ["vpc.route_tables", "vpc.source_dest_check", "vpc.quota", "vpc.region", "vpc.endpoint"];

/// Holds what was read of paths to the rest of the file.
pub(super) fn hold(
    reader: &mut Reader,
    (provider, same_subnet): (Provider, SameSubnet),
    found_by_tag: bool,
    weave_peers: bool,
) {
    let is_outside = provider == Provider::None;
    if is_outside && weave_peers {
        let wrong = Wrong::new("a Weave Net router tells no path, so none leads past a VPC");
        reader.problem_at_key(PROVIDER, wrong.hint("set mesh.weave_peers = false"));
    }
    if same_subnet == SameSubnet::Direct && weave_peers {
        let wrong = Wrong::new("a Weave Net router tells no path, so the VPC has to lead to it");
        let hint = "leave it out, or set mesh.weave_peers = false";
        reader.problem_at_key(SAME_SUBNET, wrong.hint(hint));
    }
    if is_outside && found_by_tag {
        let wrong = Wrong::new("EC2, which knows the tags, is not asked with vpc.provider = \"none\"");
        reader.problem_at_key(EC2_TAG, wrong.hint("leave it out, and list the hosts in `peers`"));
    }
    if !is_outside {
        return;
    }
    for key in OF_EC2 {
        reader.warning_at_key(key, "no effect with vpc.provider = \"none\": EC2 is not asked");
    }
    let what = "no effect with vpc.provider = \"none\": hosts on one link always reach each other directly";
    reader.warning_at_key(SAME_SUBNET, what);
}
