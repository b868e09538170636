use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crm_core::{Error, ErrorKind, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// Where in the conversation something happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SmtpStep {
    /// The connection stands.
    Greeting,
    /// `EHLO` or `HELO`.
    Hello,
    /// `AUTH`, or the last line of it.
    Login,
    /// `MAIL FROM`.
    Mail,
    /// `RCPT TO`.
    Recipient,
    /// `DATA`.
    Data,
    /// Within the message, once some of it came.
    Content,
    /// The final dot.
    End,
}

/// What the server does there instead of what it should.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SmtpFault {
    /// Answers with this; several lines, and several replies, are divided by `\r\n`.
    Reply(String),
    /// Answers with this and closes the connection.
    ReplyThenClose(String),
    /// Closes the connection without an answer.
    Close,
    /// Never answers, and keeps the connection.
    Hang,
}

impl SmtpFault {
    /// [`SmtpFault::Reply`].
    pub fn reply(text: impl Into<String>) -> Self {
        Self::Reply(text.into())
    }
}

/// A message that came to its final dot. `Debug` shows neither addresses nor content.
#[derive(Clone, PartialEq, Eq)]
pub struct SunkMail {
    /// The envelope's sender.
    pub from: String,
    /// What stood behind it: `SIZE=..`, `SMTPUTF8`.
    pub parameters: String,
    /// The recipients that were taken.
    pub to: Vec<String>,
    /// Headers and body, the doubled dots undone.
    pub content: Vec<u8>,
    /// Whether the client was told that it was taken.
    pub acknowledged: bool,
}

impl SunkMail {
    /// Headers and body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.content).into_owned()
    }

    /// The value of the first header of this name, unfolded.
    pub fn header(&self, name: &str) -> Option<String> {
        let text = self.text();
        let head = text.split("\r\n\r\n").next().unwrap_or_default();
        let unfolded = head.replace("\r\n ", " ").replace("\r\n\t", " ");
        unfolded.split("\r\n").find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        })
    }
}

impl fmt::Debug for SunkMail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SunkMail({} bytes)", self.content.len())
    }
}

#[derive(Default)]
struct State {
    extensions: Vec<String>,
    faults: Vec<(SmtpStep, Option<usize>, SmtpFault)>,
    refused: BTreeMap<String, String>,
    mails: Vec<SunkMail>,
    /// What was said on each connection, byte for byte.
    said: Vec<Vec<u8>>,
}

impl State {
    fn fault(&mut self, step: SmtpStep) -> Option<SmtpFault> {
        let at = self.faults.iter().position(|(of, ..)| *of == step)?;
        let (_, left, fault) = self.faults.get_mut(at)?;
        let fault = fault.clone();
        if let Some(left) = left {
            *left = left.saturating_sub(1);
            if *left == 0 {
                self.faults.remove(at);
            }
        }
        Some(fault)
    }
}

/// An SMTP server that takes every message, keeps it, and does what a test tells it to. Ends when it is dropped.
pub struct SmtpSink {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    task: JoinHandle<()>,
}

impl fmt::Debug for SmtpSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SmtpSink")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl Drop for SmtpSink {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn locked(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SmtpSink {
    /// Listens on a free port of 127.0.0.1, on the runtime of whoever calls. Announces PIPELINING, SIZE, 8BITMIME,
    /// SMTPUTF8 and ENHANCEDSTATUSCODES.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] when there is no port to listen on.
    pub async fn start() -> Result<Self> {
        let failed = |e: io::Error| Error::new(ErrorKind::Unavailable, "cannot listen on loopback").source(e);
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let state = Arc::new(Mutex::new(State {
            extensions: [
                "PIPELINING",
                "SIZE 30000000",
                "8BITMIME",
                "SMTPUTF8",
                "ENHANCEDSTATUSCODES",
            ]
            .map(str::to_owned)
            .to_vec(),
            ..State::default()
        }));
        let shared = state.clone();
        let task = tokio::spawn(async move {
            // Conversations end with the sink.
            let mut conversations = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let number = {
                    let mut state = locked(&shared);
                    state.said.push(Vec::new());
                    state.said.len() - 1
                };
                // Answers to a group go out one by one, and must not wait for each other.
                let _ = stream.set_nodelay(true);
                let state = shared.clone();
                conversations.spawn(async move {
                    // A client that goes away ends the conversation; what it said is kept.
                    let _ = Conversation::new(stream, state, number).lead().await;
                });
                while conversations.try_join_next().is_some() {}
            }
        });
        Ok(Self { address, state, task })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// As a mailer's URL.
    pub fn url(&self) -> String {
        format!("smtp://{}?tls=dangerous-plaintext", self.address)
    }

    /// Announces these extensions and no others to whoever says hello from now on.
    pub fn announce(&self, extensions: &[&str]) {
        locked(&self.state).extensions = extensions.iter().map(|line| (*line).to_owned()).collect();
    }

    /// Does this at that step, every time.
    pub fn fault(&self, step: SmtpStep, fault: SmtpFault) {
        locked(&self.state).faults.push((step, None, fault));
    }

    /// Does this at that step, so many times; afterwards what was told before or should be done.
    pub fn fault_times(&self, step: SmtpStep, times: usize, fault: SmtpFault) {
        if times > 0 {
            locked(&self.state).faults.insert(0, (step, Some(times), fault));
        }
    }

    /// Answers with this to a recipient.
    pub fn refuse(&self, recipient: &str, reply: &str) {
        locked(&self.state)
            .refused
            .insert(recipient.to_ascii_lowercase(), reply.to_owned());
    }

    /// Behaves from now on.
    pub fn heal(&self) {
        let mut state = locked(&self.state);
        state.faults.clear();
        state.refused.clear();
    }

    /// The messages that came to their final dot and were not refused there, in that order.
    pub fn mails(&self) -> Vec<SunkMail> {
        locked(&self.state).mails.clone()
    }

    /// How many of them.
    pub fn taken(&self) -> usize {
        locked(&self.state).mails.len()
    }

    /// How many connections there were.
    pub fn connections(&self) -> usize {
        locked(&self.state).said.len()
    }

    /// Everything that was said, byte for byte, one connection after the other.
    pub fn said(&self) -> Vec<u8> {
        locked(&self.state).said.concat()
    }
}

/// The connection ends here, or stays without an answer.
enum Next {
    GoOn,
    Stop,
}

struct Conversation {
    stream: TcpStream,
    state: Arc<Mutex<State>>,
    number: usize,
    buffer: Vec<u8>,
    mail: Option<SunkMail>,
}

impl Conversation {
    fn new(stream: TcpStream, state: Arc<Mutex<State>>, number: usize) -> Self {
        Self {
            stream,
            state,
            number,
            buffer: Vec::new(),
            mail: None,
        }
    }

    async fn more(&mut self) -> io::Result<()> {
        let before = self.buffer.len();
        if self.stream.read_buf(&mut self.buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let heard = self.buffer.get(before..).unwrap_or_default();
        if let Some(said) = locked(&self.state).said.get_mut(self.number) {
            said.extend_from_slice(heard);
        }
        Ok(())
    }

    async fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Ok(String::from_utf8_lossy(&line).trim_end().to_owned());
            }
            self.more().await?;
        }
    }

    async fn say(&mut self, text: &str) -> io::Result<()> {
        self.stream.write_all(format!("{text}\r\n").as_bytes()).await
    }

    /// What is right at that step, or what the test wants instead; with it, whether it was a yes.
    async fn answer(&mut self, step: SmtpStep, right: &str) -> io::Result<(Next, bool)> {
        let fault = locked(&self.state).fault(step);
        Ok(match fault {
            None => {
                self.say(right).await?;
                (Next::GoOn, right.starts_with(['2', '3']))
            }
            Some(SmtpFault::Reply(text)) => {
                self.say(&text).await?;
                (Next::GoOn, text.starts_with(['2', '3']))
            }
            Some(SmtpFault::ReplyThenClose(text)) => {
                self.say(&text).await?;
                (Next::Stop, text.starts_with(['2', '3']))
            }
            Some(SmtpFault::Close) => (Next::Stop, false),
            Some(SmtpFault::Hang) => std::future::pending().await,
        })
    }

    async fn lead(&mut self) -> io::Result<()> {
        if let (Next::Stop, _) = self.answer(SmtpStep::Greeting, "220 sink.example ESMTP").await? {
            return Ok(());
        }
        loop {
            let line = self.line().await?;
            if let Next::Stop = self.command(&line).await? {
                return self.stream.shutdown().await;
            }
        }
    }

    async fn command(&mut self, line: &str) -> io::Result<Next> {
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        let next = match verb.to_ascii_uppercase().as_str() {
            "EHLO" => {
                let mut reply = String::from("250-sink.example");
                let extensions = locked(&self.state).extensions.clone();
                for extension in extensions {
                    reply.push_str(&format!("\r\n250-{extension}"));
                }
                reply.push_str("\r\n250 HELP");
                self.answer(SmtpStep::Hello, &reply).await?.0
            }
            "HELO" => self.answer(SmtpStep::Hello, "250 sink.example").await?.0,
            "AUTH" => self.login(rest).await?,
            "MAIL" => {
                let (next, yes) = self.answer(SmtpStep::Mail, "250 2.1.0 Ok").await?;
                let (from, parameters) = path(rest);
                self.mail = yes.then(|| SunkMail {
                    from,
                    parameters,
                    to: Vec::new(),
                    content: Vec::new(),
                    acknowledged: false,
                });
                next
            }
            "RCPT" => self.recipient(rest).await?,
            "DATA" => self.data().await?,
            "QUIT" => {
                self.say("221 2.0.0 Bye").await?;
                Next::Stop
            }
            "RSET" => {
                self.mail = None;
                self.say("250 2.0.0 Ok").await?;
                Next::GoOn
            }
            "NOOP" => {
                self.say("250 2.0.0 Ok").await?;
                Next::GoOn
            }
            _ => {
                self.say("502 5.5.2 Error: command not recognized").await?;
                Next::GoOn
            }
        };
        Ok(next)
    }

    async fn login(&mut self, rest: &str) -> io::Result<Next> {
        // Questions of the mechanism: "Username:", "Password:", a challenge.
        let questions: &[&str] = match rest.split(' ').next().unwrap_or_default() {
            "LOGIN" => &["VXNlcm5hbWU6", "UGFzc3dvcmQ6"],
            "CRAM-MD5" => &["PDE4OTYuNjk3MTcwOTUyQHBvc3RvZmZpY2UucmVzdG9uLm1jaS5uZXQ+"],
            _ => &[],
        };
        for question in questions {
            self.say(&format!("334 {question}")).await?;
            self.line().await?;
        }
        Ok(self.answer(SmtpStep::Login, "235 2.7.0 Ok").await?.0)
    }

    async fn recipient(&mut self, rest: &str) -> io::Result<Next> {
        let (to, _) = path(rest);
        if self.mail.is_none() {
            self.say("503 5.5.1 Error: need MAIL command").await?;
            return Ok(Next::GoOn);
        }
        let refused = locked(&self.state).refused.get(&to.to_ascii_lowercase()).cloned();
        let right = refused.unwrap_or_else(|| "250 2.1.5 Ok".to_owned());
        let (next, yes) = self.answer(SmtpStep::Recipient, &right).await?;
        if let Some(mail) = self.mail.as_mut().filter(|_| yes) {
            mail.to.push(to);
        }
        Ok(next)
    }

    async fn data(&mut self) -> io::Result<Next> {
        let nobody = self.mail.as_ref().is_none_or(|mail| mail.to.is_empty());
        let told = locked(&self.state)
            .faults
            .iter()
            .any(|(step, ..)| *step == SmtpStep::Data);
        if nobody && !told {
            self.say("554 5.5.1 Error: no valid recipients").await?;
            return Ok(Next::GoOn);
        }
        let (next, yes) = self
            .answer(SmtpStep::Data, "354 End data with <CR><LF>.<CR><LF>")
            .await?;
        if !yes || matches!(next, Next::Stop) {
            return Ok(next);
        }
        if locked(&self.state)
            .faults
            .iter()
            .any(|(step, ..)| *step == SmtpStep::Content)
        {
            self.more().await?;
            if let (Next::Stop, _) = self.answer(SmtpStep::Content, "").await? {
                return Ok(Next::Stop);
            }
        }
        let content = self.content().await?;
        let Some(mut mail) = self.mail.take() else {
            return Ok(Next::GoOn);
        };
        mail.content = content;
        if nobody {
            self.say("554 5.5.1 Error: no valid recipients").await?;
            return Ok(Next::GoOn);
        }
        // Kept before it is acknowledged, as a server must; what it refuses it does not keep.
        let (at, refuses) = {
            let mut state = locked(&self.state);
            let fault = state.faults.iter().find(|(step, ..)| *step == SmtpStep::End);
            let refuses = match fault {
                Some((.., SmtpFault::Reply(text) | SmtpFault::ReplyThenClose(text))) => {
                    text.starts_with(['4', '5'])
                }
                _ => false,
            };
            if !refuses {
                state.mails.push(mail);
            }
            (state.mails.len(), refuses)
        };
        let right = format!("250 2.0.0 Ok: queued as SINK{at}");
        let (next, yes) = self.answer(SmtpStep::End, &right).await?;
        if !refuses && let Some(mail) = locked(&self.state).mails.get_mut(at - 1) {
            mail.acknowledged = yes;
        }
        Ok(next)
    }

    /// Up to the final dot; only a dot between two CRLF ends a message (RFC 5321, 4.1.1.4).
    async fn content(&mut self) -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        loop {
            while let Some(end) = self.buffer.windows(2).position(|two| two == b"\r\n") {
                let line: Vec<u8> = self.buffer.drain(..end + 2).collect();
                if line == b".\r\n" {
                    return Ok(content);
                }
                content.extend_from_slice(line.strip_prefix(b".").unwrap_or(&line));
            }
            self.more().await?;
        }
    }
}

/// The address and what follows it.
fn path(text: &str) -> (String, String) {
    let after = text.split_once('<').map_or("", |(_, after)| after);
    let (address, parameters) = after.split_once('>').unwrap_or((after, ""));
    (address.to_owned(), parameters.trim().to_owned())
}
