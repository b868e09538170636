use crm_core::registry::Catalog;

/// The providers this build knows by URL. One that was left out when compiling answers with the Cargo feature that
/// brings it.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// use open_crm::capability::RecordStore;
///
/// let catalog = open_crm::catalog();
/// assert!(catalog.open::<dyn RecordStore>("memory:").await.is_ok());
/// let error = catalog.open::<dyn RecordStore>("oracle://localhost/crm").await.unwrap_err();
/// assert!(error.context("known").unwrap().contains("sqlite"), "{error}");
/// # });
/// ```
pub fn catalog() -> Catalog {
    let mut catalog = Catalog::new();
    crm_store::catalog::register(&mut catalog);
    #[cfg(feature = "files")]
    crm_crawl::catalog::register(&mut catalog);
    #[cfg(feature = "outreach")]
    crm_channels::register(&mut catalog);
    // Those of crates that were left out altogether; a scheme that is already there stays.
    use crm_core::capability::{Collector, Mailer, SmsSender, VoiceCaller};
    for scheme in ["csv", "jsonl", "vcard"] {
        catalog.absent::<dyn Collector>(scheme, "files");
    }
    catalog.absent::<dyn Collector>("spider", "crawl");
    for scheme in ["smtp", "smtps", "file"] {
        catalog.absent::<dyn Mailer>(scheme, "smtp");
    }
    for scheme in ["memory", "record"] {
        catalog.absent::<dyn Mailer>(scheme, "outreach");
    }
    catalog.absent::<dyn Mailer>("vendor", "http-provider");
    for (scheme, feature) in [
        ("memory", "outreach"),
        ("twilio", "twilio"),
        ("aliyun", "aliyun"),
        ("vendor", "http-provider"),
    ] {
        catalog.absent::<dyn SmsSender>(scheme, feature);
        catalog.absent::<dyn VoiceCaller>(scheme, feature);
    }
    catalog
}
