//! What the tests of all vendors have in common: recordings, and things that stand still.

use std::path::Path;
use std::sync::Arc;

use crm_channels::testkit::Heard;
use crm_core::testkit::fixtures;
use crm_core::{Clock, Context, IdSource, ManualClock, Uuid};

/// When the recordings were made.
pub fn clock() -> Arc<dyn Clock> {
    Arc::new(ManualClock::at("2026-01-02T03:04:05Z".parse().unwrap()))
}

pub fn context() -> Context {
    fixtures::context()
}

/// Gives the same id for ever.
#[derive(Debug)]
pub struct OneId(pub Uuid);

impl IdSource for OneId {
    fn fresh(&self) -> Uuid {
        self.0
    }
}

/// A recorded request.
pub fn recording(name: &str) -> Heard {
    let path = Path::new("tests/data").join(name);
    let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let end = bytes
        .windows(4)
        .position(|w| w == b"\r\n\r\n")
        .expect("an end of the head");
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let mut lines = head.split("\r\n");
    let mut first = lines.next().unwrap().split(' ');
    Heard {
        method: first.next().unwrap().to_owned(),
        target: first.next().unwrap().to_owned(),
        headers: lines
            .map(|line| line.split_once(": ").unwrap())
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect(),
        body: bytes[end + 4..].to_vec(),
    }
}

/// Every recording of a vendor, by name.
pub fn recordings(vendor: &str) -> Vec<String> {
    let folder = Path::new("tests/data").join(vendor);
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".http"))
        .map(|name| format!("{vendor}/{name}"))
        .collect();
    names.sort();
    names
}

/// What a test needs is not there: said loudly, past the test runner's capture, and a failure where everything must be.
pub fn skip(what: &str) {
    assert!(std::env::var_os("OPEN_CRM_REQUIRE_BACKENDS").is_none(), "{what}");
    let _ = std::io::Write::write_all(&mut std::io::stderr(), format!("SKIPPED: {what}\n").as_bytes());
}
