//! Which instance this host is, by its metadata: completed, confirmed or contradicted, whenever they answer.
//!
//! A host whose metadata was silent at its first start learns its instance later and keeps it. One that remembers an instance and is
//! another came with a copied disk: it ends, and the next start sets the store aside. Until the metadata has answered in this life
//! nothing can be read or written in EC2, and what the disk remembers of EC2 counts only if the machine was not started anew since.

use super::{
    Node,
    io::Output,
    memory::Write,
    overview::Overview,
    request::{Refusal, RefusalKind},
    status::Note,
};
use crate::state::InterfaceId;

/// This host to EC2, by the metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// The instance, `i-…`.
    pub instance: String,
    /// Its interface that carries the traffic between hosts.
    pub interface: InterfaceId,
}

impl Node {
    pub(super) fn on_identified(&mut self, metadata: Metadata) {
        match &self.facts.identity.instance {
            Some(known) if *known != metadata.instance => {
                let refusal = contradicted(known, &metadata.instance);
                return self.out.outputs.push_back(Output::Stop(refusal));
            }
            Some(_) => {}
            None => self.complete_identity(metadata.instance.clone()),
        }
        self.facts.metadata = Some(metadata);
        self.out.disturbed = true;
    }

    fn complete_identity(&mut self, instance: String) {
        self.facts.identity.instance = Some(instance.clone());
        self.out.ledger.write(Write::identity(&self.facts.identity));
        self.peers.dead.takeover.set_instance(instance);
        self.peers.dead.touch();
        self.peers.unconfirmed.touch();
    }
}

impl Overview<'_> {
    /// A host that may be another than it remembers.
    pub(super) fn unconfirmed(&self) -> Option<Note> {
        let instance = self.facts.identity.instance.as_ref().filter(|_| self.facts.metadata.is_none())?;
        self.work.converge.vpc.fault()?;
        Some(Note {
            what: format!(
                "the instance metadata, to confirm that this is {instance}: containers that are attached keep their links, \
                 and nothing is written in EC2 until then"
            ),
            hint: Some(
                "enable the metadata service of the instance, or let the host reach 169.254.169.254".into(),
            ),
        })
    }
}

fn contradicted(known: &str, instance: &str) -> Refusal {
    Refusal::new(
        RefusalKind::Failed,
        format!("the store was made on {known}, but this is {instance}: the disk was copied"),
    )
    .hint("start weavers again: it sets the copied store aside and begins anew")
}
