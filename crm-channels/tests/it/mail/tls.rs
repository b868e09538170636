//! Nothing is said in clear that should not be, whatever stands between us and the server.

use std::sync::{Arc, Mutex};

use crm_channels::mail::{SmtpConfig, SmtpMailer};
use crm_channels::testkit::SmtpSink;
use crm_core::{Effect, ErrorKind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::postfix::Postfix;
use super::{mail_to, send};

fn built(scheme: &str, port: u16) -> SmtpMailer {
    let url = format!("{scheme}://crm:hunter22@127.0.0.1:{port}?hello=crm.example");
    SmtpMailer::build("tls", SmtpConfig::from_url(&url).unwrap()).unwrap()
}

#[tokio::test]
async fn without_starttls_nothing_is_said() {
    let sink = SmtpSink::start().await.unwrap();
    sink.announce(&["PIPELINING", "AUTH PLAIN"]);
    let mailer = built("smtp", sink.address().port());
    let error = send(&mailer, mail_to("ana@example.org")).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.context("setting"), error.effect()),
        (ErrorKind::Config, Some("tls"), Effect::None)
    );
    assert_eq!(String::from_utf8(sink.said()).unwrap(), "EHLO crm.example\r\n");
    assert!(!format!("{error:?} {mailer:?}").contains("hunter22"));
}

/// A server in clear with these answers, in turn; gives what it heard.
async fn scripted(answers: &'static [&'static str]) -> (u16, Arc<Mutex<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let kept = heard.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut chunk = [0; 4096];
            for answer in answers {
                stream.write_all(answer.as_bytes()).await.unwrap();
                match stream.read(&mut chunk).await {
                    Ok(length @ 1..) => kept.lock().unwrap().extend_from_slice(&chunk[..length]),
                    _ => break,
                }
            }
        }
    });
    (port, heard)
}

#[tokio::test]
async fn what_is_slipped_in_before_tls_refuses_the_connection() {
    // The server's yes to STARTTLS, and behind it answers that would pass for those of a protected server.
    let (port, heard) = scripted(&[
        "220 mail.example\r\n",
        "250-mail.example\r\n250-AUTH PLAIN\r\n250 STARTTLS\r\n",
        "220 go ahead\r\n250-mail.example\r\n250 AUTH PLAIN\r\n",
    ])
    .await;
    let error = send(&built("smtp", port), mail_to("ana@example.org"))
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind(), error.context("setting")),
        (ErrorKind::Config, Some("tls")),
        "{error}"
    );
    assert_eq!(error.effect(), Effect::None);
    let heard = String::from_utf8(heard.lock().unwrap().clone()).unwrap();
    assert_eq!(heard, "EHLO crm.example\r\nSTARTTLS\r\n");
}

#[tokio::test]
async fn a_no_to_starttls_is_no_leave_to_go_on_in_clear() {
    for (answer, kind) in [
        ("454 4.7.0 TLS not available\r\n", ErrorKind::RateLimited),
        ("501 5.5.4 what\r\n", ErrorKind::Unavailable),
        ("250 fine\r\n", ErrorKind::Unavailable),
    ] {
        let answers: &'static [&'static str] = Box::leak(Box::new([
            "220 mail.example\r\n",
            "250-mail.example\r\n250-AUTH PLAIN\r\n250 STARTTLS\r\n",
            answer,
        ]));
        let (port, heard) = scripted(answers).await;
        let error = send(&built("smtp", port), mail_to("ana@example.org"))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        let heard = String::from_utf8(heard.lock().unwrap().clone()).unwrap();
        assert_eq!(heard, "EHLO crm.example\r\nSTARTTLS\r\n");
    }
}

#[tokio::test]
async fn a_server_that_speaks_no_tls_is_named_as_such() {
    let (port, heard) = scripted(&["220 mail.example ESMTP\r\n", "250 ok\r\n"]).await;
    let error = send(&built("smtps", port), mail_to("ana@example.org"))
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind(), error.context("setting")),
        (ErrorKind::Config, Some("tls")),
        "{error}"
    );
    let heard = heard.lock().unwrap().clone();
    assert!(!String::from_utf8_lossy(&heard).contains("EHLO"));
}

/// Stands between and takes STARTTLS out of what the server says, or not. Keeps what the client said in clear.
async fn between(port: u16, strip: bool) -> (u16, Arc<Mutex<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let here = listener.local_addr().unwrap().port();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let kept = heard.clone();
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let far = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            let ((mut near_read, mut near_write), (mut far_read, mut far_write)) =
                (near.into_split(), far.into_split());
            let kept = kept.clone();
            tokio::spawn(async move {
                loop {
                    let mut chunk = [0; 4096];
                    match near_read.read(&mut chunk).await {
                        Ok(length @ 1..) => {
                            kept.lock().unwrap().extend_from_slice(&chunk[..length]);
                            if far_write.write_all(&chunk[..length]).await.is_err() {
                                return;
                            }
                        }
                        _ => return,
                    }
                }
            });
            tokio::spawn(async move {
                let mut chunk = [0; 8192];
                while let Ok(length @ 1..) = far_read.read(&mut chunk).await {
                    let mut said = chunk[..length].to_vec();
                    let line = b"250-STARTTLS\r\n";
                    if let Some(at) = said.windows(line.len()).position(|w| w == line).filter(|_| strip) {
                        said.drain(at..at + line.len());
                    }
                    if near_write.write_all(&said).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    (here, heard)
}

#[tokio::test]
async fn starttls_taken_out_on_the_way_is_noticed() {
    let Some(postfix) = Postfix::find("starttls_taken_out_on_the_way_is_noticed") else {
        return;
    };
    for strip in [true, false] {
        let mut config = postfix.config(&postfix.url);
        let (port, heard) = between(config.port.unwrap(), strip).await;
        config.port = Some(port);
        let mailer = SmtpMailer::build("between", config).unwrap();
        let mail = mail_to("ana@test.example");
        let id = mail.message_id();
        let answer = send(&mailer, mail).await;
        let heard = String::from_utf8_lossy(&heard.lock().unwrap()).into_owned();
        assert!(
            !heard.contains("AUTH") && !heard.contains("MAIL FROM"),
            "nothing in clear"
        );
        if strip {
            let error = answer.unwrap_err();
            assert_eq!(
                (error.kind(), error.context("setting")),
                (ErrorKind::Config, Some("tls"))
            );
            assert_eq!(heard.lines().count(), 1, "{heard}");
        } else {
            // The same way, untouched: it works.
            answer.unwrap();
            assert_eq!(postfix.arrived(&id, 1).await.len(), 1);
        }
    }
}
