//! What passes between hosts: dials, bytes in their order, and ends.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use bytes::Bytes;

use super::{DIAL_PATIENCE, Dial, Event, PORT, World};
use crate::{
    mesh::{self, ConnId, Hosts},
    node::Input,
    sim::{machine::Power, wire::Parcel},
};

/// How a host is called where hosts are listed by name.
pub(in crate::sim) fn name_of(address: &SocketAddr) -> String {
    format!("ip-{}.internal", address.ip().to_string().replace('.', "-"))
}

/// How the hosts of a world are listed: in every fourth they are not, and find each other by a tag, and in every fourth by name.
pub(in crate::sim) fn listed(seed: u64, addresses: &[Ipv4Addr]) -> Vec<String> {
    match seed % 4 {
        0 => Vec::new(),
        2 => addresses.iter().map(|&address| name_of(&SocketAddr::new(address.into(), PORT))).collect(),
        _ => addresses.iter().map(ToString::to_string).collect(),
    }
}

impl World {
    pub(in crate::sim) fn host_at(&self, target: &str) -> Option<usize> {
        if let Some(named) = self.machines.iter().position(|machine| name_of(&machine.address) == target) {
            return Some(named);
        }
        let address: IpAddr = match target.parse::<SocketAddr>() {
            Ok(address) => address.ip(),
            Err(_) => target.parse().ok()?,
        };
        self.machines.iter().position(|machine| machine.address.ip() == address)
    }

    /// A host asks the name server, which knows nothing, now and then, while things go wrong.
    pub(in crate::sim) fn look_at_names(&mut self, host: usize, life: u32, names: BTreeSet<String>) {
        let own = BTreeSet::from([self.machines[host].address.ip()]);
        let mut answers = BTreeMap::new();
        for name in names {
            let silent = self.stormy && !self.climate.trouble_every.is_zero() && self.chance(300);
            let found =
                self.host_at(&name).filter(|_| !silent).map(|found| self.machines[found].address.ip());
            let answer = found.map(|ip| Hosts::new([ip], &own));
            answers.insert(name.clone(), answer.ok_or_else(|| format!("{name} cannot be resolved")));
        }
        let after = self.latency();
        self.schedule(after, Event::NamesSeen(host, life, answers));
    }

    pub(in crate::sim) fn is_blocked(&self, one: usize, other: usize) -> bool {
        self.net.blocked.contains(&(one.min(other), one.max(other)))
    }

    pub(in crate::sim) fn dial(&mut self, host: usize, target: String) {
        let life = self.machines[host].life;
        self.sequence += 1;
        let number = self.sequence;
        self.net.dialling.insert((host, target.clone()), Dial { life, number, end: None });
        self.schedule(DIAL_PATIENCE, Event::DialOver(host, target.clone(), number, "timed out"));
        let after = self.latency();
        self.schedule(after, Event::Knock(host, life, target));
    }

    pub(in crate::sim) fn knock(&mut self, host: usize, life: u32, target: &str) {
        let key = (host, target.to_owned());
        let Some(&Dial { number, life: dialled_by, .. }) = self.net.dialling.get(&key) else { return };
        let Some(to) = self.host_at(target) else { return };
        if !self.is_alive(host, life) || dialled_by != life || self.is_blocked(host, to) {
            return;
        }
        if self.machines[to].power != Power::On {
            return;
        }
        let back = self.latency();
        if self.machines[to].node.is_none() {
            return self.schedule(back, Event::DialOver(host, target.to_owned(), number, "refused"));
        }
        self.net.ephemeral = if self.net.ephemeral > 60000 { 32768 } else { self.net.ephemeral + 1 };
        let from = SocketAddr::new(self.machines[host].address.ip(), self.net.ephemeral);
        let (near, far) = self.net.wires.connect((host, from), (to, self.machines[to].address));
        if let Some(dial) = self.net.dialling.get_mut(&key) {
            dial.end = Some(near);
        }
        self.deliver_after(near, back, Parcel::Dialled(target.to_owned()));
        self.feed(to, Input::Mesh(mesh::Input::Accepted { conn: far, remote: from }));
    }

    pub(in crate::sim) fn dial_over(&mut self, host: usize, target: &str, number: u64, why: &str) {
        let key = (host, target.to_owned());
        let Some(&Dial { life, number: latest, end }) = self.net.dialling.get(&key) else { return };
        if latest != number {
            return;
        }
        self.net.dialling.remove(&key);
        if let Some(end) = end {
            self.net.wires.remove(end);
        }
        let (target, reason) = (target.to_owned(), why.to_owned());
        self.tell(host, life, Input::Mesh(mesh::Input::DialFailed { target, reason }));
    }

    /// Puts a parcel on its way, and sees that it arrives.
    pub(in crate::sim) fn deliver_after(&mut self, conn: ConnId, after: Duration, parcel: Parcel) {
        if let Some(at) = self.net.wires.push(conn, self.now + after, parcel) {
            self.schedule_at(at, Event::Arrive(conn));
        }
    }

    pub(in crate::sim) fn send(&mut self, host: usize, conn: ConnId, bytes: Bytes) {
        let Some(end) = self.net.wires.end(conn) else { return };
        let (other, peer) = (end.other, end.peer);
        self.journal.bytes += bytes.len() as u64;
        let after = self.latency();
        if self.net.wires.end(other).is_some() {
            return self.deliver_after(other, after, Parcel::Bytes(bytes));
        }
        // Nobody is there any more; a host that is up says so.
        if self.machines[peer].power == Power::On && !self.is_blocked(host, peer) {
            self.deliver_after(conn, after * 2, Parcel::End("reset by the other end"));
        }
    }

    pub(in crate::sim) fn arrive(&mut self, conn: ConnId) {
        let Some(end) = self.net.wires.end(conn) else { return };
        let (host, remote, peer) = (end.host, end.remote, end.peer);
        if self.is_blocked(host, peer) {
            return;
        }
        let Some(parcel) = self.net.wires.take(conn, self.now) else { return };
        if self.machines[host].node.is_none() {
            return;
        }
        match parcel {
            Parcel::Dialled(target) => {
                self.net.dialling.remove(&(host, target.clone()));
                self.feed(host, Input::Mesh(mesh::Input::Dialled { target, conn, remote }));
            }
            Parcel::Bytes(bytes) => {
                self.feed(host, Input::Mesh(mesh::Input::Received(conn, bytes)));
                self.strike_elector(host);
            }
            Parcel::End(why) => {
                self.net.wires.remove(conn);
                self.note(|| format!("host {host}: {conn:?} ends: {why}"));
                self.feed(host, Input::Mesh(mesh::Input::Closed(conn, why.to_owned())));
            }
        }
    }

    /// One side closes a connection: what it sent before still arrives.
    pub(in crate::sim) fn close(&mut self, conn: ConnId) {
        if let Some(end) = self.net.wires.remove(conn) {
            let after = self.latency();
            self.deliver_after(end.other, after, Parcel::End("closed by the other end"));
        }
    }

    /// A connection breaks, and both sides learn of it. What was on its way is lost.
    pub(in crate::sim) fn cut(&mut self, conn: ConnId) {
        let Some(end) = self.net.wires.end(conn) else { return };
        let other = end.other;
        for one in [conn, other] {
            if self.net.wires.is_unanswered(one) {
                return;
            }
        }
        for one in [conn, other] {
            self.net.wires.lose(one);
            let after = self.latency();
            self.deliver_after(one, after, Parcel::End("broken"));
        }
    }

    /// The process of a host is gone, and with it its ends. Its kernel tells the others, unless it is gone too.
    pub(in crate::sim) fn hang_up(&mut self, host: usize, silently: bool) {
        self.net.dialling.retain(|(from, _), _| *from != host);
        for conn in self.net.wires.of(host) {
            let Some(end) = self.net.wires.remove(conn) else { continue };
            if !silently {
                if self.chance(500) && !self.net.wires.is_unanswered(end.other) {
                    self.net.wires.lose(end.other);
                }
                let after = self.latency();
                self.deliver_after(end.other, after, Parcel::End("reset by the other end"));
            }
        }
    }

    /// What was stalled between these hosts goes on.
    pub(in crate::sim) fn unstall(&mut self, between: impl Fn(usize, usize) -> bool) {
        for (conn, parcels) in self.net.wires.stalled() {
            if !self.net.wires.end(conn).is_some_and(|end| between(end.host, end.peer)) {
                continue;
            }
            let gone = self.net.wires.end(conn).is_some_and(|end| self.net.wires.end(end.other).is_none());
            let after = self.latency();
            for _ in 0..parcels {
                self.schedule(after + DIAL_PATIENCE / 100, Event::Arrive(conn));
            }
            if gone && parcels == 0 {
                self.deliver_after(conn, after, Parcel::End("reset by the other end"));
            }
        }
    }
}
