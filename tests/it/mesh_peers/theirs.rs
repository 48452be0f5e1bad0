//! A peer of the mesh that others wrote: `tests/mesh`, run as a process.

use std::{
    fmt::Write as _,
    fs,
    io::{BufRead, BufReader, Write},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{self, Child, ChildStdin, Command, Stdio},
    sync::{Arc, Mutex, OnceLock},
    thread,
};

use serde_json::Value;
use weavers::peer::PeerName;

use super::{PORT, eventually};

/// A running peer.
pub struct Theirs {
    pub name: PeerName,
    pub address: SocketAddr,
    process: Child,
    orders: ChildStdin,
    said: Arc<Mutex<Vec<Value>>>,
}

impl Theirs {
    /// Starts one with these further flags, and waits until it listens.
    pub fn start(number: u64, flags: &[&str]) -> Theirs {
        let (name, address) = (PeerName::from_u64(number), super::free_address());
        let mut process = Command::new(program())
            .args(["-name", &name.to_string(), "-nickname", &format!("go{number}")])
            .args(["-host", &address.ip().to_string(), "-port", &PORT.to_string()])
            .args(flags)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let orders = process.stdin.take().unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let said = Arc::new(Mutex::new(Vec::new()));
        let heard = said.clone();
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                heard.lock().unwrap().push(serde_json::from_str(&line).unwrap());
            }
        });
        let theirs = Theirs { name, address, process, orders, said };
        eventually("the Go peer listens", || theirs.said(|event| event == "ready") > 0);
        theirs
    }

    /// Connects to an address, now and again.
    pub fn dial(&mut self, to: SocketAddr) {
        self.order(&format!("dial {to}"));
    }

    /// To one peer.
    pub fn unicast(&mut self, channel: &str, to: PeerName, message: &[u8]) {
        self.order(&format!("unicast {channel} {to} {}", hex(message)));
    }

    /// To all peers.
    pub fn broadcast(&mut self, channel: &str, message: &[u8]) {
        self.order(&format!("broadcast {channel} {}", hex(message)));
    }

    /// What each new neighbour is told from now on.
    pub fn set_state(&mut self, channel: &str, state: &[u8]) {
        self.order(&format!("state {channel} {}", hex(state)));
    }

    /// What the library says of itself.
    pub fn status(&mut self) -> Value {
        let is_status = |event: &str| event == "status";
        let before = self.said(is_status);
        self.order("status");
        eventually("the Go peer answers", || self.said(is_status) > before);
        let said = self.said.lock().unwrap();
        said.iter().rfind(|event| event["event"] == "status").unwrap()["status"].clone()
    }

    /// Its connections that are established, by the name of the other end.
    pub fn neighbours(&mut self) -> Vec<String> {
        let status = self.status();
        let own = status["Peers"].as_array().unwrap().iter().find(|peer| peer["Name"] == status["Name"]);
        let links = own.unwrap()["Connections"].as_array().cloned().unwrap_or_default();
        let established = links.iter().filter(|link| link["Established"] == true);
        established.map(|link| link["Name"].as_str().unwrap().to_owned()).collect()
    }

    /// Whether it is connected to a peer, and calls it established.
    pub fn is_connected_to(&mut self, name: PeerName) -> bool {
        self.neighbours().contains(&name.to_string())
    }

    /// How many events of these kinds it reported.
    pub fn said(&self, wanted: impl Fn(&str) -> bool) -> usize {
        let said = self.said.lock().unwrap();
        said.iter().filter(|event| wanted(event["event"].as_str().unwrap())).count()
    }

    /// The events of one kind.
    pub fn events(&self, kind: &str) -> Vec<Value> {
        self.said.lock().unwrap().iter().filter(|event| event["event"] == kind).cloned().collect()
    }

    /// The messages that came in this way on a channel, oldest first.
    pub fn heard(&self, kind: &str, channel: &str) -> Vec<Vec<u8>> {
        let events = self.events(kind).into_iter().filter(|event| event["channel"] == channel);
        events.map(|event| crate::go::unhex(event["hex"].as_str().unwrap())).collect()
    }

    /// Whether it logged these words.
    pub fn logged(&self, words: &str) -> bool {
        self.events("log").iter().any(|event| event["text"].as_str().unwrap().contains(words))
    }

    fn order(&mut self, line: &str) {
        writeln!(self.orders, "{line}").unwrap();
    }
}

impl Drop for Theirs {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Builds the program once.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let scratch = Path::new(env!("CARGO_TARGET_TMPDIR"));
        // Another process may be running the one that is there.
        let (program, fresh) =
            (scratch.join("mesh-peer"), scratch.join(format!("mesh-peer-{}", process::id())));
        let built = Command::new("go")
            .args(["build", "-o"])
            .arg(&fresh)
            .args(["main.go", "sleeve.go"])
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/mesh"))
            // Where Debian's packages put Go's libraries; nothing is fetched, and no home directory is needed.
            .env("GO111MODULE", "off")
            .env("GOPATH", "/usr/share/gocode")
            .env("GOFLAGS", "")
            .env("GOTOOLCHAIN", "local")
            .env("GOCACHE", scratch.join("go"))
            .output()
            .unwrap_or_else(|e| panic!("cannot run go: {e}; install it with `apt-get install golang-go`"));
        let said = String::from_utf8_lossy(&built.stderr);
        assert!(built.status.success(), "{said}(`apt-get install golang-github-weaveworks-mesh-dev`?)");
        fs::rename(&fresh, &program).unwrap();
        program
    })
}
