use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use crm_core::capability::{MailCapability, Mailer};
use crm_core::message::{Email, Permitted, Receipt};
use crm_core::{Clock, Context, Error, ErrorKind, Health, Provider, ProviderInfo, Result, SystemClock};

use super::dkim::DkimSigner;
use super::mime;

/// Writes each mail into a file of its own, `<message id>.eml`, instead of sending it. A file is there whole or not at
/// all; the same message written again replaces itself.
#[derive(Debug)]
pub struct FileMailer {
    info: ProviderInfo,
    folder: PathBuf,
    clock: Arc<dyn Clock>,
    signers: Vec<DkimSigner>,
}

impl FileMailer {
    /// Writes into `folder`, which is made when it is missing.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when the folder cannot be made.
    pub fn open(name: &str, folder: impl AsRef<Path>) -> Result<Self> {
        let folder = folder.as_ref().to_owned();
        std::fs::create_dir_all(&folder).map_err(|e| {
            Error::config("the folder for mails cannot be made")
                .with("setting", "folder")
                .with("path", folder.display())
                .source(e)
        })?;
        Ok(Self {
            info: ProviderInfo::new("file", name),
            folder,
            clock: SystemClock::shared(),
            signers: Vec::new(),
        })
    }

    /// From `file:mails` or `file:///var/spool/crm`.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when there is no path or the folder cannot be made.
    pub fn open_url(name: &str, url: &str) -> Result<Self> {
        let path = url.strip_prefix("file:").unwrap_or_default();
        let path = path.strip_prefix("//").unwrap_or(path);
        if path.is_empty() {
            return Err(
                Error::config("the folder is missing; write file:mails or file:///var/spool/crm")
                    .with("setting", "url"),
            );
        }
        Self::open(name, path)
    }

    /// Takes the time of receipts and `Date` headers from `clock`.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Signs each mail, as [`SmtpMailer`](super::SmtpMailer) does with its own keys.
    #[must_use]
    pub fn with_signer(mut self, signer: DkimSigner) -> Self {
        self.signers.push(signer);
        self
    }

    /// Where the mails are.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

#[async_trait]
impl Provider for FileMailer {
    fn info(&self) -> &ProviderInfo {
        &self.info
    }
    async fn check(&self) -> Result<Health> {
        Ok(if self.folder.is_dir() {
            Health::Ready
        } else {
            Health::Down
        })
    }
}

#[async_trait]
impl Mailer for FileMailer {
    fn capability(&self) -> MailCapability {
        MailCapability::new(u64::MAX, true, false)
    }

    async fn send(&self, _ctx: &Context, mail: &Permitted<Email>) -> Result<Receipt> {
        let mail = mail.message();
        let now = self.clock.now();
        let bytes = mime::build(mail, now, &self.signers.iter().collect::<Vec<_>>())?.bytes;
        let name = format!("{}.eml", mail.id);
        // Written under another name first and renamed: a reader never sees half a mail.
        let (made, whole) = (self.folder.join(format!(".{name}.part")), self.folder.join(&name));
        std::fs::write(&made, bytes)
            .and_then(|()| std::fs::rename(&made, &whole))
            .map_err(|e| {
                Error::new(
                    ErrorKind::Unavailable,
                    "the mail cannot be written into its folder",
                )
                .operation("mail.send")
                .with("path", self.folder.display())
                .source(e)
            })?;
        Ok(Receipt::new(self.info.name.clone(), name, now))
    }
}
