//! What people are told of the dead, and whoever wants a peer to be taken over from.

use std::time::Duration;

use super::overview::Overview;
use crate::{
    ipam::{Refused, takeover::Coming},
    node::{
        cluster::peers::Peers,
        facts::Leave,
        protocol::{
            request::{Refusal, RefusalKind, Response},
            status::Note,
        },
    },
    peer::PeerName,
};

/// Where nobody agrees, an owner that is not heard for so long is named.
const NAMED_AFTER: Duration = Duration::from_secs(60);

impl Overview<'_> {
    /// Who is or could be taken over from.
    pub(in crate::node) fn coming(&self) -> Vec<Note> {
        if !self.peers.dead.agrees() {
            return self.silent_owners();
        }
        let around = self.peers.around(self.facts);
        let coming = self.peers.dead.takeover.coming(self.facts.now, around.view());
        let note = |coming: Coming| self.peers.note_on(&coming, around.owners.contains_key(&coming.peer));
        let untraceable = self.peers.dead.takeover.untraceable(self.facts.now, around.view());
        let unknown = untraceable.into_iter().map(|peer| Note {
            what: format!(
                "{} is not heard, and nobody knows on which instance it runs, so EC2 cannot be asked",
                self.peers.named(peer)
            ),
            hint: Some(format!("bring it back, or, if it is dead, `weavers forget {peer}`")),
        });
        coming.into_iter().map(note).chain(unknown).collect()
    }

    /// Owners of whom nothing is known but that somebody said they own something: no founder, never heard, no nickname, no
    /// instance.
    pub(super) fn unmet_owners(&self) -> Option<Note> {
        let founders = self.peers.ipam.ring().seeds();
        let late =
            self.peers.dead.silent.iter().filter(|(_, since)| self.facts.now.since(**since) >= NAMED_AFTER);
        let is_known = |peer: PeerName| {
            founders.contains(&peer)
                || self.peers.ipam.nickname(peer).is_some()
                || self.peers.dead.takeover.instance(peer).is_some()
        };
        let unmet: Vec<PeerName> = late.map(|(peer, _)| *peer).filter(|peer| !is_known(*peer)).collect();
        let first = unmet.first()?;
        let addresses: u64 = unmet.iter().map(|&peer| u64::from(self.peers.share(peer))).sum();
        let who = match unmet.len() {
            1 => format!("{first} was never met, and owns"),
            more => format!("{more} owners were never met, {first} among them, and own"),
        };
        Some(Note {
            what: format!("{who} {addresses} addresses by what some peer said"),
            hint: Some(format!(
                "`weavers ipam show` lists them; start the hosts if they are yours, otherwise `weavers forget {first}`, \
                 and so on"
            )),
        })
    }

    /// Whom nobody takes over from unless somebody says so.
    fn silent_owners(&self) -> Vec<Note> {
        let late =
            self.peers.dead.silent.iter().filter(|(_, since)| self.facts.now.since(**since) >= NAMED_AFTER);
        let note = |(&peer, _)| Note {
            what: format!(
                "{} has not contacted us, and with mesh.weave_peers its {} addresses are not taken over automatically",
                self.peers.named(peer),
                self.peers.share(peer)
            ),
            hint: Some(format!("bring it back, or, if it is dead, `weavers forget {peer}`")),
        };
        late.map(note).collect()
    }

    /// The answer to whoever wants a peer to be taken over from, once there is one.
    pub(in crate::node) fn forgotten(
        &self,
        (peer, addresses, since): (PeerName, u32, u64),
        late: bool,
    ) -> Option<Result<Response, Refusal>> {
        let log = self.peers.dead.takeover.log()?;
        if let Some(decision) = log.decision_on(peer, since) {
            let moved = Response::Moved { addresses, to: Some(decision.heir) };
            // What was decided is done once the ring says so.
            return match self.peers.kept_by(peer) {
                None => Some(Ok(moved)),
                Some(kept) => late.then_some(Err(kept)),
            };
        }
        if self.peers.mesh.is_reachable(peer) {
            let alive = Refused::PeerAlive { peer, nickname: self.peers.ipam.nickname_of(peer) };
            return Some(Err(Refusal::from(&alive)));
        }
        let is_asked =
            self.peers.dead.wanted.contains(&peer) || self.peers.dead.takeover.asked().contains(&peer);
        if let Some(instance) = self.peers.dead.takeover.running(peer).filter(|_| !is_asked) {
            let (nickname, instance) = (self.peers.ipam.nickname_of(peer), instance.to_owned());
            return Some(Err(Refusal::from(&Refused::InstanceRuns { peer, nickname, instance })));
        }
        late.then(|| Err(self.not_forgotten(peer)))
    }

    fn not_forgotten(&self, peer: PeerName) -> Refusal {
        let missing = self.peers.dead.takeover.missing(self.peers.around(self.facts).view(), peer);
        let missing: Vec<String> = missing.iter().map(|&peer| self.peers.named(peer)).collect();
        let message = format!(
            "the peers have not agreed that {} is dead: {} did not",
            self.peers.named(peer),
            if missing.is_empty() { "some".to_owned() } else { missing.join(", ") }
        );
        let hint = match self.peers.dead.takeover.abstains() {
            true => {
                "this host does not vote yet, as others have to show first what it may have forgotten: try again in a minute"
            }
            false => {
                "bring enough of them back; if most electors are gone for good, `weavers forget --alone`"
            }
        };
        Refusal::new(RefusalKind::Failed, message).hint(hint)
    }

    /// Whether the electors still count on us though we leave.
    pub(super) fn is_resigning(&self) -> bool {
        self.facts.leave != Leave::No
            && self.peers.dead.agrees()
            && self.peers.dead.takeover.is_resigning(self.peers.mesh.reachable())
    }
}

impl Peers {
    fn note_on(&self, coming: &Coming, owns: bool) -> Note {
        let named = self.named(coming.peer);
        let instance = coming.instance.as_deref().unwrap_or("unknown");
        let what = if owns { "its ranges are taken over" } else { "it is removed from the electors" };
        let gone = format!("{named}: EC2 says that instance {instance} is gone");
        match coming.grace_left {
            None => Note {
                what: format!("{gone}; [vpc] reclaim is off"),
                hint: Some(format!("`weavers forget {}` takes over what it owned", coming.peer)),
            },
            Some(left) if !left.is_zero() => {
                let left = Duration::from_secs(left.as_secs().max(1));
                Note { what: format!("{gone}; {what} in {}", humantime::format_duration(left)), hint: None }
            }
            Some(_) => {
                let missing: Vec<String> = coming.missing.iter().map(|&peer| self.named(peer)).collect();
                let waits = match missing.is_empty() {
                    true => String::new(),
                    false => format!(" once enough of these agree: {}", missing.join(", ")),
                };
                Note { what: format!("{gone}; {what}{waits}"), hint: None }
            }
        }
    }

    pub(in crate::node) fn check_forget(&self, peer: &str) -> Result<PeerName, Refusal> {
        let peer = self.find_peer(peer)?;
        match self.ipam.check_forget(peer) {
            // It owns nothing, and is counted on still.
            Err(Refused::UnknownPeer { .. }) if self.dead.takeover.has_seat(peer) => Ok(peer),
            checked => checked.map(|()| peer).map_err(|refused| Refusal::from(&refused)),
        }
    }

    /// Why a peer still owns something though it was taken over from, if it does.
    pub(in crate::node) fn kept_by(&self, peer: PeerName) -> Option<Refusal> {
        let kept = self.share(peer);
        let fixed = self.ipam.ring().fixed().get(&peer).copied().unwrap_or(0);
        let named = self.named(peer);
        let (why, hint) = match (kept, fixed) {
            (0, _) => return None,
            (_, 0) => (
                "they have not been taken over yet".to_owned(),
                "see `weavers ipam show`, and run the command again if it goes on".to_owned(),
            ),
            (_, fixed) => (
                format!("of {fixed} the version in the ring is the last, which nobody can outbid"),
                "leave them where they are; to have them back, `weavers reset` on every host, or another [ipam] range"
                    .to_owned(),
            ),
        };
        let message = format!("{kept} addresses still are those of {named}: {why}");
        Some(Refusal::new(RefusalKind::Failed, message).hint(hint))
    }
}
