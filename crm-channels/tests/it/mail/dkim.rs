//! Signatures, judged by two verifiers that others wrote: OpenDKIM and dkimpy. Keys and records come from OpenSSL.

use std::path::{Path, PathBuf};
use std::process::Command;

use crm_channels::mail::{DkimConfig, DkimSigner, FileMailer, SmtpConfig, SmtpMailer};
use crm_channels::testkit::SmtpSink;
use crm_core::capability::Mailer;
use crm_core::message::{Attachment, Email};
use crm_core::testkit::fixtures;
use crm_core::{ErrorKind, Secret, Timestamp};

use super::{mail_to, program, send, skipped};

const DOMAIN: &str = "example.com";

struct Verifiers {
    opendkim: PathBuf,
    /// The Python that dkimpy is installed for.
    python: String,
    openssl: PathBuf,
}

impl Verifiers {
    fn find(test: &str) -> Option<Self> {
        let found = (|| {
            let script = std::fs::read_to_string(program("dkimverify")?).ok()?;
            let python = script.lines().next()?.strip_prefix("#!")?.trim().to_owned();
            Some(Self {
                opendkim: program("opendkim")?,
                python,
                openssl: program("openssl")?,
            })
        })();
        if found.is_none() {
            skipped(test, "opendkim, dkimverify (dkimpy) or openssl is missing");
        }
        found
    }

    fn openssl(&self, arguments: &[&str]) -> Vec<u8> {
        let done = Command::new(&self.openssl).args(arguments).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        done.stdout
    }

    /// A fresh key of this kind in the folder, and its record as OpenSSL knows the public half.
    fn key(&self, folder: &Path, kind: &str) -> (PathBuf, String) {
        use base64::Engine;
        let file = folder.join(format!("{kind}.pem"));
        let path = file.to_str().unwrap();
        match kind {
            "ed25519" => drop(self.openssl(&["genpkey", "-algorithm", "ed25519", "-out", path])),
            "rsa" => drop(self.openssl(&[
                "genpkey",
                "-algorithm",
                "RSA",
                "-pkeyopt",
                "rsa_keygen_bits:2048",
                "-out",
                path,
            ])),
            _ => drop(self.openssl(&["genrsa", "-traditional", "-out", path, "2048"])),
        }
        let public = self.openssl(&["pkey", "-in", path, "-pubout", "-outform", "DER"]);
        let (kind, public) = match kind {
            // The last 32 bytes are the key itself (RFC 8410).
            "ed25519" => ("ed25519", &public[public.len() - 32..]),
            _ => ("rsa", public.as_slice()),
        };
        let public = base64::engine::general_purpose::STANDARD.encode(public);
        (file, format!("v=DKIM1; k={kind}; p={public}"))
    }

    /// Which of the messages in the folder each verifier accepts.
    fn accepted(&self, folder: &Path, name: &str, record: &str) -> [Vec<String>; 2] {
        let (records, config) = (folder.join("records"), folder.join("opendkim.conf"));
        std::fs::write(&records, format!("{name} {record}\n")).unwrap();
        std::fs::write(&config, format!("Mode v\nTestDNSData {}\n", records.display())).unwrap();
        let mut files: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .filter(|file| file.ends_with(".eml"))
            .collect();
        files.sort();
        let done = Command::new(&self.opendkim)
            .current_dir(folder)
            .args(["-x", config.to_str().unwrap(), "-t", &files.join(",")])
            .output()
            .unwrap();
        let said = format!(
            "{}{}",
            String::from_utf8_lossy(&done.stdout),
            String::from_utf8_lossy(&done.stderr)
        );
        let opendkim = files
            .iter()
            .filter(|file| {
                said.lines().any(|line| {
                    line.contains(&format!("{file}: verification")) && line.ends_with("succeeded")
                })
            })
            .cloned()
            .collect();
        let script = "import sys, dkim\n\
            name, record = sys.argv[1], sys.argv[2]\n\
            known = lambda asked, timeout=5: record.encode() if asked.decode().rstrip('.') == name else None\n\
            for file in sys.argv[3:]:\n\
            \x20   try: good = dkim.verify(open(file, 'rb').read(), dnsfunc=known)\n\
            \x20   except Exception: good = False\n\
            \x20   if good: print(file)\n";
        let done = Command::new(&self.python)
            .current_dir(folder)
            .args(["-c", script, name, record])
            .args(&files)
            .output()
            .unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        let dkimpy = String::from_utf8(done.stdout)
            .unwrap()
            .lines()
            .map(str::to_owned)
            .collect();
        [opendkim, dkimpy]
    }
}

/// Sixty mails of every kind as a mailer writes them.
fn mails() -> Vec<Email> {
    let texts = [
        "",
        "plain\n",
        "Grüße aus Tartu\n",
        "你好，世界\n",
        "trailing blanks   \nand\ttabs \t \n",
        "\n\n\nempty lines first and last\n\n\n",
        ".\n..\n.dots\n",
        "no end",
        "From here on\nFrom there on\n",
        "a  b   c\td\n",
    ];
    (0..60)
        .map(|n| {
            let mut mail = mail_to(&format!("person{n}@example.org"));
            mail.text = texts[n % texts.len()].to_owned();
            mail.subject = [
                "Plain",
                "Grüße",
                "A subject that is so long that it has to be folded somewhere, and then goes on",
                "  two  blanks  ",
            ][n % 4]
                .to_owned();
            if n % 3 == 0 {
                mail.html = Some(format!("<p>{}</p>{}", mail.text, "<b>long</b>".repeat(n * 20)));
            }
            if n % 4 == 0 {
                mail.headers
                    .insert("List-Unsubscribe".into(), format!("<https://shop.example/u/{n}>"));
                mail.headers.insert(
                    "List-Unsubscribe-Post".into(),
                    "List-Unsubscribe=One-Click".into(),
                );
                mail.reply_to = Some(mail.from.clone());
            }
            if n % 7 == 0 {
                mail.attachments = vec![Attachment::new(
                    "ö.bin",
                    "application/octet-stream",
                    vec![n as u8; 3000],
                )];
            }
            mail
        })
        .collect()
}

/// Forty messages that no mailer of ours writes: 8-bit, without a body, with long lines, with odd folding.
fn others() -> Vec<Vec<u8>> {
    (0..40)
        .map(|n| {
            let body = match n % 8 {
                0 => String::new(),
                1 => "8-bit: Grüße, 你好\r\n".to_owned(),
                2 => format!("{}\r\n", "x".repeat(990)),
                3 => "\r\n\r\n".to_owned(),
                4 => "a \t b  \r\n\r\nc\r\n\r\n\r\n".to_owned(),
                5 => format!("{}\r\n", "word ".repeat(190)),
                6 => " leading\r\n\tblanks\r\n".to_owned(),
                _ => "é".repeat(400) + "\r\n",
            };
            format!(
                "Received: from a by b;\r\n\tnow\r\nFROM:  Ana   Kask\r\n <ana@{DOMAIN}>\r\nto: bo@example.org\r\n\
                 Subject: number  {n} \t\r\n  folded\r\nDate: Sun, 01 Mar 2026 09:00:00 +0000\r\n\
                 Message-ID: <{n}@{DOMAIN}>\r\nX-Not-Signed: {n}\r\n\r\n{body}"
            )
            .into_bytes()
        })
        .collect()
}

#[tokio::test]
async fn a_hundred_messages_of_a_hundred_verify_twice_and_a_changed_one_never() {
    let Some(verifiers) = Verifiers::find("a_hundred_messages_of_a_hundred_verify_twice") else {
        return;
    };
    for kind in ["rsa", "rsa-pkcs1", "ed25519"] {
        let folder = tempfile::tempdir().unwrap();
        let (key, record) = verifiers.key(folder.path(), kind);
        let signer = DkimSigner::new(&DkimConfig::from_file(DOMAIN, "s2026", &key)).unwrap();
        assert_eq!(
            signer.record(),
            record,
            "the record is what OpenSSL says the key is"
        );
        let name = signer.record_name();
        let at: Timestamp = "2026-03-01T09:00:00Z".parse().unwrap();
        for (n, message) in others().into_iter().enumerate() {
            let signed = [signer.signature(&message, at).unwrap().into_bytes(), message].concat();
            std::fs::write(folder.path().join(format!("other{n}.eml")), signed).unwrap();
        }
        let files = FileMailer::open("files", folder.path())
            .unwrap()
            .with_signer(signer);
        for mail in mails() {
            files
                .send(&fixtures::context(), &fixtures::permitted(mail))
                .await
                .unwrap();
        }
        for (who, accepted) in
            ["opendkim", "dkimpy"]
                .iter()
                .zip(verifiers.accepted(folder.path(), &name, &record))
        {
            assert_eq!(accepted.len(), 100, "{who}, {kind}");
        }
        // Changed anywhere that counts, no message passes.
        let mut changed = 0;
        for file in std::fs::read_dir(folder.path()).unwrap() {
            let file = file.unwrap().path();
            if file.extension().is_none_or(|extension| extension != "eml") {
                continue;
            }
            let text = std::fs::read(&file).unwrap();
            let at = |part: &[u8]| {
                text.windows(part.len())
                    .position(|w| w.eq_ignore_ascii_case(part))
            };
            let mut other = text.clone();
            match changed % 4 {
                0 => other.extend_from_slice(b"one more line\r\n"),
                1 => {
                    let at = at(b"\r\nSubject").unwrap() + 12;
                    other.insert(at, b'x');
                }
                2 => drop(other.splice(0..0, *b"From: somebody@else.example\r\n")),
                _ => {
                    let at = at(b"\r\nTo: ").unwrap() + 6;
                    other[at] ^= 1;
                }
            }
            changed += 1;
            std::fs::write(&file, other).unwrap();
        }
        assert_eq!(changed, 100);
        for (who, accepted) in
            ["opendkim", "dkimpy"]
                .iter()
                .zip(verifiers.accepted(folder.path(), &name, &record))
        {
            assert_eq!(accepted, Vec::<String>::new(), "{who}, {kind}");
        }
    }
}

#[tokio::test]
async fn a_mailer_signs_what_it_vouches_for_and_refuses_the_rest() {
    let Some(verifiers) = Verifiers::find("a_mailer_signs_what_it_vouches_for_and_refuses_the_rest") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let (key, record) = verifiers.key(folder.path(), "ed25519");
    let sink = SmtpSink::start().await.unwrap();
    let mut config = SmtpConfig::from_url(&format!(
        "{}&dkim_domain={DOMAIN}&dkim_selector=s1&dkim_key_file={}",
        sink.url(),
        key.display()
    ))
    .unwrap();
    let pem = std::fs::read_to_string(&key).unwrap();
    config
        .dkim
        .push(DkimConfig::new("other.example", "s1", Secret::new(pem)));
    let mailer = SmtpMailer::build("signs", config).unwrap();
    // Dots are doubled after signing, and undone before it is read.
    let mut mail = mail_to("ana@example.org");
    mail.text = ".\n..dots\n".into();
    send(&mailer, mail).await.unwrap();
    std::fs::write(folder.path().join("a.eml"), &sink.mails()[0].content).unwrap();
    let name = format!("s1._domainkey.{DOMAIN}");
    for accepted in verifiers.accepted(folder.path(), &name, &record) {
        assert_eq!(accepted, ["a.eml"]);
    }
    let text = sink.mails()[0].text();
    assert_eq!(
        text.matches("DKIM-Signature:").count(),
        1,
        "one key vouches for this domain"
    );
    let mut foreign = mail_to("ana@example.org");
    foreign.from.address = "crm@example.net".parse().unwrap();
    let error = send(&mailer, foreign).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.context("field")),
        (ErrorKind::Invalid, Some("from"))
    );
    assert_eq!(sink.taken(), 1);
}
