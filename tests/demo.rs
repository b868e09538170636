//! The surroundings of the examples (`examples/demo`) keep their word: what the examples show is only worth as much.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

#[path = "../examples/demo/mod.rs"]
mod demo;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use demo::people::People;
use demo::site::{DemoSite, PAGE_SIZE};
use demo::smtp_sink::{MAX_MAIL, Mailbox, SmtpSink};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(20);

mod people {
    use super::*;

    /// RFC 4180, small: enough to read back what was written.
    fn rows(text: &str) -> Vec<Vec<String>> {
        let (mut rows, mut row, mut field, mut quoted) = (vec![], vec![], String::new(), false);
        let mut letters = text.chars().peekable();
        while let Some(letter) = letters.next() {
            match letter {
                '"' if quoted && letters.peek() == Some(&'"') => field.push(letters.next().unwrap()),
                '"' => quoted = !quoted,
                ',' if !quoted => row.push(std::mem::take(&mut field)),
                '\r' if !quoted => {}
                '\n' if !quoted => {
                    row.push(std::mem::take(&mut field));
                    rows.push(std::mem::take(&mut row));
                }
                other => field.push(other),
            }
        }
        assert!(
            row.is_empty() && field.is_empty() && !quoted,
            "the file ends with a whole row"
        );
        rows
    }

    #[test]
    fn two_files_become_2357_customers() {
        let people = People::load().unwrap();
        assert_eq!(people.persons.len(), 2357);
        assert_eq!(people.copies.len(), 589);
        assert_eq!(people.purchases.len(), 6919);
        assert_eq!(people.on_site().count(), 1179);

        // `rec-2356-org` and sample id 2357 are the last ones; both are read off the source files.
        let last = people.persons.last().unwrap();
        assert_eq!(last.external_id, "demo:rec-2356");
        let purchase = people.purchases.last().unwrap();
        assert_eq!(purchase.external_id, "demo:rec-2356");
        assert_eq!(
            (
                purchase.order_id.as_str(),
                purchase.date.as_str(),
                purchase.cds,
                purchase.cents
            ),
            ("cdnow-6919", "1997-03-25", 2, 2574)
        );
        // 1321: brinley efthimiou, 35 sturdee crescent, tremearne, scarborough 5211 qld, 19940319.
        let person = &people.persons[1321];
        assert_eq!(person.name(), "Brinley Efthimiou");
        assert_eq!(person.street, "35 Sturdee Crescent");
        assert_eq!(
            (
                person.line2.as_str(),
                person.suburb.as_str(),
                person.postcode.as_str(),
                person.state.as_str()
            ),
            ("Tremearne", "Scarborough", "5211", "QLD")
        );
        assert_eq!(person.born, "1994-03-19");
        assert_eq!(person.email, "brinley.efthimiou.1321@example.com");
        assert_eq!(person.phone, "+61 7 7010 1321");
        assert_eq!(people.persons[643].name(), "Imogen O'Garey");
        assert_eq!(people.persons[21].line2, "Browne's Reef");
    }

    #[test]
    fn nobody_shares_an_address_or_has_a_real_one() {
        let people = People::load().unwrap();
        let (mut emails, mut phones, mut ids) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        let mut mobiles = 0;
        for person in &people.persons {
            assert!(
                emails.insert(&person.email)
                    && phones.insert(&person.phone)
                    && ids.insert(&person.external_id)
            );
            let (local, domain) = person.email.split_once('@').unwrap();
            assert!(matches!(domain, "example.com" | "example.org"));
            assert!(
                local
                    .bytes()
                    .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'.'),
                "{local}"
            );
            let digits: String = person.phone.chars().filter(|c| !c.is_whitespace()).collect();
            assert_eq!(digits.len(), 12, "{digits}");
            match digits.strip_prefix("+614") {
                Some(_) => mobiles += 1,
                None => assert_eq!(&digits[4..8], "7010"),
            }
        }
        assert_eq!(mobiles, 30);
    }

    #[test]
    fn the_csv_files_say_the_same_on_every_run_and_join() {
        let people = People::load().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let files = people.write_csv(&folder.path().join("new/folder")).unwrap();
        let first = (
            std::fs::read(&files.people).unwrap(),
            std::fs::read(&files.purchases).unwrap(),
        );
        let files = People::load()
            .unwrap()
            .write_csv(files.people.parent().unwrap())
            .unwrap();
        let text = std::fs::read_to_string(&files.people).unwrap();
        assert_eq!(
            (text.as_bytes(), &std::fs::read(&files.purchases).unwrap()),
            (&first.0[..], &first.1)
        );
        let left: Vec<_> = std::fs::read_dir(files.people.parent().unwrap())
            .unwrap()
            .collect();
        assert_eq!(left.len(), 2, "no unfinished file is left");

        let table = rows(&text);
        assert_eq!(table.len(), 1 + files.people_rows);
        assert_eq!(files.people_rows, 1178 + 589);
        assert!(table.iter().all(|row| row.len() == 12));
        assert_eq!(table[0][3], "email");
        let by_email: BTreeMap<&str, &str> = people
            .persons
            .iter()
            .map(|p| (p.email.as_str(), p.external_id.as_str()))
            .collect();
        let (mut other_spelling, mut on_site) = (0, 0);
        for row in &table[1..] {
            let owner = by_email[row[3].trim().to_lowercase().as_str()];
            if row[0].is_empty() {
                other_spelling += usize::from(!by_email.contains_key(row[3].as_str()));
                on_site += usize::from(!table.iter().any(|row| row[0] == owner));
            } else {
                assert_eq!(row[0], owner);
            }
        }
        assert_eq!(
            other_spelling, 589,
            "every copy spells the address in another way"
        );
        assert!(
            on_site > 200 && on_site < 400,
            "copies of customers from both sources: {on_site}"
        );

        let table = rows(&std::fs::read_to_string(&files.purchases).unwrap());
        assert_eq!(table[0], ["order_id", "external_id", "date", "cds", "dollars"]);
        assert_eq!(table[1], ["cdnow-1", "demo:rec-0", "1997-01-01", "2", "29.33"]);
        assert_eq!(table.len(), 6920);
        assert_eq!(
            table[1..]
                .iter()
                .map(|row| &row[1])
                .collect::<BTreeSet<_>>()
                .len(),
            2357
        );
        let orders: BTreeSet<_> = table[1..].iter().map(|row| &row[0]).collect();
        assert_eq!(orders.len(), 6919);
        let dollars: f64 = table[1..].iter().map(|row| row[4].parse::<f64>().unwrap()).sum();
        assert!(
            (dollars - 244_091.94).abs() < 0.01,
            "the sum over the source file: {dollars}"
        );
    }

    #[test]
    fn an_unreadable_source_is_named_with_its_line() {
        let header = "rec_id, given_name, surname, street_number, address_1, address_2, suburb, postcode, state, \
                      date_of_birth, soc_sec_id\n";
        let person = "rec-0-org, a, b, 1, c, d, e, 2000, nsw, 19900101, 1\n";
        let febrl = format!("{header}{person}");
        let purchase = " 00004 0001 19970101  2   29.33\r\n";
        assert!(People::parse(&febrl, purchase).is_ok());
        let cases = [
            (String::new(), purchase, "FEBRL file: the file is empty"),
            (person.to_owned(), purchase, "FEBRL file: line 1"),
            (
                format!("{febrl}rec-1-org, a\n"),
                purchase,
                "FEBRL file: line 3: 2 fields",
            ),
            (
                format!("{febrl}{person}"),
                purchase,
                "FEBRL file: line 3: rec-0-org is there twice",
            ),
            (
                febrl.replace("rec-0-org", "row-0"),
                purchase,
                "FEBRL file: line 2: rec_id",
            ),
            (febrl.clone(), "", "CDNOW file: the file is empty"),
            (
                febrl.clone(),
                " 00004 0001 19970230  2   29.33",
                "CDNOW file: line 1: the date",
            ),
            (
                febrl.clone(),
                " 00004 0001 19970101  2   29.3",
                "CDNOW file: line 1: the dollars",
            ),
            (
                febrl.clone(),
                " 00004 0001 19970101  x   29.30",
                "CDNOW file: line 1: \"x\"",
            ),
            (
                febrl.clone(),
                " 00004 0000 19970101  2   29.30",
                "CDNOW file: sample ids start at 1",
            ),
            (
                febrl.clone(),
                " 00004 0002 19970101  2   29.30",
                "the CDNOW file has 2 customers",
            ),
        ];
        for (febrl, cdnow, expected) in cases {
            let error = format!("{:#}", People::parse(&febrl, cdnow).err().expect(expected));
            assert!(error.starts_with(expected), "{error}");
        }
    }
}

mod site {
    use super::*;

    /// Status and body.
    async fn fetch(address: SocketAddr, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        timeout(PATIENCE, stream.read_to_string(&mut answer))
            .await
            .unwrap()
            .unwrap();
        let status = answer[9..12].parse().unwrap();
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        (status, body.to_owned())
    }

    fn all<'a>(body: &'a str, before: &str, after: &str) -> Vec<&'a str> {
        body.split(before)
            .skip(1)
            .map(|rest| rest.split_once(after).unwrap().0)
            .collect()
    }

    #[tokio::test]
    async fn following_next_shows_everybody_once() {
        let people = People::load().unwrap();
        let site = DemoSite::start(&people, 0).await.unwrap();
        let (status, home) = fetch(site.address(), "/").await;
        assert_eq!(status, 200);
        let mut path = Some(all(&home, "<a href=\"", "\"")[0].to_owned());
        let (mut ids, mut emails, mut names, mut pages) = (vec![], vec![], vec![], 0);
        while let Some(at) = path {
            let (status, body) = fetch(site.address(), &at).await;
            assert_eq!(status, 200, "{at}");
            pages += 1;
            let here = all(&body, "data-id=\"", "\"");
            assert!(!here.is_empty() && here.len() <= PAGE_SIZE);
            ids.extend(here.into_iter().map(str::to_owned));
            emails.extend(all(&body, "href=\"mailto:", "\"").into_iter().map(str::to_owned));
            names.extend(all(&body, "<h2>", "</h2>").into_iter().map(str::to_owned));
            assert_eq!(
                body.matches("href=\"tel:+61").count(),
                body.matches("div class=\"customer\"").count()
            );
            path = all(&body, "class=\"next\" rel=\"next\" href=\"", "\"")
                .first()
                .map(|next| next.to_string());
        }
        assert_eq!(pages, 30);
        assert_eq!(pages, site.pages());
        let expected: Vec<_> = people.on_site().map(|p| p.external_id.clone()).collect();
        assert_eq!(ids, expected);
        assert_eq!(
            emails,
            people.on_site().map(|p| p.email.clone()).collect::<Vec<_>>()
        );
        let quoted = people
            .on_site()
            .position(|person| person.name().contains('\''))
            .unwrap();
        assert!(names[quoted].contains("&#39;"), "{}", names[quoted]);
        assert_eq!(site.hits("/customers"), 30);
        assert_eq!(site.hits_by_path()["/customers?page=7"], 1);
        assert_eq!(site.hits("/private/"), 0);
    }

    #[tokio::test]
    async fn the_trap_is_linked_forbidden_and_counted() {
        let site = DemoSite::start(&People::load().unwrap(), 0).await.unwrap();
        let (status, robots) = fetch(site.address(), "/robots.txt").await;
        assert_eq!(status, 200);
        assert!(robots.starts_with("User-agent: *\n") && robots.contains("\nDisallow: /private/\n"));
        assert!(!robots.contains("Crawl-delay"));
        for page in [1, site.pages()] {
            let (_, body) = fetch(site.address(), &format!("/customers?page={page}")).await;
            let trap = all(&body, "class=\"staff\" href=\"", "\"")[0];
            assert!(trap.starts_with("/private/"));
        }
        assert_eq!(site.hits("/private/"), 0);
        assert_eq!(fetch(site.address(), "/private/notes/1").await.0, 200);
        assert_eq!(fetch(site.address(), "/private/").await.0, 404);
        assert_eq!(site.hits("/private/"), 2);
    }

    #[tokio::test]
    async fn pages_that_are_not_there_say_so() {
        let site = DemoSite::start(&People::load().unwrap(), 0).await.unwrap();
        for (path, status) in [
            ("/customers", 200),
            ("/customers?page=30", 200),
            ("/customers?page=31", 404),
            ("/customers?page=0", 404),
            ("/customers?page=-1", 400),
            ("/customers?page=two", 400),
            ("/customers/1", 404),
            ("/nothing", 404),
        ] {
            assert_eq!(fetch(site.address(), path).await.0, status, "{path}");
        }
    }

    #[tokio::test]
    async fn a_taken_port_is_avoided_and_a_free_one_is_kept() {
        let people = People::load().unwrap();
        let first = DemoSite::start(&people, 0).await.unwrap();
        let port = first.address().port();
        let second = DemoSite::start(&people, port).await.unwrap();
        assert_ne!(second.address().port(), port);
        assert_eq!(fetch(second.address(), "/robots.txt").await.0, 200);
        first.stop().await.unwrap();
        let again = DemoSite::start(&people, port).await.unwrap();
        assert_eq!(again.address().port(), port);

        let address = second.address();
        drop(second);
        let gone = async {
            while TcpStream::connect(address).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, gone).await.expect("dropping the site stops it");
    }
}

mod smtp {
    use super::*;

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
}
