//! What peers say to each other about the dead, as JSON on a channel of our own.
//!
//! Weave Net routers pass on what they do not understand, but swallow a message identical to the last one:
//! the number in each statement makes them differ.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{
    decisions::{Decision, Log},
    statements::Statement,
};
use crate::{
    ipam::paxos::{Claims, NodeClaims, NodeId},
    peer::PeerName,
};

/// What a peer knows, or a part of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Said {
    /// What was decided, once there is a ring.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<Log>,
    /// What is known of promises about the next decision.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    claims: Vec<(NodeId, NodeClaims<Decision>)>,
    /// Statements, its own or those of others.
    #[serde(default, rename = "words", skip_serializing_if = "BTreeMap::is_empty")]
    pub statements: BTreeMap<PeerName, Statement>,
}

/// Bytes that are no such message.
#[derive(Debug, Error)]
#[error("a message about dead peers cannot be read")]
pub struct Unreadable(#[from] serde_json::Error);

impl Said {
    /// A message of these parts. Of electors that have promised nothing nothing is said.
    pub fn new(
        log: Option<&Log>,
        claims: &Claims<Decision>,
        statements: BTreeMap<PeerName, Statement>,
    ) -> Said {
        let claims = claims.iter().filter(|(_, claims)| claims.promise.exists() || claims.accepted.exists());
        let claims = claims.map(|(node, claims)| (*node, claims.clone())).collect();
        Said { log: log.cloned(), claims, statements }
    }

    /// The bytes to send.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("names are strings, and nothing else is a key")
    }

    /// What was received.
    pub fn decode(bytes: &[u8]) -> Result<Said, Unreadable> {
        Ok(serde_json::from_slice(bytes)?)
    }

    /// The promises in it that count: those of the electors of the next decision.
    pub fn claims(&self) -> Claims<Decision> {
        let decides = |node: &NodeId| self.log.iter().any(|log| log.electors().contains(&node.name));
        let claims = self.claims.iter().filter(|(node, _)| decides(node));
        claims.map(|(node, claims)| (*node, claims.clone())).collect()
    }
}
