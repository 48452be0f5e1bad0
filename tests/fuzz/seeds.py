#!/usr/bin/env python3
"""Writes a corpus to begin with, made of the vectors of tests/it: seeds.py DIRECTORY"""

import hashlib
import json
import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
DATA = HERE.parent / "it" / "data"


def vectors(name, *groups):
    """The bytes of a file of vectors that belong to these groups."""
    for vector in json.loads((DATA / name).read_text()):
        if vector.get("group", vector.get("kind")) in groups and vector["hex"]:
            yield bytes.fromhex(vector["hex"])


def piece(data):
    return len(data).to_bytes(2, "big") + data


topologies = [*vectors("mesh.json", "topology", "tolerance", "decoder_cases"), *vectors("gob.json", "topology")]
messages = [*vectors("mesh.json", "message"), *vectors("ipam_messages.json", "mesh protocol message (tag + gob stream)")]
streams = vectors("mesh.json", "intro_v1_plain", "intro_v2_plain", "intro_v1_encrypted", "intro_v2_encrypted", "capture")
states = [*vectors("ipam_messages.json", "gossipState"), *vectors("gob.json", "gossipstate")]
unicasts = [*vectors("ipam_messages.json", "unicast")]
example = (HERE.parent.parent / "weave.toml.example").read_text()
me = '"02:00:00:00:00:01"'
node = '{"name":%s,"uid":7}' % me
proposal = '{"round":1,"proposer":%s}' % node
record = "\n".join([
    '{"name":%s,"acceptor":7,"instance":"i-1"}' % me,
    '{"universe":{"start":"10.32.0.0","end":"10.48.0.0"},"holder":%s,"entries":[{"token":"10.32.0.0","owner":%s,"version":1,"free":3}],"seeds":[%s]}'
    % (me, me, me),
    '{"promise":%s,"accepted":%s,"value":{"value":[%s],"origin":%s}}' % (proposal, proposal, me, proposal),
    '["10.32.0.1/12","10.32.0.2/12"]',
    '{"ident":"a","named":true,"netns":{"boot":"b","cookie":1,"path":"/run"},"address":"10.32.0.1/12"}',
])
requests = ['"status"', '{"claim":{"ident":"a","address":"10.32.0.1"}}', '{"allocate":{"ident":"a","subnet":"10.32.0.0/24"}}',
            '{"free":{"ident":"a","address":null}}', '{"forget":{"peer":"b"}}']

# The names of the target `dead`, and the cluster that they founded: no other is listened to.
us, other, peer = (1, 2, 0x0A0B0C0D0E0F)
cluster = hashlib.sha256(b"".join(name.to_bytes(8, "big") for name in (us, other, peer))).digest()[:8]


# A heartbeat of the peer on the connection that the target `datagram` makes, which has this number.
connection = 18162610939173096683
names = peer.to_bytes(6, "big"), us.to_bytes(6, "big")
heartbeat = b"".join((names[0], *names, (22).to_bytes(2, "big"), bytes(14), connection.to_bytes(8, "big")))


def named(name):
    return '"%s"' % ":".join("%02x" % byte for byte in name.to_bytes(6, "big"))


def said(following, number):
    """What the peer says before the decision of this number, and claims of it and of another."""
    everybody = ",".join(map(named, (us, other, peer)))
    decision = '{"dead":%s,"heir":%s,"joins":[%s],"leaves":[]}' % (named(other), named(peer), named(us))
    by_peer = '{"round":%d,"proposer":{"name":%s,"uid":7}}' % (number + 1, named(peer))
    claims = '{"promise":%s,"accepted":%s,"value":{"value":%s,"origin":%s}}' % (by_peer, by_peer, decision, by_peer)
    claims = ",".join('[{"name":%s,"uid":7},%s]' % (named(name), claims) for name in (other, peer))
    recent = ",".join([decision] * number)
    log = '{"cluster":%d,"next":%d,"electors":[%s],"recent":[%s]}' % (
        int.from_bytes(cluster, "big"), number, everybody, recent)
    lists = ",".join('"%s":[%s]' % (name, named(other)) for name in ("gone", "asks", "seconds", "awaits"))
    word = '{"number":%d,"instance":"i-2",%s}' % (following, lists)
    return ('{"log":%s,"claims":[%s],"words":{%s:%s}}' % (log, claims, named(peer), word)).encode()


def page(number, kind, count, body):
    head = number.to_bytes(8, "little") + kind.to_bytes(2, "little") + count.to_bytes(2, "little") + bytes(4)
    return (head + body).ljust(4096, b"\0")


def leaf(number, pairs):
    """A page of keys and values; one whose flag is 1 is a bucket."""
    elements, rest = b"", b""
    for index, (key, value, flag) in enumerate(pairs):
        position = (len(pairs) - index) * 16 + len(rest)
        elements += b"".join(n.to_bytes(4, "little") for n in (flag, position, len(key), len(value)))
        rest += key + value
    return page(number, 2, len(pairs), elements + rest)


def router():
    """What a router keeps, in a bolt file whose meta pages have no checksum."""
    values = {vector["name"]: bytes.fromhex(vector["hex"]) for vector in json.loads((DATA / "ipam_messages.json").read_text())}
    numbers = [(n, 4) for n in (0xED0CDAED, 2, 4096, 0)] + [(n, 8) for n in (3, 0, 2, 5, 1, 0)]
    meta = b"".join(n.to_bytes(size, "little") for n, size in numbers)
    keys = {"directPeers": "db.directPeers", "ownedAddresses": "db.owned", "peername": "db.peername", "ring": "db.ring.single"}
    pairs = [(key.encode(), values[name], 0) for key, name in keys.items()] + [(b"version", b"\1\0", 0)]
    pages = [page(0, 4, 0, meta), page(1, 4, 0, meta), page(2, 16, 0, b"")]
    return b"".join(pages + [leaf(3, [(b"top", (4).to_bytes(16, "little"), 1)]), leaf(4, pairs)])


CORPUS = {
    "gob": topologies + states + [*vectors("gob.json", "features", "range")],
    "stranger": [bytes([how]) + stream for stream in streams for how in range(4)],
    "peer": [piece(message) for message in messages],
    "topology": [piece(topology) for topology in topologies],
    "datagram": [piece(datagram) for datagram in [heartbeat, *vectors("mesh.json", "sleeve")]],
    "state": states,
    "unicast": unicasts,
    "allocator": [piece(bytes([how]) + state) for state in states for how in (0, 2)]
    + [piece(b"\1" + unicast) for unicast in unicasts],
    "dead": [piece(said(1, 0)), piece(said(1, 0)) + piece(said(2, 1)), piece(said(1, 1)) + piece(said(2, 0))],
    "config": [example.encode(), example.replace("\n# ", "\n").encode()],
    "records": [record.encode(), *(("\n" * at + line).encode() for at, line in enumerate(record.split("\n")))],
    "router": [router()],
    "request": [request.encode() for request in requests],
}

for target, seeds in CORPUS.items():
    directory = pathlib.Path(sys.argv[1]) / target
    directory.mkdir(parents=True, exist_ok=True)
    assert seeds, target
    for number, seed in enumerate(seeds):
        (directory / f"seed-{number}").write_bytes(seed)
