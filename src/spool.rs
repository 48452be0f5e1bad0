//! Containers that were deleted while no daemon was there to hear it: notes beside the control socket, which the next one reads.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde_json::{from_slice, to_vec};

use crate::{config::digest, state::Key};

/// Beside the socket. What is there goes when the machine restarts, as all containers do.
const DIRECTORY: &str = "deleted";
/// Notes that are read. Each is one container of this host.
const NOTES_MAX: usize = 100_000;

/// Where the notes are, by the control socket.
fn directory(socket: &Path) -> PathBuf {
    socket.with_file_name(DIRECTORY)
}

/// Keys may be longer than names of files.
fn note(socket: &Path, key: &Key) -> PathBuf {
    directory(socket).join(digest(&key.ident()))
}

/// Leaves a note.
pub fn leave(socket: &Path, key: &Key) -> io::Result<()> {
    let path = note(socket, key);
    fs::create_dir_all(directory(socket))?;
    // Whole or not at all, and never by a name that is read.
    let written = path.with_extension(std::process::id().to_string());
    fs::write(&written, to_vec(key)?)?;
    fs::rename(&written, &path)
}

/// Takes a note back.
pub fn withdraw(socket: &Path, key: &Key) -> io::Result<()> {
    match fs::remove_file(note(socket, key)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// The keys that notes were left for. What is no note is passed over.
pub fn read(socket: &Path) -> io::Result<Vec<Key>> {
    let entries = match fs::read_dir(directory(socket)) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut keys = Vec::new();
    for entry in entries.take(NOTES_MAX) {
        let path = entry?.path();
        let key: Option<Key> = fs::read(&path).ok().and_then(|text| from_slice(&text).ok());
        keys.extend(key.filter(|key| note(socket, key) == path));
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Kind;

    #[test]
    fn what_was_left_is_read_until_it_is_withdrawn() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("run/weavers.sock");
        let key = |id: &str| Key {
            kind: Kind::Cni,
            network: "weavers".to_owned(),
            id: id.to_owned(),
            interface: "eth0".to_owned(),
        };
        assert_eq!(read(&socket).unwrap(), []);
        let long = key(&"a".repeat(250));
        for key in [&key("b"), &long, &long] {
            leave(&socket, key).unwrap();
        }
        fs::write(directory(&socket).join("of somebody else"), "{").unwrap();
        let mut found = read(&socket).unwrap();
        found.sort();
        assert_eq!(found, [long.clone(), key("b")]);
        for _ in 0..2 {
            withdraw(&socket, &long).unwrap();
        }
        assert_eq!(read(&socket).unwrap(), [key("b")]);
    }
}
