//! The private key of this host's end of tunnels, in a file of its own, where `wg` reads it.
//!
//! It is made once and replaced only on request. One that cannot be read is left as it is.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use thiserror::Error;

use crate::{
    mesh::public_key_of,
    state::{NotAKey, TunnelKey, from_base64, to_base64},
};

/// Name of the file in the state directory.
const FILE_NAME: &str = "tunnel.key";
/// Bytes that are read of it: a key and some white space.
const LEN_MAX: u64 = 64;

/// Why there is no key.
#[derive(Debug, Error)]
pub enum KeyError {
    /// The file system refused.
    #[error("cannot {verb} {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        verb: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// Something else is in the file.
    #[error("{} holds no key (move it away, and a new one is made at the next start)", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: NotAKey,
    },
}

/// Where it is in a state directory.
pub fn file(state: &Path) -> PathBuf {
    state.join(FILE_NAME)
}

/// The public key that belongs to it, if there is one.
pub fn load(state: &Path) -> Result<Option<TunnelKey>, KeyError> {
    let path = file(state);
    let mut text = String::new();
    let opened = File::open(&path).and_then(|file| file.take(LEN_MAX).read_to_string(&mut text));
    match opened {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        // A text that is none is no key either.
        Err(error) if error.kind() == io::ErrorKind::InvalidData => text.clear(),
        Err(source) => return Err(KeyError::Io { path, verb: "read", source }),
    }
    match from_base64(text.trim_ascii_end()) {
        Ok(secret) => Ok(Some(TunnelKey(public_key_of(secret)))),
        Err(source) => Err(KeyError::Damaged { path, source }),
    }
}

/// The same; where there is none, one is made.
pub fn load_or_make(state: &Path) -> Result<TunnelKey, KeyError> {
    load(state)?.map_or_else(|| renew(state), Ok)
}

/// Makes a new one, in place of the one that is there. Once it returns, power may fail.
pub fn renew(state: &Path) -> Result<TunnelKey, KeyError> {
    let secret = clamped(rand::random());
    let path = file(state);
    let written = write(state, &path, &to_base64(&secret));
    written.map_err(|source| KeyError::Io { path, verb: "write", source })?;
    Ok(TunnelKey(public_key_of(secret)))
}

/// Forgets it: it is another host's, or this one leaves.
pub fn discard(state: &Path) -> io::Result<()> {
    match fs::remove_file(file(state)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// As all secret keys of Curve25519 are, and as `wg` would make it.
fn clamped(mut secret: [u8; 32]) -> [u8; 32] {
    secret[0] &= 248;
    secret[31] = secret[31] & 127 | 64;
    secret
}

/// It comes there whole or not at all, and nobody else ever may read it.
fn write(state: &Path, path: &Path, text: &str) -> io::Result<()> {
    let beside = path.with_extension("new");
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
    writeln!(file, "{text}")?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    File::open(state)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_is_made_once_and_nobody_else_reads_it() {
        let state = tempfile::tempdir().unwrap();
        assert_eq!(load(state.path()).unwrap(), None);
        let made = load_or_make(state.path()).unwrap();
        let mode = fs::metadata(file(state.path())).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(load_or_make(state.path()).unwrap(), made);
        assert_eq!(load(state.path()).unwrap(), Some(made));
        let renewed = renew(state.path()).unwrap();
        assert_ne!(renewed, made);
        assert_eq!(load(state.path()).unwrap(), Some(renewed));
        discard(state.path()).unwrap();
        discard(state.path()).unwrap();
        assert_eq!(load(state.path()).unwrap(), None);
        assert_eq!(fs::read_dir(state.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_is_no_key_is_left_as_it_is() {
        let state = tempfile::tempdir().unwrap();
        for wrong in [&b""[..], b"secret\n", &[255; 44], &[b'A'; 1000]] {
            fs::write(file(state.path()), wrong).unwrap();
            assert!(matches!(load_or_make(state.path()), Err(KeyError::Damaged { .. })), "{wrong:?}");
            assert_eq!(fs::read(file(state.path())).unwrap(), wrong);
        }
    }

    /// RFC 7748, 6.1: Alice's keys.
    #[test]
    fn the_public_key_is_the_one_that_wireguard_derives() {
        let state = tempfile::tempdir().unwrap();
        let secret = "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=";
        fs::write(file(state.path()), format!("{secret}\n")).unwrap();
        let public = load(state.path()).unwrap().unwrap().to_string();
        assert_eq!(public, "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=");
    }
}
