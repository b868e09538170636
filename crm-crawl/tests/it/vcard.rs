//! vCards of 2.1, 3.0 and 4.0, as address books and phones write them.

use std::sync::Arc;

use crm_core::capability::{Collector, OriginalKind};
use crm_core::customer::Draft;
use crm_core::{ManualClock, Timestamp};
use crm_crawl::file::{VcardCollector, VcardConfig};
use proptest::prelude::*;
use tempfile::TempDir;

use crate::run;

fn file(content: impl AsRef<[u8]>) -> (TempDir, VcardConfig) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("contacts.vcf");
    std::fs::write(&path, content).unwrap();
    (folder, VcardConfig::new(path, "phone"))
}

async fn cards(content: impl AsRef<[u8]>) -> (Vec<Draft>, Vec<(Option<u64>, Option<String>, String)>) {
    let (_folder, config) = file(content);
    let clock = Arc::new(ManualClock::at("2026-06-01T00:00:00Z".parse().unwrap()));
    let (kept, progress) = run(&VcardCollector::new(config).unwrap().with_clock(clock), None).await;
    progress.unwrap();
    let rejects = kept
        .rejects()
        .into_iter()
        .map(|r| (r.line, r.field, r.reason))
        .collect();
    (kept.drafts(), rejects)
}

/// RFC 6350, with what the standard allows: groups, preferences, folding within words, escapes, URIs, several of all.
const FOUR: &str = "BEGIN:VCARD\r\nVERSION:4.0\r\nUID:urn:uuid:4fbe8971-0bc3-424c-9c26-36c3e1eff6b1\r\n\
FN;PREF=2:Dr. A. Kask\r\nFN;PREF=1:Ana Maria Kask\r\nN:Kask;Ana;Maria;Dr.;\r\n\
item1.EMAIL;PREF=2:second@example.com\r\nitem1.X-ABLabel:Other\r\nEMAIL;TYPE=\"home,work\";PREF=1:first@exa\r\n mple.com\r\n\
TEL;VALUE=uri;TYPE=\"voice,home\":tel:+61-491-570-156;ext=5555\r\nTEL;TYPE=fax:+61 2 5550 0000\r\n\
ADR;GEO=\"geo:12.3457,78.910\";LABEL=\"x: y\":;Flat 2;12 High St\\, North,Yard;Tartu;;00123;EE\r\n\
ADR:;;Main;Berlin;;10115;Deutschland\r\nORG:ABC\\, Inc.;Sales;\r\nCATEGORIES:vip,a\\,b\r\n\
NOTE:first\\nsecond\\; third \\\\ end\r\nBDAY:19850412\r\nREV:20260301T090000Z\r\nPHOTO:data:image/jpeg;base64,AAAA\r\n AAAA\r\nEND:VCARD\r\n";

#[tokio::test]
async fn a_card_of_the_newest_version() {
    let (drafts, rejects) = cards(FOUR).await;
    assert!(rejects.is_empty(), "{rejects:?}");
    let d = &drafts[0];
    let name = d.name.as_ref().unwrap();
    assert_eq!(
        (name.given.as_str(), name.family.as_str(), name.full().as_str()),
        ("Ana Maria", "Kask", "Ana Maria Kask")
    );
    assert_eq!(d.emails, ["first@example.com", "second@example.com"]);
    assert_eq!(d.phones, ["tel:+61-491-570-156"], "no fax, no extension");
    assert_eq!(d.addresses[0].lines, ["12 High St, North", "Yard", "Flat 2"]);
    assert_eq!(
        (
            d.addresses[0].postal_code.as_str(),
            d.addresses[0].country.as_str()
        ),
        ("00123", "EE")
    );
    assert_eq!(d.addresses[1].lines, ["Main", "Deutschland"]);
    assert_eq!(d.tags, ["vip", "a,b"]);
    assert_eq!(d.external_refs[0].system, "phone");
    let attributes = serde_json::to_value(&d.attributes).unwrap();
    assert_eq!(
        attributes,
        serde_json::json!({"organisation": "ABC, Inc., Sales", "note": "first\nsecond; third \\ end", "birthday": "1985-04-12"})
    );
    assert_eq!(
        d.provenance.observed_at,
        "2026-03-01T09:00:00Z".parse::<Timestamp>().unwrap()
    );
    assert_eq!(d.provenance.line, Some(1));
}

#[tokio::test]
async fn cards_of_phones_and_old_programs() {
    let old = "BEGIN:VCARD\nVERSION:2.1\nN;CHARSET=UTF-8;ENCODING=QUOTED-PRINTABLE:=4D=C3=BCller;J=C3=B6rg;;;\n\
FN;CHARSET=UTF-8;ENCODING=QUOTED-PRINTABLE:J=C3=B6rg =\nM=C3=BCller\nTEL;CELL;PREF:0491 570 156\nTEL;HOME:+49 30 901820\n\
EMAIL;INTERNET:joerg@example.com\nPHOTO;ENCODING=BASE64;JPEG:\n AAAAAAAAAAAA\n BBBB\n\nEND:VCARD\n\
BEGIN:vcard\nVERSION:3.0\nFN:Bo\nN:;;;;\nEMAIL;TYPE=INTERNET,pref:bo@example.com\nTEL;TYPE=CELL:+61491570157\nAGENT:\nBEGIN:VCARD\nFN:Nobody\nEMAIL:agent@example.com\nEND:VCARD\nend:VCARD";
    let (drafts, rejects) = cards(old).await;
    assert!(rejects.is_empty(), "{rejects:?}");
    assert_eq!(drafts.len(), 2);
    let name = drafts[0].name.as_ref().unwrap();
    assert_eq!(
        (name.given.as_str(), name.family.as_str(), name.display.as_str()),
        ("Jörg", "Müller", "")
    );
    assert_eq!(
        drafts[0].phones,
        ["0491 570 156", "+49 30 901820"],
        "the preferred one first"
    );
    assert_eq!(drafts[1].name.as_ref().unwrap().display, "Bo");
    assert_eq!(drafts[1].emails, ["bo@example.com"]);
}

#[tokio::test]
async fn what_cannot_be_read_costs_no_more_than_itself() {
    let text = format!(
        "stray\nBEGIN:VCARD\nFN:One\nEMAIL:one@example.com\nno colon here\nX-CRM-ATTRIBUTE:Bad Name;1\nNOTE;ENCODING=b:AAAA\nEND:VCARD\n\
BEGIN:VCARD\nFN:Nobody\nEND:VCARD\nBEGIN:VCARD\nFN:Open\nEMAIL:open@example.com\nBEGIN:VCARD\nFN:Two\nEMAIL:two@example.com\nEND:VCARD\n\
BEGIN:VCARD\nFN:Long\nNOTE:{}\nEND:VCARD\nBEGIN:VCARD\nFN:Three\nEMAIL:three@example.com\nEND:VCARD\nBEGIN:VCARD\nEMAIL:cut@example.com\n",
        "x".repeat(2 << 20)
    );
    let (drafts, rejects) = cards(text).await;
    let emails: Vec<&str> = drafts.iter().map(|d| d.emails[0].as_str()).collect();
    assert_eq!(
        emails,
        ["one@example.com", "two@example.com", "three@example.com"]
    );
    let told: Vec<(u64, Option<&str>)> = rejects
        .iter()
        .map(|(l, f, _)| (l.unwrap(), f.as_deref()))
        .collect();
    assert_eq!(
        told,
        [
            (1, None),
            (2, None),
            (2, Some("X-CRM-ATTRIBUTE")),
            (2, Some("NOTE")),
            (9, None),
            (12, None),
            (19, None),
            (27, None)
        ],
        "{rejects:?}"
    );
}

#[tokio::test]
async fn the_card_stands_beside_its_reject() {
    let (_folder, config) = file("BEGIN:VCARD\nFN:Nobody\nEND:VCARD\n");
    let (kept, _) = run(&VcardCollector::new(config).unwrap(), None).await;
    let originals = &kept.0[0].originals;
    assert_eq!(originals.kind, OriginalKind::Vcard);
    assert_eq!(originals.rows[&1], ["BEGIN:VCARD\nFN:Nobody\nEND:VCARD\n"]);
}

async fn suite() -> Arc<dyn Collector> {
    let text: String = (0..40)
        .map(|n| match n % 7 {
            3 => "BEGIN:VCARD\nFN:Nobody\nEND:VCARD\n".to_owned(),
            5 => "BEGIN:VCARD\nFN:Open\n".to_owned(),
            _ => format!("BEGIN:VCARD\nVERSION:4.0\nFN:Größe {n}\nEMAIL:p{n}@example.com\nEND:VCARD\n"),
        })
        .collect();
    let (folder, mut config) = file(text);
    config.batch = 3;
    std::mem::forget(folder);
    Arc::new(VcardCollector::new(config).unwrap())
}

crm_core::collector_suite!(contract, suite());

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn nothing_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400), text in "(BEGIN:VCARD|END:VCARD|[A-Z]{1,5}[;:=\"\\\\,]|ENCODING=QUOTED-PRINTABLE|=[0-9A-F]{0,2}|[ \t\n\r]|[äé;:,\\\\]){0,60}") {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        for content in [bytes, text.into_bytes()] {
            let whole = [content.as_slice(), b"\nEND:VCARD\nBEGIN:VCARD\nEMAIL:good@example.com\nEND:VCARD\n"].concat();
            let (_folder, config) = file(&whole);
            let (kept, _) = runtime.block_on(async { run(&VcardCollector::new(config).unwrap(), None).await });
            let misleading = content.starts_with(b"\xff\xfe") || content.starts_with(b"\xfe\xff") || content.iter().take(2).any(|b| *b == 0);
            if !misleading {
                prop_assert!(kept.drafts().iter().any(|d| d.emails.contains(&"good@example.com".to_owned())), "the good card is there");
            }
        }
    }
}
