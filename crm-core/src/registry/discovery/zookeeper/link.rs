//! A connection to one server: whole messages there and back.

use std::collections::VecDeque;
use std::io::ErrorKind as Io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;

use super::wire::{MAX_FRAME, Malformed, Reader, Writer, XID_AUTH, XID_EVENT, XID_PING, op};

/// Why a connection is of no use any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Broken {
    /// It is closed, or could not be made.
    Closed,
    /// No answer in time.
    Silent,
    /// What came is not the protocol.
    Garbage,
}

impl From<std::io::Error> for Broken {
    fn from(_: std::io::Error) -> Self {
        Self::Closed
    }
}

impl From<Malformed> for Broken {
    fn from(_: Malformed) -> Self {
        Self::Garbage
    }
}

/// An answer: the server's code, and what follows.
pub(super) struct Reply {
    pub(super) code: i32,
    pub(super) body: Vec<u8>,
}

/// What a session is, as the server said when it began or went on.
#[derive(Debug)]
pub(super) struct Granted {
    /// 0: the session that was to go on has expired.
    pub(super) id: i64,
    pub(super) password: Vec<u8>,
    pub(super) timeout: Duration,
}

pub(super) struct Link {
    stream: Arc<TcpStream>,
    input: Vec<u8>,
    xid: i32,
    /// Paths about which something changed.
    events: VecDeque<String>,
    /// The most time for an answer.
    patience: Duration,
    /// A request was begun whose end nobody awaited: what comes next is not to be trusted.
    torn: bool,
    pub(super) zxid: i64,
}

/// More changed paths than this are not kept one by one: everything is read again.
const MAX_EVENTS: usize = 4096;

impl Link {
    pub(super) async fn open(server: &str, patience: Duration) -> Result<Self, Broken> {
        let stream = match tokio::time::timeout(patience, TcpStream::connect(server)).await {
            Ok(stream) => stream?,
            Err(_) => return Err(Broken::Silent),
        };
        stream.set_nodelay(true)?;
        Ok(Self {
            stream: Arc::new(stream),
            input: Vec::new(),
            xid: 0,
            events: VecDeque::new(),
            patience,
            torn: false,
            zxid: 0,
        })
    }

    /// Whether a request was begun whose end nobody awaited: the connection is of no use any more.
    pub(super) fn torn(&self) -> bool {
        self.torn
    }

    /// What to wait on for something to come in.
    pub(super) fn stream(&self) -> Arc<TcpStream> {
        self.stream.clone()
    }

    async fn write(&mut self, mut bytes: &[u8]) -> Result<(), Broken> {
        while !bytes.is_empty() {
            self.stream.writable().await?;
            match self.stream.try_write(bytes) {
                Ok(0) => return Err(Broken::Closed),
                Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
                Err(error) if error.kind() == Io::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Takes what has come in, without waiting. `false` when there was nothing.
    fn fill(&mut self) -> Result<bool, Broken> {
        let mut chunk = [0; 16 * 1024];
        match self.stream.try_read(&mut chunk) {
            Ok(0) => Err(Broken::Closed),
            Ok(count) => {
                self.input
                    .extend_from_slice(chunk.get(..count).unwrap_or_default());
                Ok(true)
            }
            Err(error) if error.kind() == Io::WouldBlock => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// A whole message out of what has come in.
    fn frame(&mut self) -> Result<Option<Vec<u8>>, Broken> {
        let Some(head) = self.input.first_chunk::<4>() else {
            return Ok(None);
        };
        let length = usize::try_from(i32::from_be_bytes(*head)).map_err(|_| Broken::Garbage)?;
        if length > MAX_FRAME {
            return Err(Broken::Garbage);
        }
        if self.input.len() < 4 + length {
            return Ok(None);
        }
        let body = self.input.get(4..4 + length).unwrap_or_default().to_vec();
        self.input.drain(..4 + length);
        Ok(Some(body))
    }

    async fn next_frame(&mut self) -> Result<Vec<u8>, Broken> {
        loop {
            if let Some(frame) = self.frame()? {
                return Ok(frame);
            }
            self.stream.readable().await?;
            self.fill()?;
        }
    }

    /// An answer to a request; `None` for a sign of life or an event, which is kept.
    fn sort(&mut self, frame: &[u8]) -> Result<Option<(i32, Reply)>, Broken> {
        let mut reader = Reader(frame);
        let (xid, zxid, code) = (reader.int()?, reader.long()?, reader.int()?);
        match xid {
            XID_EVENT => {
                let (_kind, _state, path) = (reader.int()?, reader.int()?, reader.text()?);
                if self.events.len() >= MAX_EVENTS {
                    // An empty path stands for all of them.
                    self.events.clear();
                    self.events.push_back(String::new());
                }
                self.events.push_back(path.to_owned());
                Ok(None)
            }
            XID_PING => Ok(None),
            _ => {
                if zxid > 0 {
                    self.zxid = zxid;
                }
                let body = reader.0.to_vec();
                Ok(Some((xid, Reply { code, body })))
            }
        }
    }

    /// Begins a session, or goes on with one.
    pub(super) async fn greet(
        &mut self,
        seen: i64,
        timeout: Duration,
        id: i64,
        password: &[u8],
    ) -> Result<Granted, Broken> {
        let millis = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
        let body = Writer::default()
            .int(0)
            .long(seen)
            .int(millis)
            .long(id)
            .buffer(password)
            .flag(false)
            .0;
        let framed = Writer::default().buffer(&body).0;
        let patience = self.patience;
        let talk = async {
            self.write(&framed).await?;
            self.next_frame().await
        };
        let frame = tokio::time::timeout(patience, talk)
            .await
            .map_err(|_| Broken::Silent)??;
        let mut reader = Reader(&frame);
        let (_version, millis, id) = (reader.int()?, reader.int()?, reader.long()?);
        let password = reader.buffer()?.to_vec();
        let timeout = Duration::from_millis(u64::try_from(millis.max(0)).unwrap_or(0));
        if !timeout.is_zero() {
            self.patience = timeout * 2 / 3;
        }
        Ok(Granted {
            id: if timeout.is_zero() { 0 } else { id },
            password,
            timeout,
        })
    }

    /// Says who we are. The server closes the connection when it does not believe it.
    pub(super) async fn authenticate(&mut self, credentials: &[u8]) -> Result<i32, Broken> {
        let body = zeroize::Zeroizing::new(Writer::default().int(0).text("digest").buffer(credentials).0);
        let mut replies = self.talk(vec![(XID_AUTH, op::AUTH, body.as_slice())]).await?;
        Ok(replies.pop().map_or(0, |reply| reply.code))
    }

    /// Sends a request and waits for its answer.
    pub(super) async fn call(&mut self, kind: i32, body: Writer) -> Result<Reply, Broken> {
        self.calls(vec![(kind, body)]).await?.pop().ok_or(Broken::Garbage)
    }

    /// Sends requests one after the other without waiting in between; the server answers them in this order.
    pub(super) async fn calls(&mut self, requests: Vec<(i32, Writer)>) -> Result<Vec<Reply>, Broken> {
        let numbered: Vec<(i32, i32, &[u8])> = requests
            .iter()
            .map(|(kind, body)| {
                self.xid = self.xid.checked_add(1).unwrap_or(1);
                (self.xid, *kind, body.0.as_slice())
            })
            .collect();
        self.talk(numbered).await
    }

    async fn talk(&mut self, requests: Vec<(i32, i32, &[u8])>) -> Result<Vec<Reply>, Broken> {
        if self.torn {
            return Err(Broken::Closed);
        }
        self.torn = true;
        let patience = self.patience;
        let mut replies = Vec::with_capacity(requests.len());
        // So many that neither side's buffers fill up while the other does not read.
        for batch in requests.chunks(64) {
            let mut framed = zeroize::Zeroizing::new(Vec::new());
            for (xid, kind, body) in batch {
                let length = i32::try_from(body.len() + 8).map_err(|_| Broken::Garbage)?;
                let head = Writer::default().int(length).int(*xid).int(*kind).0;
                framed.extend_from_slice(&head);
                framed.extend_from_slice(body);
            }
            let exchange = async {
                self.write(&framed).await?;
                for (xid, _, _) in batch {
                    loop {
                        let frame = self.next_frame().await?;
                        match self.sort(&frame)? {
                            None => {}
                            Some((answered, reply)) if answered == *xid => {
                                replies.push(reply);
                                break;
                            }
                            Some(_) => return Err(Broken::Garbage),
                        }
                    }
                }
                Ok(())
            };
            tokio::time::timeout(patience, exchange)
                .await
                .map_err(|_| Broken::Silent)??;
        }
        self.torn = false;
        Ok(replies)
    }

    /// Sends a sign of life. Its answer is read with whatever comes next.
    pub(super) async fn ping(&mut self) -> Result<(), Broken> {
        let framed = Writer::default().int(8).int(XID_PING).int(op::PING).0;
        if self.torn {
            return Err(Broken::Closed);
        }
        self.torn = true;
        let patience = self.patience;
        tokio::time::timeout(patience, self.write(&framed))
            .await
            .map_err(|_| Broken::Silent)??;
        self.torn = false;
        Ok(())
    }

    /// Reads what has come in unasked. Whether anything did.
    pub(super) fn drain(&mut self) -> Result<bool, Broken> {
        if self.torn {
            return Err(Broken::Closed);
        }
        let mut came = false;
        loop {
            while let Some(frame) = self.frame()? {
                came = true;
                if self.sort(&frame)?.is_some() {
                    return Err(Broken::Garbage);
                }
            }
            if !self.fill()? {
                return Ok(came);
            }
        }
    }

    /// The next path about which something changed; an empty one stands for all.
    pub(super) fn event(&mut self) -> Option<String> {
        self.events.pop_front()
    }
}
