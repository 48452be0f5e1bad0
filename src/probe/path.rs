//! The way to one other host and back, as packets find it.
//!
//! ```text
//!              reply               five losses                   the peer's word
//!  unknown ───────────► flows ──────────────────► suspect ─────────────────────► dies (out, back)
//!     ▲                   ▲                          │                                 │
//!     └── no word of it   └────────── reply ─────────┴───────────── reply ─────────────┘
//! ```
//!
//! A probe that is lost says nothing alone: the network loses some, and a host that is busy answers late. Packets are
//! known to die when some in a row had no reply and the peer, which the mesh reaches, says that its canary is there.

use std::time::Duration;

use super::packet::Probe;
use crate::time::Timestamp;

/// How long a reply may take.
pub const PATIENCE: Duration = Duration::from_millis(300);
/// Losses in a row after which the peer is asked what it got.
pub const LOSSES: usize = 5;
/// Losses in a row that are worth a look: by then a reply that was late has come.
const DOUBTED: usize = 2;
/// Time between probes of a way that is known to die.
const AGAIN: Duration = Duration::from_secs(2);
/// Nonces of lost probes that are remembered: a reply that comes late is a reply.
const REMEMBERED: usize = 8;

/// On which way packets die.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// From this host to the other.
    Out,
    /// From the other host to this one.
    Back,
}

/// What is known of probes of one sort.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing.
    Unknown,
    /// They arrive, and replies do.
    Flows,
    /// They die.
    Dies(Direction),
}

/// What happened to one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// It was answered.
    Replied,
    /// It was not; if it is known to die, the next follows after so many pauses.
    Lost(u32),
    /// The peer says whether it got any of those that were lost.
    Told(Told),
}

/// What a peer says of probes that were lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// It got one at least.
    Got,
    /// It got none.
    GotNone,
    /// It has no canary at the moment.
    HasNone,
}

/// Probes of one sort to one host.
#[derive(Clone, Debug)]
pub struct Lane {
    /// What is known.
    pub state: State,
    /// When the first of the probes was sent that were lost in a row.
    pub since: Option<Timestamp>,
    /// Time from the last probe that was answered to its reply.
    pub round_trip: Option<Duration>,
    /// When the last outcome was known.
    pub known_at: Option<Timestamp>,
    /// The probe that is out.
    sent: Option<(u64, Timestamp)>,
    /// Those that were lost in a row, the latest last.
    lost: Vec<(u64, Timestamp)>,
    lost_count: usize,
    /// Another probe follows then.
    again_at: Option<Timestamp>,
    /// How many were lost when the peer was last asked about them.
    asked: usize,
}

impl Default for Lane {
    fn default() -> Lane {
        Lane {
            state: State::Unknown,
            since: None,
            round_trip: None,
            known_at: None,
            sent: None,
            lost: Vec::new(),
            lost_count: 0,
            again_at: None,
            asked: 0,
        }
    }
}

impl Lane {
    /// A probe of this nonce is sent.
    pub fn sent(&mut self, now: Timestamp, nonce: u64) {
        self.sent = Some((nonce, now));
        self.again_at = None;
    }

    /// Whether a probe is out.
    pub fn is_out(&self) -> bool {
        self.sent.is_some()
    }

    /// Whether another probe is due after a loss.
    pub fn is_due(&self, now: Timestamp) -> bool {
        self.again_at.is_some_and(|at| at <= now)
    }

    /// Whether the last probes were lost.
    pub fn is_suspect(&self) -> bool {
        self.lost_count > 0
    }

    /// Takes a reply. Returns whether it is one to a probe of this lane.
    pub fn replied(&mut self, now: Timestamp, nonce: u64) -> bool {
        let out = self.sent.take_if(|(sent, _)| *sent == nonce);
        let late = || self.lost.iter().copied().find(|(lost, _)| *lost == nonce);
        let Some((_, at)) = out.or_else(late) else { return false };
        self.round_trip = Some(now.since(at));
        self.follow(now, Event::Replied);
        true
    }

    /// Counts the probe that is out as lost, if it has had no reply in time. A way that is known to die is tried again after
    /// `pauses` times the usual pause. Returns whether so many were lost that it is worth a look.
    pub fn expire(&mut self, now: Timestamp, pauses: u32) -> bool {
        let Some(lost) = self.sent.take_if(|(_, at)| now.since(*at) >= PATIENCE) else { return false };
        if self.lost.len() == REMEMBERED {
            self.lost.remove(0);
        }
        self.lost.push(lost);
        self.lost_count += 1;
        self.since.get_or_insert(lost.1);
        self.follow(now, Event::Lost(pauses));
        self.lost_count >= DOUBTED
    }

    /// What the peer is to be asked now, once for each loss: the probes that were lost.
    pub fn question(&mut self) -> Vec<u64> {
        if self.lost_count < LOSSES || self.asked == self.lost_count {
            return Vec::new();
        }
        self.asked = self.lost_count;
        self.lost.iter().map(|(nonce, _)| *nonce).collect()
    }

    /// The peer has answered about these probes.
    pub fn told(&mut self, now: Timestamp, told: Told) {
        self.follow(now, Event::Told(told));
    }

    /// The one place where what is known changes.
    fn follow(&mut self, now: Timestamp, event: Event) {
        self.known_at = Some(now);
        self.state = match (self.state, event) {
            (_, Event::Replied) => {
                (self.since, self.again_at, self.asked, self.lost_count) = (None, None, 0, 0);
                self.lost.clear();
                State::Flows
            }
            (state, Event::Lost(pauses)) => {
                let pause = if self.lost_count < LOSSES { Duration::ZERO } else { AGAIN * pauses };
                self.again_at = Some(now + pause);
                state
            }
            // A reply came while the question was on its way.
            (state, Event::Told(_)) if self.lost_count < LOSSES => state,
            (_, Event::Told(Told::HasNone)) => State::Unknown,
            (_, Event::Told(Told::Got)) => State::Dies(Direction::Back),
            (_, Event::Told(Told::GotNone)) => State::Dies(Direction::Out),
        };
    }

    /// When something is due.
    pub fn next_wake(&self) -> Option<Timestamp> {
        self.sent.map(|(_, at)| at + PATIENCE).or(self.again_at)
    }
}

/// All lanes to one host.
#[derive(Clone, Debug, Default)]
pub struct Path {
    /// Small packets.
    pub small: Lane,
    /// Large ones; they are tried while small ones flow, as are those of IPv6.
    pub large: Lane,
    /// Those of IPv6.
    pub v6: Lane,
    /// When it was last its turn.
    pub turn_at: Option<Timestamp>,
    /// How often it was.
    pub turns: u32,
    /// The other host sees our canary under this address, which somebody put in place of its own.
    pub rewritten: Option<std::net::Ipv4Addr>,
}

/// What is known of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing yet.
    Unknown,
    /// Packets of every sort that was tried flow both ways.
    Flows,
    /// They die: those of this sort, others than small ones meaning that those pass.
    Dies {
        /// Which.
        probe: Probe,
        /// On which way.
        direction: Direction,
        /// Since when.
        since: Timestamp,
    },
}

impl Path {
    /// The lane of this sort.
    pub fn lane(&mut self, probe: Probe) -> &mut Lane {
        match probe {
            Probe::Small => &mut self.small,
            Probe::Large => &mut self.large,
            Probe::V6 => &mut self.v6,
        }
    }

    /// All of them, beginning with what says most.
    pub fn lanes(&self) -> [(Probe, &Lane); 3] {
        [(Probe::Small, &self.small), (Probe::Large, &self.large), (Probe::V6, &self.v6)]
    }

    /// What is known.
    pub fn verdict(&self) -> Verdict {
        for (probe, lane) in self.lanes() {
            if let (State::Dies(direction), Some(since)) = (lane.state, lane.since) {
                return Verdict::Dies { probe, direction, since };
            }
        }
        match self.small.state {
            State::Flows => Verdict::Flows,
            State::Unknown | State::Dies(_) => Verdict::Unknown,
        }
    }

    /// Whether an outcome is known of a probe that was sent at `since` or later.
    pub fn is_known_since(&self, since: Timestamp) -> bool {
        self.turn_at.is_some_and(|at| at >= since)
            && self.small.known_at.is_some_and(|at| at >= since)
            && !(self.small.is_suspect() && self.small.state == State::Flows)
    }
}
