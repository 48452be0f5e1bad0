//! Messages that were not sent since no frame can hold them: the other side would close the connection.

use std::collections::BTreeMap;

use super::{UnsentView, gossip::SURROGATES_MAX, message};

/// What could not be sent, by channel.
#[derive(Clone, Debug, Default)]
pub struct Unsent(BTreeMap<String, UnsentView>);

impl Unsent {
    /// This message was not sent. What is one channel too many is counted with the last.
    pub fn note(&mut self, message: &[u8]) {
        let mut channel = message::channel(message).unwrap_or_default();
        if self.0.len() >= SURROGATES_MAX && !self.0.contains_key(&channel) {
            channel = self.0.keys().next_back().cloned().unwrap_or_default();
        }
        let view = || UnsentView { channel: channel.clone(), len: 0, count: 0 };
        let unsent = self.0.entry(channel.clone()).or_insert_with(view);
        unsent.len = message.len();
        unsent.count = unsent.count.saturating_add(1);
    }

    /// All of it.
    pub fn all(&self) -> impl Iterator<Item = &UnsentView> {
        self.0.values()
    }
}
