//! A provider of your own: a mailer that appends to an mbox file (RFC 4155), put into the registry and the catalogue
//! beside the built-in ones, used through `Outreach`, and proven with the conformance suite (`cargo test --example
//! custom_provider`).
//!
//! ```sh
//! cargo run --features outreach --example custom_provider
//! ```
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a program for people, not the library"
)]

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use open_crm::capability::{MailCapability, Mailer};
use open_crm::channels::Outgoing;
use open_crm::message::{Email, Mailbox, Permitted, Receipt};
use open_crm::prelude::*;
use open_crm::{Health, Uuid};

/// Appends every mail to one mbox file.
#[derive(Debug)]
struct MboxMailer {
    info: ProviderInfo,
    path: PathBuf,
    clock: Arc<dyn Clock>,
    /// One writer at a time, so that mails never mix.
    writing: Mutex<()>,
}

impl MboxMailer {
    fn open(path: impl Into<PathBuf>, clock: Arc<dyn Clock>) -> Result<Self> {
        let path = path.into();
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .map_err(|error| {
                Error::config("the mbox file cannot be written; name one in a folder that exists")
                    .with("setting", "path")
                    .with("path", path.display())
                    .source(error)
            })?;
        Ok(Self {
            info: ProviderInfo::new("mbox", "mbox"),
            path,
            clock,
            writing: Mutex::new(()),
        })
    }

    fn append(&self, mail: &Email) -> std::io::Result<()> {
        let now = self.clock.now();
        let mut text = format!("From {} {now}\n", mail.from.address.as_str());
        text += &format!(
            "Message-ID: {}\nFrom: <{}>\n",
            mail.message_id(),
            mail.from.address.as_str()
        );
        text += &format!(
            "To: <{}>\nSubject: {}\n\n",
            mail.to.address.as_str(),
            mail.subject
        );
        for line in mail.text.lines() {
            // A line that begins like the separator is quoted, however often it already is.
            let quote = if line.trim_start_matches('>').starts_with("From ") {
                ">"
            } else {
                ""
            };
            text += &format!("{quote}{line}\n");
        }
        text.push('\n');
        let _one_at_a_time = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut file = OpenOptions::new().append(true).open(&self.path)?;
        file.write_all(text.as_bytes())?;
        file.sync_data()
    }
}

#[async_trait]
impl Provider for MboxMailer {
    fn info(&self) -> &ProviderInfo {
        &self.info
    }

    async fn check(&self) -> Result<Health> {
        Ok(if self.path.is_file() {
            Health::Ready
        } else {
            Health::Down
        })
    }
}

#[async_trait]
impl Mailer for MboxMailer {
    fn capability(&self) -> MailCapability {
        // Not live: nothing leaves the machine, so `Outreach` uses it in its recording mode too.
        MailCapability::new(10 << 20, false, false)
    }

    async fn send(&self, _ctx: &Context, mail: &Permitted<Email>) -> Result<Receipt> {
        let mail = mail.message();
        mail.validate()?; // nothing in it can forge a header
        self.append(mail).map_err(|error| {
            // Part of it may be in the file: say so instead of claiming that nothing happened.
            Error::new(ErrorKind::Unavailable, "the mbox file cannot be written")
                .operation("mail.send")
                .source(error)
                .effect_unknown()
        })?;
        Ok(Receipt::new(
            self.info.name.clone(),
            mail.message_id(),
            self.clock.now(),
        ))
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("mails.mbox");
    let crm = Crm::builder()
        .store("memory:")
        .address_key(Secret::new("a demonstration key, good for nothing else"))
        .provide::<dyn Mailer>(10, Arc::new(MboxMailer::open(&path, SystemClock::shared())?))
        .build()
        .await?;

    // Somebody to write to, and a reason that needs no consent: she asked for a receipt.
    let ctx = Context::new(TenantId::new("shop")?);
    let mut draft = Draft::new(Provenance::new("till", SystemClock.now()));
    draft.emails.push("ana@example.org".into());
    let ana = crm.customers().upsert(&ctx, draft).await?.id;
    let mailbox = |address: &str| Mailbox::new(EmailAddress::parse(address)?, "");
    let (from, to) = (mailbox("shop@example.com")?, mailbox("ana@example.org")?);
    let mail = Email::new(
        Uuid::now_v7().into(),
        from,
        to,
        "Your receipt",
        "2 records, 29.33 USD\nThank you.",
    );
    let receipt = Outgoing::email(mail, ana, Purpose::transactional("receipt")?);
    crm.outreach().enqueue(&ctx, receipt, vec![]).await?;
    let report = crm.outreach().dispatcher()?.drain(&ctx).await?;
    println!("{report:?}");
    print!("{}", show(&path)?);

    // The same mailer from a URL, as configuration would name it.
    let mut catalog = open_crm::catalog();
    catalog.register::<dyn Mailer, _, _>("mbox", |url| async move {
        let path = url.trim_start_matches("mbox:").to_owned();
        Ok(Arc::new(MboxMailer::open(path, SystemClock::shared())?) as Arc<dyn Mailer>)
    });
    let opened = catalog
        .open::<dyn Mailer>(&format!("mbox:{}", path.display()))
        .await?;
    println!(
        "opened from a URL: {} is {:?}",
        opened.info(),
        opened.check().await?
    );
    Ok(())
}

fn show(path: &Path) -> std::io::Result<String> {
    std::fs::read_to_string(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mailer() -> Arc<dyn Mailer> {
        let folder = tempfile::tempdir().expect("a temporary folder").keep();
        Arc::new(MboxMailer::open(folder.join("mails.mbox"), SystemClock::shared()).expect("it opens"))
    }

    // Every property of the capability, a test each.
    open_crm::mailer_suite!(mbox, async { mailer() });

    #[test]
    fn a_folder_that_is_not_there_is_named() {
        let error =
            MboxMailer::open("/no/such/folder/mails.mbox", SystemClock::shared()).expect_err("no folder");
        assert_eq!(error.context("path"), Some("/no/such/folder/mails.mbox"));
    }
}
