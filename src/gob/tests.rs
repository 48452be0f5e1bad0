use proptest::prelude::*;
use serde_json::{Map, Value as Json};

use super::*;

const MESH: &str = include_str!("../../tests/it/data/mesh.json");
const IPAM: &str = include_str!("../../tests/it/data/ipam_messages.json");

const NODE: Schema = Schema::Struct { name: "", fields: &[("Name", Schema::Uint), ("UID", Schema::Uint)] };
const PROPOSAL: Schema =
    Schema::Struct { name: "ProposalID", fields: &[("Round", Schema::Uint), ("Proposer", NODE)] };
const ACCEPTED: Schema = Schema::Struct {
    name: "AcceptedValue",
    fields: &[("Value", Schema::Slice { name: "Value", elem: &Schema::Uint }), ("Origin", PROPOSAL)],
};
const CLAIMS: Schema = Schema::Struct {
    name: "",
    fields: &[("Promise", PROPOSAL), ("Accepted", PROPOSAL), ("AcceptedVal", ACCEPTED)],
};
const ENTRY: Schema = Schema::Struct {
    name: "",
    fields: &[
        ("Token", Schema::Uint),
        ("Peer", Schema::Uint),
        ("Version", Schema::Uint),
        ("Free", Schema::Uint),
    ],
};
const RING: Schema = Schema::Struct {
    name: "Ring",
    fields: &[
        ("Start", Schema::Uint),
        ("End", Schema::Uint),
        ("Peer", Schema::Uint),
        ("Entries", Schema::Slice { name: "entries", elem: &ENTRY }),
        ("Seeds", Schema::Slice { name: "[]mesh.PeerName", elem: &Schema::Uint }),
    ],
};
const STATE: Schema = Schema::Struct {
    name: "gossipState",
    fields: &[
        ("Now", Schema::Int),
        (
            "Nicknames",
            Schema::Map { name: "map[mesh.PeerName]string", key: &Schema::Uint, elem: &Schema::Str },
        ),
        ("Paxos", Schema::Map { name: "GossipState", key: &NODE, elem: &CLAIMS }),
        ("Ring", Schema::Optional(&RING)),
    ],
};
const FEATURES: Schema = Schema::Map { name: "", key: &Schema::Str, elem: &Schema::Str };

/// The vectors of one group, with their bytes.
fn vectors(file: &str, group: &str) -> Vec<(Json, Vec<u8>)> {
    let all: Vec<Json> = serde_json::from_str(file).unwrap();
    let of_group = all.into_iter().filter(|vector| vector["group"] == group || vector["kind"] == group);
    let with_bytes: Vec<_> = of_group.map(|vector| (vector.clone(), unhex(&vector["hex"]))).collect();
    assert!(!with_bytes.is_empty(), "{group}");
    with_bytes
}

fn unhex(text: &Json) -> Vec<u8> {
    let text = text.as_str().unwrap();
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

fn decode_all(mut bytes: &[u8]) -> Result<Vec<Value>, GobError> {
    let mut decoder = Decoder::new();
    let mut values = Vec::new();
    while let Some(value) = decoder.next(&mut bytes)? {
        values.push(value);
    }
    Ok(values)
}

/// As the vectors write values.
fn json(value: &Value) -> Json {
    match value {
        Value::Bool(value) => (*value).into(),
        Value::Int(value) => (*value).into(),
        Value::Uint(value) => (*value).into(),
        Value::Bytes(value) => {
            let hex: String = value.iter().map(|byte| format!("{byte:02x}")).collect();
            Json::Object(Map::from_iter([("bytes_hex".to_owned(), hex.into())]))
        }
        Value::Str(value) => value.as_str().into(),
        Value::Slice(values) => values.iter().map(json).collect::<Vec<_>>().into(),
        Value::Map(entries) => {
            entries.iter().map(|(key, value)| Json::from(vec![json(key), json(value)])).collect()
        }
        Value::Struct(fields) => {
            Json::Object(fields.iter().map(|(name, value)| (name.to_string(), json(value))).collect())
        }
        Value::Other => Json::Null,
    }
}

#[test]
fn values_of_gos_own_types_are_read_and_written_as_go_writes_them() {
    let kinds = [
        ("string", Schema::Str),
        ("mesh.PeerName(uint64)", Schema::Uint),
        ("uint64", Schema::Uint),
        ("[]byte", Schema::Bytes),
        ("map[string]string", FEATURES),
        ("int64", Schema::Int),
    ];
    for (vector, bytes) in vectors(MESH, "gob") {
        let go_type = &vector["inputs"]["go_type"];
        let schema = kinds.iter().find(|(name, _)| go_type == name).unwrap().1;
        let values = decode_all(&bytes).unwrap();
        assert_eq!(values.len(), 1, "{vector}");
        assert_eq!(Encoder::new().encode(&schema, &values[0]), bytes, "{vector}");
        let wanted = &vector["inputs"]["value"];
        match &values[0] {
            Value::Str(text) => assert_eq!(text, wanted),
            Value::Int(number) => assert_eq!(number, wanted),
            Value::Uint(number) if wanted.is_u64() => assert_eq!(number, wanted),
            _ => {}
        }
    }
}

#[test]
fn the_address_managers_messages_are_read_whatever_numbers_their_types_have() {
    let all: Vec<Json> = serde_json::from_str(IPAM).unwrap();
    for vector in all {
        let mut bytes = unhex(&vector["hex"]);
        if !vector["first_byte"].is_null() || vector["kind"].as_str().unwrap().starts_with("mesh") {
            bytes.remove(0);
        }
        let found: Vec<Json> = decode_all(&bytes).unwrap().iter().map(json).collect();
        let Some(wanted) = vector["decoded"].as_array() else { continue };
        let wanted: Vec<Json> = wanted.iter().map(|typed| typed["value"].clone()).collect();
        assert_eq!(found, wanted, "{}", vector["name"]);
    }
}

#[test]
fn the_state_of_the_address_manager_is_written_byte_for_byte_as_go_writes_it() {
    for (vector, bytes) in vectors(IPAM, "gossipState") {
        if vector["name"].as_str().unwrap().starts_with("typeids") {
            continue; // Other numbers, from a process with another past.
        }
        let values = decode_all(&bytes).unwrap();
        assert_eq!(Encoder::new().encode(&STATE, &values[0]), bytes, "{}", vector["name"]);
    }
    for (vector, bytes) in vectors(MESH, "payload_ipam") {
        if vector["inputs"]["kind"].is_null() {
            let values = decode_all(&bytes).unwrap();
            assert_eq!(Encoder::new().encode(&STATE, &values[0]), bytes, "{}", vector["name"]);
        }
    }
}

#[test]
fn a_type_is_described_once_in_a_stream() {
    let mut encoder = Encoder::new();
    let value = Value::Map(vec![(Value::text("Name"), Value::text("x"))]);
    let first = encoder.encode(&FEATURES, &value);
    let second = encoder.encode(&FEATURES, &value);
    assert!(second.len() < first.len());
    assert_eq!(decode_all(&[first.clone(), second].concat()), Ok(vec![value.clone(), value]));
    assert_eq!(decode_all(&[first.clone(), first].concat()), Err(GobError::DuplicateType(65)));
}

#[test]
fn unknown_fields_of_any_kind_are_passed_over() {
    for (vector, bytes) in vectors(MESH, "tolerance") {
        let values = decode_all(&bytes).unwrap();
        assert_eq!(values.len(), 2, "{vector}");
        assert_eq!(values[0].bytes_at("NameByte"), Ok(&[1, 2, 3, 4, 5, 6][..]));
        let wanted = &vector["inputs"]["peers"][0];
        assert_eq!(values[0].str_at("NickName").unwrap(), wanted["NickName"].as_str().unwrap());
        assert_eq!(values[0].uint_at("Version").unwrap(), wanted["Version"].as_u64().unwrap());
    }
}

#[test]
fn what_the_real_decoder_refuses_in_the_stream_itself_is_refused() {
    let verdicts = [
        ("ids 30/31/32 (reserved range)", GobError::DuplicateType(30)),
        ("ids 16/17/18 (builtin wire types)", GobError::DuplicateType(16)),
        ("descriptors repeated same ids", GobError::DuplicateType(66)),
        ("value before descriptor", GobError::UnknownType(66)),
        ("trailing garbage byte 07", GobError::Truncated),
        ("truncated inside value", GobError::Truncated),
        ("empty type-only (descriptor, no value)", GobError::Truncated),
    ];
    for (vector, bytes) in vectors(MESH, "decoder_cases") {
        let case = vector["inputs"]["case"].as_str().unwrap();
        let verdict = verdicts.iter().find(|(name, _)| *name == case);
        let found = decode_all(&bytes);
        match verdict {
            Some((_, error)) => assert_eq!(found.as_ref(), Err(error), "{case}"),
            None if case == "huge declared length" => {
                assert!(matches!(found, Err(GobError::MessageLen { .. })), "{found:?}")
            }
            None => assert!(found.is_ok(), "{case}: {found:?}"),
        }
    }
}

#[test]
fn a_stream_may_arrive_byte_by_byte() {
    let mut encoder = Encoder::new();
    let value = Value::Map(vec![(Value::text("Name"), Value::text("x"))]);
    let sent =
        [encoder.encode(&FEATURES, &value), encoder.encode(&Schema::Bytes, &Value::Bytes(vec![7; 300]))]
            .concat();
    let mut decoder = Decoder::new();
    let (mut pending, mut values) = (Vec::new(), Vec::new());
    for byte in sent {
        pending.push(byte);
        let mut rest = pending.as_slice();
        values.extend(decoder.next_in_stream(&mut rest).unwrap());
        pending = rest.to_vec();
    }
    assert_eq!(values, [value, Value::Bytes(vec![7; 300])]);
    assert!(pending.is_empty());
}

#[test]
fn a_wrong_kind_is_named_with_its_field() {
    let value = Value::fields([("UID", Value::Int(5)), ("ShortID", Value::Uint(65536))]);
    let error = value.uint_at("UID").unwrap_err();
    assert_eq!(error.to_string(), "field UID: expected a uint, found an int");
    assert!(value.narrow_at::<u16>("ShortID").is_err());
    assert_eq!(value.uint_at("Version"), Ok(0));
    assert_eq!(value.map_at("Paxos"), Ok(None));
}

#[test]
fn a_type_that_holds_itself_does_not_nest_for_ever() {
    // Type 65 is a slice of type 65.
    let definition = [0x0d, 0xff, 0x81, 2, 1, 2, 0xff, 0x82, 0, 1, 0xff, 0x82, 0, 0];
    let mut value = vec![0xff, 0x82, 0];
    value.extend([1; 100]);
    value.push(0);
    let bytes = [&definition[..], &[value.len() as u8], &value].concat();
    assert_eq!(decode_all(&bytes), Err(GobError::TooDeep));
}

#[test]
fn many_small_values_cannot_fill_the_memory() {
    let mut bytes = Encoder::new().encode(
        &Schema::Slice { name: "", elem: &Schema::Bool },
        &Value::Slice(vec![Value::Bool(false); VALUES_MAX]),
    );
    assert_eq!(decode_all(&bytes), Err(GobError::TooManyValues));
    bytes.truncate(20);
    assert_eq!(decode_all(&bytes), Err(GobError::Truncated));
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode_all(&bytes);
        let _ = Decoder::new().next_in_stream(&mut &bytes[..]);
    }

    #[test]
    fn damaged_messages_never_panic(which in 0usize..29, at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let all: Vec<Json> = serde_json::from_str(IPAM).unwrap();
        let mut bytes = unhex(&all[which]["hex"]);
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let _ = decode_all(&bytes);
    }

    #[test]
    fn integers_read_back_as_they_were_written(int in any::<i64>(), uint in any::<u64>()) {
        let mut encoder = Encoder::new();
        let bytes = [
            encoder.encode(&Schema::Int, &Value::Int(int)),
            encoder.encode(&Schema::Uint, &Value::Uint(uint)),
        ].concat();
        prop_assert_eq!(decode_all(&bytes), Ok(vec![Value::Int(int), Value::Uint(uint)]));
    }
}
