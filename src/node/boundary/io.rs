//! What goes into a node and what comes out of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddr},
};

use bytes::Bytes;

use super::{event::Event, order::Order};
use crate::{
    addr::Universe,
    config::Config,
    mesh::{self, ConnId, Hosts},
    node::{
        identity::Metadata,
        persist::{
            ledger::{SaveFault, SaveId},
            memory::Write,
        },
        protocol::{
            request::{Refusal, Request, RequestId, Response},
            status::PathStatus,
        },
    },
    state::{Action, Fault, Host, InstanceState, Made, Netns, Scope, SubnetId, Tables, TunnelKey, Vpc},
};

/// Something happened.
#[derive(Debug)]
pub enum Input {
    /// `weave.toml` was read anew and is to be adopted; answered with what needs a restart.
    Configured(RequestId, Box<Config>),
    /// A configuration is to be adopted and carried out, on terms.
    Ordered(Box<Order>),
    /// Somebody asks what would change under another configuration.
    Previewed(RequestId, Box<Config>),
    /// A connection came, went, or brought bytes.
    Mesh(mesh::Input),
    /// Somebody asks.
    Asked(RequestId, Request),
    /// Whoever asked is gone.
    Cancelled(RequestId),
    /// The instance metadata have answered.
    Identified(Metadata),
    /// This host's end of tunnels has a key, or another one.
    Keyed(TunnelKey),
    /// A look at the host has ended.
    HostSeen(Result<Host, Fault>),
    /// A look at the VPC has ended.
    VpcSeen(Result<Vpc, Fault>),
    /// The names of peers were resolved, each to the hosts that it stands for, or could not be.
    NamesSeen(BTreeMap<String, Result<Hosts, String>>),
    /// A look for peers has ended.
    PeersSeen(Result<BTreeSet<Ipv4Addr>, Fault>),
    /// A look for instances has ended: those that are not terminated.
    InstancesSeen(Result<BTreeMap<String, InstanceState>, Fault>),
    /// A look for running instances has ended: their addresses.
    RunningSeen(Result<BTreeSet<Ipv4Addr>, Fault>),
    /// A look for the subnets of peers has ended.
    PlacesSeen(Result<BTreeMap<Ipv4Addr, SubnetId>, Fault>),
    /// A link was made or mended and read back: the action that did it is about to end.
    LinkMade(Made),
    /// An action has ended, with EC2's request id.
    Applied(Action, Result<Option<String>, Fault>),
    /// A save has ended.
    Stored(SaveId, Result<(), SaveFault>),
    /// The namespace of the canary was made, or could not be.
    CanaryMade(Result<Netns, Fault>),
    /// A datagram came to the canary, from this address.
    Probed(SocketAddr, Bytes),
    /// Something changed on the host.
    Disturbed,
    /// The time of [`Node::next_wake`] has come.
    Woken,
}

/// Something is to be done.
#[derive(Debug)]
pub enum Output {
    /// Dial this target.
    Dial(String),
    /// Send these bytes.
    Send(ConnId, Bytes),
    /// Close this connection; the text is for the log.
    Close(ConnId, String),
    /// Send this datagram from the port of the mesh.
    Datagram(SocketAddr, Bytes),
    /// Make these changes of the store, all or none.
    Save(SaveId, Vec<Write>),
    /// Look at the host, or at what has changed of it, with these things in mind.
    ObserveHost(Box<Host>, Scope),
    /// The source/destination check may not be as it was last read: the next look at the VPC reads it, too.
    DoubtCheck,
    /// Look at the VPC: at what of these tables concerns the range.
    ObserveVpc(Universe, Tables),
    /// Resolve these targets.
    ObserveNames(BTreeSet<String>),
    /// Look in which subnets of our VPC the instances with these addresses are.
    ObservePlaces(BTreeSet<Ipv4Addr>),
    /// Look for the running instances of our VPC that bear this tag, by key and value.
    ObservePeers(String, String),
    /// Look which of these instances are there.
    ObserveInstances(BTreeSet<String>),
    /// Look which of these addresses running instances have.
    ObserveRunning(BTreeSet<Ipv4Addr>),
    /// Make a namespace for the canary, and take datagrams in it.
    MakeCanary,
    /// Let go of it.
    DropCanary,
    /// Send this datagram from the canary; see [`crate::probe::Effect::Send`].
    Probe(SocketAddr, Bytes),
    /// Something happened in the cluster; for the log.
    Told(Event),
    /// Something else is known of the path to a host; for the log.
    PathChanged(Box<PathStatus>),
    /// Change one thing.
    Apply(Action),
    /// Answer who asked.
    Answer(RequestId, Result<Response, Refusal>),
    /// The configuration that came with this question is in force. Whoever asked is answered once the disk has what rests on it.
    Adopted(RequestId),
    /// The configuration that was in force before the one that was tried is in force again, and why.
    RolledBack(String),
    /// Nothing of ours is left on this host: erase the store and end.
    Finished,
    /// It cannot go on: end, and say why.
    Stop(Refusal),
}
