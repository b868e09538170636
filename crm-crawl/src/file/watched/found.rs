//! What lies in the folder, and what happens to it there. All of it blocks.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use crm_core::capability::Reject;
use crm_core::{Error, Result, Timestamp};
use sha2::{Digest, Sha256};

use super::FolderConfig;

/// The most files of one sweep; the others are for the next one.
const MOST: usize = 10_000;

/// A file as it was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    size: u64,
    modified: Timestamp,
    /// Since when it has been like this, as far as we know.
    since: Timestamp,
}

/// How files were the last time.
pub(super) type Memory = HashMap<String, Seen>;

/// Files that count, by name, and names that cannot be read.
pub(super) fn ready(
    config: &FolderConfig,
    memory: &mut Memory,
    now: Timestamp,
) -> Result<(Vec<String>, u64)> {
    let failed = |error| unusable(&config.path, error);
    let settle = Duration::try_from_secs_f64(config.settle).unwrap_or_default();
    let (mut ready, mut unnamed) = (Vec::new(), 0);
    let mut now_there = Memory::new();
    for entry in fs::read_dir(&config.path).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let file_name = entry.file_name();
        let Some(name) = file_name.to_str() else {
            unnamed += u64::from(entry.file_type().map_err(failed)?.is_file());
            continue;
        };
        if is_unfinished(name) || config.rule_of(name).is_none() {
            continue;
        }
        // The entry's own type: a link to elsewhere is no file that arrived here.
        if !entry.file_type().map_err(failed)?.is_file() {
            continue;
        }
        let Ok(metadata) = entry.metadata() else {
            continue;
        };
        let modified = metadata
            .modified()
            .ok()
            .and_then(|time| time.duration_since(UNIX_EPOCH).ok())
            .map_or(Timestamp::EPOCH, |since| Timestamp::EPOCH.plus(since));
        let size = metadata.len();
        let since = match memory.get(name) {
            Some(seen) if seen.size == size && seen.modified == modified => seen.since,
            Some(_) => now,
            // A time in the future is that of another clock: what counts then is when we saw it first.
            None if modified > now => now,
            None => modified,
        };
        now_there.insert(
            name.to_owned(),
            Seen {
                size,
                modified,
                since,
            },
        );
        let settled = now.since(since) >= settle;
        let marked = config.marker.as_ref().is_none_or(|marker| {
            let mut path = entry.path().into_os_string();
            path.push(marker);
            Path::new(&path).is_file()
        });
        if settled && marked {
            ready.push(name.to_owned());
        }
    }
    *memory = now_there;
    ready.sort();
    ready.truncate(MOST);
    Ok((ready, unnamed))
}

/// Names that programs give to what they have not finished.
fn is_unfinished(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    name.starts_with('.')
        || name.ends_with('~')
        || [
            ".part",
            ".partial",
            ".tmp",
            ".temp",
            ".crdownload",
            ".filepart",
            ".swp",
        ]
        .iter()
        .any(|ending| lower.ends_with(ending))
}

/// The hash of a file's content; `None` when it is not there.
pub(super) fn content(path: &Path) -> Result<Option<String>> {
    let failed = |error| unusable(path, error);
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut hash = Sha256::new();
    let mut block = vec![0_u8; 64 * 1024];
    loop {
        match file.read(&mut block) {
            Ok(0) => break,
            Ok(read) => hash.update(block.get(..read).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(Some(
        hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect(),
    ))
}

/// Where the rejects of a file are written while it is read.
pub(super) fn rejects_path(config: &FolderConfig, name: &str) -> PathBuf {
    config.path.join(format!(".{name}.rejects"))
}

/// Writes rejects behind the first `length` bytes of their file; what stood there is of a run that was stopped before it
/// was stored. Answers the new length.
pub(super) fn write_rejects(path: &Path, length: u64, rejects: &[Reject]) -> Result<u64> {
    if rejects.is_empty() && length == 0 && !path.exists() {
        return Ok(0);
    }
    let failed = |error| unusable(path, error);
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .map_err(failed)?;
    file.set_len(length).map_err(failed)?;
    file.seek(SeekFrom::Start(length)).map_err(failed)?;
    let mut lines = Vec::new();
    for reject in rejects {
        serde_json::to_writer(&mut lines, reject)
            .map_err(|error| Error::unexpected("a reject cannot be written").source(error))?;
        lines.push(b'\n');
    }
    file.write_all(&lines).map_err(failed)?;
    file.sync_data().map_err(failed)?;
    Ok(length + lines.len() as u64)
}

/// Moves a file that is finished, and its rejects and marker with it. Safe to be called again after it was cut short.
pub(super) fn put_away(config: &FolderConfig, name: &str, content: &str, done: bool) -> Result<()> {
    let folder = match if done { &config.done } else { &config.failed } {
        Some(folder) => folder.clone(),
        None => config.path.join(if done { "done" } else { "failed" }),
    };
    fs::create_dir_all(&folder).map_err(|error| unusable(&folder, error))?;
    let from = config.path.join(name);
    let to = free(&folder, name, content);
    let rejects = rejects_path(config, name);
    match fs::metadata(&rejects) {
        Ok(metadata) if metadata.len() > 0 => {
            let mut beside = to.clone().into_os_string();
            beside.push(".rejects.jsonl");
            rename(&rejects, Path::new(&beside))?;
        }
        Ok(_) => remove(&rejects)?,
        Err(_) => {}
    }
    rename(&from, &to)?;
    if let Some(marker) = &config.marker {
        remove(&config.path.join(format!("{name}{marker}")))?;
    }
    Ok(())
}

/// A name nothing has yet; one that comes again gets a piece of its content's hash.
fn free(folder: &Path, name: &str, content: &str) -> PathBuf {
    let plain = folder.join(name);
    if !plain.exists() {
        return plain;
    }
    let piece = content.get(..8).unwrap_or(content);
    match name.rsplit_once('.') {
        Some((stem, ending)) if !stem.is_empty() => folder.join(format!("{stem}-{piece}.{ending}")),
        _ => folder.join(format!("{name}-{piece}")),
    }
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    match fs::rename(from, to) {
        Ok(()) => Ok(()),
        // Moved already, by us before we were stopped or by somebody else.
        Err(error) if error.kind() == io::ErrorKind::NotFound && !from.exists() => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => Err(Error::config(
            "the folder for files that were read is on another file system; name one on the same",
        )
        .operation("folder.move")
        .with("path", to.display())),
        Err(error) => Err(unusable(to, error)),
    }
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(unusable(path, error)),
        _ => Ok(()),
    }
}

pub(super) fn unusable(path: &Path, error: io::Error) -> Error {
    let message = match error.kind() {
        io::ErrorKind::NotFound => "there is no folder at this path",
        io::ErrorKind::PermissionDenied => "this process may not read or write there",
        io::ErrorKind::NotADirectory => "this path is no folder",
        _ => "the folder cannot be used",
    };
    Error::config(message)
        .operation("folder.open")
        .with("setting", "path")
        .with("path", path.display())
        .source(error)
}
