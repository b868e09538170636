//! Extraction on pages that others made. They belong to others and name real people, so they are not kept here:
//! `data/REAL.md` says which they are, what was measured on them, and how to measure again.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crm_core::Timestamp;
use crm_crawl::extract::{self, Hints};
use crm_crawl::spider::Page;

use crate::known::{Answer, Measured, drafts, said};

/// A third of the pages is set aside: nobody looked at them while the extractor was mended. Chosen by the FNV-1a of the name.
fn is_aside(name: &str) -> bool {
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    hash % 3 == 0
}

#[test]
#[allow(clippy::print_stdout, clippy::print_stderr)]
fn people_are_found_on_pages_of_others() {
    let Some(folder) = std::env::var_os("OPEN_CRM_REAL_PAGES").map(PathBuf::from) else {
        eprintln!(
            "SKIPPED: OPEN_CRM_REAL_PAGES names no folder with saved pages (crm-crawl/tests/data/REAL.md)"
        );
        return;
    };
    let text = std::fs::read_to_string(folder.join("answers.json")).unwrap();
    let answers: BTreeMap<String, Answer> = serde_json::from_str(&text).unwrap();
    let (mut open, mut aside) = (Measured::default(), Measured::default());
    let mut counts = (0, 0);
    for (name, answer) in &answers {
        let html = std::fs::read_to_string(folder.join(format!("{name}.html"))).unwrap();
        let page = Page::new(answer.url.parse().unwrap(), "site", &html, Timestamp::EPOCH).unwrap();
        let hints = Hints {
            region: answer.region.clone(),
        };
        let said = said(&drafts(&extract::contacts(&page, &hints), &page));
        let (measured, count) = if is_aside(name) {
            (&mut aside, &mut counts.1)
        } else {
            (&mut open, &mut counts.0)
        };
        measured.count(name, &answer.facts(), &said);
        *count += 1;
    }
    println!("{} pages\n{}{}", counts.0, open.table(), open.differences);
    println!("{} pages set aside\n{}", counts.1, aside.table());
    open.at_least(&[("email", 0.95, 0.95), ("name", 0.9, 0.9)]);
}
