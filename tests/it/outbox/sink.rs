//! Mail servers that are not ours, or that misbehave.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use super::skipped;

/// Postfix' sink, which writes every message into a file of its own.
pub(super) struct Sink {
    child: Child,
    folder: tempfile::TempDir,
    pub(super) at: String,
}

impl Sink {
    pub(super) fn start() -> Option<Self> {
        use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
        let program = ["/usr/sbin/smtp-sink", "/usr/bin/smtp-sink"]
            .into_iter()
            .find(|program| Path::new(program).exists());
        let Some(program) = program else {
            skipped("smtp-sink is not installed; it comes with Postfix (scripts/services up postfix)");
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = free.local_addr().unwrap().to_string();
        drop(free);
        let mut command = Command::new(program);
        if std::fs::metadata("/proc/self").unwrap().uid() == 0 {
            command.args(["-u", "nobody"]);
        }
        command.arg("-d");
        let child = command
            .arg(folder.path().join("mail."))
            .args([&at, "256"])
            .current_dir(folder.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let sink = Self { child, folder, at };
        for _ in 0..200 {
            if TcpStream::connect(&sink.at).is_ok() {
                return Some(sink);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("smtp-sink does not answer");
    }

    /// How many messages it has, roughly: while it works, some are not written to their end.
    pub(super) fn count(&self) -> usize {
        std::fs::read_dir(self.folder.path()).unwrap().count()
    }

    /// How often each message is there, by its id without hyphens.
    pub(super) fn mails(&self) -> BTreeMap<String, usize> {
        let mut mails = BTreeMap::new();
        for entry in std::fs::read_dir(self.folder.path()).unwrap().flatten() {
            let text = String::from_utf8_lossy(&std::fs::read(entry.path()).unwrap()).into_owned();
            // A file whose message was cut off has no end: the sink writes as it reads.
            let id = text
                .lines()
                .find_map(|line| line.strip_prefix("Message-ID: <"))
                .and_then(|rest| rest.split_once('@'));
            if let Some((id, _)) = id {
                *mails.entry(id.replace('-', "")).or_insert(0) += 1;
            }
        }
        mails
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A mail server that takes one message and keeps the answer back until it is told.
pub(super) fn silent() -> (SocketAddr, Receiver<()>, Sender<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    let ((has, got), (go, may)) = (channel(), channel());
    std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
        let say = |text: &str| (&stream).write_all(text.as_bytes()).unwrap();
        say("220 silent\r\n");
        let mut data = false;
        while let Some(Ok(line)) = lines.next() {
            match (data, line.as_str()) {
                (true, ".") => {
                    has.send(()).unwrap();
                    // Whoever waits for nothing more never gets an answer.
                    let Ok(()) = may.recv() else {
                        return;
                    };
                    data = false;
                    say("250 2.0.0 taken\r\n");
                }
                (true, _) => {}
                (false, "DATA") => {
                    data = true;
                    say("354 go on\r\n");
                }
                (false, line) if line.starts_with("EHLO") => say("250-silent\r\n250 8BITMIME\r\n"),
                (false, line) if line.starts_with("QUIT") => say("221 bye\r\n"),
                (false, _) => say("250 2.0.0 ok\r\n"),
            }
        }
    });
    (at, got, go)
}
