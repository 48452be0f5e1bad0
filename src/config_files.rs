//! `weave.toml` and its drop-ins, as they stand on the disk.
//!
//! Drop-ins are the files `*.toml` of the directory `conf.d` beside `weave.toml`, in the order of their names; hidden ones are none. Whatever
//! stands in the place of one is read neither for ever nor whatever its size.

use std::{
    ffi::OsStr,
    fs::{self, File, OpenOptions},
    io::{self, Read},
    os::unix::{ffi::OsStrExt, fs::OpenOptionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, ensure};
use nix::libc;

use crate::config::{Source, Sources};

/// More than any configuration needs, all files together.
const LEN_MAX: u64 = 1 << 20;
/// Drop-ins, at most.
const DROP_INS_MAX: usize = 64;
/// Entries of their directory that are looked at.
const ENTRIES_MAX: usize = 4096;

/// The file at `path` and its drop-ins.
pub fn read(path: &Path) -> anyhow::Result<Sources> {
    with_drop_ins(path, source(path, LEN_MAX)?)
}

/// As [`read`]; the first file may be a pipe, too, as somebody gives it who waits for the answer.
pub fn read_given(path: &Path) -> anyhow::Result<Sources> {
    with_drop_ins(path, given(path)?)
}

/// The file at `path` by itself.
pub fn read_alone(path: &Path) -> anyhow::Result<Sources> {
    Ok(Sources { main: given(path)?, drop_ins: Vec::new() })
}

/// The directory of the drop-ins of the file at `path`.
pub fn drop_in_directory(path: &Path) -> PathBuf {
    path.with_file_name("conf.d")
}

/// The drop-ins of the file at `path`, in the order in which they are read.
pub fn drop_ins(path: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let directory = drop_in_directory(path);
    let cannot = || format!("the directory of drop-ins {} cannot be read", directory.display());
    let entries = match fs::read_dir(&directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(cannot)?,
    };
    let mut found = Vec::new();
    for (number, entry) in entries.enumerate() {
        ensure!(number < ENTRIES_MAX, "{}: it has more than {ENTRIES_MAX} entries", cannot());
        let entry = entry.with_context(cannot)?;
        if is_drop_in(&entry.file_name()) {
            found.push(entry.path());
        }
    }
    let count = found.len();
    ensure!(count <= DROP_INS_MAX, "{}: it has {count} drop-ins, more than {DROP_INS_MAX}", cannot());
    found.sort();
    Ok(found)
}

/// Whether a file of this name is a drop-in: not one that an editor or a package manager leaves beside it.
pub fn is_drop_in(name: &OsStr) -> bool {
    let name = name.as_bytes();
    name.ends_with(b".toml") && !name.starts_with(b".")
}

fn with_drop_ins(path: &Path, main: Source) -> anyhow::Result<Sources> {
    let mut left = LEN_MAX.saturating_sub(main.text.len() as u64);
    let mut found = Vec::new();
    for path in drop_ins(path)? {
        let drop_in = source(&path, left)?;
        left -= drop_in.text.len() as u64;
        found.push(drop_in);
    }
    Ok(Sources { main, drop_ins: found })
}

fn source(path: &Path, len_max: u64) -> anyhow::Result<Source> {
    let cannot = || format!("{}: the configuration file cannot be read", path.display());
    let file = open(path).with_context(cannot)?;
    ensure!(file.metadata().with_context(cannot)?.is_file(), "{}: it is no regular file", cannot());
    bounded(path, file, len_max)
}

fn given(path: &Path) -> anyhow::Result<Source> {
    let file = File::open(path)
        .with_context(|| format!("{}: the configuration file cannot be read", path.display()))?;
    bounded(path, file, LEN_MAX)
}

fn bounded(path: &Path, file: File, len_max: u64) -> anyhow::Result<Source> {
    let cannot = || format!("{}: the configuration file cannot be read", path.display());
    let mut text = String::new();
    file.take(len_max + 1).read_to_string(&mut text).with_context(cannot)?;
    ensure!(text.len() as u64 <= len_max, "{}: with it there are more than {LEN_MAX} bytes", cannot());
    Ok(Source { name: path.display().to_string(), text })
}

/// Opens it for reading without waiting for whoever might write, as in a named pipe: the loop would wait, too.
pub fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)
}

#[cfg(test)]
mod tests {
    use nix::{sys::stat::Mode, unistd::mkfifo};

    use super::*;

    fn refusal(path: &Path) -> String {
        format!("{:#}", read(path).unwrap_err())
    }

    #[test]
    fn what_comes_in_the_place_of_the_file_is_read_neither_for_ever_nor_whatever_its_size() {
        let dir = tempfile::tempdir().unwrap();
        let [pipe, large, small] = ["pipe", "large", "small"].map(|name| dir.path().join(name));
        mkfifo(&pipe, Mode::S_IRWXU).unwrap();
        fs::write(&large, "#".repeat(LEN_MAX as usize + 1)).unwrap();
        fs::write(&small, "#".repeat(LEN_MAX as usize)).unwrap();
        for path in [&pipe, Path::new("/dev/zero"), dir.path()] {
            assert!(refusal(path).ends_with("cannot be read: it is no regular file"), "{}", refusal(path));
        }
        assert!(refusal(&large).ends_with("more than 1048576 bytes"), "{}", refusal(&large));
        assert!(read(&small).is_ok());
        assert!(read_alone(&large).is_err());
    }

    #[test]
    fn drop_ins_come_by_name_and_what_is_none_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let (main, drop_ins) = (dir.path().join("weave.toml"), dir.path().join("conf.d"));
        fs::write(&main, "main").unwrap();
        assert_eq!(read(&main).unwrap().drop_ins, []);
        fs::create_dir(&drop_ins).unwrap();
        for name in
            ["20-b.toml", "9-c.toml", "10-a.toml", ".10-a.toml.swp", ".x.toml", "a.toml~", "a.TOML", "a.conf"]
        {
            fs::write(drop_ins.join(name), name).unwrap();
        }
        let texts: Vec<String> = read(&main).unwrap().iter().map(|source| source.text.clone()).collect();
        assert_eq!(texts, ["main", "10-a.toml", "20-b.toml", "9-c.toml"]);
        assert_eq!(read_alone(&main).unwrap().drop_ins, []);
    }

    #[test]
    fn a_drop_in_that_cannot_be_read_is_named_and_so_are_too_many_and_too_much() {
        let dir = tempfile::tempdir().unwrap();
        let (main, drop_ins) = (dir.path().join("weave.toml"), dir.path().join("conf.d"));
        fs::write(&main, "").unwrap();
        fs::write(&drop_ins, "").unwrap();
        assert!(refusal(&main).contains("conf.d cannot be read: Not a directory"), "{}", refusal(&main));
        fs::remove_file(&drop_ins).unwrap();
        fs::create_dir_all(drop_ins.join("10.toml")).unwrap();
        assert!(
            refusal(&main).contains("10.toml: the configuration file cannot be read: it is no regular file")
        );
        fs::remove_dir(drop_ins.join("10.toml")).unwrap();
        for number in 0..DROP_INS_MAX {
            fs::write(drop_ins.join(format!("{number:03}.toml")), "#".repeat(1 << 14)).unwrap();
        }
        assert_eq!(read(&main).unwrap().drop_ins.len(), DROP_INS_MAX);
        fs::write(&main, "#").unwrap();
        assert!(refusal(&main).contains("063.toml") && refusal(&main).ends_with("more than 1048576 bytes"));
        fs::write(drop_ins.join("more.toml"), "").unwrap();
        assert!(refusal(&main).ends_with("it has 65 drop-ins, more than 64"), "{}", refusal(&main));
    }
}
