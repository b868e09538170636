//! The mail server, spoken to over plain TCP: a mail library would hide what is on the wire.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::PATIENCE;
use crate::demo::smtp_sink::{MAX_MAIL, Mailbox, SmtpSink};

struct Client(BufReader<TcpStream>);

impl Client {
    async fn open(sink: &SmtpSink) -> Self {
        let mut client = Self(BufReader::new(TcpStream::connect(sink.address()).await.unwrap()));
        assert!(client.answer().await.starts_with("220 "));
        client
    }

    async fn greeted(sink: &SmtpSink) -> Self {
        let mut client = Self::open(sink).await;
        assert!(client.ask("EHLO test").await.starts_with("250-localhost"));
        client
    }

    /// With `DATA` said and allowed.
    async fn writing(sink: &SmtpSink) -> Self {
        let mut client = Self::greeted(sink).await;
        client.expect("MAIL FROM:<shop@example.com>", "250 2.1.0").await;
        client.expect("RCPT TO:<ana@example.org>", "250 2.1.5").await;
        client.expect("DATA", "354 ").await;
        client
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.unwrap();
    }

    /// All lines of the next answer.
    async fn answer(&mut self) -> String {
        let mut answer = String::new();
        loop {
            let start = answer.len();
            let read = timeout(PATIENCE, self.0.read_line(&mut answer))
                .await
                .expect("an answer in time");
            assert_ne!(read.unwrap(), 0, "closed behind {answer:?}");
            assert!(answer.ends_with("\r\n"));
            if answer.as_bytes()[start + 3] == b' ' {
                return answer;
            }
        }
    }

    async fn ask(&mut self, command: &str) -> String {
        self.send(format!("{command}\r\n").as_bytes()).await;
        self.answer().await
    }

    async fn expect(&mut self, command: &str, start: &str) {
        let answer = self.ask(command).await;
        assert!(
            answer.starts_with(start),
            "{command}: {answer} instead of {start}"
        );
    }

    async fn silent(&mut self) {
        let answer = timeout(Duration::from_millis(100), self.0.fill_buf()).await;
        assert!(answer.is_err(), "an answer that nobody asked for: {answer:?}");
    }

    async fn closed(&mut self) {
        assert!(
            timeout(PATIENCE, self.0.fill_buf())
                .await
                .unwrap()
                .unwrap()
                .is_empty()
        );
    }
}

async fn sink(folder: &Path) -> SmtpSink {
    SmtpSink::start(folder, 0).await.unwrap()
}

/// The only mail, behind the lines that delivery adds.
fn only_mail(sink: &SmtpSink) -> Vec<u8> {
    let mails = sink.mails().unwrap();
    assert_eq!(mails.len(), 1);
    let mail = std::fs::read(&mails[0]).unwrap();
    let added = b"Return-Path: <shop@example.com>\r\nDelivered-To: ana@example.org\r\n";
    mail.strip_prefix(added).expect("envelope first").to_vec()
}

#[tokio::test]
async fn a_mail_is_on_the_disk_as_written_when_it_is_accepted() {
    let folder = tempfile::tempdir().unwrap();
    let sink = sink(&folder.path().join("made/here")).await;
    let mut client = Client::open(&sink).await;
    let extensions = client.ask("ehlo [127.0.0.1]").await;
    let expected = format!(
        "250-localhost\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-ENHANCEDSTATUSCODES\r\n250 SIZE {MAX_MAIL}\r\n"
    );
    assert_eq!(extensions, expected);
    client
        .expect("mail from:<shop@example.com> SIZE=120 BODY=8BITMIME", "250 2.1.0")
        .await;
    client.expect("Rcpt To:<ana@example.org>", "250 2.1.5").await;
    client.expect("DATA", "354 ").await;
    client
        .send(b"Message-ID: <1@example.com>\r\nSubject: \xc3\xa4\r\n\r\n..\r\n..two\r\n...\r\n.\x00\r\n.x\r\na.\r\n.\r\n")
        .await;
    assert!(client.answer().await.starts_with("250 2.0.0 "));
    assert_eq!(
        only_mail(&sink),
        b"Message-ID: <1@example.com>\r\nSubject: \xc3\xa4\r\n\r\n.\r\n.two\r\n..\r\n\x00\r\nx\r\na.\r\n"
    );
    assert_eq!((sink.accepted(), sink.refused()), (1, 0));
    client.expect("QUIT", "221 2.0.0").await;
    client.closed().await;
}

#[tokio::test]
async fn only_crlf_dot_crlf_ends_a_mail() {
    for smuggled in [
        &b"\n.\n"[..],
        b"\n.\r\n",
        b"\r.\r\n",
        b"\r.\r",
        b"\r\n.\n",
        b"\r\n.\r",
        b"\r\n.\rx\n",
        b"\r\n.\r\r\n",
        b"\r\n. \r\n",
    ] {
        let folder = tempfile::tempdir().unwrap();
        let sink = sink(folder.path()).await;
        let mut client = Client::writing(&sink).await;
        client
            .send(&[b"a: b\r\n\r\none", smuggled, b"MAIL FROM:<evil@example.com>"].concat())
            .await;
        client.silent().await;
        assert_eq!(sink.mails().unwrap().len(), 0);
        client.send(b"\r\n.\r\n").await;
        let answer = client.answer().await;
        assert!(answer.starts_with("250 2.0.0 "), "{smuggled:?}: {answer}");
        // What came is kept as it came, but for the dot that began a CRLF line.
        let kept = if let Some(behind) = smuggled.strip_prefix(b"\r\n.") {
            [b"\r\n", behind].concat()
        } else {
            smuggled.to_vec()
        };
        let expected = [b"a: b\r\n\r\none", &kept[..], b"MAIL FROM:<evil@example.com>\r\n"].concat();
        assert_eq!(only_mail(&sink), expected, "{smuggled:?}");
        client.expect("NOOP", "250 2.0.0").await;
    }
}

#[tokio::test]
async fn it_does_not_matter_how_the_bytes_are_cut() {
    let folder = tempfile::tempdir().unwrap();
    let sink = sink(folder.path()).await;
    // All in one: what a pipelining client may send before it has read anything, and more.
    let mut client = Client::open(&sink).await;
    let session = b"EHLO a\r\nMAIL FROM:<shop@example.com>\r\nRCPT TO:<refused.1@example.com>\r\n\
        RCPT TO:<ana@example.org>\r\nDATA\r\nMessage-ID: <1@example.com>\r\n\r\n..\r\n.\r\nQUIT\r\n";
    client.send(session).await;
    for expected in [
        "250-",
        "250 2.1.0",
        "550 5.1.1",
        "250 2.1.5",
        "354 ",
        "250 2.0.0",
        "221 ",
    ] {
        let answer = client.answer().await;
        assert!(answer.starts_with(expected), "{answer} instead of {expected}");
    }
    client.closed().await;
    let mail = only_mail(&sink);
    assert_eq!(mail, b"Message-ID: <1@example.com>\r\n\r\n.\r\n");
    std::fs::remove_file(&sink.mails().unwrap()[0]).unwrap();

    // Byte by byte.
    let mut client = Client::open(&sink).await;
    client.0.get_ref().set_nodelay(true).unwrap();
    for byte in session {
        client.send(&[*byte]).await;
        tokio::task::yield_now().await;
    }
    for _ in 0..7 {
        client.answer().await;
    }
    client.closed().await;
    assert_eq!(only_mail(&sink), mail);
    assert_eq!((sink.accepted(), sink.refused()), (2, 2));
}

#[tokio::test]
async fn refused_recipients_do_not_get_the_mail() {
    let folder = tempfile::tempdir().unwrap();
    let sink = sink(folder.path()).await;
    let mut client = Client::greeted(&sink).await;
    client.expect("MAIL FROM:<>", "250").await;
    client.expect("RCPT TO:<Refused@example.com>", "550 5.1.1").await;
    client
        .expect("RCPT TO:<refused.7@example.com>", "550 5.1.1")
        .await;
    client.expect("DATA", "554 5.5.1").await;
    client.expect("RCPT TO:<\"a>b\"@example.com>", "250").await;
    client.expect("RCPT TO:<postmaster>", "250").await;
    client.expect("DATA", "354").await;
    client
        .expect("Subject: report\r\n\r\nbody\r\n.", "250 2.0.0")
        .await;
    let mail = std::fs::read_to_string(&sink.mails().unwrap()[0]).unwrap();
    let expected =
        "Return-Path: <>\r\nDelivered-To: \"a>b\"@example.com\r\nDelivered-To: postmaster\r\nSubject: ";
    assert!(mail.starts_with(expected), "{mail}");
    assert_eq!((sink.accepted(), sink.refused()), (1, 2));
}

#[tokio::test]
async fn commands_out_of_turn_or_unknown_are_refused_and_the_session_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let sink = sink(folder.path()).await;
    let mut client = Client::open(&sink).await;
    for (command, answer) in [
        ("MAIL FROM:<a@example.com>", "503 5.5.1"),
        ("EHLO", "501"),
        ("HELO me", "250 localhost"),
        ("RCPT TO:<a@example.com>", "503 5.5.1"),
        ("DATA", "503 5.5.1"),
        ("SEND money", "500 5.5.2"),
        ("", "500 5.5.2"),
        ("NOOP\nNOOP", "500 5.5.2"),
        ("STARTTLS", "502 5.5.1"),
        ("VRFY ana", "252 "),
        ("MAIL FROM: <a@example.com>", "501 5.5.4"),
        ("MAIL FROM:a@example.com", "501 5.5.4"),
        ("MAIL FROM:<nobody>", "501 5.1.7"),
        ("MAIL FROM:<a@example.com>SIZE=1", "501 5.5.4"),
        ("MAIL FROM:<a@example.com> SIZE=big", "501 5.5.4"),
        ("MAIL FROM:<a@example.com> BODY=BINARYMIME", "555 5.5.4"),
        ("MAIL FROM:<a@example.com> SIZE=10485761", "552 5.3.4"),
        ("MAIL FROM:<a@example.com> SIZE=10485760", "250 2.1.0"),
        ("MAIL FROM:<a@example.com>", "503 5.5.1"),
        ("RCPT TO:<>", "501 5.1.3"),
        ("RCPT TO:<änn@example.com>", "501 5.1.3"),
        ("RCPT TO:<b@example.com> NOTIFY=NEVER", "555 5.5.4"),
        ("RCPT TO:<b@example.com>", "250 2.1.5"),
        ("RSET", "250 2.0.0"),
        ("DATA", "503 5.5.1"),
        ("QUIT now", "501 5.5.4"),
    ] {
        client.expect(command, answer).await;
    }
    client.expect(&"x".repeat(100_000), "500 5.5.6").await;
    client.expect("NOOP", "250 2.0.0").await;
    client.expect("MAIL FROM:<a@example.com>", "250").await;
    for _ in 0..100 {
        client.expect("RCPT TO:<b@example.com>", "250 2.1.5").await;
    }
    client.expect("RCPT TO:<b@example.com>", "452 4.5.3").await;
    assert_eq!(sink.mails().unwrap().len(), 0);
}

#[tokio::test]
async fn a_mail_that_is_too_large_is_refused_behind_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let sink = sink(folder.path()).await;
    for (extra, answer) in [(1, "552 5.3.4"), (0, "250 2.0.0")] {
        let mut client = Client::writing(&sink).await;
        let mut mail = vec![b'x'; MAX_MAIL - 2 + extra];
        mail.extend_from_slice(b"\r\n.\r\n");
        client.send(&mail).await;
        let said = client.answer().await;
        assert!(said.starts_with(answer), "{said}");
        client.expect("DATA", "503").await;
    }
    assert_eq!(only_mail(&sink).len(), MAX_MAIL);
}

#[tokio::test]
async fn a_cut_connection_leaves_no_mail() {
    let folder = tempfile::tempdir().unwrap();
    let sink = sink(folder.path()).await;
    let mut client = Client::writing(&sink).await;
    client.send(b"Subject: half\r\n\r\nhalf a\r\n.\r").await;
    drop(client);
    sink.stop().await.unwrap();
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

async fn send_one(sink: &SmtpSink, head: &str) {
    let mut client = Client::writing(sink).await;
    client
        .expect(&format!("{head}\r\n\r\nhello\r\n."), "250 2.0.0")
        .await;
}

#[tokio::test]
async fn a_second_run_keeps_the_mails_and_shows_what_was_sent_twice() {
    let folder = tempfile::tempdir().unwrap();
    let first = sink(folder.path()).await;
    let port = first.address().port();
    send_one(&first, "Message-ID: <1@example.com>").await;
    send_one(&first, "Message-ID: <2@example.com>").await;
    let older: BTreeMap<_, _> = first
        .mails()
        .unwrap()
        .into_iter()
        .map(|path| (path.clone(), std::fs::read(path).unwrap()))
        .collect();
    assert_eq!(older.len(), 2);
    // What a killed run leaves behind.
    std::fs::write(folder.path().join(".incoming-1-0"), "half").unwrap();
    drop(first);

    let second = async {
        loop {
            let sink = SmtpSink::start(folder.path(), port).await.unwrap();
            if sink.address().port() == port {
                break sink;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let second = timeout(PATIENCE, second).await.expect("the port is free again");
    // The same mail once more: folded and in other capitals, still the same id.
    send_one(&second, "Subject: again\r\nMESSAGE-id:\r\n\t<1@example.com> ").await;
    send_one(&second, "Subject: none").await;
    send_one(&second, "Subject: none either").await;
    assert_eq!(
        second.mailbox().unwrap(),
        Mailbox {
            mails: 5,
            distinct: 4
        }
    );
    assert_eq!(second.accepted(), 3);
    for (path, content) in older {
        assert_eq!(std::fs::read(path).unwrap(), content);
    }
    assert_eq!(
        std::fs::read_dir(folder.path()).unwrap().count(),
        5,
        "nothing unfinished is left"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_sessions_at_once_lose_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let sink = std::sync::Arc::new(sink(folder.path()).await);
    let mut sessions = tokio::task::JoinSet::new();
    // More than there is room for at once; every fourth mail of a session is an old one.
    for session in 0..80 {
        let sink = std::sync::Arc::clone(&sink);
        sessions.spawn(async move {
            for mail in [0, 1, 2, 0] {
                send_one(&sink, &format!("Message-ID: <{session}.{mail}@example.com>")).await;
            }
        });
    }
    while let Some(session) = sessions.join_next().await {
        session.unwrap();
    }
    assert_eq!(sink.accepted(), 320);
    assert_eq!(
        sink.mailbox().unwrap(),
        Mailbox {
            mails: 320,
            distinct: 240
        }
    );
}

#[tokio::test]
async fn stopping_says_so_to_those_who_are_there() {
    let folder = tempfile::tempdir().unwrap();
    let sink = sink(folder.path()).await;
    let address = sink.address();
    let mut client = Client::greeted(&sink).await;
    sink.stop().await.unwrap();
    assert!(client.answer().await.starts_with("421 4.3.2"));
    client.closed().await;
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn a_folder_that_cannot_be_used_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "in the way").unwrap();
    let error = format!("{:#}", SmtpSink::start(&file, 0).await.err().unwrap());
    assert!(error.contains(&file.display().to_string()), "{error}");
}

#[tokio::test]
async fn a_mail_that_cannot_be_written_is_not_accepted() {
    let folder = tempfile::tempdir().unwrap();
    let kept = folder.path().join("mails");
    let sink = sink(&kept).await;
    let mut client = Client::writing(&sink).await;
    std::fs::remove_dir(&kept).unwrap();
    client.expect("Subject: lost\r\n\r\n.", "451 4.3.0").await;
    std::fs::create_dir(&kept).unwrap();
    assert_eq!((sink.accepted(), sink.mails().unwrap().len()), (0, 0));
}
