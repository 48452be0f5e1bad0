//! What each peer says of itself and of those that it does not hear.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{counter::Believed, peer::PeerName, probe::Canary};

/// Peers whose word is kept.
const WORDS_MAX: usize = 4096;
/// So many that those of peers that are gone for good are dropped.
const CROWDED: usize = 1024;
/// Length of an instance's id, and how many peers each part of a word may name: more than a mesh has.
const INSTANCE_LEN_MAX: usize = 64;
const NAMED_MAX: usize = 1024;
/// Bytes of a word in a message, beside the names of peers, and of each of those.
const WORD_LEN: usize = 512;
const NAME_LEN: usize = 20;
/// The store in a word that is remembered from a former life, or was passed on by one that knows of none.
pub const NOT_SAID: u64 = 0;

/// The word of one peer. Only it makes another, with a higher number; of two the higher one counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Word {
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

impl Word {
    /// Whether it is within bounds, whatever its number.
    pub fn is_believable(&self) -> bool {
        let named = [&self.gone, &self.asks, &self.seconds, &self.awaits];
        self.instance.as_deref().is_none_or(is_instance) && named.iter().all(|names| names.len() <= NAMED_MAX)
    }

    /// Bytes that it takes in a message, at most.
    pub fn len(&self) -> usize {
        let named = [&self.gone, &self.asks, &self.seconds, &self.awaits];
        WORD_LEN + NAME_LEN * named.iter().map(|names| names.len()).sum::<usize>()
    }

    /// As much of it as others believe.
    pub fn cut(mut self) -> Word {
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

/// The last word of every peer but ourselves.
#[derive(Clone, Debug, Default)]
pub struct Words {
    last: BTreeMap<PeerName, Word>,
    /// Of whom the number of a word was refused, ourselves included.
    refused: BTreeMap<PeerName, Believed>,
    /// Words beyond all bounds that were not taken in.
    passed_over: usize,
}

impl Words {
    /// What is left of a former life: on which instance each peer ran.
    pub fn remembered(instances: BTreeMap<PeerName, String>) -> Words {
        let word = |instance| Word { instance: Some(instance), ..Word::default() };
        let last = instances.into_iter().map(|(peer, instance)| (peer, word(instance))).collect();
        Words { last, ..Words::default() }
    }

    /// Takes in a peer's word. Returns whether it is news. The words of the dead are kept while there is room, or they
    /// would be news again and again.
    pub fn hear(&mut self, peer: PeerName, word: Word) -> bool {
        let known = self.last.get(&peer).map(|known| known.number);
        let is_news = known.is_none_or(|known| word.number > known);
        let fits = known.is_some() || self.last.len() < WORDS_MAX;
        let takes = self.believes(peer, known.unwrap_or(0), &word) && is_news && fits;
        if takes {
            self.last.insert(peer, word);
        }
        takes
    }

    /// Whether this can be a word of a peer of which one with the number `known` was the last.
    pub fn believes(&mut self, peer: PeerName, known: u64, word: &Word) -> bool {
        let up_to = self.refused.get(&peer).copied().unwrap_or_default().up_to(known);
        let has_room = self.refused.contains_key(&peer) || self.refused.len() < WORDS_MAX;
        if word.number > up_to && has_room {
            self.refused.entry(peer).or_default().refuse(known);
        }
        let believes = word.number <= up_to && word.is_believable();
        self.passed_over += usize::from(!believes);
        believes
    }

    /// How many words were beyond all bounds and not taken in, since this was last asked.
    pub fn take_passed_over(&mut self) -> usize {
        std::mem::take(&mut self.passed_over)
    }

    /// Makes room for new peers once there are many: keeps the words of those that still matter. Returns whose it dropped.
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
    pub fn all(&self) -> &BTreeMap<PeerName, Word> {
        &self.last
    }

    /// Whether a peer has said anything in our life: it speaks as we do.
    pub fn has_spoken(&self, peer: PeerName) -> bool {
        self.last.get(&peer).is_some_and(|word| word.number > 0)
    }

    /// The canary of each peer that has said so.
    pub fn canaries(&self) -> impl Iterator<Item = (PeerName, Canary)> {
        self.last.iter().filter_map(|(peer, word)| Some((*peer, word.canary?)))
    }

    /// The instance that a peer runs on, by its own word.
    pub fn instance(&self, peer: PeerName) -> Option<&str> {
        self.last.get(&peer)?.instance.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counter::{HONEST_MAX, STEP_MAX};

    const PEER: PeerName = PeerName::from_u64(7);

    fn numbered(number: u64) -> Word {
        Word { number, ..Word::default() }
    }

    #[test]
    fn of_two_words_the_later_one_counts_in_whatever_order_they_come() {
        let mut words = Words::default();
        assert!(words.hear(PEER, numbered(2)));
        assert!(!words.hear(PEER, numbered(1)));
        assert!(!words.hear(PEER, numbered(2)));
        assert!(words.hear(PEER, numbered(3)));
    }

    #[test]
    fn what_is_remembered_of_a_peer_is_no_word_of_it() {
        let mut words = Words::remembered([(PEER, "i-1".to_owned())].into());
        assert_eq!(words.instance(PEER), Some("i-1"));
        assert!(!words.has_spoken(PEER));
        assert!(words.hear(PEER, numbered(1)));
    }

    #[test]
    fn words_without_bound_are_not_heard() {
        let mut words = Words::default();
        assert!(!words.hear(PEER, numbered(u64::MAX)));
        let long = Word { number: 1, instance: Some("i".repeat(1000)), ..Word::default() };
        assert!(!words.hear(PEER, long));
        let nasty = Word { number: 1, instance: Some("i-1\nMAINPID=1".to_owned()), ..Word::default() };
        assert!(!words.hear(PEER, nasty));
        for number in 0..2 * WORDS_MAX as u64 {
            words.hear(PeerName::from_u64(number), numbered(1));
        }
        assert_eq!(words.all().len(), WORDS_MAX);
    }

    /// Somebody ascribes a word to a peer that goes as high as is believed, or higher; some hear it, and some do not.
    #[test]
    fn a_false_word_at_a_high_number_silences_nobody() {
        let believed = HONEST_MAX + STEP_MAX;
        for number in [HONEST_MAX, HONEST_MAX + 1, believed, believed + 1, u64::MAX - 1, u64::MAX] {
            let (mut deceived, mut other, mut own) = (Words::default(), Words::default(), Words::default());
            [&mut deceived, &mut other].into_iter().for_each(|words| _ = words.hear(PEER, numbered(7)));
            let made_up = numbered(number);
            deceived.hear(PEER, made_up.clone());
            let ours = match own.believes(PEER, 7, &made_up) {
                true => number + 1,
                false => 8,
            };
            for words in [&mut deceived, &mut other] {
                // What is refused is told again.
                assert!((0..2).any(|_| words.hear(PEER, numbered(ours))), "{ours} after {number}");
            }
        }
    }

    #[test]
    fn of_a_word_that_grew_too_long_so_much_is_said_as_others_believe() {
        let all: BTreeSet<PeerName> = (0..5000).map(PeerName::from_u64).collect();
        let word = Word { gone: all.clone(), awaits: all, ..numbered(1) };
        assert!(!word.is_believable());
        let word = word.cut();
        assert!(word.is_believable());
        assert_eq!((word.gone.len(), word.awaits.len()), (NAMED_MAX, NAMED_MAX));
        let said = serde_json::to_vec(&BTreeMap::from([(PEER, &word)])).unwrap();
        assert!(said.len() <= word.len(), "{} of {}", said.len(), word.len());
    }

    #[test]
    fn where_peers_come_and_go_there_is_always_room_for_the_next_one() {
        let mut words = Words::default();
        for number in 1..=2 * WORDS_MAX as u64 {
            assert!(words.hear(PeerName::from_u64(number), numbered(1)));
            words.make_room(|peer| peer.as_u64() + 10 > number);
        }
        let youngest: Vec<u64> = words.all().keys().map(|peer| peer.as_u64()).rev().take(10).collect();
        assert_eq!(youngest, (1..=2 * WORDS_MAX as u64).rev().take(10).collect::<Vec<u64>>());
    }
}
