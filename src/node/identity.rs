//! Which instance this host is, by its metadata: completed, confirmed or contradicted, whenever they answer.
//!
//! A host whose metadata was silent at its first start learns its instance later and keeps it. One that remembers an instance and is
//! another came with a copied disk: it ends, and the next start sets the store aside. Until the metadata has answered in this life
//! nothing can be read or written in EC2, and what the disk remembers of EC2 counts only if the machine was not started anew since.

use super::protocol::request::{Refusal, RefusalKind};
use crate::state::{InterfaceId, SubnetId, VpcId};

/// This host to EC2, by the metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// The instance, `i-…`.
    pub instance: String,
    /// Its interface that carries the traffic between hosts.
    pub interface: InterfaceId,
    /// The subnet of that.
    pub subnet: SubnetId,
    /// The VPC of that.
    pub vpc: VpcId,
}

pub(super) fn contradicted(known: &str, instance: &str) -> Refusal {
    Refusal::new(
        RefusalKind::Failed,
        format!("the store was made on {known}, but this is {instance}: the disk was copied"),
    )
    .hint("start weavers again: it sets the copied store aside and begins anew")
}
