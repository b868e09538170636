use proptest::prelude::*;

use crm_core::capability::Checkpoint;
use crm_crawl::file::{CsvCollector, CsvConfig};

use crate::csv::Folder;
use crate::run;

fn wait<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(work)
}

/// Spreadsheets quote like this.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\"\""))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever stands in a cell comes out of it, with blanks around it removed and line ends made plain; and so it
    /// does when the file is read in two goes.
    #[test]
    fn cells_come_out_as_they_went_in(
        cells in prop::collection::vec("[^\u{0}\u{fffd}]{0,12}", 1..30),
        delimiter in prop::sample::select(vec![',', ';', '\t', '|']),
        batch in 1usize..5,
    ) {
        let mut text = format!("id{delimiter}street\r\n");
        for (i, cell) in cells.iter().enumerate() {
            text.push_str(&format!("{i}{delimiter}{}\r\n", quoted(cell)));
        }
        let folder = Folder::new();
        let mut config = CsvConfig::new(folder.file(text), "people");
        config.batch = batch;
        let collector = CsvCollector::new(config).unwrap();
        let (kept, result) = wait(run(&collector, None));
        result.unwrap();
        prop_assert!(kept.rejects().is_empty(), "{:?}", kept.rejects());
        let drafts = kept.drafts();
        prop_assert_eq!(drafts.len(), cells.len());
        for (draft, cell) in drafts.iter().zip(&cells) {
            let wanted = cell.replace("\r\n", "\n").replace('\r', "\n");
            // A guard against spreadsheets is taken off.
            let wanted = crm_core::cell::unguard(&wanted).trim().to_owned();
            let found = draft.addresses.first().map(|a| a.lines[0].clone()).unwrap_or_default();
            prop_assert_eq!(found, wanted);
        }
        let middle: Option<Checkpoint> = kept.0[kept.0.len() / 2].checkpoint.clone();
        let (rest, result) = wait(run(&collector, middle.as_ref()));
        result.unwrap();
        let before: usize = kept.0[..=kept.0.len() / 2].iter().map(|d| d.drafts.len()).sum();
        prop_assert_eq!(before + rest.drafts().len(), cells.len());
    }

    /// Any bytes at all: an answer or an error, never a panic, and never a character that is not there.
    #[test]
    fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..400), label in prop::sample::select(vec![
        "auto", "utf-8", "utf-16le", "windows-1252", "shift_jis", "gb18030",
    ])) {
        let folder = Folder::new();
        let mut config = CsvConfig::new(folder.file([b"id,name\n".as_slice(), &bytes].concat()), "people");
        config.encoding = label.to_owned();
        let (kept, _) = wait(run(&CsvCollector::new(config).unwrap(), None));
        for draft in kept.drafts() {
            let id = &draft.external_refs[0].id;
            let garbled = id.contains('\u{fffd}') || id.contains('\0');
            prop_assert!(!garbled);
        }
    }
}
