//! Against `smtp-sink`, Postfix's own test server, with its faults.

use std::collections::HashMap;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crm_channels::mail::{SmtpConfig, SmtpMailer};
use crm_core::{Effect, ErrorKind, Timestamp};
use futures_util::future::join_all;

use super::{blame, mail_to, program, send, skipped};

/// One server on a port of its own; ended when dropped. The folder has a file for each connection's messages.
pub struct Sink {
    child: Child,
    pub address: String,
    pub folder: tempfile::TempDir,
}

impl Drop for Sink {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Sink {
    pub async fn start(test: &str, faults: &[&str]) -> Option<Self> {
        let Some(program) = program("smtp-sink") else {
            skipped(test, "there is no smtp-sink");
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        let mut permissions = std::fs::metadata(folder.path()).unwrap().permissions();
        std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o777);
        std::fs::set_permissions(folder.path(), permissions).unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let address = format!("127.0.0.1:{port}");
        let mut child = Command::new(program)
            .current_dir(folder.path())
            .args(["-u", "nobody", "-d", "mail.%S."])
            .args(faults)
            .args([address.as_str(), "100"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        for _ in 0..200 {
            if tokio::net::TcpStream::connect(&address).await.is_ok() {
                return Some(Self {
                    child,
                    address,
                    folder,
                });
            }
            if child.try_wait().unwrap().is_some() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        let _ = (child.kill(), child.wait());
        skipped(test, "smtp-sink does not start; it does for root");
        None
    }

    pub fn mailer(&self) -> Arc<SmtpMailer> {
        let url = format!(
            "smtp://{}?tls=dangerous-plaintext&hello=crm.example&command_timeout=2&data_timeout=2&end_timeout=2",
            self.address
        );
        Arc::new(SmtpMailer::build("sink", SmtpConfig::from_url(&url).unwrap()).unwrap())
    }

    /// By the address in the envelope, when the last file with a message to it was written to its end.
    pub fn arrived(&self) -> HashMap<String, Timestamp> {
        let mut arrived = HashMap::new();
        for file in std::fs::read_dir(self.folder.path()).unwrap() {
            let path = file.unwrap().path();
            let text = super::read(&path);
            let to = text
                .lines()
                .find_map(|line| line.strip_prefix("X-Rcpt-Args: <")?.split('>').next())
                .unwrap_or_else(|| panic!("no recipient in {}", path.display()));
            let at = std::fs::metadata(&path).unwrap().modified().unwrap();
            let at = at.duration_since(SystemTime::UNIX_EPOCH).unwrap();
            let at = Timestamp::EPOCH.plus(at);
            let last = arrived.entry(to.to_owned()).or_insert(at);
            *last = at.max(*last);
        }
        arrived
    }

    /// What it wrote down of this message.
    fn written(&self, id: &str) -> usize {
        std::fs::read_dir(self.folder.path())
            .unwrap()
            .filter(|file| {
                super::read(&file.as_ref().unwrap().path())
                    .lines()
                    .any(|line| line == format!("Message-ID: {id}"))
            })
            .count()
    }
}

#[tokio::test]
async fn it_takes_what_it_is_given() {
    let Some(sink) = Sink::start("it_takes_what_it_is_given", &[]).await else {
        return;
    };
    let mailer = sink.mailer();
    let mails: Vec<_> = (0..100).map(|n| mail_to(&format!("p{n}@example.org"))).collect();
    let ids: Vec<String> = mails.iter().map(|mail| mail.message_id()).collect();
    let answers = join_all(mails.into_iter().map(|mail| send(&mailer, mail))).await;
    assert!(answers.iter().all(Result::is_ok));
    // The dump of a message is finished before it is acknowledged.
    let written: Vec<usize> = ids.iter().map(|id| sink.written(id)).collect();
    assert_eq!(written, vec![1; 100]);
}

#[tokio::test]
async fn a_lost_answer_to_the_dot_is_unknown_three_times_of_three() {
    let Some(sink) = Sink::start("a_lost_answer_to_the_dot", &["-q", "."]).await else {
        return;
    };
    for n in 0..3 {
        let error = send(&sink.mailer(), mail_to(&format!("p{n}@example.org")))
            .await
            .unwrap_err();
        assert_eq!(
            (error.effect(), error.context("phase"), error.is_retryable()),
            (Effect::Unknown, Some("end of data"), false),
            "{error}"
        );
    }
}

#[tokio::test]
async fn its_refusals_are_read_right() {
    for (faults, kind, blamed) in [
        (
            vec!["-r", "DATA", "-b", "451 4.7.1 come back later"],
            ErrorKind::Unavailable,
            ("nobody", "data"),
        ),
        (
            vec!["-f", "RCPT", "-B", "550 5.1.1 no such user"],
            ErrorKind::Invalid,
            ("recipient", "rcpt to"),
        ),
        (
            vec!["-f", "MAIL", "-B", "550 5.7.1 not from you"],
            ErrorKind::PermissionDenied,
            ("sender", "mail from"),
        ),
        (
            vec!["-f", ".", "-B", "554 5.6.0 no such content"],
            ErrorKind::Invalid,
            ("content", "end of data"),
        ),
        (
            vec!["-r", ".", "-b", "452 4.3.1 disk full"],
            ErrorKind::Unavailable,
            ("nobody", "end of data"),
        ),
        (
            vec!["-f", "CONNECT", "-B", "554 5.3.2 closed"],
            ErrorKind::Unavailable,
            ("sender", "connect"),
        ),
    ] {
        let Some(sink) = Sink::start("its_refusals_are_read_right", &faults).await else {
            return;
        };
        let error = send(&sink.mailer(), mail_to("ana@example.org"))
            .await
            .unwrap_err();
        assert_eq!(
            (error.kind(), blame(&error)),
            (kind, blamed),
            "{faults:?}: {error}"
        );
        assert_eq!(error.effect(), Effect::None);
    }
}

#[tokio::test]
async fn its_goodbye_and_its_silence_come_to_an_end() {
    for (faults, phase, effect) in [
        (vec!["-Q", "RCPT"], "rcpt to", Effect::None),
        (vec!["-q", "DATA"], "data", Effect::None),
        // The answers to a group come together, so none comes.
        (vec!["-w", "600"], "mail from", Effect::None),
    ] {
        let Some(sink) = Sink::start("its_goodbye_and_its_silence_come_to_an_end", &faults).await else {
            return;
        };
        let sending = async { send(&sink.mailer(), mail_to("ana@example.org")).await };
        let error = tokio::time::timeout(Duration::from_secs(30), sending)
            .await
            .expect("no worker is held")
            .unwrap_err();
        assert_eq!(
            (error.context("phase"), error.effect()),
            (Some(phase), effect),
            "{faults:?}: {error}"
        );
        assert!(error.is_retryable(), "{error}");
    }
}
