//! The program with `weave.toml` and files of `conf.d` beside it.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Output},
};

use serde_json::{Value, json};
use tempfile::TempDir;

/// A directory with `weave.toml` and drop-ins.
struct Scene(TempDir);

impl Scene {
    fn new(main: &str, drop_ins: &[(&str, &str)]) -> Scene {
        let scene = Scene(tempfile::tempdir().unwrap());
        fs::write(scene.main(), main).unwrap();
        fs::create_dir(scene.0.path().join("conf.d")).unwrap();
        for (name, text) in drop_ins {
            fs::write(scene.drop_in(name), text).unwrap();
        }
        scene
    }

    fn main(&self) -> PathBuf {
        self.0.path().join("weave.toml")
    }

    fn drop_in(&self, name: &str) -> PathBuf {
        self.0.path().join("conf.d").join(name)
    }

    /// Nobody answers there.
    fn run(&self, args: &[&str]) -> (i32, String, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_weavers"));
        command.args(args).arg("--config").arg(self.main()).args(["--socket", "/nonexistent/weavers.sock"]);
        let Output { status, stdout, stderr } = command.output().unwrap();
        let [stdout, stderr] = [stdout, stderr].map(|bytes| String::from_utf8(bytes).unwrap());
        (status.code().unwrap(), stdout, stderr)
    }

    fn document(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.run(&[args, &["--json"]].concat()).1).unwrap()
    }
}

#[test]
fn validate_reads_the_drop_ins_unless_a_file_is_named() {
    let scene = Scene::new("peers = ['a']\n", &[("10.toml", "[network]\nmut = 1\n"), ("README", "no toml")]);
    let (main, drop_in) =
        (scene.main().display().to_string(), scene.drop_in("10.toml").display().to_string());
    let (code, stdout, stderr) = scene.run(&["validate"]);
    let told = format!("{drop_in}:2:1: network.mut: unknown key (did you mean \"mtu\"?)\n");
    assert_eq!((code, stdout.as_str(), stderr.as_str()), (78, "", told.as_str()));
    let error = &scene.document(&["validate"])["error"];
    assert_eq!(error["message"], format!("{drop_in} has 1 problem: {}", told.trim_end()));
    assert_eq!((&error["problems"][0]["file"], &error["problems"][0]["line"]), (&json!(drop_in), &json!(2)));
    assert_eq!(scene.run(&["validate", &main]), (0, format!("{main}: valid\n"), String::new()));
    fs::write(scene.drop_in("10.toml"), "network.mtu = 1400\n").unwrap();
    assert_eq!(scene.run(&["validate"]), (0, format!("{main}: valid\n{drop_in}: valid\n"), String::new()));
    fs::write(scene.main(), "peers = [1]\n").unwrap();
    fs::write(scene.drop_in("10.toml"), "network.mtu = 1\n").unwrap();
    let message = scene.document(&["validate"])["error"]["message"].clone();
    assert!(
        message.as_str().unwrap().starts_with("the configuration has 2 problems, the first: "),
        "{message}"
    );
}

#[test]
fn a_daemon_does_not_start_with_a_drop_in_that_it_cannot_read() {
    let scene = Scene::new("", &[]);
    fs::create_dir(scene.drop_in("10.toml")).unwrap();
    let (code, _, stderr) = scene.run(&["run"]);
    assert_eq!(code, 78, "{stderr}");
    assert!(
        stderr.contains("10.toml: the configuration file cannot be read: it is no regular file"),
        "{stderr}"
    );
}

#[test]
fn config_show_prints_what_the_files_say_together_and_where_each_value_comes_from() {
    let scene =
        Scene::new("peers = ['a']\n[network]\nmtu = 1400\n", &[("10.toml", "\nnetwork.mtu = 9000\n")]);
    let (main, drop_in) =
        (scene.main().display().to_string(), scene.drop_in("10.toml").display().to_string());
    let merged = "peers = [\"a\"]\n\n[network]\nmtu = 9000\n";
    assert_eq!(scene.run(&["config", "show"]), (0, merged.to_owned(), String::new()));
    let (_, stdout, _) = scene.run(&["config", "show", "--origins"]);
    let words = |key: &str| {
        let line = stdout.lines().find(|line| line.starts_with(&format!("{key} "))).unwrap();
        line.split_whitespace().skip(1).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(words("peers"), ["[\"a\"]", &format!("{main}:1")]);
    assert_eq!(words("network.mtu"), ["9000", &format!("{drop_in}:2")]);
    assert_eq!(words("network.uplinks"), ["\"auto\"", "default"]);
    assert_eq!(words("mesh.password_file"), ["not", "set", "default"]);

    let document = scene.document(&["config", "show", "--origins"]);
    assert_eq!(document["files"], json!([main, drop_in]));
    assert_eq!(document["merged"], json!({ "peers": ["a"], "network": { "mtu": 9000 } }));
    assert_eq!(document["daemon"], false);
    let keys = document["keys"].as_array().unwrap();
    let of = |key: &str| keys.iter().find(|found| found["key"] == key).unwrap();
    let mtu = json!({ "key": "network.mtu", "value": 9000, "file": drop_in, "line": 2, "live": true });
    assert_eq!(of("network.mtu"), &mtu);
    let range =
        json!({ "key": "ipam.range", "value": "10.32.0.0/12", "file": null, "line": null, "live": false });
    assert_eq!(of("ipam.range"), &range);
    fs::write(scene.drop_in("10.toml"), "network.mtu = 1\n").unwrap();
    assert_eq!(scene.run(&["config", "show"]).0, 78);
}

#[test]
fn a_secret_is_never_shown_only_where_it_is() {
    let scene = Scene::new("", &[("10.toml", "")]);
    let password = scene.0.path().join("password");
    fs::write(&password, "open sesame").unwrap();
    fs::write(scene.drop_in("10.toml"), format!("mesh.password_file = {password:?}\n")).unwrap();
    for args in [&["config", "show"][..], &["config", "show", "--origins"], &["config", "show", "--json"]] {
        let (code, stdout, _) = scene.run(args);
        assert!(code == 0 && stdout.contains("password") && !stdout.contains("sesame"), "{stdout}");
    }
}
