//! A mail server on 127.0.0.1 that keeps every mail as a file and sends none on.
//!
//! It speaks SMTP (RFC 5321) with PIPELINING (RFC 2920), 8BITMIME (RFC 6152), SIZE (RFC 1870) and ENHANCEDSTATUSCODES
//! (RFC 2034): one session after the other or many at once, without TLS and without log-in, so it only ever listens to
//! this machine. What it is exact about, because a client under test could hide its mistakes behind a lenient server:
//!
//! - Only CRLF ends a line and only CRLF.CRLF ends a mail; a bare CR or LF is content.
//! - A mail is on the disk, whole, before its 250 is sent.
//! - Each 250 makes one file. The same Message-ID again makes a second file, so a mail sent twice can be seen.
//! - A recipient whose local part begins with `refused` gets `550 5.1.1`.
//!
//! Like a server that delivers (RFC 5321, 4.4) it puts `Return-Path` above the mail, and one `Delivered-To` per
//! recipient; it adds no `Received`, so that the same mail makes the same bytes.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, ErrorKind, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

use super::listen;
use super::smtp_session::Session;

/// Where the server is when nothing else is there.
pub(crate) const DEFAULT_SMTP_PORT: u16 = 18_925;

/// Largest mail, in bytes as sent; announced by SIZE.
pub(crate) const MAX_MAIL: usize = 10 * 1024 * 1024;

/// Sessions at once; the next one waits.
const MAX_SESSIONS: usize = 64;

/// How long a session may take to end when the server stops.
pub(super) const FAREWELL: Duration = Duration::from_secs(2);

const PART_PREFIX: &str = ".incoming-";

/// The running server. It stops when this value is dropped; the files stay.
pub(crate) struct SmtpSink {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

/// What lies in the folder of a server, from this run and the ones before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mailbox {
    /// Files.
    pub(crate) mails: usize,
    /// Different mails by Message-ID: fewer than `mails` when something was sent more than once.
    pub(crate) distinct: usize,
}

/// What the sessions of one server share: the folder and the counts.
pub(super) struct Shared {
    folder: PathBuf,
    pub(super) accepted: AtomicU64,
    pub(super) refused: AtomicU64,
    parts: AtomicU64,
}

impl SmtpSink {
    /// Serves at `port` of 127.0.0.1, or at a free port when that one is taken, and keeps the mails in `folder`, which is
    /// made when it is missing. Mails of earlier runs stay; what an earlier run had not finished is removed.
    ///
    /// Must be called inside a tokio runtime. The error says why the folder or the port cannot be used.
    pub(crate) async fn start(folder: impl Into<PathBuf>, port: u16) -> Result<Self> {
        let folder = folder.into();
        prepare(&folder).with_context(|| format!("cannot keep mails in {}", folder.display()))?;
        let listener = listen(port)
            .await
            .with_context(|| format!("the mail server cannot listen at {port}"))?;
        let address = listener.local_addr().context("the mail server has no address")?;
        let shared = Arc::new(Shared {
            folder,
            accepted: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            parts: AtomicU64::new(0),
        });
        let (stop, mut stopped) = watch::channel(false);
        let task = tokio::spawn({
            let shared = Arc::clone(&shared);
            async move {
                let room = Arc::new(Semaphore::new(MAX_SESSIONS));
                let mut sessions = JoinSet::new();
                loop {
                    while sessions.try_join_next().is_some() {}
                    let stream = tokio::select! {
                        biased;
                        // An error means that the server was dropped: the same wish.
                        _ = stopped.changed() => break,
                        stream = async {
                            let seat = Arc::clone(&room).acquire_owned().await;
                            listener.accept().await.map(|(stream, _)| (stream, seat))
                        } => stream,
                    };
                    let Ok((stream, seat)) = stream else {
                        // Out of file descriptors, or the client was gone before it was let in.
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        continue;
                    };
                    let session = Session::new(stream, stopped.clone(), Arc::clone(&shared));
                    sessions.spawn(async move {
                        session.run().await;
                        drop(seat);
                    });
                }
                // Those who do not end in time are cut off when the set is dropped.
                let _ = timeout(FAREWELL, async { while sessions.join_next().await.is_some() {} }).await;
            }
        });
        Ok(Self {
            address,
            shared,
            stop,
            task,
        })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where the mails are.
    pub(crate) fn folder(&self) -> &Path {
        &self.shared.folder
    }

    /// Mails taken by this run.
    pub(crate) fn accepted(&self) -> u64 {
        self.shared.accepted.load(Ordering::Relaxed)
    }

    /// Recipients refused by this run.
    pub(crate) fn refused(&self) -> u64 {
        self.shared.refused.load(Ordering::Relaxed)
    }

    /// The files of all the mails, this run's and older ones, by name.
    pub(crate) fn mails(&self) -> io::Result<Vec<PathBuf>> {
        let mut mails = Vec::new();
        for entry in std::fs::read_dir(&self.shared.folder)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "eml") {
                mails.push(path);
            }
        }
        mails.sort();
        Ok(mails)
    }

    /// Counts what lies in the folder.
    pub(crate) fn mailbox(&self) -> io::Result<Mailbox> {
        let mails = self.mails()?;
        // `<digest>-<k>.eml`: the part before the last dash is the same for the same Message-ID.
        let distinct: BTreeSet<_> = mails
            .iter()
            .filter_map(|path| {
                path.file_stem()?
                    .to_str()?
                    .rsplit_once('-')
                    .map(|(digest, _)| digest.to_owned())
            })
            .collect();
        Ok(Mailbox {
            mails: mails.len(),
            distinct: distinct.len(),
        })
    }

    /// Says 421 to those who are still there and waits for what is being written. Dropping the value asks for the same
    /// without waiting.
    pub(crate) async fn stop(self) -> Result<()> {
        self.stop.send_replace(true);
        self.task.await.context("the mail server broke")
    }
}

/// Makes the folder and clears what was never accepted.
fn prepare(folder: &Path) -> io::Result<()> {
    std::fs::create_dir_all(folder)?;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(PART_PREFIX) {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

impl Shared {
    /// Writes one mail and gives the name of its file. When this returns, the mail outlives a loss of power.
    pub(super) fn store(&self, sender: &str, recipients: &[String], content: &[u8]) -> io::Result<String> {
        let part = self.parts.fetch_add(1, Ordering::Relaxed);
        let part = self
            .folder
            .join(format!("{PART_PREFIX}{}-{part}", std::process::id()));
        let stored = self.write(&part, sender, recipients, content);
        // A part that cannot be removed now is removed by the next start; it never counts as a mail.
        let _ = std::fs::remove_file(&part);
        stored
    }

    fn write(&self, part: &Path, sender: &str, recipients: &[String], content: &[u8]) -> io::Result<String> {
        let mut mail = format!("Return-Path: <{sender}>\r\n");
        for recipient in recipients {
            mail.push_str(&format!("Delivered-To: {recipient}\r\n"));
        }
        let mut file = File::create_new(part)?;
        file.write_all(mail.as_bytes())?;
        file.write_all(content)?;
        file.sync_all()?;

        let digest = Sha256::digest(message_id(content).as_deref().unwrap_or(content));
        let digest: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        for copy in 1_u32.. {
            let name = format!("{digest}-{copy}.eml");
            // A second name for the file instead of a new one: unlike a rename it never replaces an older mail.
            match std::fs::hard_link(part, self.folder.join(&name)) {
                Ok(()) => {
                    sync_folder(&self.folder)?;
                    return Ok(name);
                }
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::new(
            ErrorKind::StorageFull,
            "no free name for the mail",
        ))
    }
}

/// Makes the new name last. Only Unix lets a folder be opened for that.
fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(unix) {
        File::open(folder)?.sync_all()
    } else {
        Ok(())
    }
}

/// The value of the mail's `Message-ID`, unfolded, when it has one.
fn message_id(content: &[u8]) -> Option<Vec<u8>> {
    let mut value: Option<Vec<u8>> = None;
    for line in content.split(|&byte| byte == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let folded = line.first().is_some_and(|byte| matches!(byte, b' ' | b'\t'));
        match &mut value {
            Some(value) if folded => value.extend_from_slice(line),
            Some(_) => break,
            None if line.is_empty() => break,
            None => {
                let name = b"message-id:";
                if let Some((start, rest)) = line.split_at_checked(name.len())
                    && start.eq_ignore_ascii_case(name)
                {
                    value = Some(rest.to_vec());
                }
            }
        }
    }
    value
        .map(|value| value.trim_ascii().to_vec())
        .filter(|value| !value.is_empty())
}
