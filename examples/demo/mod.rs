//! What the examples need around them so that they run on one machine, without an account anywhere: people and their
//! purchases ([`people`]), a web site that shows half of the people ([`site`]) and a mail server that keeps what it is
//! sent ([`smtp_sink`]).
//!
//! Nothing in here uses open-crm: it stands for the outside world, so it must not share the engine's mistakes.
//! Include it with `mod demo;` from an example, or with `#[path = "../examples/demo/mod.rs"] mod demo;` from a test.
#![allow(
    dead_code,
    reason = "each program that includes this module uses its own part of it"
)]

pub(crate) mod people;
pub(crate) mod site;
mod smtp_session;
pub(crate) mod smtp_sink;

use std::io::{self, ErrorKind, Write};
use std::net::Ipv4Addr;
use std::path::Path;

use tokio::net::TcpListener;

/// Listens on 127.0.0.1 at `port`, or at a free port when something else is there already.
///
/// A wanted port keeps the addresses of one run the same in the next one, also after the first was killed.
async fn listen(port: u16) -> io::Result<TcpListener> {
    match TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await {
        Err(error) if matches!(error.kind(), ErrorKind::AddrInUse | ErrorKind::PermissionDenied) => {
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await
        }
        bound => bound,
    }
}

/// Writes `path` as a whole: whoever reads it, also after a crash, finds all of the new content or all of the old one.
fn write_whole(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".part");
    let mut file = std::fs::File::create(&unfinished)?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(&unfinished, path)
}
