#!/usr/bin/env python3
"""Writes a corpus to begin with, made of the vectors of tests/it: seeds.py DIRECTORY"""

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

word = '{"number":3,"instance":"i-2","gone":[%s],"asks":[%s],"seconds":[%s],"awaits":[%s]}' % (me, me, me, me)
said = '{"log":{"cluster":1,"next":0,"electors":[%s],"recent":[{"dead":%s,"heir":%s,"joins":[%s],"leaves":[]}]},' % (me, me, me, me)
said += '"claims":[[%s,{"promise":%s,"accepted":%s,"value":{"value":{"dead":%s,"heir":%s,"joins":[],"leaves":[]},"origin":%s}}]],' % (
    node, proposal, proposal, me, me, proposal)
said += '"words":{%s:%s}}' % (me, word)

CORPUS = {
    "gob": topologies + states + [*vectors("gob.json", "features", "range")],
    "stranger": [bytes([how]) + stream for stream in streams for how in range(4)],
    "peer": [piece(message) for message in messages],
    "topology": [piece(topology) for topology in topologies],
    "datagram": [piece(datagram) for datagram in vectors("mesh.json", "sleeve")],
    "state": states,
    "unicast": unicasts,
    "allocator": [piece(bytes([how]) + state) for state in states for how in (0, 2)]
    + [piece(b"\1" + unicast) for unicast in unicasts],
    "dead": [piece(said.encode()), piece(b'{"words":{%s:%s}}' % (me.encode(), word.encode()))],
    "config": [example.encode(), example.replace("\n# ", "\n").encode()],
    "records": [record.encode(), *(("\n" * at + line).encode() for at, line in enumerate(record.split("\n")))],
    "request": [request.encode() for request in requests],
}

for target, seeds in CORPUS.items():
    directory = pathlib.Path(sys.argv[1]) / target
    directory.mkdir(parents=True, exist_ok=True)
    assert seeds, target
    for number, seed in enumerate(seeds):
        (directory / f"seed-{number}").write_bytes(seed)
