//! One conversation with the mail server of [`smtp_sink`](super::smtp_sink): commands, answers and the content of mails.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, BufWriter};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::watch;
use tokio::time::timeout;

use super::smtp_sink::{FAREWELL, MAX_MAIL, Shared};

/// Longest command line with its CRLF. RFC 5321 asks for 512, and for more where parameters need it.
const MAX_COMMAND: usize = 2048;

/// Recipients of one mail; RFC 5321 asks for at least 100.
const MAX_RECIPIENTS: usize = 100;

/// How long a client may say nothing (RFC 5321, 4.5.3.2.7).
const IDLE: Duration = Duration::from_secs(300);

/// Why a session ends before QUIT.
enum End {
    /// The client has gone, or cannot be reached.
    Gone,
    Idle,
    Stopping,
}

impl From<io::Error> for End {
    fn from(_: io::Error) -> Self {
        Self::Gone
    }
}

enum Next {
    Go,
    Quit,
}

/// One client.
pub(super) struct Session {
    reader: BufReader<OwnedReadHalf>,
    writer: BufWriter<OwnedWriteHalf>,
    stopped: watch::Receiver<bool>,
    shared: Arc<Shared>,
    greeted: bool,
    /// The reverse path of the mail under way, without its brackets; empty is the null path of reports.
    sender: Option<String>,
    recipients: Vec<String>,
}

impl Session {
    pub(super) fn new(stream: TcpStream, stopped: watch::Receiver<bool>, shared: Arc<Shared>) -> Self {
        // Answers are sent in one go already; a kernel without this option only makes long groups of them slower.
        let _ = stream.set_nodelay(true);
        let (reader, writer) = stream.into_split();
        Self {
            reader: BufReader::new(reader),
            writer: BufWriter::new(writer),
            stopped,
            shared,
            greeted: false,
            sender: None,
            recipients: Vec::new(),
        }
    }

    /// Talks until QUIT, or until the client has gone, says nothing for too long or the server stops.
    pub(super) async fn run(mut self) {
        let farewell = match self.talk().await {
            Ok(()) | Err(End::Gone) => return,
            Err(End::Idle) => "421 4.4.2 Nothing heard for too long, closing",
            Err(End::Stopping) => "421 4.3.2 The server is stopping",
        };
        if self.reply(farewell).await.is_ok() {
            // The client may be gone: there is nobody left to tell.
            let _ = timeout(FAREWELL, self.writer.shutdown()).await;
        }
    }

    async fn talk(&mut self) -> Result<(), End> {
        self.reply("220 localhost ESMTP open-crm demo, keeps mails and sends none on")
            .await?;
        loop {
            let next = match self.command().await? {
                Some(line) => self.obey(&line).await?,
                None => {
                    self.reply("500 5.5.6 The line is too long").await?;
                    Next::Go
                }
            };
            if let Next::Quit = next {
                self.writer.shutdown().await?;
                return Ok(());
            }
        }
    }

    async fn reply(&mut self, text: &str) -> Result<(), End> {
        self.writer.write_all(text.as_bytes()).await?;
        self.writer.write_all(b"\r\n").await?;
        Ok(())
    }

    /// The bytes that came and were not consumed yet, at least one. Answers are held back until the client's next bytes
    /// have to be waited for, so that a pipelined group is answered in one go.
    async fn bytes(&mut self) -> Result<&[u8], End> {
        if self.reader.buffer().is_empty() {
            timeout(IDLE, self.writer.flush())
                .await
                .map_err(|_| End::Idle)??;
            tokio::select! {
                biased;
                _ = self.stopped.changed() => return Err(End::Stopping),
                came = timeout(IDLE, self.reader.fill_buf()) => {
                    if came.map_err(|_| End::Idle)??.is_empty() {
                        return Err(End::Gone);
                    }
                }
            }
        }
        Ok(self.reader.buffer())
    }

    /// The next line without its CRLF; nothing when it was too long, which has been skipped then.
    async fn command(&mut self) -> Result<Option<Vec<u8>>, End> {
        let mut line = Vec::new();
        let (mut length, mut after_cr) = (0_usize, false);
        loop {
            let mut used = 0;
            let mut ended = false;
            for &byte in self.bytes().await? {
                used += 1;
                length += 1;
                if length <= MAX_COMMAND {
                    line.push(byte);
                }
                if after_cr && byte == b'\n' {
                    ended = true;
                    break;
                }
                after_cr = byte == b'\r';
            }
            self.reader.consume(used);
            if ended {
                line.truncate(line.len().saturating_sub(2));
                return Ok((length <= MAX_COMMAND).then_some(line));
            }
        }
    }

    async fn obey(&mut self, line: &[u8]) -> Result<Next, End> {
        let Some(line) = std::str::from_utf8(line)
            .ok()
            .filter(|line| !line.chars().any(char::is_control))
        else {
            self.reply("500 5.5.2 A command is printable ASCII, ended by CRLF")
                .await?;
            return Ok(Next::Go);
        };
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        let rest = rest.trim();
        let verb = verb.to_ascii_uppercase();
        match verb.as_str() {
            "RSET" | "QUIT" | "DATA" if !rest.is_empty() => {
                self.reply("501 5.5.4 This command has no parameters").await?;
            }
            "EHLO" | "HELO" if rest.is_empty() => {
                self.reply("501 5.5.4 Say who you are: EHLO name").await?;
            }
            "EHLO" => {
                self.greet();
                for extension in ["localhost", "PIPELINING", "8BITMIME", "ENHANCEDSTATUSCODES"] {
                    self.reply(&format!("250-{extension}")).await?;
                }
                self.reply(&format!("250 SIZE {MAX_MAIL}")).await?;
            }
            "HELO" => {
                self.greet();
                self.reply("250 localhost").await?;
            }
            "MAIL" => {
                let answer = self.mail(rest).unwrap_or_else(|refusal| refusal);
                self.reply(answer).await?;
            }
            "RCPT" => {
                let answer = self.rcpt(rest).unwrap_or_else(|refusal| refusal);
                self.reply(answer).await?;
            }
            "DATA" => self.data().await?,
            "RSET" => {
                self.forget();
                self.reply("250 2.0.0 Forgotten").await?;
            }
            "NOOP" => self.reply("250 2.0.0 Nothing done").await?,
            "VRFY" => self.reply("252 2.5.0 Send it and see").await?,
            "QUIT" => {
                self.reply("221 2.0.0 Goodbye").await?;
                return Ok(Next::Quit);
            }
            "EXPN" | "HELP" | "STARTTLS" | "AUTH" => {
                self.reply("502 5.5.1 This server does not have that command")
                    .await?;
            }
            _ => self.reply("500 5.5.2 There is no such command").await?,
        }
        Ok(Next::Go)
    }

    fn greet(&mut self) {
        self.greeted = true;
        self.forget();
    }

    fn forget(&mut self) {
        self.sender = None;
        self.recipients.clear();
    }

    fn mail(&mut self, rest: &str) -> Result<&'static str, &'static str> {
        if !self.greeted {
            return Err("503 5.5.1 Say EHLO first");
        }
        if self.sender.is_some() {
            return Err("503 5.5.1 A mail is under way already");
        }
        let (path, parameters) = path(rest, "FROM:").ok_or("501 5.5.4 Write MAIL FROM:<address>")?;
        if !path.is_empty() && !is_mailbox(path) {
            return Err("501 5.1.7 That is no address to send from");
        }
        for parameter in parameters.split_ascii_whitespace() {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            match (
                name.to_ascii_uppercase().as_str(),
                value.to_ascii_uppercase().as_str(),
            ) {
                ("SIZE", size) => match size.parse::<u64>() {
                    Ok(size) if size > MAX_MAIL as u64 => return Err("552 5.3.4 The mail is too large"),
                    Ok(_) => {}
                    Err(_) => return Err("501 5.5.4 SIZE is a number of bytes"),
                },
                ("BODY", "7BIT" | "8BITMIME") => {}
                _ => return Err("555 5.5.4 This parameter is not known here"),
            }
        }
        self.sender = Some(path.to_owned());
        Ok("250 2.1.0 Go on")
    }

    fn rcpt(&mut self, rest: &str) -> Result<&'static str, &'static str> {
        if self.sender.is_none() {
            return Err("503 5.5.1 Say MAIL first");
        }
        let (path, parameters) = path(rest, "TO:").ok_or("501 5.5.4 Write RCPT TO:<address>")?;
        if !is_mailbox(path) && !path.eq_ignore_ascii_case("postmaster") {
            return Err("501 5.1.3 That is no address to send to");
        }
        if !parameters.is_empty() {
            return Err("555 5.5.4 This parameter is not known here");
        }
        if path
            .get(..7)
            .is_some_and(|start| start.eq_ignore_ascii_case("refused"))
        {
            self.shared.refused.fetch_add(1, Ordering::Relaxed);
            return Err("550 5.1.1 Nobody of that name is here");
        }
        if self.recipients.len() >= MAX_RECIPIENTS {
            return Err("452 4.5.3 Too many recipients for one mail");
        }
        self.recipients.push(path.to_owned());
        Ok("250 2.1.5 Go on")
    }

    async fn data(&mut self) -> Result<(), End> {
        if self.sender.is_none() {
            return self.reply("503 5.5.1 Say MAIL first").await;
        }
        if self.recipients.is_empty() {
            return self.reply("554 5.5.1 There is nobody to send it to").await;
        }
        self.reply("354 Send the mail, end it with a dot on a line of its own")
            .await?;
        let content = self.content().await?;
        let sender = self.sender.take().unwrap_or_default();
        let recipients = std::mem::take(&mut self.recipients);
        let Some(content) = content else {
            return self.reply("552 5.3.4 The mail is too large").await;
        };
        let shared = Arc::clone(&self.shared);
        let stored = tokio::task::spawn_blocking(move || shared.store(&sender, &recipients, &content)).await;
        match stored {
            Ok(Ok(name)) => {
                self.shared.accepted.fetch_add(1, Ordering::Relaxed);
                self.reply(&format!("250 2.0.0 Kept as {name}")).await
            }
            Ok(Err(_)) | Err(_) => {
                self.reply("451 4.3.0 The mail could not be written, try again")
                    .await
            }
        }
    }

    /// The mail up to CRLF.CRLF with the doubled dots undone; nothing when it was too large, which has been skipped then.
    async fn content(&mut self) -> Result<Option<Vec<u8>>, End> {
        let mut content = Content::default();
        loop {
            let mut used = 0;
            for &byte in self.bytes().await? {
                used += 1;
                content.take(byte);
                if content.ended() {
                    break;
                }
            }
            self.reader.consume(used);
            if content.ended() {
                return Ok((!content.too_large).then_some(content.bytes));
            }
        }
    }
}

/// Undoes the transparency of RFC 5321, 4.5.2, byte by byte.
#[derive(Default)]
struct Content {
    bytes: Vec<u8>,
    at: At,
    too_large: bool,
}

#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum At {
    /// Behind CRLF, or at the very beginning.
    #[default]
    LineStart,
    Text,
    Cr,
    /// Behind a dot that began a line; it has not been kept.
    Dot,
    /// Behind such a dot and a CR; neither has been kept.
    DotCr,
    End,
}

impl Content {
    fn ended(&self) -> bool {
        self.at == At::End
    }

    fn take(&mut self, byte: u8) {
        self.at = match (self.at, byte) {
            (At::LineStart, b'.') => At::Dot,
            (At::Dot, b'\r') => At::DotCr,
            (At::DotCr, b'\n') => At::End,
            (At::DotCr, _) => {
                self.keep(b'\r');
                self.keep(byte);
                if byte == b'\r' { At::Cr } else { At::Text }
            }
            (At::Cr, b'\n') => {
                self.keep(byte);
                At::LineStart
            }
            (_, b'\r') => {
                self.keep(byte);
                At::Cr
            }
            _ => {
                self.keep(byte);
                At::Text
            }
        };
    }

    fn keep(&mut self, byte: u8) {
        if self.bytes.len() < MAX_MAIL {
            self.bytes.push(byte);
        } else {
            self.too_large = true;
        }
    }
}

/// `FROM:<path> parameters` as path and parameters.
fn path<'a>(rest: &'a str, keyword: &str) -> Option<(&'a str, &'a str)> {
    let (start, rest) = rest.split_at_checked(keyword.len())?;
    if !start.eq_ignore_ascii_case(keyword) {
        return None;
    }
    let inner = rest.strip_prefix('<')?;
    let (mut quoted, mut escaped) = (false, false);
    let end = inner.find(|letter: char| {
        let was_escaped = std::mem::take(&mut escaped);
        match letter {
            '\\' if quoted && !was_escaped => escaped = true,
            '"' if !was_escaped => quoted = !quoted,
            '>' => return !quoted,
            _ => {}
        }
        false
    })?;
    let (path, rest) = inner.split_at_checked(end)?;
    let parameters = rest.strip_prefix('>')?;
    (parameters.is_empty() || parameters.starts_with(' ')).then(|| (path, parameters.trim()))
}

/// Whether it has the shape `local@domain` and only ASCII in it: without SMTPUTF8 (RFC 6531) nothing else may come.
fn is_mailbox(path: &str) -> bool {
    let shaped = path.rsplit_once('@').is_some_and(|(local, domain)| {
        !local.is_empty() && !domain.is_empty() && !domain.contains(char::is_whitespace)
    });
    shaped && path.is_ascii() && path.len() <= 254
}
