//! Extraction on pages that others made: those whose licences allow it are kept in `data/real`; a further folder of them, of
//! pages that may not be kept, is measured where `OPEN_CRM_REAL_PAGES` names one. `data/REAL.md` says what was measured.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

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

/// The pages of a folder, which has an answer for each: the open ones, those set aside, and how many they are.
fn measured(folder: &Path) -> ([Measured; 2], [usize; 2]) {
    let text = std::fs::read_to_string(folder.join("answers.json")).unwrap();
    let answers: BTreeMap<String, Answer> = serde_json::from_str(&text).unwrap();
    let (mut measured, mut counts) = ([Measured::default(), Measured::default()], [0, 0]);
    for (name, answer) in &answers {
        let html = std::fs::read_to_string(folder.join(format!("{name}.html"))).unwrap();
        let page = Page::new(answer.url.parse().unwrap(), "site", &html, Timestamp::EPOCH).unwrap();
        let hints = Hints {
            region: answer.region.clone(),
        };
        let said = said(&drafts(&extract::contacts(&page, &hints), &page));
        let which = usize::from(is_aside(name));
        measured[which].count(name, &answer.facts(), &said);
        counts[which] += 1;
    }
    (measured, counts)
}

#[allow(clippy::print_stdout)]
fn print([open, aside]: &[Measured; 2], counts: [usize; 2]) {
    println!("{} pages\n{}{}", counts[0], open.table(), open.differences);
    println!("{} pages set aside\n{}", counts[1], aside.table());
}

#[test]
fn people_are_found_on_real_pages() {
    let folder = Path::new("tests/data/real");
    let (both, counts) = measured(folder);
    print(&both, counts);
    let pages = std::fs::read_dir(folder).unwrap();
    let pages = pages.filter(|page| {
        page.as_ref()
            .unwrap()
            .path()
            .extension()
            .is_some_and(|e| e == "html")
    });
    assert_eq!(pages.count(), counts[0] + counts[1], "every page has its answer");
    assert!(counts[0] + counts[1] >= 60);
    let [open, aside] = &both;
    // Two manuals about addresses (`postfix-*`) have 14 that are placeholders: most of what is wrong.
    open.at_least(&[("email", 0.92, 0.97), ("name", 0.95, 0.94)]);
    aside.at_least(&[("email", 0.95, 0.95), ("name", 0.9, 0.65)]);
}

#[test]
#[allow(clippy::print_stderr)]
fn people_are_found_on_pages_that_are_not_kept() {
    let Some(folder) = std::env::var_os("OPEN_CRM_REAL_PAGES").map(PathBuf::from) else {
        eprintln!(
            "SKIPPED: OPEN_CRM_REAL_PAGES names no further folder with saved pages (crm-crawl/tests/data/REAL.md)"
        );
        return;
    };
    let (both, counts) = measured(&folder);
    print(&both, counts);
    both[0].at_least(&[("email", 0.95, 0.95), ("name", 0.9, 0.9)]);
}
