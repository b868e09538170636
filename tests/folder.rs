//! A process that takes in a folder of files is killed in the middle with `kill -9`, again and again: nobody is lost, nothing
//! is taken in twice. The process is this test program, started anew as `worker`; the oracle is the database as
//! Python's sqlite3 reads it, and what lies in the folders.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use open_crm::crawl::file::{FileFormat, FolderCollector, FolderConfig};
use open_crm::prelude::*;

/// Where the worker's database and folder are.
const PLACE: &str = "OPEN_CRM_TEST_FOLDER_WORKER";
/// After how many deliveries it dies by itself, without a word.
const DIES: &str = "OPEN_CRM_TEST_FOLDER_DIES";

const FILES: usize = 6;
const ROWS: usize = 300;
/// Every tenth row is of nobody.
const BAD: usize = ROWS / 10;

/// What the other process runs; without a place there is nothing to do.
#[test]
fn worker() {
    let Some(place) = std::env::var_os(PLACE).map(PathBuf::from) else {
        return;
    };
    let dies: Option<usize> = std::env::var(DIES).ok().map(|text| text.parse().unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let url = format!("sqlite:{}", place.join("crm.db").display());
        let store = open_crm::catalog().open::<dyn RecordStore>(&url).await.unwrap();
        let mut config = FolderConfig::new(place.join("inbox"), "erp").rule("*.csv", FileFormat::Csv);
        config.settle = 0.0;
        config.files[0].settings.insert("batch".into(), 10.into());
        let inbox = Arc::new(FolderCollector::new(config, store).unwrap());
        let crm = Crm::builder()
            .store(&url)
            .collector(inbox.clone())
            .build()
            .await
            .unwrap();
        let ctx = Context::new(TenantId::new("shop").unwrap());
        let mut deliveries = 0;
        // A run that was stopped goes on, also when no file is left but the one it stands in.
        crm.collect(&ctx, "erp", &mut |_, _| {
            deliveries += 1;
            if dies == Some(deliveries) {
                std::process::abort();
            }
        })
        .await
        .unwrap();
        assert_eq!(inbox.ready().await.unwrap(), 0);
    });
}

fn start(place: &Path, dies: Option<usize>) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["worker", "--exact", "--nocapture"])
        .env(PLACE, place)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(place.join("log")).unwrap());
    if let Some(dies) = dies {
        command.env(DIES, dies.to_string());
    }
    command.spawn().unwrap()
}

fn fill(place: &Path) {
    std::fs::create_dir(place.join("inbox")).unwrap();
    for file in 0..FILES {
        let rows: String = (0..ROWS)
            .map(|row| match row % 10 {
                3 => format!(",nobody {row}\n"),
                _ => format!("p{file}-{row}@x.example,P {row}\n"),
            })
            .collect();
        std::fs::write(
            place.join(format!("inbox/{file}.csv")),
            format!("email,name\n{rows}"),
        )
        .unwrap();
    }
    std::fs::write(place.join("inbox/bad.csv"), "shoe,size\na,b\n").unwrap();
}

/// Asks the database with a client that is not ours; `None` where there is none.
fn ask(place: &Path, sql: &str) -> Vec<String> {
    let script = "import sqlite3, sys
base = sqlite3.connect(sys.argv[1])
for row in base.execute(sys.argv[2]):
    print('|'.join(str(v) for v in row))
base.commit()";
    let answer = Command::new("python3")
        .args(["-c", script])
        .arg(place.join("crm.db"))
        .arg(sql)
        .output()
        .expect("python3, the database's other client");
    assert!(
        answer.status.success(),
        "{}",
        String::from_utf8_lossy(&answer.stderr)
    );
    String::from_utf8(answer.stdout)
        .unwrap()
        .lines()
        .map(str::to_owned)
        .collect()
}

/// Customers, and rows that were put aside.
fn counted(place: &Path) -> (usize, usize) {
    let count = |sql: &str| ask(place, sql)[0].parse().unwrap();
    (
        count("select count(*) from crm_customer"),
        count("select count(*) from crm_import_reject"),
    )
}

/// Everybody, and every bad row with the bad file, once.
const ALL: (usize, usize) = (FILES * (ROWS - BAD), FILES * BAD + 1);

fn names(folder: PathBuf) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn killed_again_and_again_every_file_is_taken_in_once() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path();
    fill(place);
    let mut kills = 0;
    // Longer each time, so that it gets somewhere; the last ones by itself, at a place that is certain.
    for wait in [300, 500, 700, 900, 1200, 1500] {
        let mut child = start(place, None);
        std::thread::sleep(Duration::from_millis(wait));
        if child.try_wait().unwrap().is_none() {
            child.kill().unwrap(); // SIGKILL
            kills += 1;
        }
        child.wait().unwrap();
    }
    let mut ends = 0;
    for dies in [1, 7, 31, 2, 45] {
        ends += usize::from(start(place, Some(dies)).wait().unwrap().success());
    }
    assert!(
        kills > 0 || ends < 5,
        "nothing was killed: the test no longer tests"
    );
    let end = start(place, None).wait().unwrap();
    let log = std::fs::read_to_string(place.join("log")).unwrap();
    assert!(end.success(), "{log}");

    assert_eq!(counted(place), ALL);
    let twice = "select value, count(*) from crm_contact_point group by 1 having count(*) > 1";
    assert_eq!(ask(place, twice), [] as [&str; 0]);
    let states = ask(
        place,
        "select state, count(*) from crm_folder_file group by 1 order by 1",
    );
    assert_eq!(states, [format!("done|{FILES}"), "failed|1".to_owned()]);
    assert_eq!(names(place.join("inbox")), ["done", "failed"]);
    let done: Vec<String> = (0..FILES)
        .flat_map(|n| [format!("{n}.csv"), format!("{n}.csv.rejects.jsonl")])
        .collect();
    assert_eq!(names(place.join("inbox/done")), done);
    assert_eq!(
        names(place.join("inbox/failed")),
        ["bad.csv", "bad.csv.rejects.jsonl"]
    );
    for file in 0..FILES {
        let text =
            std::fs::read_to_string(place.join(format!("inbox/done/{file}.csv.rejects.jsonl"))).unwrap();
        assert_eq!(text.lines().count(), BAD, "each bad row once, in {file}");
    }
}

#[test]
fn without_the_checkpoint_rows_come_twice() {
    // The control: the same, but what the run stored of its place is taken away.
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path();
    fill(place);
    assert!(!start(place, Some(5)).wait().unwrap().success());
    ask(place, "update crm_import_job set checkpoint = null");
    assert!(start(place, None).wait().unwrap().success());
    let (people, rejects) = counted(place);
    assert_eq!(people, ALL.0, "people are known again by their addresses");
    assert!(
        rejects > ALL.1,
        "the bad rows of the deliveries before came again"
    );
}
