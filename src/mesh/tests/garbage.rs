//! Bytes that mean nothing.

use super::*;

/// A peer with a connection at the wanted stage, and the connection.
fn at_stage(stage: u8) -> (World, ConnId) {
    let mut world = World::new(2);
    let remote = SocketAddr::new(address(1), 40000);
    match stage {
        0 => world.input(0, Input::Accepted { conn: ConnId(1), remote }),
        1 => {
            world.input(0, Input::Accepted { conn: ConnId(1), remote });
            world.input(0, Input::Received(ConnId(1), Bytes::from_static(b"weave\x01\x02\x00")));
        }
        2 => {
            world = World::of([welcoming(1), welcoming(2)]);
            world.input(0, Input::Accepted { conn: ConnId(1), remote });
            world.input(0, Input::Received(ConnId(1), Bytes::from_static(b"weave\x01\x01")));
        }
        _ => {
            world.connect(0, &[1]);
            world.run(400);
        }
    }
    let conn = world.peers[0].connections().next().unwrap().conn;
    (world, conn)
}

proptest! {
    #[test]
    fn arbitrary_bytes_at_any_stage_never_panic(
        stage in 0u8..4,
        chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 1..5),
        framed in any::<bool>(),
        tag in 0u8..9,
    ) {
        let (mut world, conn) = at_stage(stage);
        for chunk in chunks {
            let message = [vec![tag], chunk].concat();
            let bytes = match framed {
                true => [&(message.len() as u32).to_be_bytes()[..], &message].concat(),
                false => message,
            };
            world.input(0, Input::Received(conn, bytes.into()));
        }
        world.run(70_000);
    }

    #[test]
    fn damaged_gossip_never_panics(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let (mut world, conn) = at_stage(3);
        let (_, mut frame) = vectors::group("frame_v2_plain").swap_remove(1);
        let at = 4 + at.index(frame.len() - 4);
        frame[at] = byte;
        world.input(0, Input::Received(conn, frame.into()));
        world.run(2000);
    }
}
