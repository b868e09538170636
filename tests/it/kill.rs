//! `kill -9` in the middle of collecting and of sending, then the same command again: nobody is stored twice, no mail is
//! sent twice, and those that were on the way are named.
//!
//! The oracles are not ours: the database is read with Python's sqlite3, the mails are the server's files.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// The example, built as everything else in this run was built.
fn quickstart() -> PathBuf {
    let folder = std::env::current_exe().unwrap();
    let folder = folder.parent().and_then(Path::parent).unwrap().join("examples");
    let mut cargo = Command::new(env!("CARGO"));
    // Build scripts look at these; as a test runner sets them, they would make half the dependencies build anew.
    for (name, _) in std::env::vars_os() {
        let told = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_CRATE_", "CARGO_BIN_"];
        if told
            .iter()
            .any(|prefix| name.to_string_lossy().starts_with(prefix))
        {
            cargo.env_remove(name);
        }
    }
    let built = cargo
        .args([
            "build",
            "--quiet",
            "--workspace",
            "--all-features",
            "--example",
            "quickstart",
        ])
        .env(
            "CARGO_TARGET_DIR",
            folder.parent().and_then(Path::parent).unwrap(),
        )
        .status()
        .unwrap();
    assert!(built.success(), "the example does not build");
    folder.join("quickstart")
}

fn start(program: &Path, out: &Path, log: &Path) -> Child {
    let log = std::fs::File::create(log).unwrap();
    Command::new(program)
        .args(["--lease", "3", "--out"])
        .arg(out)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

fn read(path: &Path) -> String {
    let mut text = String::new();
    if let Ok(mut file) = std::fs::File::open(path) {
        let _ = file.read_to_string(&mut text);
    }
    text
}

/// Mails on the server: Message-ID to how often.
fn mails(out: &Path) -> BTreeMap<String, usize> {
    let mut found = BTreeMap::new();
    let Ok(folder) = std::fs::read_dir(out.join("mails")) else {
        return found;
    };
    for entry in folder
        .flatten()
        .filter(|entry| entry.path().extension().is_some_and(|e| e == "eml"))
    {
        let text = String::from_utf8_lossy(&std::fs::read(entry.path()).unwrap()).into_owned();
        let id = text
            .lines()
            .find_map(|line| line.strip_prefix("Message-ID: "))
            .expect("a Message-ID");
        *found
            .entry(
                id.trim_matches(['<', '>', ' '])
                    .split('@')
                    .next()
                    .unwrap()
                    .to_owned(),
            )
            .or_default() += 1;
    }
    found
}

/// One SQL question, asked with a client that is not ours; rows as text, columns separated by a bar.
fn ask(out: &Path, sql: &str) -> Vec<String> {
    let script = "import sqlite3, sys
for row in sqlite3.connect('file:' + sys.argv[1] + '?mode=ro', uri=True).execute(sys.argv[2]):
    print('|'.join(v.hex() if isinstance(v, bytes) else str(v) for v in row))";
    let answer = Command::new("python3")
        .args(["-c", script])
        .arg(out.join("crm.db"))
        .arg(sql)
        .output()
        .unwrap();
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

#[test]
fn killed_and_started_again_the_quickstart_finishes_the_job() {
    let folder = tempfile::tempdir().unwrap();
    let (out, log) = (folder.path().join("out"), folder.path().join("log"));
    let program = quickstart();

    // In the middle of the web site, of the people's file, of the purchases, and twice among the mails.
    type Reached = Box<dyn Fn() -> bool>;
    let line = |text: &'static str| -> Reached {
        let log = log.clone();
        Box::new(move || read(&log).contains(text))
    };
    let sent = |count: usize| -> Reached {
        let out = out.clone();
        Box::new(move || mails(&out).len() >= count)
    };
    let points = [line("[1/6]"), line("[2/6]"), line("[3/6]"), sent(5), sent(60)];
    let mut kills = 0;
    for (n, reached) in points.into_iter().enumerate() {
        let mut child = start(&program, &out, &log);
        let mut patience = 1200;
        while !reached() && child.try_wait().unwrap().is_none() && patience > 0 {
            std::thread::sleep(Duration::from_millis(50));
            patience -= 1;
        }
        std::thread::sleep(Duration::from_millis(40 * (n as u64 + 1)));
        if child.try_wait().unwrap().is_none() {
            child.kill().unwrap(); // SIGKILL
            kills += 1;
        }
        child.wait().unwrap();
    }
    assert!(
        kills >= 4,
        "only {kills} kills hit: the test no longer tests:\n{}",
        read(&log)
    );

    let finished = start(&program, &out, &log).wait().unwrap();
    let said = read(&log);
    assert!(finished.success(), "{said}");

    // Everybody is there once, with every purchase once.
    assert_eq!(ask(&out, "select count(*) from crm_customer"), ["2357"], "{said}");
    assert_eq!(ask(&out, "select count(*) from crm_order"), ["6919"]);
    let twice = "select match_key, count(*) from crm_contact_point where match_key is not null group by 1 having count(*) > 1";
    assert_eq!(ask(&out, twice), [] as [&str; 0]);
    assert_eq!(
        ask(
            &out,
            "select count(distinct value) from crm_contact_point where kind = 'email'"
        ),
        ["2357"]
    );

    // No mail twice; every accepted one is on the server; what is on the server is accepted or named as unknown.
    let mails = mails(&out);
    let doubled: Vec<_> = mails.iter().filter(|(_, n)| **n > 1).collect();
    assert!(doubled.is_empty(), "sent twice: {doubled:?}");
    let states: BTreeMap<String, String> = ask(&out, "select id, state from crm_outbox")
        .iter()
        .map(|row| {
            row.split_once('|')
                .map(|(id, state)| (id.to_owned(), state.to_owned()))
                .unwrap()
        })
        .collect();
    let with = |state: &str| {
        states
            .iter()
            .filter(|(_, s)| *s == state)
            .map(|(id, _)| id.clone())
            .collect::<Vec<_>>()
    };
    let (accepted, unknown) = (with("sent"), with("unknown"));
    assert!(accepted.len() >= 60, "{} accepted", accepted.len());
    assert_eq!(
        accepted.len() + unknown.len() + with("refused").len(),
        states.len(),
        "{states:?}"
    );
    let on_server: Vec<String> = mails.keys().map(|id| id.replace('-', "")).collect();
    for id in &accepted {
        assert!(
            on_server.contains(id),
            "{id} is said to be accepted, but the server does not have it"
        );
    }
    for id in &on_server {
        assert!(
            accepted.contains(id) || unknown.contains(id),
            "{id} was sent, but nobody says so"
        );
    }
    assert!(
        unknown.len() <= 16 * kills,
        "{} unknown after {kills} kills",
        unknown.len()
    );
    for id in &unknown {
        assert!(
            said.replace('-', "").contains(id.as_str()),
            "{id} is unknown, but the summary does not name it"
        );
    }
}
