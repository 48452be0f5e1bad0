//! Paths to other hosts, as probes find them: who is probed, and what a loss leads to.

use std::time::Duration;

use rand_chacha::ChaCha8Rng;

use super::{doubt::Doubts, peers::Peers};
use crate::{
    mesh::{Delivery, Kind},
    node::{
        boundary::{
            io::Output,
            out::{Out, PROBE_CHANNEL},
        },
        facts::Facts,
        observe::cadence::{Cadence, usual_share},
        protocol::status::{PathState, PathStatus},
        reconcile::Reconcile,
    },
    peer::PeerName,
    probe::{self, Direction, Prober, Talk, Verdict, packet::Probe},
    time::Timestamp,
};

/// When all hosts of a cluster lose probes at once, their looks come this far apart.
const DOUBT_SPREAD: Duration = Duration::from_millis(50);
/// What probes need, and what was done about their losses.
#[derive(Debug)]
pub(in crate::node) struct Probes {
    pub prober: Prober,
    /// Who has a canary, or who is there, may have changed.
    touched: bool,
    doubts: Doubts,
}

impl Probes {
    pub fn new(me: PeerName, rng: ChaCha8Rng) -> Probes {
        Probes { prober: Prober::new(me, rng), touched: true, doubts: Doubts::default() }
    }

    /// Who is to be probed is to be found out anew.
    pub fn touch(&mut self) {
        self.touched = true;
    }

    /// Probes whoever has a canary and is there, and carries out what follows. Returns whether anything did.
    pub fn settle(
        &mut self,
        facts: &Facts,
        peers: &mut Peers,
        work: &mut Reconcile,
        cadence: &mut Cadence,
        out: &mut Out,
    ) -> bool {
        if std::mem::take(&mut self.touched) {
            let others = peers.canaries_of_others();
            self.prober.set_others(facts.now, others);
        }
        let mut any = false;
        while let Some(effect) = self.prober.next_effect() {
            any = true;
            match effect {
                probe::Effect::Send(to, bytes) => out.outputs.push_back(Output::Probe(to, bytes.into())),
                // Whoever loses the question is asked again.
                probe::Effect::Tell(peer, talk) => {
                    let _ = peers.mesh.unicast(peer, PROBE_CHANNEL, &talk.encode());
                }
                probe::Effect::Doubt(peer) => {
                    self.look_after_a_loss(facts, peers, (work, cadence), out, peer)
                }
                probe::Effect::Changed(peer, verdict) => {
                    let path = path_status(facts, peers, peer, verdict, None);
                    out.outputs.push_back(Output::PathChanged(Box::new(path)));
                    out.disturbed = true;
                }
            }
        }
        any
    }

    /// Probes are lost: what was written may not be what is any more.
    fn look_after_a_loss(
        &mut self,
        facts: &Facts,
        peers: &Peers,
        (work, cadence): (&mut Reconcile, &mut Cadence),
        out: &mut Out,
        peer: PeerName,
    ) {
        let dying = self.dying().map(|(peer, ..)| peer).collect();
        let share = usual_share(peers.readers(facts));
        if !self.doubts.look(facts.now, peer, &dying, share) {
            return;
        }
        let most = DOUBT_SPREAD * peers.readers(facts);
        let after = cadence.within(most);
        out.outputs.push_back(Output::DoubtCheck);
        work.converge.host.look_by(facts.now);
        work.converge.vpc.look_by(facts.now + after);
        out.disturbed = true;
    }

    /// A peer says something about probes.
    pub fn on_talk(&mut self, now: Timestamp, delivery: &Delivery) {
        let Kind::Unicast { from } = delivery.kind else { return };
        // What cannot be read is of a later version.
        if let Ok(talk) = Talk::decode(&delivery.payload) {
            self.prober.heard(now, from, talk);
        }
    }

    /// Whether probes to or from some host are known to die.
    pub(in crate::node) fn probes_are_lost(&self) -> bool {
        self.dying().next().is_some()
    }

    /// Whether packets are known to die between this host and every other that was probed. Where those of IPv6 alone do, hosts are reached.
    pub(in crate::node) fn probes_reach_nobody(&self) -> bool {
        let reaches = |verdict| matches!(verdict, Verdict::Flows | Verdict::Dies { probe: Probe::V6, .. });
        !self.prober.paths().any(|(_, path)| reaches(path.verdict())) && self.probes_are_lost()
    }

    pub(in crate::node) fn dying(&self) -> impl Iterator<Item = (PeerName, Probe, Direction, Timestamp)> {
        self.prober.paths().filter_map(|(peer, path)| match path.verdict() {
            Verdict::Dies { probe, direction, since } => Some((peer, probe, direction, since)),
            Verdict::Unknown | Verdict::Flows => None,
        })
    }
}

pub(in crate::node) fn path_status(
    facts: &Facts,
    peers: &Peers,
    peer: PeerName,
    verdict: Verdict,
    round_trip: Option<Duration>,
) -> PathStatus {
    let state = match verdict {
        Verdict::Unknown => PathState::Unknown,
        Verdict::Flows => PathState::Flows,
        Verdict::Dies { probe: Probe::Small, direction: Direction::Out, .. } => PathState::DiesOut,
        Verdict::Dies { probe: Probe::Small, direction: Direction::Back, .. } => PathState::DiesBack,
        Verdict::Dies { probe: Probe::Large, direction: Direction::Out, .. } => PathState::LargeDiesOut,
        Verdict::Dies { probe: Probe::Large, direction: Direction::Back, .. } => PathState::LargeDiesBack,
        Verdict::Dies { probe: Probe::V6, direction: Direction::Out, .. } => PathState::V6DiesOut,
        Verdict::Dies { probe: Probe::V6, direction: Direction::Back, .. } => PathState::V6DiesBack,
    };
    let since_s = match verdict {
        Verdict::Dies { since, .. } => Some(facts.now.since(since).as_secs()),
        Verdict::Unknown | Verdict::Flows => None,
    };
    PathStatus {
        peer,
        nickname: peers.ipam.nickname(peer).map(str::to_owned),
        state,
        since_s,
        round_trip_us: round_trip.map(|time| time.as_micros() as u64),
    }
}
