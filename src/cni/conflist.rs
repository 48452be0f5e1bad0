//! The file by which runtimes find us: a list of plugins of which we are the first.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::SOCKET;

/// Its name. Runtimes take the first of their directory.
pub const FILE_NAME: &str = "10-weavers.conflist";
/// The network's name in it.
pub const NETWORK: &str = "weavers";

/// Who reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    /// containerd, CRI-O, Podman, nerdctl: each takes the newest version that it knows.
    Any,
    /// Nomad asks STATUS before it deletes, and leaves containers that it could not ask about: it is told of no version that has it.
    Nomad,
}

/// Its text: these plugins come after us.
pub fn text(reader: Reader, socket: &Path, plugins: &[String]) -> String {
    let mut ours = Map::from_iter([
        ("type".to_owned(), json!("weavers")),
        ("capabilities".to_owned(), json!({ "ips": true, "mac": true })),
    ]);
    if socket != Path::new(SOCKET) {
        ours.insert("socket".to_owned(), json!(socket));
    }
    let all: Vec<Value> =
        [Value::Object(ours)].into_iter().chain(plugins.iter().map(|name| plugin(name))).collect();
    let mut list = json!({ "cniVersion": "1.0.0" });
    if reader == Reader::Any {
        list["cniVersions"] = json!(["0.4.0", "1.0.0", "1.1.0"]);
    }
    list["name"] = json!(NETWORK);
    list["loadOnlyInlinedPlugins"] = json!(true);
    list["plugins"] = json!(all);
    format!("{list:#}\n")
}

/// A plugin of others, with what it wants to be told by the runtime.
fn plugin(name: &str) -> Value {
    let capability = match name {
        "portmap" => "portMappings",
        "bandwidth" => "bandwidth",
        "tuning" => "mac",
        _ => return json!({ "type": name }),
    };
    json!({ "type": name, "capabilities": { capability: true } })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nomad_is_told_of_no_version_that_has_status() {
        let plugins = ["portmap".to_owned(), "firewall".to_owned()];
        let read =
            |reader| -> Value { serde_json::from_str(&text(reader, Path::new(SOCKET), &plugins)).unwrap() };
        let (any, nomad) = (read(Reader::Any), read(Reader::Nomad));
        assert_eq!(any["cniVersions"][2], "1.1.0");
        assert_eq!((&nomad["cniVersion"], nomad.get("cniVersions")), (&json!("1.0.0"), None));
        assert_eq!(any["plugins"][0]["type"], "weavers", "it is the first");
        assert_eq!(any["plugins"][1]["capabilities"]["portMappings"], true);
        assert_eq!(any["plugins"][2], json!({ "type": "firewall" }));
        let other = text(Reader::Any, Path::new("/run/other.sock"), &[]);
        assert!(other.contains("\"socket\": \"/run/other.sock\""), "{other}");
    }
}
