//! Postfix goes down and comes back while five hundred messages are on their way: none that it took is lost, none arrives
//! twice, and for none is the wrong thing said.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crm_channels::mail::{SmtpConfig, SmtpMailer};
use crm_core::{Effect, ErrorKind};

use super::{mail_to, program, send, skipped};

/// A Postfix of our own, which may be stopped.
struct Own {
    folder: tempfile::TempDir,
    master: Option<Child>,
    port: u16,
}

impl Drop for Own {
    fn drop(&mut self) {
        self.stop();
    }
}

const DAEMONS: &str = "/usr/lib/postfix/sbin";

impl Own {
    async fn start(test: &str) -> Option<Self> {
        let root = Command::new("id")
            .arg("-u")
            .output()
            .is_ok_and(|id| id.stdout == b"0\n");
        if !root || program("postfix").is_none() || !Path::new(DAEMONS).join("master").is_file() {
            skipped(test, "there is no Postfix of Debian's, or we are not root");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let home = folder.path().to_str().unwrap().to_owned();
        for name in [
            "etc",
            "spool",
            "data",
            "mail/all/new",
            "mail/all/cur",
            "mail/all/tmp",
        ] {
            std::fs::create_dir_all(folder.path().join(name)).unwrap();
        }
        run(Command::new("chmod").args(["755", &home]));
        run(Command::new("chown").args(["postfix", &format!("{home}/data")]));
        run(Command::new("chown").args(["-R", "nobody:nogroup", &format!("{home}/mail")]));
        let main = format!(
            "compatibility_level = 3.6\nqueue_directory = {home}/spool\ndata_directory = {home}/data\nmail_owner = postfix\n\
             setgid_group = postdrop\ncommand_directory = /usr/sbin\ndaemon_directory = {DAEMONS}\nmeta_directory = /etc/postfix\n\
             myhostname = mail.test.example\nmydestination =\nalias_maps =\ninet_interfaces = 127.0.0.1\ninet_protocols = ipv4\n\
             virtual_mailbox_domains = test.example\nvirtual_mailbox_base = {home}/mail\nvirtual_mailbox_maps = static:all/\n\
             virtual_minimum_uid = 1\nvirtual_uid_maps = static:65534\nvirtual_gid_maps = static:65534\n\
             smtpd_relay_restrictions = reject_unauth_destination\nsmtpd_client_connection_count_limit = 0\n\
             queue_run_delay = 2s\nminimal_backoff_time = 2s\nmaximal_backoff_time = 3s\n\
             maillog_file = {home}/mail.log\nmaillog_file_prefixes = {home}\n"
        );
        let mut services = format!("127.0.0.1:{port} inet n - n - - smtpd\n");
        for (name, private, max, command) in [
            ("pickup", "n", "1", "pickup"),
            ("cleanup", "n", "0", "cleanup"),
            ("qmgr", "n", "1", "qmgr"),
            ("rewrite", "-", "-", "trivial-rewrite"),
            ("bounce", "-", "0", "bounce"),
            ("defer", "-", "0", "bounce"),
            ("trace", "-", "0", "bounce"),
            ("verify", "-", "1", "verify"),
            ("tlsmgr", "-", "1", "tlsmgr"),
            ("flush", "n", "0", "flush"),
            ("proxymap", "-", "-", "proxymap"),
            ("scache", "-", "1", "scache"),
            ("error", "-", "-", "error"),
            ("retry", "-", "-", "error"),
            ("virtual", "-", "-", "virtual"),
            ("anvil", "-", "1", "anvil"),
        ] {
            let wake = if matches!(name, "pickup" | "qmgr") {
                "2"
            } else {
                "-"
            };
            let unprivileged = if name == "virtual" { "n" } else { "-" };
            services.push_str(&format!(
                "{name} unix {private} {unprivileged} n {wake} {max} {command}\n"
            ));
        }
        services.push_str("postlog unix-dgram n - n - 1 postlogd\n");
        std::fs::write(folder.path().join("etc/main.cf"), main).unwrap();
        std::fs::write(folder.path().join("etc/master.cf"), services).unwrap();
        let mut own = Self {
            folder,
            master: None,
            port,
        };
        run(Command::new(program("postfix").unwrap()).args([
            "-c",
            own.path("etc").to_str().unwrap(),
            "check",
        ]));
        own.up().await;
        Some(own)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    async fn up(&mut self) {
        self.master = Some(
            Command::new(Path::new(DAEMONS).join("master"))
                .args(["-c", self.path("etc").to_str().unwrap(), "-d"])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                // Ended, it ends the processes of its group, which must not be ours.
                .process_group(0)
                .spawn()
                .unwrap(),
        );
        for _ in 0..4000 {
            if tokio::net::TcpStream::connect(("127.0.0.1", self.port))
                .await
                .is_ok()
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("Postfix does not start: {}", super::read(&self.path("mail.log")));
    }

    fn stop(&mut self) {
        if let Some(mut master) = self.master.take() {
            run(Command::new("kill").args(["-TERM", &master.id().to_string()]));
            let _ = master.wait();
        }
    }

    /// How many messages Postfix has taken and not yet delivered. What it was still writing when it was stopped it never
    /// acknowledged, and leaves without the mark of a whole one.
    fn queued(&self) -> usize {
        fn whole(folder: &Path) -> usize {
            let Ok(entries) = std::fs::read_dir(folder) else {
                return 0;
            };
            entries
                .filter_map(|entry| Some(entry.ok()?.path()))
                .map(|path| match std::fs::metadata(&path) {
                    Ok(data) if data.is_dir() => whole(&path),
                    Ok(data) => usize::from(data.permissions().mode() & 0o100 != 0),
                    // Delivered meanwhile.
                    Err(_) => 0,
                })
                .sum()
        }
        ["maildrop", "incoming", "active", "deferred"]
            .map(|queue| whole(&self.path("spool").join(queue)))
            .iter()
            .sum()
    }

    /// Waits until everything that was taken is delivered. A file that moves from one queue to the next is in neither for a
    /// moment, so it is asked three times.
    async fn settle(&self) {
        let mut empty = 0;
        for _ in 0..1200 {
            empty = if self.queued() == 0 { empty + 1 } else { 0 };
            if empty == 3 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!(
            "Postfix does not deliver: {}",
            super::read(&self.path("mail.log"))
        );
    }

    /// As what Postfix took each message, by its Message-ID: under which numbers of its queue it was delivered. Stopped in
    /// the middle of a delivery, Postfix itself repeats it under the same number.
    fn arrived(&self) -> BTreeMap<String, BTreeSet<String>> {
        let mut arrived: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for file in std::fs::read_dir(self.path("mail/all/new")).unwrap() {
            let text = super::read(&file.unwrap().path());
            let id = text
                .lines()
                .find_map(|line| line.strip_prefix("Message-ID: "))
                .unwrap();
            let (_, queued) = text.split_once("with ESMTP id ").unwrap();
            let number = queued.split([' ', '\n']).next().unwrap();
            arrived
                .entry(id.to_owned())
                .or_default()
                .insert(number.to_owned());
        }
        arrived
    }
}

fn run(command: &mut Command) {
    let done = command.output().unwrap();
    assert!(
        done.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&done.stderr)
    );
}

/// What is wrong: what was said of each message (its Message-ID, and whether it was taken for certain) against what arrived.
fn wrong(outcomes: &[(String, bool)], arrived: &BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    let mut wrong = Vec::new();
    for (id, known) in outcomes {
        let times = arrived.get(id).map_or(0, BTreeSet::len);
        if times > 1 {
            wrong.push(format!("{id} was handed over {times} times"));
        }
        if *known && times == 0 {
            wrong.push(format!("{id} was taken and did not arrive"));
        }
    }
    wrong
}

/// Waits until so many are counted; how long that takes says nothing.
async fn until(count: &AtomicUsize, wanted: usize, postfix: &Own) {
    for _ in 0..60_000 {
        if count.load(Ordering::Relaxed) >= wanted {
            return;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    panic!("nothing goes on: {}", super::read(&postfix.path("mail.log")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_with_five_hundred_messages_in_flight_loses_and_doubles_none() {
    let Some(mut postfix) = Own::start("a_restart_with_five_hundred_messages_in_flight").await else {
        return;
    };
    let url = format!(
        "smtp://127.0.0.1:{}?tls=dangerous-plaintext&hello=crm.example&pool=8&connect_timeout=5",
        postfix.port
    );
    let mailer = Arc::new(SmtpMailer::build("restart", SmtpConfig::from_url(&url).unwrap()).unwrap());
    let (taken, failures) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (down, is_down) = tokio::sync::watch::channel(false);
    let mut sending = tokio::task::JoinSet::new();
    for n in 0..500 {
        let (mailer, taken, failures) = (mailer.clone(), taken.clone(), failures.clone());
        let mut is_down = is_down.clone();
        sending.spawn(async move {
            // The last hundred find no server: so the restart is in the middle however fast the machine is.
            if n >= 400 {
                is_down.wait_for(|down| *down).await.unwrap();
            }
            let mail = mail_to(&format!("p{n}@test.example"));
            let id = mail.message_id();
            // Tried again as long as certainly nothing happened.
            loop {
                match send(&mailer, mail.clone()).await {
                    Ok(_) => {
                        taken.fetch_add(1, Ordering::Relaxed);
                        return (id, true);
                    }
                    Err(error) if error.effect() == Effect::Unknown => return (id, false),
                    Err(error) => {
                        assert!(error.is_retryable(), "{error:?}");
                        assert!(
                            matches!(
                                error.kind(),
                                ErrorKind::Unavailable | ErrorKind::Timeout | ErrorKind::RateLimited
                            ),
                            "{error:?}"
                        );
                        failures.fetch_add(1, Ordering::Relaxed);
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                }
            }
        });
    }
    until(&taken, 100, &postfix).await;
    postfix.stop();
    let before = taken.load(Ordering::Relaxed);
    down.send(true).unwrap();
    until(&failures, 1, &postfix).await;
    postfix.up().await;
    let mut outcomes = Vec::new();
    while let Some(done) = sending.join_next().await {
        outcomes.push(done.unwrap());
    }
    assert!((100..=400).contains(&before), "stopped in the middle: {before}");
    let unknown = outcomes.iter().filter(|(_, known)| !known).count();
    assert!(unknown <= 8, "at most one a connection: {unknown}");
    postfix.settle().await;
    assert_eq!(wrong(&outcomes, &postfix.arrived()), Vec::<String>::new());

    // The control: a message that is handed over twice, and one that is said to be taken and never was, are both found.
    let (twice, never) = (mail_to("twice@test.example"), mail_to("never@test.example"));
    for _ in 0..2 {
        send(&mailer, twice.clone()).await.unwrap();
    }
    postfix.settle().await;
    let outcomes = [(twice.message_id(), true), (never.message_id(), true)];
    assert_eq!(
        wrong(&outcomes, &postfix.arrived()),
        [
            format!("{} was handed over 2 times", twice.message_id()),
            format!("{} was taken and did not arrive", never.message_id()),
        ]
    );
}
