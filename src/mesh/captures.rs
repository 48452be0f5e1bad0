//! What Weave Net's routers said to each other is understood to the last byte.

use std::collections::BTreeMap;

use super::{
    description,
    features::Features,
    frame::{Reader, Version},
    message::Message,
    vectors::group,
};

/// The messages of one direction of a version 2 connection without a password, and who speaks.
fn listen(stream: &[u8]) -> (Features, Vec<Message>) {
    let mut reader = Reader::new();
    reader.push(stream);
    assert_eq!(reader.take::<8>().unwrap(), *b"weave\x01\x02\x00");
    let features = reader.features().unwrap().expect("the introduction is whole");
    reader.trust();
    let mut messages = Vec::new();
    while let Some(message) = reader.message().unwrap() {
        messages.push(Message::decode(&message).unwrap());
    }
    assert_eq!(reader.peek(), None, "to the last byte");
    (Features::from_value(&features, Version::V2).unwrap(), messages)
}

/// Peers described by the gossip among the messages, each counted as often as it is described.
fn described(messages: &[Message]) -> usize {
    let payloads = messages.iter().filter_map(|message| match message {
        Message::Gossip { channel, data, .. } if channel == "topology" => Some(data),
        _ => None,
    });
    payloads.map(|payload| description::decode(payload).unwrap().len()).sum()
}

#[test]
fn whole_sessions_of_two_routers_are_understood() {
    let names: Vec<String> = group("capture")
        .into_iter()
        .map(|(_, stream)| {
            let (features, messages) = listen(&stream);
            assert!(described(&messages) >= 4);
            assert!(
                messages.iter().any(|message| matches!(message, Message::Broadcast { .. }))
                    || features.nickname == "node-a"
            );
            features.name.to_string()
        })
        .collect();
    assert_eq!(names, ["0a:0b:0c:0d:0e:0f", "01:02:03:04:05:06"]);
}

#[test]
fn packet_captures_of_two_and_three_routers_are_understood() {
    let captures: [(&[u8], usize); 3] = [
        (include_bytes!("../../tests/it/data/pcap/two-peers-plain.pcap"), 2),
        (include_bytes!("../../tests/it/data/pcap/three-peers-rmpeer.pcap"), 4),
        (include_bytes!("../../tests/it/data/pcap/aws-three-peers.pcap"), 4),
    ];
    for (capture, talkative) in captures {
        // A connection that is closed at once says its header at most.
        let streams: Vec<_> = streams(capture).into_iter().filter(|stream| stream.len() > 8).collect();
        assert_eq!(streams.len(), talkative);
        for stream in streams {
            let (features, messages) = listen(&stream);
            assert!(features.nickname.starts_with('p') || features.nickname.starts_with('a'), "{features:?}");
            assert!(described(&messages) > 0);
            let ours = |channel: &str| channel == "IPallocation";
            assert!(messages.iter().any(|message| match message {
                Message::Gossip { channel, .. } | Message::Broadcast { channel, .. } => ours(channel),
                Message::Unicast { channel, data, .. } => ours(channel) && data.open().is_ok(),
                Message::Heartbeat
                | Message::Ignored
                | Message::Farewell { .. }
                | Message::Established { .. } => false,
            }));
        }
    }
}

type Direction = ([u8; 12], u32);

/// The TCP streams in a capture of Ethernet, one for each direction, in the order of their sequence numbers.
fn streams(pcap: &[u8]) -> Vec<Vec<u8>> {
    let mut starts: BTreeMap<[u8; 12], u32> = BTreeMap::new();
    let mut segments: BTreeMap<Direction, Vec<u8>> = BTreeMap::new();
    let mut rest = &pcap[24..];
    while let Some((header, behind)) = rest.split_at_checked(16) {
        let len = u32::from_le_bytes(header[8..12].try_into().unwrap()) as usize;
        let (packet, behind) = behind.split_at(len);
        rest = behind;
        if let Some((direction, sequence, syn, data)) = segment(packet) {
            if syn {
                starts.insert(direction, sequence + 1);
            } else if !data.is_empty() {
                let offset = sequence - starts[&direction];
                segments.insert((direction, offset), data.to_vec());
            }
        }
    }
    let mut streams: BTreeMap<[u8; 12], Vec<u8>> = BTreeMap::new();
    for ((direction, offset), data) in segments {
        let stream = streams.entry(direction).or_default();
        let seen = stream.len().checked_sub(offset as usize).expect("no segment is missing");
        stream.extend(data.into_iter().skip(seen));
    }
    streams.into_values().collect()
}

/// Addresses and ports, sequence number, whether it opens the stream, and data, if it is TCP over IPv4.
fn segment(packet: &[u8]) -> Option<([u8; 12], u32, bool, &[u8])> {
    let ip = packet.get(14..).filter(|_| packet[12..14] == [8, 0])?;
    let total = u16::from_be_bytes([ip[2], ip[3]]) as usize;
    let tcp = ip.get(usize::from(ip[0] & 15) * 4..total).filter(|_| ip[9] == 6)?;
    let direction = [&ip[12..20], &tcp[..4]].concat().try_into().unwrap();
    let sequence = u32::from_be_bytes(tcp[4..8].try_into().unwrap());
    Some((direction, sequence, tcp[13] & 2 != 0, &tcp[usize::from(tcp[12] >> 4) * 4..]))
}
