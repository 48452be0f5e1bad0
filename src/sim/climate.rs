//! How a world is made, and how bad its weather is.

use std::time::Duration;

use ipnet::Ipv4Net;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use crate::addr::Prefix;

/// How a world is made and how bad its weather is.
#[derive(Clone, Debug)]
pub struct Climate {
    pub hosts: usize,
    /// The last so many of them are outside EC2, on one link.
    pub outside: usize,
    /// Those on EC2 reach hosts of their subnet directly.
    pub direct: bool,
    /// Hosts with no network in common reach each other by tunnels.
    pub tunnels: bool,
    /// Those of them that found the cluster.
    pub founders: usize,
    /// The first so many of them are listed by all.
    pub listed: usize,
    pub range: Ipv4Net,
    pub ipv6: Option<Prefix>,
    pub two_tables: bool,
    pub seeded: bool,
    pub users: bool,
    /// Grace before the ranges of a terminated host are taken over; none: somebody asks for it.
    pub reclaim: Option<Duration>,
    /// Time between two blocks that a host offers to others; none: it offers none.
    pub compact: Option<Duration>,
    pub start_within: Duration,
    pub storm: Duration,
    /// Mean time between troubles; none if zero.
    pub trouble_every: Duration,
    pub latency_max: Duration,
    pub late_permille: u32,
    pub late_max: Duration,
    pub kernel_max: Duration,
    pub disk_max: Duration,
    pub disk_fault_permille: u32,
    /// How often an elector is struck as it says something.
    pub strike_permille: u32,
    /// How often each kind of trouble comes, in parts of their sum.
    pub odds: Vec<(Kind, u32)>,
}

/// A kind of trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Crash,
    PowerLoss,
    Partition,
    Cut,
    Weather,
    Colleague,
    Vandal,
    LostStore,
    CopiedDisk,
    SetBackDisk,
    Freeze,
    ClockJump,
    FullDisk,
    Terminate,
    Retire,
    Usurp,
}

const KINDS: [(Kind, u32); 16] = [
    (Kind::Crash, 30),
    (Kind::PowerLoss, 8),
    (Kind::Partition, 20),
    (Kind::Cut, 15),
    (Kind::Weather, 12),
    (Kind::Colleague, 10),
    (Kind::Vandal, 10),
    (Kind::LostStore, 6),
    (Kind::CopiedDisk, 6),
    (Kind::SetBackDisk, 4),
    (Kind::Freeze, 10),
    (Kind::ClockJump, 6),
    (Kind::FullDisk, 6),
    (Kind::Terminate, 2),
    (Kind::Retire, 5),
    (Kind::Usurp, 6),
];

impl Climate {
    /// No trouble at all.
    pub fn calm(hosts: usize) -> Climate {
        Climate {
            hosts,
            outside: 0,
            direct: false,
            tunnels: false,
            founders: hosts,
            listed: hosts,
            range: net("10.32.0.0/24"),
            ipv6: None,
            two_tables: false,
            seeded: false,
            users: true,
            reclaim: None,
            compact: Some(Duration::from_secs(2)),
            start_within: Duration::from_secs(1),
            storm: Duration::from_secs(40),
            trouble_every: Duration::ZERO,
            latency_max: Duration::from_millis(2),
            late_permille: 0,
            late_max: Duration::ZERO,
            kernel_max: Duration::from_millis(3),
            disk_max: Duration::from_millis(5),
            disk_fault_permille: 0,
            strike_permille: 0,
            odds: Vec::new(),
        }
    }

    /// Many hosts that start within seconds, some of which fail.
    pub fn crowd(hosts: usize) -> Climate {
        Climate {
            range: net("10.32.0.0/16"),
            start_within: Duration::from_secs(10),
            trouble_every: Duration::from_secs(4),
            late_permille: 20,
            late_max: Duration::from_secs(2),
            disk_fault_permille: 20,
            odds: KINDS.to_vec(),
            ..Climate::calm(hosts)
        }
    }

    /// Hosts are taken for dead, come back, lose their stores and are given old ones, cut off and whole.
    pub fn forgetful(rng: &mut ChaCha8Rng) -> Climate {
        let odds = [
            (Kind::Crash, 6),
            (Kind::PowerLoss, 4),
            (Kind::Partition, 8),
            (Kind::LostStore, 14),
            (Kind::CopiedDisk, 14),
            (Kind::SetBackDisk, 14),
            (Kind::Freeze, 3),
            (Kind::ClockJump, 2),
            (Kind::Terminate, 2),
            (Kind::Retire, 8),
            (Kind::Usurp, 25),
        ];
        Climate {
            reclaim: if rng.random() { Some(Duration::from_secs(rng.random_range(15..=60))) } else { None },
            seeded: rng.random_range(0..8) == 0,
            storm: Duration::from_secs(rng.random_range(120..=300)),
            trouble_every: Duration::from_millis(rng.random_range(1000..6000)),
            latency_max: Duration::from_millis(rng.random_range(1..40)),
            odds: odds.to_vec(),
            ..Climate::calm(rng.random_range(3..=7))
        }
    }

    /// All hosts list one of them, which is neither terminated nor retired: nobody would find the others through it.
    pub fn behind_one(self) -> Climate {
        let stays = |kind: &Kind| !matches!(kind, Kind::Terminate | Kind::Retire);
        let odds = self.odds.into_iter().filter(|(kind, _)| stays(kind)).collect();
        Climate { listed: 1, odds, ..self }
    }

    /// Containers have addresses of IPv6, too.
    pub fn with_v6(self) -> Climate {
        Climate { ipv6: "fd00:1::/96".parse().ok(), ..self }
    }

    /// Some trouble, of some kinds.
    pub fn draw(rng: &mut ChaCha8Rng) -> Climate {
        // Small clusters are the rule: they are quicker to play and their quorums break more easily.
        let hosts = rng.random_range(3..=9).min(rng.random_range(3..=9));
        let seconds =
            |rng: &mut ChaCha8Rng, from: u64, to: u64| Duration::from_secs(rng.random_range(from..=to));
        let millis =
            |rng: &mut ChaCha8Rng, from: u64, to: u64| Duration::from_millis(rng.random_range(from..=to));
        let length = rng.random_range(22..=26);
        // Trouble before there is a ring takes worlds of its own: they are short and rough.
        if rng.random_range(0..4) == 0 {
            let strike_permille = rng.random_range(0..40);
            let rough =
                [Kind::Crash, Kind::PowerLoss, Kind::Partition, Kind::Cut, Kind::Freeze, Kind::FullDisk];
            return Climate {
                start_within: seconds(rng, 0, 4),
                storm: seconds(rng, 8, 25),
                trouble_every: millis(rng, 50, 600),
                late_permille: rng.random_range(0..400),
                late_max: millis(rng, 100, 4000),
                disk_max: millis(rng, 1, 300),
                strike_permille,
                odds: KINDS.iter().filter(|(kind, _)| rough.contains(kind)).copied().collect(),
                ..Climate::calm(hosts)
            };
        }
        let kinds = KINDS.iter().filter(|_| rng.random_range(0..4) > 0).copied().collect();
        Climate {
            range: net(&format!("10.32.0.0/{length}")),
            two_tables: rng.random_range(0..3) == 0,
            seeded: rng.random_range(0..8) == 0,
            reclaim: if rng.random() { Some(seconds(rng, 15, 60)) } else { None },
            start_within: if rng.random() { seconds(rng, 0, 2) } else { seconds(rng, 5, 20) },
            storm: seconds(rng, 30, 100),
            trouble_every: millis(rng, 700, 8000),
            latency_max: millis(rng, 1, 40),
            late_permille: if rng.random() { 0 } else { rng.random_range(1..100) },
            late_max: millis(rng, 100, 4000),
            kernel_max: millis(rng, 1, 30),
            disk_max: millis(rng, 1, 80),
            disk_fault_permille: if rng.random() { 0 } else { rng.random_range(1..200) },
            odds: kinds,
            ..Climate::calm(hosts)
        }
    }
}

pub(super) fn net(text: &str) -> Ipv4Net {
    text.parse().expect("it is written here as a CIDR")
}
