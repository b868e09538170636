//! E-mail: what goes over the wire, against a sink that keeps every byte, against Postfix and its own test programs, and
//! against verifiers of signatures that others wrote.

mod dkim;
mod dsn;
mod faults;
mod pipelining;
mod postfix;
mod restart;
pub mod sink;
mod tls;
mod wire;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crm_channels::mail::{SmtpConfig, SmtpMailer};
use crm_channels::testkit::SmtpSink;
use crm_core::capability::Mailer;
use crm_core::message::{Email, Mailbox, Receipt};
use crm_core::testkit::fixtures;
use crm_core::{Error, Result};

/// A mailer that talks to this sink; `more` are further settings, each with a `&` before it.
pub fn mailer(sink: &SmtpSink, more: &str) -> Arc<SmtpMailer> {
    let url = format!("{}&hello=crm.example{more}", sink.url());
    Arc::new(SmtpMailer::build("wire", SmtpConfig::from_url(&url).unwrap()).unwrap())
}

/// A message to this address, of an id of its own.
pub fn mail_to(address: &str) -> Email {
    let mut mail = fixtures::email(1);
    mail.to = Mailbox::new(address.parse().unwrap(), "").unwrap();
    mail
}

pub async fn send(mailer: &SmtpMailer, mail: Email) -> Result<Receipt> {
    mailer
        .send(&fixtures::context(), &fixtures::permitted(mail))
        .await
}

/// Says past the test runner's capture that a test did not run; fails where backends are required.
pub fn skipped(test: &str, missing: &str) {
    assert!(
        std::env::var_os("OPEN_CRM_REQUIRE_BACKENDS").is_none(),
        "{test}: OPEN_CRM_REQUIRE_BACKENDS is set, but {missing}"
    );
    let _ = std::io::Write::write_all(
        &mut std::io::stderr(),
        format!("SKIPPED: {test}: {missing} (scripts/services up postfix)\n").as_bytes(),
    );
}

/// A program of the system; servers live in sbin, which is not in every path.
pub fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let more = ["/usr/sbin", "/sbin", "/usr/local/sbin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(more)
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

/// What is wrong with bytes that went out: bare line ends, long lines.
pub fn faults_of(bytes: &[u8]) -> Vec<String> {
    let mut faults = Vec::new();
    for (i, byte) in bytes.iter().enumerate() {
        if *byte == b'\n' && (i == 0 || bytes[i - 1] != b'\r') {
            faults.push(format!("a bare LF at {i}"));
        }
        if *byte == b'\r' && bytes.get(i + 1) != Some(&b'\n') {
            faults.push(format!("a bare CR at {i}"));
        }
        if *byte == 0 {
            faults.push(format!("a NUL at {i}"));
        }
    }
    for line in bytes.split(|byte| *byte == b'\n') {
        if line.len() > 999 {
            faults.push(format!("a line of {} octets", line.len()));
        }
    }
    faults
}

pub fn blame(error: &Error) -> (&str, &str) {
    (error.blamed().as_str(), error.context("phase").unwrap_or(""))
}

pub fn read(file: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(file).unwrap()).into_owned()
}
