//! What each peer says of itself and of those that it does not hear.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{counter::Believed, peer::PeerName, probe::Canary};

/// Peers whose statement is kept.
const STATEMENTS_MAX: usize = 4096;
/// So many that those of peers that are gone for good are dropped.
const CROWDED: usize = 1024;
/// Length of an instance's id, and how many peers each part of a statement may name: more than a mesh has.
const INSTANCE_LEN_MAX: usize = 64;
const NAMED_MAX: usize = 1024;
/// Bytes of a statement in a message, beside the names of peers, and of each of those.
const STATEMENT_LEN: usize = 512;
const NAME_LEN: usize = 20;
/// The store in a statement that is remembered from a former life, or was passed on by one that knows of none.
pub const NOT_SAID: u64 = 0;

/// The statement of one peer. Only it makes another, with a higher number; of two the higher one counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Statement {
    /// From 1 up.
    pub number: u64,
    /// The store that it keeps all in, by its acceptor's UID: a peer that lost it has another one.
    pub store: u64,
    /// The instance that it runs on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// Its canary, where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canary: Option<Canary>,
    /// Peers whose instances EC2 told it are terminated, or does not know.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub gone: BTreeSet<PeerName>,
    /// Peers that somebody at its command line wants to be taken over; itself, if it leaves.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub asks: BTreeSet<PeerName>,
    /// Peers that it, as an elector, agrees to take for dead.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub seconds: BTreeSet<PeerName>,
    /// Peers of which it, as an heir, wants to hear what they own.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub awaits: BTreeSet<PeerName>,
}

impl Statement {
    /// Whether it is within bounds, whatever its number.
    pub fn is_believable(&self) -> bool {
        let named = [&self.gone, &self.asks, &self.seconds, &self.awaits];
        self.instance.as_deref().is_none_or(is_instance) && named.iter().all(|names| names.len() <= NAMED_MAX)
    }

    /// Bytes that it takes in a message, at most.
    pub fn len(&self) -> usize {
        let named = [&self.gone, &self.asks, &self.seconds, &self.awaits];
        STATEMENT_LEN + NAME_LEN * named.iter().map(|names| names.len()).sum::<usize>()
    }

    /// As much of it as others believe.
    pub fn cut(mut self) -> Statement {
        for names in [&mut self.gone, &mut self.asks, &mut self.seconds, &mut self.awaits] {
            if let Some(first_beyond) = names.iter().nth(NAMED_MAX).copied() {
                names.split_off(&first_beyond);
            }
        }
        self
    }
}

/// Whether it can be the id of an instance, and nothing that steers a terminal.
fn is_instance(id: &str) -> bool {
    let known = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
    id.len() <= INSTANCE_LEN_MAX && id.chars().all(known)
}

/// Our own statement, and the last one of every other peer.
#[derive(Clone, Debug, Default)]
pub struct Statements {
    /// Ours.
    pub own: Statement,
    /// Others know a statement that we made before our store was lost.
    pub has_forgotten: bool,
    last: BTreeMap<PeerName, Statement>,
    /// Of whom the number of a statement was refused, ourselves included.
    refused: BTreeMap<PeerName, Believed>,
    /// Statements beyond all bounds that were not taken in.
    passed_over: usize,
}

impl Statements {
    /// What is left of a former life: on which instance each peer ran. Ours runs on this one, with this store.
    pub fn remembered(
        store: u64,
        instance: Option<String>,
        instances: BTreeMap<PeerName, String>,
    ) -> Statements {
        let own = Statement { number: 1, store, instance, ..Statement::default() };
        let statement = |instance| Statement { instance: Some(instance), ..Statement::default() };
        let last = instances.into_iter().map(|(peer, instance)| (peer, statement(instance))).collect();
        Statements { own, last, ..Statements::default() }
    }

    /// Takes in a peer's statement. Returns whether it is news. The statements of the dead are kept while there is room, or they
    /// would be news again and again.
    pub fn hear(&mut self, peer: PeerName, statement: Statement) -> bool {
        let known = self.last.get(&peer).map(|known| known.number);
        let is_news = known.is_none_or(|known| statement.number > known);
        let fits = known.is_some() || self.last.len() < STATEMENTS_MAX;
        let takes = self.believes(peer, known.unwrap_or(0), &statement) && is_news && fits;
        if takes {
            self.last.insert(peer, statement);
        }
        takes
    }

    /// Whether this can be a statement of a peer of which one with the number `known` was the last.
    pub fn believes(&mut self, peer: PeerName, known: u64, statement: &Statement) -> bool {
        let up_to = self.refused.get(&peer).copied().unwrap_or_default().up_to(known);
        let has_room = self.refused.contains_key(&peer) || self.refused.len() < STATEMENTS_MAX;
        if statement.number > up_to && has_room {
            self.refused.entry(peer).or_default().refuse(known);
        }
        let believes = statement.number <= up_to && statement.is_believable();
        self.passed_over += usize::from(!believes);
        believes
    }

    /// How many statements were beyond all bounds and not taken in, since this was last asked.
    pub fn take_passed_over(&mut self) -> usize {
        std::mem::take(&mut self.passed_over)
    }

    /// Makes room for new peers once there are many: keeps the statements of those that still matter. Returns whose it dropped.
    pub fn make_room(&mut self, matters: impl Fn(&PeerName) -> bool) -> Vec<PeerName> {
        if self.refused.len() > CROWDED {
            self.refused.retain(|peer, _| matters(peer));
        }
        if self.last.len() <= CROWDED {
            return Vec::new();
        }
        self.last.extract_if(.., |peer, _| !matters(peer)).map(|(peer, _)| peer).collect()
    }

    /// All of them.
    pub fn all(&self) -> &BTreeMap<PeerName, Statement> {
        &self.last
    }

    /// Whether a peer has said anything in our life: it speaks as we do.
    pub fn has_spoken(&self, peer: PeerName) -> bool {
        self.last.get(&peer).is_some_and(|statement| statement.number > 0)
    }

    /// The canary of each peer that has said so.
    pub fn canaries(&self) -> impl Iterator<Item = (PeerName, Canary)> {
        self.last.iter().filter_map(|(peer, statement)| Some((*peer, statement.canary?)))
    }

    /// The instance that a peer runs on, by its own statement.
    pub fn instance(&self, peer: PeerName) -> Option<&str> {
        self.last.get(&peer)?.instance.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counter::{HONEST_MAX, STEP_MAX};

    const PEER: PeerName = PeerName::from_u64(7);

    fn numbered(number: u64) -> Statement {
        Statement { number, ..Statement::default() }
    }

    #[test]
    fn of_two_words_the_later_one_counts_in_whatever_order_they_come() {
        let mut statements = Statements::default();
        assert!(statements.hear(PEER, numbered(2)));
        assert!(!statements.hear(PEER, numbered(1)));
        assert!(!statements.hear(PEER, numbered(2)));
        assert!(statements.hear(PEER, numbered(3)));
    }

    #[test]
    fn what_is_remembered_of_a_peer_is_no_word_of_it() {
        let mut statements = Statements::remembered(7, None, [(PEER, "i-1".to_owned())].into());
        assert_eq!(statements.instance(PEER), Some("i-1"));
        assert!(!statements.has_spoken(PEER));
        assert!(statements.hear(PEER, numbered(1)));
    }

    #[test]
    fn words_without_bound_are_not_heard() {
        let mut statements = Statements::default();
        assert!(!statements.hear(PEER, numbered(u64::MAX)));
        let long = Statement { number: 1, instance: Some("i".repeat(1000)), ..Statement::default() };
        assert!(!statements.hear(PEER, long));
        let nasty =
            Statement { number: 1, instance: Some("i-1\nMAINPID=1".to_owned()), ..Statement::default() };
        assert!(!statements.hear(PEER, nasty));
        for number in 0..2 * STATEMENTS_MAX as u64 {
            statements.hear(PeerName::from_u64(number), numbered(1));
        }
        assert_eq!(statements.all().len(), STATEMENTS_MAX);
    }

    /// Somebody ascribes a statement to a peer that goes as high as is believed, or higher; some hear it, and some do not.
    #[test]
    fn a_false_word_at_a_high_number_silences_nobody() {
        let believed = HONEST_MAX + STEP_MAX;
        for number in [HONEST_MAX, HONEST_MAX + 1, believed, believed + 1, u64::MAX - 1, u64::MAX] {
            let (mut deceived, mut other, mut own) =
                (Statements::default(), Statements::default(), Statements::default());
            [&mut deceived, &mut other]
                .into_iter()
                .for_each(|statements| _ = statements.hear(PEER, numbered(7)));
            let made_up = numbered(number);
            deceived.hear(PEER, made_up.clone());
            let ours = match own.believes(PEER, 7, &made_up) {
                true => number + 1,
                false => 8,
            };
            for statements in [&mut deceived, &mut other] {
                // What is refused is told again.
                assert!((0..2).any(|_| statements.hear(PEER, numbered(ours))), "{ours} after {number}");
            }
        }
    }

    #[test]
    fn of_a_word_that_grew_too_long_so_much_is_said_as_others_believe() {
        let all: BTreeSet<PeerName> = (0..5000).map(PeerName::from_u64).collect();
        let statement = Statement { gone: all.clone(), awaits: all, ..numbered(1) };
        assert!(!statement.is_believable());
        let statement = statement.cut();
        assert!(statement.is_believable());
        assert_eq!((statement.gone.len(), statement.awaits.len()), (NAMED_MAX, NAMED_MAX));
        let said = serde_json::to_vec(&BTreeMap::from([(PEER, &statement)])).unwrap();
        assert!(said.len() <= statement.len(), "{} of {}", said.len(), statement.len());
    }

    #[test]
    fn where_peers_come_and_go_there_is_always_room_for_the_next_one() {
        let mut statements = Statements::default();
        for number in 1..=2 * STATEMENTS_MAX as u64 {
            assert!(statements.hear(PeerName::from_u64(number), numbered(1)));
            statements.make_room(|peer| peer.as_u64() + 10 > number);
        }
        let youngest: Vec<u64> = statements.all().keys().map(|peer| peer.as_u64()).rev().take(10).collect();
        assert_eq!(youngest, (1..=2 * STATEMENTS_MAX as u64).rev().take(10).collect::<Vec<u64>>());
    }
}
