//! Container networking on AWS EC2 without an overlay.
//!
//! ```text
//!  weave.toml ──► config::Config ─┐
//!  attach, CNI ─► attachments ────┼─► state::Desired ─┐
//!  peers ─► mesh ─► ipam::Ring ───┘                   ├─► plan::Plan ─► Action, in safe order ─► kernel, vpc
//!  kernel::observe, vpc::observe ───► state::Actual ──┘                                             │
//!                                          ▲──────────── observe again until the plan is empty ─────┘
//! ```
//!
//! The modules stand in the order of their dependence: each uses only those above it, and those
//! above `store` are pure. A test holds the tree to both.
//!
//! # Words
//!
//! | word | stands for |
//! |---|---|
//! | range | the container address space as a whole, `[ipam] range`; also any part of it from one address to another |
//! | piece | a part of the ring with one owner; it grows no tokens by itself, and never loses one |
//! | ring | who owns which piece, and at which version: the same on every host sooner or later |
//! | donate | to give a piece, or a part that is free, to a peer that asks for space |
//! | claim | to ask for one certain address; in an election, what a peer has promised |
//! | elector | a peer that counts when it is agreed on who takes over from whom |
//! | take over | to become the owner of what a dead peer owned, by a decision of the electors |
//! | quarantine | addresses that nobody may use yet, since somebody else may have been given them |
//! | own kind (kin) | peers that run weavers, and not a router of Weave Net |
//! | path | how packets get from one host to another: by the VPC's route tables, directly, on a link that both are on, or by a tunnel |
//! | tunnel | WireGuard, by one device for all hosts that have neither a VPC nor a link in common with this one |
//! | underlay | where a host is: its VPC and subnet, or outside EC2, and its addresses |
//! | plane | where steps are carried out, each independent of the others: the host, links that go, the interface, a route table |
//! | observe, look | to read how the host or the VPC is; a narrow look reads what has changed |
//! | plan | the steps that lead from what is to what should be, in an order that is safe |
//! | drift | what others change of what is ours |
//! | conflict | what is not ours and stands in our place: it is named and left alone |
//! | hands | what carries out steps and looks: [`kernel`], [`vpc`], [`store`], [`transport`]; they decide nothing |
//! | birth | what a node is given when it starts: its identity, its life, its memory |
//! | memory | what the store has kept |
//! | link | a pair of interfaces that connects a container: `wv…` on the host, the far end in the container |
//! | canary | a container of our own, by which it is tried whether packets flow |
//! | attachment | a container that is connected, or is to be, by the key under which its runtime knows it |

// Words: no decisions.
/// Text from others, made fit to be shown.
pub mod text;
/// Moments and the distance between them; never a clock.
pub mod time;
/// Addresses, half-open ranges of them, and how a range is cut into CIDRs.
pub mod addr;
/// Who a peer is: its name, its life, its nickname.
pub mod peer;
/// A short name of what was written, to be compared with that of another.
pub mod digest;
/// Numbers that only go up, and how far that of somebody else is believed.
pub mod counter;
/// The part of Go's `encoding/gob` that the mesh protocol puts on the wire.
pub mod gob;

// How peers agree.
/// Which hosts packets reach: probes between canaries, one on each host.
pub mod probe;
/// The peer protocol on TCP 6783: introduction, encryption, topology, gossip.
pub mod mesh;
/// Who owns which addresses: the ring, how it is first agreed on, and what is handed out of it.
pub mod ipam;

// From what is to what should be.
/// The vocabulary of what is and what should be, on the host and in the VPC.
pub mod state;
/// Where each host is, by its own word, and which path leads from one to another.
pub mod underlay;
/// `weave.toml`, from text to a checked [`config::Config`] or every problem found in it.
pub mod config;
/// The difference between the two, as actions in the order in which they are safe.
pub mod plan;
/// One peer, whole: inputs in, outputs out.
pub mod node;
/// From Weave Net to here: what a router keeps on disk, and what would become of its host.
pub mod migrate;
/// What monitoring reads of a node and of the daemon around it.
pub mod metrics;
/// The container network interface: what a runtime says, and what it is answered.
pub mod cni;
/// The plugin protocol of Docker's networks: what Docker says, and what it is answered.
pub mod docker;
/// Plugins of netavark, which Podman uses: what it says, and what it is answered.
pub mod netavark;
/// Many nodes, one clock, and the wires, kernels, disks and VPC between them.
#[cfg(feature = "sim")]
pub mod sim;

// Hands: effects, few decisions.
/// What must survive a restart, in one redb file.
pub mod store;
/// The private key of this host's end of tunnels.
pub mod tunnel_key;
/// TCP 6783, and UDP where it is wanted: listen, dial, bytes in and out.
pub mod transport;
/// Linux: look at links, routes, sysctls and nftables, and change one thing at a time.
pub mod kernel;
/// EC2: look at route tables and the own interface, and change one route at a time.
#[cfg(feature = "aws")]
pub mod vpc;
/// The same where the program was built without its client.
#[cfg(not(feature = "aws"))]
#[path = "vpc/absent.rs"]
pub mod vpc;
/// `weave.toml` and its drop-ins on disk.
pub mod config_files;
/// One of them changed.
pub mod watch;
/// The control socket: HTTP with JSON bodies.
pub mod api;
/// What was deleted while no daemon was there to hear it.
pub mod spool;
/// The loop: event, input, node, output, hands.
pub mod daemon;
/// What is wrong with this host, why it matters, and what to type.
#[cfg(feature = "aws")]
pub mod doctor;

// Faces.
/// The plugin that runtimes run: CNI, netavark.
pub mod plugin;
/// The command line.
pub mod cli;
