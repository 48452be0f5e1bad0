//! How much of what a host once promised its store still knows.
//!
//! An old disk shows by what others know: what only this host can have written, or that something which it owned is another's. Who was
//! taken for dead hears the latter, too. The routes say it as well, where no other host can be heard: they follow the ring. Where the
//! disk was written in the same boot of the host it is no old one, since disks are replaced while their host is down; otherwise
//! nobody can tell, and the host acts as if its disk was set back.

use super::{Allocator, Effect, Init, merge::Merged, ring::Ring};
use crate::addr::{Address, Range};

/// Whether what a host knows of its own grants is all there is to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Memory {
    /// Its ring was on disk, and that is no old disk.
    Whole,
    /// Its ring was on disk, and nobody knows whether that is an old one: the routes were not looked at yet.
    Read,
    /// The same, and the routes of the first look do not say that it is.
    BorneOut,
    /// Nothing was, and nobody has looked yet for traces of an earlier life. What rests for that reason has this number.
    Unproven(Option<u64>),
    /// Nothing was, and it left no trace: it is new, as far as is known.
    New,
    /// It lived before. What it gave away last, before the store was lost, may have been heard by few.
    Lost,
    /// It lived on after what was on disk. What it gave away since may have been heard by few.
    SetBack,
    /// Of what it owned, by its disk, something is another's: it was taken for dead, or it gave that away after what was on disk. Who
    /// cannot tell acts as if its disk was set back.
    Bereft,
}

impl Memory {
    /// Whether it may have given something away, or been given something, that it does not know.
    pub(super) fn is_doubtful(self) -> bool {
        self == Memory::Lost || self.may_be_old()
    }

    /// Whether what it has of the time before may be older than what it told others.
    pub(super) fn may_be_old(self) -> bool {
        matches!(self, Memory::SetBack | Memory::Bereft)
    }
}

impl Allocator {
    /// Finds out whether a host that remembers nothing is new: `has_traces` says whether there is a trace of an earlier
    /// life, where these ranges are to be its own. Only then is a ring made from a list of seeds, which would otherwise take
    /// back what was given away.
    pub fn prove_memory(&mut self, has_traces: impl FnOnce(&[Range]) -> bool) {
        let Memory::Unproven(rest) = self.memory else { return };
        let seeded = match &self.settings.init {
            Init::Seed(peers) if self.ring.is_empty() && !self.leaving => Some(peers.clone()),
            Init::Seed(_) | Init::Consensus | Init::Observer => None,
        };
        if let Some(peers) = seeded {
            self.begin_ring(peers);
            self.broadcast();
        }
        self.memory = if has_traces(&self.owned()) { Memory::Lost } else { Memory::New };
        match (self.memory, rest) {
            (Memory::Lost, None) => self.quarantine_what_is_owned(),
            (Memory::New, Some(_)) if rest == self.quarantine.number() => {
                self.quarantine.end();
                self.end_rest();
            }
            _ => {}
        }
        self.advance();
    }

    /// Compares what was on disk with the first look at the routes, before anything is written there: `is_older` says whether they
    /// lead where only a later ring than this one can have led them.
    pub fn compare_memory(&mut self, is_older: impl FnOnce(&Ring) -> bool) {
        if self.memory != Memory::Read {
            return;
        }
        match is_older(&self.ring) {
            true => self.be_bereft(),
            false => self.memory = Memory::BorneOut,
        }
    }

    /// What was on disk was written in this boot of the host, so it is no old disk. To be said before anything is heard.
    pub fn trust_memory(&mut self) {
        if self.memory == Memory::Read {
            self.memory = Memory::Whole;
        }
    }

    /// Others remember a former life of this host. If nothing of it was on disk, all that it turns out to own rests.
    pub fn doubt_memory(&mut self) {
        match self.memory {
            Memory::New | Memory::Unproven(None) => {
                self.memory = Memory::Lost;
                self.quarantine_what_is_owned();
            }
            Memory::Unproven(Some(_)) => self.memory = Memory::Lost,
            Memory::Whole
            | Memory::Read
            | Memory::BorneOut
            | Memory::Lost
            | Memory::SetBack
            | Memory::Bereft => {}
        }
    }

    /// Our store was set back: what we gave away since is not known here. All that we own rests, as if the store were lost.
    pub fn set_back(&mut self) {
        self.memory = Memory::SetBack;
        self.quarantine_what_is_owned();
    }

    /// A copy of the ring has something that ours had not. Where that shows that our store may be an old one, all that we own rests.
    pub(super) fn judge_memory(&mut self, merged: &Merged) {
        let undisputed = |tokens: &[Address]| tokens.iter().any(|token| !self.disputes.concerns(*token));
        if undisputed(&merged.forgotten) {
            self.push(Effect::SetBack);
            self.set_back();
        } else if matches!(self.memory, Memory::Read | Memory::BorneOut) && undisputed(&merged.lost) {
            self.be_bereft();
        }
    }

    fn be_bereft(&mut self) {
        self.push(Effect::SetBack);
        self.memory = Memory::Bereft;
        self.quarantine_what_is_owned();
    }

    pub(super) fn is_unproven(&self) -> bool {
        matches!(self.memory, Memory::Unproven(_))
    }
}
