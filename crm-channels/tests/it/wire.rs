//! What goes over the wire, against a server that follows a script and keeps every byte.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use crm_channels::OutboxState;
use crm_channels::mail::{FileMailer, SmtpConfig, SmtpMailer};
use crm_core::capability::Mailer;
use crm_core::message::{Email, Permitted};
use crm_core::{Effect, Error, ErrorKind};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;

use crate::common::{World, news, receipt};

/// How the server answers; everything else it takes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Script {
    /// Instead of the greeting.
    greeting: Option<&'static str>,
    /// Answer to RCPT.
    rcpt: Option<&'static str>,
    /// Answer to DATA; the connection is closed after it when it is `354` and `close_at_data` is set.
    close_at_data: bool,
    /// Closes after the final dot without an answer.
    close_at_dot: bool,
    /// Answer to the final dot.
    dot: Option<&'static str>,
    /// Never answers the final dot.
    stall_at_dot: bool,
    /// Closes every connection after one message.
    one_each: bool,
}

pub struct Server {
    pub port: u16,
    /// Every byte of every connection, as the client said it.
    said: Arc<Mutex<Vec<u8>>>,
    connections: Arc<Mutex<u32>>,
}

impl Server {
    pub async fn start(script: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (said, connections) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(0)));
        let (kept, counted) = (said.clone(), connections.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                *counted.lock().unwrap() += 1;
                let kept = kept.clone();
                tokio::spawn(async move {
                    // A client that goes away ends the conversation; what it said is kept.
                    let _ = converse(stream, script, &kept).await;
                });
            }
        });
        Self {
            port,
            said,
            connections,
        }
    }

    pub fn said(&self) -> String {
        String::from_utf8(self.said.lock().unwrap().clone()).unwrap()
    }

    fn mailer(&self, more: &str) -> Arc<SmtpMailer> {
        let url = format!("smtp://127.0.0.1:{}?hello=crm.example{more}", self.port);
        Arc::new(SmtpMailer::build("wire", SmtpConfig::from_url(&url).unwrap()).unwrap())
    }

    fn plain(&self) -> Arc<SmtpMailer> {
        self.mailer("&tls=dangerous-plaintext&end_timeout=2")
    }
}

async fn converse(
    stream: tokio::net::TcpStream,
    script: Script,
    said: &Mutex<Vec<u8>>,
) -> std::io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read);
    let mut answer = async |text: &str| write.write_all(format!("{text}\r\n").as_bytes()).await;
    answer(script.greeting.unwrap_or("220 test ESMTP")).await?;
    loop {
        let mut line = Vec::new();
        if read.read_until(b'\n', &mut line).await? == 0 {
            return Ok(());
        }
        said.lock().unwrap().extend_from_slice(&line);
        let line = String::from_utf8_lossy(&line).to_uppercase();
        match line.split_whitespace().next().unwrap_or_default() {
            "EHLO" => answer("250-test\r\n250 8BITMIME").await?,
            "RCPT" => answer(script.rcpt.unwrap_or("250 2.1.5 ok")).await?,
            "DATA" => {
                answer("354 go on").await?;
                if script.close_at_data {
                    return Ok(());
                }
                let mut body = Vec::new();
                while !body.ends_with(b"\r\n.\r\n") {
                    let mut chunk = [0; 4096];
                    let n = read.read(&mut chunk).await?;
                    if n == 0 {
                        return Ok(());
                    }
                    body.extend_from_slice(&chunk[..n]);
                }
                said.lock().unwrap().extend_from_slice(&body);
                if script.close_at_dot {
                    return Ok(());
                }
                if script.stall_at_dot {
                    tokio::time::sleep(Duration::from_secs(60)).await;
                }
                answer(script.dot.unwrap_or("250 2.0.0 Ok: queued as 4bXyZ")).await?;
                if script.one_each {
                    return Ok(());
                }
            }
            "QUIT" => {
                answer("221 bye").await?;
                return Ok(());
            }
            _ => answer("250 ok").await?,
        }
    }
}

/// A permitted message of these words.
pub async fn permitted(w: &World, mail: Email) -> Permitted<Email> {
    let address = mail.to.address.as_str().to_owned();
    let customer = w.customer("Ana", &address).await;
    w.outreach()
        .gate()
        .unwrap()
        .permit(&w.ctx, mail, &receipt(), customer)
        .await
        .unwrap()
}

async fn send(script: Script, text: &str) -> (Server, Result<crm_core::message::Receipt, Error>) {
    let w = World::new().await;
    let server = Server::start(script).await;
    let mut mail = w.mail("ana.kask@example.org");
    mail.text = text.to_owned();
    let permitted = permitted(&w, mail).await;
    let result = server.plain().send(&w.ctx, &permitted).await;
    (server, result)
}

#[tokio::test]
async fn only_crlf_goes_out_and_dots_are_stuffed() {
    let (server, receipt) = send(
        Script::default(),
        "one\ntwo\r.\r\n.three\n.\nRCPT TO:<x@example.org>\nend",
    )
    .await;
    let receipt = receipt.unwrap();
    assert_eq!(
        (receipt.provider_ref.as_str(), receipt.provider.as_str()),
        ("4bXyZ", "wire")
    );
    let said = server.said();
    let bytes = said.as_bytes();
    for (i, byte) in bytes.iter().enumerate() {
        assert!(*byte != b'\n' || bytes[i - 1] == b'\r', "bare LF at {i}");
        assert!(*byte != b'\r' || bytes[i + 1] == b'\n', "bare CR at {i}");
    }
    assert!(
        said.contains("one\r\ntwo\r\n..\r\n..three\r\n..\r\nRCPT TO:<x@example.org>\r\nend"),
        "{said}"
    );
    assert_eq!(said.matches("\r\n.\r\n").count(), 1, "one end of one message");
    assert!(said.starts_with(
        "EHLO crm.example\r\nMAIL FROM:<shop@example.com>\r\nRCPT TO:<ana.kask@example.org>\r\nDATA\r\n"
    ));
    let long = "x".repeat(5000);
    let (server, receipt) = send(Script::default(), &format!("{long}\nünï\u{1f600}")).await;
    receipt.unwrap();
    assert!(
        server
            .said()
            .lines()
            .all(|line| line.len() <= 998 && line.is_ascii())
    );
}

#[tokio::test]
async fn without_starttls_nothing_is_said() {
    let w = World::new().await;
    let server = Server::start(Script::default()).await;
    let permitted = permitted(&w, w.mail("ana@example.org")).await;
    let url = format!("smtp://crm:hunter22@127.0.0.1:{}?hello=crm.example", server.port);
    let mailer = SmtpMailer::build("tls", SmtpConfig::from_url(&url).unwrap()).unwrap();
    let error = mailer.send(&w.ctx, &permitted).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.context("setting"), error.effect()),
        (ErrorKind::Config, Some("tls"), Effect::None)
    );
    let said = server.said();
    assert!(!said.contains("AUTH") && !said.contains("MAIL"), "{said}");
    assert!(!format!("{error:?} {mailer:?}").contains("hunter22"));
}

#[tokio::test]
async fn a_connection_lost_after_the_dot_is_unknown_and_before_it_is_not() {
    let (_, lost) = send(
        Script {
            close_at_dot: true,
            ..Script::default()
        },
        "hi",
    )
    .await;
    let lost = lost.unwrap_err();
    assert_eq!(
        (lost.effect(), lost.context("phase")),
        (Effect::Unknown, Some("end of data"))
    );
    let (_, stalled) = send(
        Script {
            stall_at_dot: true,
            ..Script::default()
        },
        "hi",
    )
    .await;
    let stalled = stalled.unwrap_err();
    assert_eq!(
        (stalled.kind(), stalled.effect()),
        (ErrorKind::Timeout, Effect::Unknown)
    );
    // A message that is larger than what the network holds back cannot have been said to its end.
    let (_, early) = send(
        Script {
            close_at_data: true,
            ..Script::default()
        },
        &"many words\n".repeat(1_800_000),
    )
    .await;
    let early = early.unwrap_err();
    assert_eq!(
        (early.effect(), early.context("phase")),
        (Effect::None, Some("data")),
        "{early:?}"
    );
    assert!(early.is_retryable());
}

#[tokio::test]
async fn an_unknown_outcome_ends_as_unknown_in_the_outbox() {
    let w = World::new().await;
    let server = Server::start(Script {
        close_at_dot: true,
        ..Script::default()
    })
    .await;
    let ana = w.subscriber("Ana", "ana@example.org").await;
    let id = w.enqueue(ana, "ana@example.org", news()).await;
    let mailer: Arc<dyn Mailer> = server.plain();
    let dispatcher = w
        .outreach_with(vec![mailer, w.mailer.clone()])
        .dispatcher()
        .unwrap();
    assert_eq!(dispatcher.drain(&w.ctx).await.unwrap().unknown, vec![id]);
    assert_eq!(w.state(id).await, OutboxState::Unknown);
    assert_eq!(w.mailer.sent().len(), 0, "no other mailer is asked");
    w.pass(24 * 3600);
    assert_eq!(dispatcher.drain(&w.ctx).await.unwrap().claimed, 0);
    assert_eq!(server.said().matches("DATA\r\n").count(), 1);
}

#[tokio::test]
async fn answers_are_read_as_what_they_are() {
    for (script, kind, context) in [
        (
            Script {
                rcpt: Some("550 5.1.1 <ana.kask@example.org> unknown"),
                ..Script::default()
            },
            ErrorKind::Invalid,
            ("blame", "recipient"),
        ),
        (
            Script {
                rcpt: Some("451 4.7.1 greylisted"),
                ..Script::default()
            },
            ErrorKind::Unavailable,
            ("blame", "nobody"),
        ),
        (
            Script {
                rcpt: Some("554 5.7.1 blocked"),
                ..Script::default()
            },
            ErrorKind::PermissionDenied,
            ("blame", "sender"),
        ),
        (
            Script {
                dot: Some("552 5.3.4 too big"),
                ..Script::default()
            },
            ErrorKind::Invalid,
            ("blame", "content"),
        ),
        (
            Script {
                greeting: Some("554 no service"),
                ..Script::default()
            },
            ErrorKind::Unavailable,
            ("phase", "connect"),
        ),
    ] {
        let (_, answer) = send(script, "hi").await;
        let error = answer.unwrap_err();
        assert_eq!(
            (error.kind(), error.context(context.0)),
            (kind, Some(context.1)),
            "{error}"
        );
        assert_eq!(error.effect(), Effect::None);
        assert!(!format!("{error:?}").contains("ana.kask"), "{error:?}");
    }
}

#[tokio::test]
async fn answers_that_are_shifted_never_pass_for_a_yes() {
    // Somebody slipped in one answer too many: "354" would stand where the message is acknowledged.
    let (server, answer) = send(
        Script {
            rcpt: Some("250 ok\r\n250 slipped in"),
            ..Script::default()
        },
        "hi",
    )
    .await;
    let error = answer.unwrap_err();
    assert_eq!(error.context("phase"), Some("data"), "{error}");
    assert!(!server.said().contains("Subject"), "the message was not said");
    let (_, odd) = send(
        Script {
            dot: Some("354 what else"),
            ..Script::default()
        },
        "hi",
    )
    .await;
    assert_eq!(odd.unwrap_err().effect(), Effect::Unknown);
}

#[tokio::test]
async fn connections_are_kept_and_a_closed_one_is_replaced() {
    for (one_each, connections) in [(false, 1), (true, 5)] {
        let w = World::new().await;
        let server = Server::start(Script {
            one_each,
            ..Script::default()
        })
        .await;
        let mailer = server.plain();
        for i in 0..5 {
            let permitted = permitted(&w, w.mail(&format!("p{i}@example.org"))).await;
            mailer.send(&w.ctx, &permitted).await.unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(*server.connections.lock().unwrap(), connections);
        assert_eq!(server.said().matches("DATA\r\n").count(), 5);
        assert_eq!(
            crm_core::Provider::check(&*mailer).await.unwrap(),
            crm_core::Health::Ready
        );
    }
}

#[tokio::test]
async fn files_hold_the_same_bytes_and_replace_themselves() {
    let w = World::new().await;
    let folder = tempfile::tempdir().unwrap();
    let mailer = FileMailer::open("file", folder.path().join("mails"))
        .unwrap()
        .with_clock(w.clock.clone());
    let mut mail = w.mail("ana@example.org");
    mail.html = Some("<p>Grüße</p>".into());
    let (id, permitted) = (mail.id, permitted(&w, mail).await);
    for _ in 0..2 {
        mailer.send(&w.ctx, &permitted).await.unwrap();
    }
    let files: Vec<_> = std::fs::read_dir(mailer.folder())
        .unwrap()
        .map(|f| f.unwrap().file_name())
        .collect();
    assert_eq!(files, [format!("{id}.eml").as_str()]);
    let text = std::fs::read_to_string(mailer.folder().join(&files[0])).unwrap();
    assert!(
        text.contains(&format!("Message-ID: <{id}@example.com>\r\n"))
            && text.contains("multipart/alternative")
    );
    assert!(text.contains("Date: Sun, 01 Mar 2026 09:00:00 +0000"), "{text}");
}
