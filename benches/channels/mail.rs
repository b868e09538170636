//! Mails built, signed and handed over.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use open_crm::capability::Mailer;
use open_crm::channels::mail::{DkimConfig, FileMailer, SmtpConfig, SmtpMailer};
use open_crm::customer::EmailAddress;
use open_crm::message::{Email, Mailbox, Permitted};
use open_crm::testkit::fixtures;
use open_crm::{Context, Secret, TenantId};

use crate::{Arguments, timed};

/// A throw-away key, that of RFC 8463.
const ED25519: &str = "-----BEGIN PRIVATE KEY-----\n\
    MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n\
    -----END PRIVATE KEY-----\n";

/// The words of `benches/peers/mail.txt` and `mail.html`, divided where something personal stands.
struct Words {
    text: Vec<&'static str>,
    html: Vec<&'static str>,
}

fn filled(pieces: &[&str], name: &str, link: &str) -> String {
    let mut out = String::with_capacity(pieces.iter().map(|piece| piece.len()).sum::<usize>() + 200);
    for piece in pieces {
        out.push_str(match *piece {
            "NAME" => name,
            "LINK" => link,
            words => words,
        });
    }
    out
}

impl Words {
    fn new() -> Self {
        let divided = |text: &'static str| {
            let mut pieces = Vec::new();
            for (n, part) in text.split("@@").enumerate() {
                // What stands between two marks is a name of a value.
                pieces.push(part);
                debug_assert!(n % 2 == 0 || matches!(part, "NAME" | "LINK"));
            }
            pieces
        };
        Self {
            text: divided(include_str!("../peers/mail.txt")),
            html: divided(include_str!("../peers/mail.html")),
        }
    }

    fn mail(&self, n: usize) -> Permitted<Email> {
        let mailbox = |address: &str, name: &str| {
            Mailbox::new(EmailAddress::parse(address).expect("an address"), name).expect("a name")
        };
        let name = format!("Zoë Number{n}");
        let link = format!("https://shop.example/u/{n:08x}/a1b2c3d4e5f6");
        let mut mail = Email::new(
            fixtures::id().into(),
            mailbox("news@football.example.com", "The Shop"),
            mailbox(&format!("person{n}@example.org"), &name),
            &format!("Spring news for {name}"),
            &filled(&self.text, &name, &link),
        );
        mail.html = Some(filled(&self.html, &name, &link));
        mail.headers
            .insert("List-Unsubscribe".into(), format!("<{link}>"));
        mail.headers.insert(
            "List-Unsubscribe-Post".into(),
            "List-Unsubscribe=One-Click".into(),
        );
        fixtures::permitted(mail)
    }
}

/// `smtp-sink` on a port of its own; ended when dropped.
struct Sink {
    child: Option<Child>,
    address: String,
}

impl Drop for Sink {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Sink {
    fn start(given: Option<&str>) -> Result<Self> {
        if let Some(address) = given {
            return Ok(Self {
                child: None,
                address: address.to_owned(),
            });
        }
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let address = format!("127.0.0.1:{port}");
        let program = ["/usr/sbin/smtp-sink", "/usr/libexec/postfix/smtp-sink"]
            .into_iter()
            .find(|path| std::path::Path::new(path).exists())
            .context("no smtp-sink: install Postfix, or name a server with --sink")?;
        let child = Command::new(program)
            .args(["-u", "nobody", &address, "1000"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let sink = Self {
            child: Some(child),
            address,
        };
        for _ in 0..100 {
            if std::net::TcpStream::connect(&sink.address).is_ok() {
                return Ok(sink);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        anyhow::bail!("smtp-sink does not answer; it starts as root only")
    }

    fn mailer(&self, more: &str, dkim: Option<DkimConfig>) -> Result<Arc<SmtpMailer>> {
        let url = format!(
            "smtp://{}?tls=dangerous-plaintext&hello=bench.example&per_connection=1000000{more}",
            self.address
        );
        let mut config = SmtpConfig::from_url(&url)?;
        config.dkim.extend(dkim);
        Ok(Arc::new(SmtpMailer::build("bench", config)?))
    }
}

/// `senders` tasks, each with a mail at a time.
async fn send(mailer: Arc<SmtpMailer>, words: &Arc<Words>, mails: usize, senders: usize) -> Result<usize> {
    let ctx = Context::new(TenantId::new("bench")?);
    if senders == 1 {
        for n in 0..mails {
            mailer.send(&ctx, &words.mail(n)).await?;
        }
        return Ok(mails);
    }
    let mut tasks = tokio::task::JoinSet::new();
    for sender in 0..senders {
        let (mailer, words, ctx) = (mailer.clone(), words.clone(), ctx.clone());
        tasks.spawn(async move {
            let mut sent = 0;
            for n in (sender..mails).step_by(senders) {
                mailer.send(&ctx, &words.mail(n)).await?;
                sent += 1;
            }
            anyhow::Ok(sent)
        });
    }
    let mut sent = 0;
    while let Some(done) = tasks.join_next().await {
        sent += done??;
    }
    Ok(sent)
}

pub(crate) async fn run(arguments: &Arguments) -> Result<()> {
    let words = Arc::new(Words::new());
    let mails = arguments.mails;
    timed("mail: of it: filling the words", mails, async {
        for n in 0..mails {
            std::hint::black_box(words.mail(n));
        }
    })
    .await;
    let folder = tempfile::tempdir()?;
    let files = FileMailer::open("files", folder.path())?;
    let some = mails.min(2_000);
    timed("mail: into files", some, async {
        let ctx = Context::new(TenantId::new("bench")?);
        for n in 0..some {
            files.send(&ctx, &words.mail(n)).await?;
        }
        anyhow::Ok(())
    })
    .await?;
    let sizes: u64 = std::fs::read_dir(folder.path())?
        .filter_map(|file| Some(file.ok()?.metadata().ok()?.len()))
        .sum();
    println!("{:<52} {:>9}", "  bytes a mail", sizes / some as u64);

    let sink = Sink::start(arguments.sink.as_deref())?;
    let ed25519 = || DkimConfig::new("football.example.com", "bench", Secret::new(ED25519));
    for (what, pool, senders, dkim) in [
        ("mail: 1 connection, 1 sender", 1, 1, None),
        ("mail: 1 connection, 16 senders", 1, 16, None),
        ("mail: 4 connections, 64 senders", 4, 64, None),
        ("mail: 4 connections, 64 senders, Ed25519", 4, 64, Some(ed25519())),
    ] {
        let mailer = sink.mailer(&format!("&pool={pool}"), dkim)?;
        send(mailer.clone(), &words, 50, senders).await?;
        let sent = timed(what, mails, send(mailer, &words, mails, senders)).await?;
        ensure!(sent == mails, "{sent} mails were sent");
    }
    if let Some(key) = &arguments.key {
        let dkim = DkimConfig::from_file("football.example.com", "bench", key);
        let mailer = sink.mailer("&pool=4", Some(dkim))?;
        let some = mails / 4;
        let what = "mail: 4 connections, 64 senders, the key given";
        let sent = timed(what, some, send(mailer, &words, some, 64)).await?;
        ensure!(sent == some);
    }
    Ok(())
}
