//! One connection: bytes out, replies in, TLS in between once it stands.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crm_core::Timestamp;
use futures_util::FutureExt;
use lettre::transport::smtp::commands::Quit;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::reply::{self, Reply};

/// Why there is no reply.
#[derive(Debug)]
pub(super) enum Broken {
    /// The other side closed the connection, or the way there did.
    Closed,
    /// Nothing came in time.
    Late,
    /// What came is no reply.
    Garbage(&'static str),
    /// The connection failed.
    Failed(io::Error),
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
        match error.kind() {
            BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof => Self::Closed,
            _ => Self::Failed(error),
        }
    }
}

enum Wire {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// What the server says it can do (RFC 5321, 4.1.1.1).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Abilities {
    pub(super) pipelining: bool,
    pub(super) starttls: bool,
    pub(super) eight_bit: bool,
    pub(super) utf8: bool,
    pub(super) dsn: bool,
    /// The largest message it takes; 0 for no limit that it knows.
    pub(super) size: Option<u64>,
    pub(super) auth: Vec<String>,
}

impl Abilities {
    /// From the reply to `EHLO`.
    pub(super) fn of(reply: &Reply) -> Self {
        let mut abilities = Self::default();
        for line in reply.lines().skip(1) {
            let mut words = line.split_ascii_whitespace();
            let keyword = words.next().unwrap_or_default().to_ascii_uppercase();
            match keyword.as_str() {
                "PIPELINING" => abilities.pipelining = true,
                "STARTTLS" => abilities.starttls = true,
                "8BITMIME" => abilities.eight_bit = true,
                "SMTPUTF8" => abilities.utf8 = true,
                "DSN" => abilities.dsn = true,
                "SIZE" => abilities.size = Some(words.next().and_then(|n| n.parse().ok()).unwrap_or(0)),
                "AUTH" => abilities.auth.extend(words.map(str::to_ascii_uppercase)),
                // How some servers said it before RFC 2554.
                _ => {
                    if let Some(first) = keyword.strip_prefix("AUTH=") {
                        abilities.auth.push(first.to_owned());
                        abilities.auth.extend(words.map(str::to_ascii_uppercase));
                    }
                }
            }
        }
        abilities
    }
}

/// A connection to the server.
pub(super) struct Link {
    wire: Wire,
    /// What was read; replies before `read` are done with.
    buffer: Vec<u8>,
    read: usize,
    pub(super) abilities: Abilities,
    /// How many messages it has carried.
    pub(super) used: u32,
    /// When it carried the last one.
    pub(super) last: Timestamp,
    /// A transaction was begun and given up: `RSET` goes before the next.
    pub(super) unclean: bool,
}

impl Link {
    pub(super) async fn open(host: &str, port: u16) -> io::Result<Self> {
        let stream = TcpStream::connect((host, port)).await?;
        // Every write is a whole group of commands or a whole message.
        stream.set_nodelay(true)?;
        Ok(Self {
            wire: Wire::Plain(stream),
            buffer: Vec::with_capacity(1024),
            read: 0,
            abilities: Abilities::default(),
            used: 0,
            last: Timestamp::EPOCH,
            unclean: false,
        })
    }

    /// Puts TLS on top. What was said in clear beyond the last reply was slipped in by somebody and refuses the
    /// connection (CVE-2011-0411 and its kin); what the server said it can do is forgotten.
    pub(super) async fn secure(
        self,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> io::Result<Self> {
        if self.read < self.buffer.len() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "something was said between the answer to STARTTLS and TLS",
            ));
        }
        let Wire::Plain(stream) = self.wire else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "TLS stands already"));
        };
        let stream = TlsConnector::from(config).connect(name, stream).await?;
        Ok(Self {
            wire: Wire::Tls(Box::new(stream)),
            buffer: self.buffer,
            read: self.read,
            abilities: Abilities::default(),
            used: 0,
            last: self.last,
            unclean: false,
        })
    }

    async fn fill(&mut self) -> io::Result<usize> {
        if self.read > 0 && self.read == self.buffer.len() {
            self.buffer.clear();
            self.read = 0;
        }
        self.buffer.reserve(1024);
        match &mut self.wire {
            Wire::Plain(stream) => stream.read_buf(&mut self.buffer).await,
            Wire::Tls(stream) => stream.read_buf(&mut self.buffer).await,
        }
    }

    fn waiting(&mut self) -> Result<Option<Reply>, Broken> {
        let fresh = self.buffer.get(self.read..).unwrap_or_default();
        match reply::parse(fresh) {
            Ok(Some((reply, length))) => {
                self.read += length;
                Ok(Some(reply))
            }
            Ok(None) => {
                if self.read > 0 {
                    self.buffer.drain(..self.read);
                    self.read = 0;
                }
                Ok(None)
            }
            Err(garbage) => Err(Broken::Garbage(garbage.0)),
        }
    }

    /// The next reply.
    pub(super) async fn reply(&mut self, limit: Duration) -> Result<Reply, Broken> {
        if let Some(reply) = self.waiting()? {
            return Ok(reply);
        }
        let reading = async {
            loop {
                if self.fill().await? == 0 {
                    return Err(Broken::Closed);
                }
                if let Some(reply) = self.waiting()? {
                    return Ok(reply);
                }
            }
        };
        tokio::time::timeout(limit, reading)
            .await
            .unwrap_or(Err(Broken::Late))
    }

    /// Writes all of it. `written` tells how far it came, whatever becomes of the call; each piece has `limit`.
    pub(super) async fn say(
        &mut self,
        bytes: &[u8],
        limit: Duration,
        written: &mut usize,
    ) -> Result<(), Broken> {
        *written = 0;
        while let Some(rest) = bytes.get(*written..).filter(|rest| !rest.is_empty()) {
            let writing = async {
                match &mut self.wire {
                    Wire::Plain(stream) => stream.write(rest).await,
                    Wire::Tls(stream) => stream.write(rest).await,
                }
            };
            match tokio::time::timeout(limit, writing).await {
                Err(_) => return Err(Broken::Late),
                Ok(Err(error)) => return Err(error.into()),
                Ok(Ok(0)) => return Err(Broken::Closed),
                Ok(Ok(length)) => *written += length,
            }
        }
        if let Wire::Tls(stream) = &mut self.wire {
            match tokio::time::timeout(limit, stream.flush()).await {
                Err(_) => return Err(Broken::Late),
                Ok(done) => done?,
            }
        }
        Ok(())
    }

    /// Whether nothing came in since the last reply: a server that said something by itself said goodbye.
    pub(super) fn is_quiet(&mut self) -> bool {
        self.read == self.buffer.len() && self.fill().now_or_never().is_none()
    }

    /// Says goodbye as far as that goes without waiting.
    pub(super) fn farewell(mut self) {
        let quit = Quit.to_string();
        let quit = quit.as_bytes();
        let _ = match &mut self.wire {
            Wire::Plain(stream) => stream.try_write(quit).is_ok(),
            Wire::Tls(stream) => {
                let leaving = async {
                    stream.write_all(quit).await?;
                    stream.flush().await
                };
                leaving.now_or_never().is_some_and(|done| done.is_ok())
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn abilities_are_read_in_any_case() {
        let reply = Reply {
            code: 250,
            text: "mail.example hello\nPipelining\nSIZE 35882577\n8BITMIME\nsmtputf8\nAUTH LOGIN plain\nAUTH=CRAM-MD5\nX-ODD"
                .into(),
        };
        let abilities = Abilities::of(&reply);
        assert!(abilities.pipelining && abilities.eight_bit && abilities.utf8 && !abilities.starttls);
        assert_eq!(abilities.size, Some(35_882_577));
        assert_eq!(abilities.auth, ["LOGIN", "PLAIN", "CRAM-MD5"]);
        // The greeting line is no ability, whatever it says.
        let sly = Reply {
            code: 250,
            text: "STARTTLS\nSIZE".into(),
        };
        assert_eq!(
            Abilities::of(&sly),
            Abilities {
                size: Some(0),
                ..Abilities::default()
            }
        );
    }
}
