//! Processes of this test binary that are killed, and SQLite's own program, which reads what they left.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::stores::skipped;

const PATH: &str = "CRM_STORE_TEST_ROLE_FILE";
const ROLE: &str = "CRM_STORE_TEST_ROLE";

/// In a child process: the file it works on, and what it does with it.
pub(crate) fn role() -> Option<(String, String)> {
    Some((std::env::var(PATH).ok()?, std::env::var(ROLE).unwrap_or_default()))
}

/// The named test of this binary, as a process of its own after the arguments of `before`.
fn command(before: &[&str], test: &str, path: &Path, role: &str) -> Command {
    let own = std::env::current_exe().unwrap();
    let mut command = match before {
        [] => Command::new(own),
        [program, arguments @ ..] => {
            let mut command = Command::new(program);
            command.args(arguments).arg(own);
            command
        }
    };
    command
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(PATH, path)
        .env(ROLE, role);
    command
}

/// Starts the named test in a role; what it says can be read.
pub(crate) fn spawn(test: &str, path: &Path, role: &str) -> Child {
    command(&[], test, path, role)
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap()
}

/// Runs the named test in a role to its end.
pub(crate) fn through(test: &str, path: &Path, role: &str) {
    let out = command(&[], test, path, role).output().unwrap();
    let told = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{role}: {told}");
}

/// As [`through`]; tells how often its busiest thread wrote to a file.
pub(crate) fn writes(test: &str, path: &Path, role: &str) -> usize {
    let trace = path.with_extension("trace");
    let to = trace.to_str().unwrap();
    let strace = ["strace", "-f", "-qq", "-e", "trace=pwrite64", "-o", to];
    let out = command(&strace, test, path, role).output().unwrap();
    let told = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{role}: {told}");
    let trace = std::fs::read_to_string(trace).unwrap();
    let mut threads: BTreeMap<&str, usize> = BTreeMap::new();
    for (thread, _) in trace.lines().filter_map(|line| line.split_once(" pwrite64(")) {
        *threads.entry(thread.trim()).or_default() += 1;
    }
    threads.into_values().max().unwrap_or_default()
}

/// Runs the named test in a role, and kills it when a thread of it writes to a file for the `at`-th time; whether it was.
pub(crate) fn struck(test: &str, path: &Path, role: &str, at: usize) -> bool {
    use std::os::unix::process::ExitStatusExt as _;
    let fault = format!("inject=pwrite64:signal=SIGKILL:when={at}");
    let strace = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", &fault];
    let out = command(&strace, test, path, role).output().unwrap();
    // strace ends as its child did.
    let killed = out.status.signal() == Some(9);
    let told = String::from_utf8_lossy(&out.stderr);
    assert!(killed || out.status.success(), "{role}: {told}");
    killed
}

/// Whether the programs that kill and look are installed; said loudly when not.
pub(crate) fn armed() -> bool {
    let works = |program: &str, arguments: &[&str]| {
        let out = Command::new(program).args(arguments).output();
        out.is_ok_and(|out| out.status.success())
    };
    let inject = ["-e", "inject=fdatasync:error=EIO:when=1", "true"];
    let armed = works("sqlite3", &["--version"]) && works("strace", &inject);
    if !armed {
        skipped("sqlite3 is not installed, or strace cannot inject faults here, so no process was killed");
    }
    armed
}

/// What SQLite's own program answers, line by line.
pub(crate) fn sqlite3(path: &Path, sql: &str) -> Vec<String> {
    let out = Command::new("sqlite3")
        .args(["-batch", "-noheader", "-cmd", ".timeout 30000"])
        .arg(path)
        .arg(sql)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success() && told.is_empty(), "{sql}: {told}");
    let said = String::from_utf8(out.stdout).unwrap();
    said.lines().map(str::to_owned).collect()
}

/// One number of SQLite's own program.
pub(crate) fn number(path: &Path, sql: &str) -> i64 {
    match &sqlite3(path, sql)[..] {
        [one] => one.parse().unwrap(),
        other => panic!("{sql}: {other:?}"),
    }
}

/// The file is what SQLite's own program calls sound.
pub(crate) fn sound(path: &Path) {
    assert_eq!(sqlite3(path, "PRAGMA integrity_check"), ["ok"]);
}
