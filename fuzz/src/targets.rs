// The targets, by name. This file is also a module of the unit tests of crm-crawl, which replay the seeds.
//
// A target must not panic, and must not need more than a second or 512 MiB (scripts/fuzz sets both limits). What else
// must hold is asserted.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use crm_core::capability::{Checkpoint, Collector, Delivery, DraftSink, Progress};
use crm_core::customer::{CUSTOMER, EmailAddress, PhoneNumber};
use crm_core::query::Filter;
use crm_core::registry::discovery::eureka::{EurekaServer, EurekaServerConfig};
use crm_core::{Context, ErrorKind, Result, SystemClock, TenantId, Timestamp};
use crm_crawl::extract::{self, Hints};
use crm_crawl::file::{
    CsvCollector, CsvConfig, JsonlCollector, JsonlConfig, MailReading, MaildirCollector, MaildirConfig,
    Mapping, MboxCollector, MboxConfig, VcardCollector, VcardConfig,
};
use crm_crawl::spider::{Document, FieldSpec, FollowSpec, Page, Query, SpiderSpec};
use url::Url;

/// A target.
pub type Target = fn(&[u8]);

/// Every target by its name; each has its own folder of seeds and its own program.
pub const ALL: [(&str, Target); 14] = [
    ("robots", robots),
    ("canonical", canonical),
    ("sitemap", sitemap),
    ("decode", decode),
    ("extract", extract),
    ("rules", rules),
    ("csv", csv),
    ("jsonl", jsonl),
    ("vcard", vcard),
    ("mbox", mbox),
    ("headers", headers),
    ("rest", rest),
    ("filter", filter),
    ("eureka", eureka),
];

/// What a file is read as, by the first byte.
const ENCODINGS: [&str; 8] = [
    "auto",
    "utf-8",
    "windows-1252",
    "utf-16le",
    "utf-16be",
    "shift_jis",
    "gb18030",
    "iso-2022-jp",
];

/// The first byte as a choice, and the rest.
fn choice(data: &[u8]) -> (usize, &[u8]) {
    match data.split_first() {
        Some((first, rest)) => (usize::from(*first), rest),
        None => (0, data),
    }
}

/// Text, whatever the bytes are.
fn text(data: &[u8]) -> String {
    String::from_utf8_lossy(data).into_owned()
}

/// Keeps every delivery.
#[derive(Default)]
struct Kept(Vec<Delivery>);

#[async_trait::async_trait]
impl DraftSink for Kept {
    async fn deliver(&mut self, delivery: Delivery) -> Result<()> {
        self.0.push(delivery);
        Ok(())
    }
}

fn run(collector: &dyn Collector, resume: Option<&Checkpoint>) -> (Vec<Delivery>, Result<Progress>) {
    static RUNTIME: OnceLock<tokio::runtime::Runtime> = OnceLock::new();
    let runtime = RUNTIME.get_or_init(|| {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .build()
            .expect("a runtime")
    });
    let ctx = Context::new(TenantId::new("fuzz").expect("a name"));
    let mut kept = Kept::default();
    let end = runtime.block_on(collector.collect(&ctx, resume, &mut kept));
    (kept.0, end)
}

/// Drafts and rejects of some deliveries, to be compared.
fn told(deliveries: &[Delivery]) -> Vec<String> {
    let mut told = Vec::new();
    for delivery in deliveries {
        for draft in &delivery.drafts {
            let mut draft = draft.clone();
            draft.provenance.observed_at = Timestamp::EPOCH;
            told.push(serde_json::to_string(&draft).expect("a draft is data"));
        }
        for reject in &delivery.rejects {
            assert!(
                !reject.reason.is_empty() && !reject.place.is_empty(),
                "{reject:?}"
            );
            told.push(serde_json::to_string(reject).expect("a reject is data"));
        }
    }
    told.sort();
    told
}

/// Reads a file with a collector: it comes to an end or says what is wrong with a setting or the file, counts what it
/// handed over, and goes on from any of its checkpoints without a gap or anything twice.
fn file(data: &[u8], name: &str, choice: usize, collector: impl Fn(&Path) -> Option<Arc<dyn Collector>>) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join(name);
    std::fs::write(&path, data).expect("a file");
    let Some(collector) = collector(&path) else {
        return;
    };
    let (whole, end) = run(&*collector, None);
    match &end {
        Ok(progress) => {
            let drafts: usize = whole.iter().map(|d| d.drafts.len()).sum();
            let rejects: usize = whole.iter().map(|d| d.rejects.len()).sum();
            assert_eq!(
                (progress.drafts, progress.rejects),
                (drafts as u64, rejects as u64)
            );
        }
        Err(error) => assert!(
            matches!(
                error.kind(),
                ErrorKind::Config | ErrorKind::Invalid | ErrorKind::Corrupt
            ),
            "{error}"
        ),
    }
    for draft in whole.iter().flat_map(|d| &d.drafts) {
        assert!(draft.is_identified(), "a draft of nobody");
    }
    if whole.is_empty() {
        return;
    }
    let at = choice % whole.len();
    let (before, after) = whole.split_at(at + 1);
    let checkpoint = before.last().and_then(|d| d.checkpoint.as_ref());
    let (rest, again) = run(&*collector, Some(checkpoint.expect("a checkpoint")));
    assert_eq!(told(&rest), told(after), "resumed after delivery {at}");
    assert_eq!(again.is_ok(), end.is_ok());
}

fn bytes(target: &str) -> crm_crawl::Target {
    target.parse().expect("a target")
}

/// A delimited file in some encoding, with and without a mapping.
pub fn csv(data: &[u8]) {
    let (first, data) = choice(data);
    file(data, "f.csv", first, |path| {
        let mut config = CsvConfig::new(path, "fuzz");
        config.encoding = ENCODINGS[first % 8].into();
        config.batch = 1 + first / 8 % 3;
        if first & 0x40 != 0 {
            config.columns = Some(vec![
                "email".into(),
                "name".into(),
                "order".into(),
                "at".into(),
                "paid".into(),
            ]);
            config.mapping = Some(
                Mapping::new()
                    .column("email", bytes("email"))
                    .column("name", bytes("attribute:n:float"))
                    .column("order", bytes("order.id"))
                    .column("at", bytes("order.date"))
                    .column("paid", bytes("order.amount")),
            );
            config.reading.currency = Some("EUR".into());
            config.reading.decimal_comma = true;
        }
        Some(Arc::new(CsvCollector::new(config).ok()?))
    });
}

/// JSON Lines, recognised or mapped.
pub fn jsonl(data: &[u8]) {
    let (first, data) = choice(data);
    file(data, "f.jsonl", first, |path| {
        let mut config = JsonlConfig::new(path, "fuzz");
        config.encoding = ENCODINGS[first % 8].into();
        config.batch = 1 + first / 8 % 3;
        if first & 0x40 != 0 {
            config.mapping = Some(
                Mapping::new()
                    .column("a.b", bytes("email"))
                    .column("a.0", bytes("phone"))
                    .column(r"x\.y", bytes("attribute:j:json"))
                    .column("d", bytes("attribute:d:date")),
            );
        }
        Some(Arc::new(JsonlCollector::new(config).ok()?))
    });
}

/// vCards of every version.
pub fn vcard(data: &[u8]) {
    let (first, data) = choice(data);
    file(data, "f.vcf", first, |path| {
        let mut config = VcardConfig::new(path, "fuzz");
        config.encoding = ENCODINGS[first % 8].into();
        config.batch = 1 + first / 8 % 3;
        config.uid = first & 0x40 == 0;
        Some(Arc::new(VcardCollector::new(config).ok()?))
    });
}

const HOSTS: [&str; 4] = [
    "https://shop.example/team",
    "https://firma.de/kontakt",
    "https://acme.co.uk/",
    "https://example.jp/a?b=c",
];

/// People on a page: what is found is an address or a number in canonical form, surely so or less, and the same again.
pub fn extract(data: &[u8]) {
    let (first, _) = choice(data);
    let url: Url = HOSTS[first % HOSTS.len()].parse().expect("a URL");
    let Ok(page) = Page::new(url, "fuzz", &text(data), Timestamp::EPOCH) else {
        return;
    };
    let hints = Hints {
        region: (first & 4 != 0).then(|| "DE".into()),
    };
    let found = extract::contacts(&page, &hints);
    for contact in &found.contacts {
        for email in &contact.emails {
            assert!((0.0..=0.99).contains(&email.confidence), "{email:?}");
            let parsed = EmailAddress::parse(&email.value).expect("an address");
            assert_eq!(parsed.as_str(), email.value, "in canonical form");
        }
        for phone in &contact.phones {
            assert!((0.0..=0.99).contains(&phone.confidence), "{phone:?}");
            assert!(PhoneNumber::parse(&phone.value, None).is_ok(), "{}", phone.value);
        }
    }
    assert!(
        found == extract::contacts(&page, &hints),
        "found otherwise the second time"
    );
}

/// Selectors of both languages, regular expressions and follow rules on a page: an error or an answer, never more work
/// than is allowed.
pub fn rules(data: &[u8]) {
    let all = text(data);
    let mut parts = all.splitn(4, '\u{1}');
    let (selector, pattern, field) = (
        parts.next().unwrap_or_default(),
        parts.next().unwrap_or_default(),
        parts.next().unwrap_or_default(),
    );
    let page = parts.next().unwrap_or(
        "<html><body><nav id=n><a href=/a class='x y'>A b</a><a href='?p=2'>2</a></nav>\
         <div class=c lang=de><h2> Ana  Kask</h2><p>a@shop.example <b>1,5</b></p><!--c--></div></body></html>",
    );
    if let (Ok(query), Ok(document)) = (Query::parse(selector), Document::parse(page)) {
        let _ = document.find(&query).map(|found| found.len());
    }
    let spec = SpiderSpec {
        item: selector.into(),
        ..serde_json::from_str(
            r#"{"name": "f", "start": ["https://shop.example/"], "item": "x", "fields": []}"#,
        )
        .expect("a spec")
    };
    let mut spec = spec;
    let mut name: FieldSpec = serde_json::from_str(r#"{"target": "email"}"#).expect("a field");
    name.selector = field.into();
    name.regex = (!pattern.is_empty()).then(|| pattern.into());
    spec.fields = vec![name];
    let follow = serde_json::json!({"selector": field, "allow": [pattern]});
    spec.follow = serde_json::from_value::<FollowSpec>(follow).into_iter().collect();
    if let Ok(compiled) = spec.compile() {
        let _ = compiled.try_on("https://shop.example/list?x=1", page);
    }
}

/// A robots.txt and a path in its first line: the same answer each time, and its own path is always allowed (RFC 9309, 2.2.2).
pub fn robots(data: &[u8]) {
    let end = data.iter().position(|b| *b == b'\n').unwrap_or(0);
    let (path, rules) = data.split_at(end);
    let base: Url = "https://shop.example/".parse().expect("a URL");
    let itself = base.join("robots.txt").expect("a URL");
    assert!(crm_crawl::fuzz::robots(rules, "shop-bot", &itself));
    if let Ok(url) = base.join(&text(path)) {
        let first = crm_crawl::fuzz::robots(rules, "shop-bot", &url);
        assert_eq!(
            first,
            crm_crawl::fuzz::robots(rules, "SHOP-BOT", &url),
            "tokens have no case"
        );
    }
}

/// A URL, alone or as a link on a page: its canonical form is one, stays one, and is of the same host.
pub fn canonical(data: &[u8]) {
    let (first, data) = choice(data);
    let base: Url = "https://shop.example/a/b?c=d".parse().expect("a URL");
    let Ok(url) = base.join(&text(data)) else {
        return;
    };
    if !matches!(url.scheme(), "http" | "https") {
        return;
    }
    let once = crm_crawl::fuzz::canonical(&url, first & 1 != 0);
    assert_eq!(
        crm_crawl::fuzz::canonical(&once, first & 1 != 0),
        once,
        "of {url}"
    );
    assert_eq!(Url::parse(once.as_str()).as_ref(), Ok(&once), "of {url}");
    assert!(once.username().is_empty() && once.password().is_none() && once.fragment().is_none());
    let host = |url: &Url| url.host_str().map(|host| host.trim_end_matches('.').to_owned());
    assert_eq!((host(&once), once.port()), (host(&url), url.port()));
}

/// A sitemap: so many addresses, all of them of the web.
pub fn sitemap(data: &[u8]) {
    if let Some((pages, parts)) = crm_crawl::fuzz::sitemap(data, 100_000) {
        assert!(pages.len() + parts.len() <= 50_000);
        for url in pages.iter().chain(&parts) {
            assert!(matches!(url.scheme(), "http" | "https"), "{url}");
        }
    }
}

/// A page in some encoding, with its content type in the first line.
pub fn decode(data: &[u8]) {
    let end = data.iter().position(|b| *b == b'\n').unwrap_or(0);
    let (content_type, body) = data.split_at(end);
    if let Some(page) = crm_crawl::fuzz::decode(content_type, body) {
        let url: Url = "https://shop.example/".parse().expect("a URL");
        if let Ok(page) = Page::new(url, "fuzz", &page, Timestamp::EPOCH) {
            let _ = page.document().root().text();
        }
    }
}

/// Answers of an interface, and the mapping of their items. A line feed ends the `Link` header.
pub fn rest(data: &[u8]) {
    let (first, data) = choice(data);
    let end = data.iter().position(|b| *b == b'\n').unwrap_or(0);
    let (link, body) = data.split_at(end);
    crm_crawl::fuzz::rest_page(first, body, &text(link));
}

/// An mbox file of any dialect.
pub fn mbox(data: &[u8]) {
    let (first, data) = choice(data);
    file(data, "f.mbox", first, |path| {
        let mut config = MboxConfig::new(path, "fuzz");
        config.batch = 1 + first / 8 % 3;
        config.mail = mail(first);
        Some(Arc::new(MboxCollector::new(config).ok()?))
    });
}

/// The headers of one message, in a maildir.
pub fn headers(data: &[u8]) {
    let (first, data) = choice(data);
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(folder.path().join("cur")).expect("a folder");
    std::fs::write(folder.path().join("cur/1767225600.M1P1.host:2,S"), data).expect("a file");
    let mut config = MaildirConfig::new(folder.path(), "fuzz");
    config.mail = mail(first);
    let (deliveries, end) = run(&MaildirCollector::new(config).expect("a collector"), None);
    assert!(end.is_ok(), "{end:?}");
    told(&deliveries);
    for draft in deliveries.iter().flat_map(|d| &d.drafts) {
        for email in &draft.emails {
            assert!(EmailAddress::parse(email).is_ok(), "no address");
        }
        let name = draft
            .name
            .as_ref()
            .map(|name| name.display.as_str())
            .unwrap_or_default();
        assert!(!name.contains(char::is_control), "a control character in a name");
    }
}

fn mail(first: usize) -> MailReading {
    let everything = first & 1 == 0;
    MailReading {
        own: vec!["@shop.example".into()],
        lists: everything,
        automatic: everything,
        no_reply: everything,
        subject: everything,
        ..MailReading::default()
    }
}

/// A filter as text: refused, or written out and read back as the same.
pub fn filter(data: &[u8]) {
    let Ok(filter) = Filter::parse(&text(data), &CUSTOMER) else {
        return;
    };
    let written = filter.to_text();
    let back = Filter::parse(&written, &CUSTOMER).map(|back| back.to_text());
    assert!(
        back.as_ref().is_ok_and(|back| *back == written),
        "{written}: {back:?}"
    );
}

/// An instance that registers with the embedded register in JSON or XML: refused, or listed in both.
pub fn eureka(data: &[u8]) {
    let (first, body) = choice(data);
    let server = EurekaServer::new(EurekaServerConfig::default(), SystemClock::shared()).expect("a register");
    let ask = |method: &str, path: &str, media: &str, body: Vec<u8>| {
        let request = http::Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", media)
            .header("accept", media);
        server.handle(&request.body(body.into()).expect("a request"))
    };
    let media = ["application/json", "application/xml"][first % 2];
    if ask("POST", "/eureka/v2/apps/CRM", media, body.to_vec()).status() != 204 {
        return;
    }
    for media in ["application/json", "application/xml"] {
        let listed = ask("GET", "/eureka/v2/apps/CRM", media, Vec::new());
        assert_eq!(listed.status(), 200, "what registered is listed");
        assert!(!listed.body().is_empty());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was found once, and what a parser has to get by. The folder is the one of cargo's tests: the crate's.
    #[test]
    fn every_seed_again() {
        let mut names: Vec<String> = Vec::new();
        for entry in std::fs::read_dir("../fuzz/bins").unwrap() {
            names.push(
                entry
                    .unwrap()
                    .path()
                    .file_stem()
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .to_owned(),
            );
        }
        names.sort();
        let mut targets: Vec<&str> = ALL.iter().map(|(name, _)| *name).collect();
        targets.sort_unstable();
        assert_eq!(names, targets, "each target has its program");
        for (name, target) in ALL {
            let mut folders = vec![format!("../fuzz/seeds/{name}")];
            if name == "extract" {
                folders.push("tests/data/pages".into());
            }
            let mut count = 0;
            for folder in folders.iter().filter(|folder| Path::new(folder).is_dir()) {
                for entry in std::fs::read_dir(folder).unwrap() {
                    target(&std::fs::read(entry.unwrap().path()).unwrap());
                    count += 1;
                }
            }
            assert!(count >= 3, "{name} has no seeds");
            target(b"");
        }
    }
}
