//! Database servers that are killed while callers write: what was acknowledged is there, every unit of work is whole or
//! absent, and the same store goes on when the server is back. The servers are this module's own; the controls write torn,
//! or past the store on settings that it refuses or mends.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crm_core::capability::RecordStore;
use crm_core::record::{Field, FieldType, Index, Record, Schema, Write};
use crm_core::testkit::fixtures::{self, Dice};
use crm_core::{Error, ErrorKind, Result};
use crm_store::{MysqlStore, PostgresStore};
use tempfile::TempDir;
use tokio::sync::mpsc;

use crate::stores::skipped;

static PAIR: Schema = Schema {
    name: "pair",
    fields: &[
        Field::new("name", FieldType::Text),
        Field::new("side", FieldType::Text),
    ],
    indexes: &[Index::unique("pair_side", &["name", "side"])],
};

/// How often a server is killed; each costs a start of some seconds. `OPEN_CRM_TEST_KILLS` sets another number.
const KILLS: usize = 5;
/// Writers at the same time, and how many units they have to store before the next kill.
const WRITERS: usize = 8;
const UNITS: usize = 100;
/// How long a server or a writer may take to come back before the test is given up.
const PATIENCE: Duration = Duration::from_secs(90);

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Mariadb,
    Postgres,
}

/// A server of this test alone, to be killed.
struct Server {
    kind: Kind,
    /// With settings that lose what was acknowledged when the process dies, unless a session asks for more.
    weak: bool,
    folder: TempDir,
    port: u16,
    child: Option<Child>,
}

/// A program by its name; servers' programs are not in everybody's path.
fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    folders.extend(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from));
    // Debian keeps PostgreSQL's programs in a folder for each major version.
    let mut versions: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .map(|version| version.path().join("bin"))
        .collect();
    versions.sort();
    folders.extend(versions.into_iter().rev());
    folders
        .into_iter()
        .map(|folder| folder.join(name))
        .find(|file| file.exists())
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").unwrap().uid() == 0
}

fn succeeded(out: &Output) {
    let told = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{told}");
}

/// The processes whose parent this is.
fn children(parent: u32) -> Vec<u32> {
    let parent = parent.to_string();
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter_map(|process| process.file_name().to_str()?.parse().ok())
        .filter(|process: &u32| {
            let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
            let after = stat.rsplit_once(") ").unwrap_or_default().1;
            after.split(' ').nth(1) == Some(&parent)
        })
        .collect()
}

fn is_alive(process: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    stat.rsplit_once(") ")
        .is_some_and(|(_, after)| !after.starts_with(['Z', 'X']))
}

impl Server {
    /// An empty server that answers; says so and answers nothing when its programs are not installed.
    async fn start(kind: Kind, weak: bool) -> Option<Self> {
        let (name, programs) = match kind {
            Kind::Mariadb => ("MariaDB", ["mariadbd", "mariadb-install-db", "mariadb"]),
            Kind::Postgres => ("PostgreSQL", ["postgres", "initdb", "psql"]),
        };
        if programs.iter().any(|name| program(name).is_none()) {
            skipped(&format!("{name} is not installed, so no server of it was killed"));
            return None;
        }
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut server = Self {
            kind,
            weak,
            folder: match kind {
                // MariaDB takes files in shared memory, where temporary ones may lie, for memory that keeps its contents, and
                // writes its log there with each commit whatever it is told: nothing could be lost.
                Kind::Mariadb => tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap(),
                Kind::Postgres => tempfile::tempdir().unwrap(),
            },
            port: free.local_addr().unwrap().port(),
            child: None,
        };
        drop(free);
        server.prepare();
        server.up().await;
        if kind == Kind::Postgres {
            succeeded(&server.ask("postgres", "CREATE DATABASE crm"));
        }
        Some(server)
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// A program of PostgreSQL's server; it refuses to be root.
    fn unprivileged(&self, name: &str) -> Command {
        let program = program(name).unwrap();
        if !is_root() {
            return Command::new(program);
        }
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid=postgres", "--regid=postgres", "--clear-groups"])
            .arg(program);
        command
    }

    /// Makes the data folder.
    fn prepare(&self) {
        let out = match self.kind {
            Kind::Mariadb => {
                let mut install = Command::new(program("mariadb-install-db").unwrap());
                install.args([
                    "--no-defaults",
                    "--skip-test-db",
                    "--auth-root-authentication-method=normal",
                ]);
                if is_root() {
                    install.arg("--user=root");
                }
                install
                    .arg(format!("--datadir={}", self.data().display()))
                    .output()
            }
            Kind::Postgres => {
                if is_root() {
                    let open = ["chmod", "755"];
                    let given = ["chown", "postgres:postgres"];
                    for [program, how] in [open, given] {
                        let folder = self.folder.path();
                        succeeded(&Command::new(program).arg(how).arg(folder).output().unwrap());
                    }
                }
                let mut initdb = self.unprivileged("initdb");
                initdb.args([
                    "-U",
                    "crm",
                    "--auth=trust",
                    "-E",
                    "UTF8",
                    "--locale=C",
                    "--no-sync",
                    "-D",
                ]);
                initdb.arg(self.data()).current_dir(self.folder.path()).output()
            }
        };
        succeeded(&out.unwrap());
        let users = "CREATE DATABASE IF NOT EXISTS crm; CREATE USER IF NOT EXISTS crm@'%'; GRANT ALL ON crm.* TO crm@'%';";
        std::fs::write(
            self.folder.path().join("init.sql"),
            users.replace("; ", ";\n") + "\n",
        )
        .unwrap();
    }

    /// Starts it on what is in its folder, and waits until it answers.
    async fn up(&mut self) {
        let folder = self.folder.path();
        let mut command = match self.kind {
            Kind::Mariadb => {
                let mut command = Command::new(program("mariadbd").unwrap());
                command.arg("--no-defaults");
                if is_root() {
                    command.arg("--user=root");
                }
                let file = |name: &str| folder.join(name).display().to_string();
                command.args([
                    format!("--datadir={}", self.data().display()),
                    format!("--port={}", self.port),
                    // In the folder of the data: a long path would not fit into a socket's name.
                    "--socket=socket".to_owned(),
                    format!("--pid-file={}", file("pid")),
                    format!("--init-file={}", file("init.sql")),
                ]);
                command.args([
                    "--bind-address=127.0.0.1",
                    "--skip-name-resolve",
                    "--innodb-buffer-pool-size=32M",
                ]);
                // Weak: the log is written by the second hand, not by the commit.
                let flush = ["1", "0"][usize::from(self.weak)];
                command.args([
                    &format!("--innodb-flush-log-at-trx-commit={flush}"),
                    "--innodb-flush-log-at-timeout=60",
                ]);
                command
            }
            Kind::Postgres => {
                let mut command = self.unprivileged("postgres");
                command.arg("-D").arg(self.data());
                command.args(["-p", &self.port.to_string()]);
                let commit = ["on", "off"][usize::from(self.weak)];
                for setting in [
                    "listen_addresses=127.0.0.1",
                    "unix_socket_directories=",
                    "shared_buffers=32MB",
                    &format!("synchronous_commit={commit}"),
                    "wal_writer_delay=10s",
                ] {
                    command.args(["-c", setting]);
                }
                command
            }
        };
        let log = std::fs::File::create(folder.join("log")).unwrap();
        let errors = log.try_clone().unwrap();
        command
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors);
        self.child = Some(command.spawn().unwrap());
        let mut waited = Duration::ZERO;
        let pause = Duration::from_millis(100);
        let database = ["crm", "postgres"][usize::from(self.kind == Kind::Postgres)];
        while !self.ask(database, "SELECT 1").status.success() {
            let ended = self.child.as_mut().unwrap().try_wait().unwrap();
            if ended.is_some() || waited > PATIENCE {
                let log = std::fs::read_to_string(folder.join("log")).unwrap();
                panic!("the server does not start: {log}");
            }
            tokio::time::sleep(pause).await;
            waited += pause;
        }
    }

    /// Kills every process of the server at once: nobody is left to write what is in memory.
    fn kill(&mut self) {
        let Some(mut child) = self.child.take() else {
            return;
        };
        // The parent first: it would tidy up after a child.
        let mut all = vec![child.id()];
        all.extend(children(child.id()));
        let ids = all.iter().map(u32::to_string);
        let _ = Command::new("kill")
            .arg("-9")
            .args(ids)
            .stderr(Stdio::null())
            .status();
        child.wait().unwrap();
        while all.iter().any(|process| is_alive(*process)) {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The server's own client asks; it knows nothing of the store.
    fn ask(&self, database: &str, sql: &str) -> Output {
        let port = self.port.to_string();
        let mut client = match self.kind {
            Kind::Mariadb => {
                let mut client = Command::new(program("mariadb").unwrap());
                client.args([
                    "--no-defaults",
                    "--protocol=tcp",
                    "--host=127.0.0.1",
                    "--user=crm",
                ]);
                client.args(["--batch", "--skip-column-names", "--connect-timeout=5"]);
                client.args(["--port", &port, "--execute", sql, database]);
                client
            }
            Kind::Postgres => {
                let mut client = Command::new(program("psql").unwrap());
                client.args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align"]);
                client.args(["--field-separator=\t", "--host=127.0.0.1", "--username=crm"]);
                client.args(["--port", &port, "--dbname", database, "--command", sql]);
                client.env("PGCONNECT_TIMEOUT", "5");
                client
            }
        };
        client.stdin(Stdio::null()).output().unwrap()
    }

    /// The names of which each side is there.
    fn sides(&self) -> [BTreeSet<String>; 2] {
        let out = self.ask("crm", "SELECT side, name FROM pair");
        succeeded(&out);
        let said = String::from_utf8(out.stdout).unwrap();
        ["left", "right"].map(|side| {
            let rows = said.lines().filter_map(|line| line.split_once('\t'));
            rows.filter(|row| row.0 == side)
                .map(|row| row.1.to_owned())
                .collect()
        })
    }

    async fn open(&self) -> Result<Arc<dyn RecordStore>> {
        let url = self.url();
        Ok(match self.kind {
            Kind::Mariadb => Arc::new(MysqlStore::open_url(&url).await?),
            Kind::Postgres => Arc::new(PostgresStore::open_url(&url).await?),
        })
    }

    fn url(&self) -> String {
        let scheme = match self.kind {
            Kind::Mariadb => "mysql",
            Kind::Postgres => "postgres",
        };
        format!("{scheme}://crm@127.0.0.1:{}/crm", self.port)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// How pairs are written.
#[derive(Clone)]
enum Way {
    /// By the store, in one unit of work.
    Whole(Arc<dyn RecordStore>),
    /// By the store, in two, one after the other: the control, which shows as halves.
    Torn(Arc<dyn RecordStore>),
    /// By the driver on a weak server: the control, which shows as losses.
    CarelessMysql(sqlx::MySqlPool),
    CarelessPostgres(sqlx::PgPool),
}

impl Way {
    async fn write(&self, name: &str) -> Result<()> {
        let ctx = fixtures::context();
        let both = ["left", "right"].map(|side| {
            let values = vec![name.into(), side.into()];
            Write::insert(fixtures::id(), Record::from_values(&PAIR, values).unwrap())
        });
        let lost = |_| Error::new(ErrorKind::Unavailable, "not written");
        match self {
            Self::Whole(store) => store.apply(&ctx, &both).await.map(drop),
            Self::Torn(store) => {
                store.apply(&ctx, &both[..1]).await?;
                store.apply(&ctx, &both[1..]).await.map(drop)
            }
            Self::CarelessMysql(pool) => {
                let sql = "INSERT INTO pair (side, name) VALUES ('left', ?), ('right', ?)";
                let insert = sqlx::query(sql).bind(name).bind(name);
                insert.execute(pool).await.map(drop).map_err(lost)
            }
            Self::CarelessPostgres(pool) => {
                let sql = "INSERT INTO pair (side, name) VALUES ('left', $1), ('right', $1)";
                let insert = sqlx::query(sql).bind(name);
                insert.execute(pool).await.map(drop).map_err(lost)
            }
        }
    }
}

/// Writes until told to stop, through every end of the server; tells what was acknowledged.
async fn writer(way: Way, number: usize, told: mpsc::UnboundedSender<String>, stop: Arc<AtomicBool>) {
    for n in 0.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let name = format!("{number}-{n}");
        match way.write(&name).await {
            Ok(()) => told.send(name).unwrap(),
            Err(error) => {
                let typed = matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Timeout);
                assert!(typed, "{error:?}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

/// What a storm left: names that were acknowledged, those of them that are gone, and names of which one side is there.
struct Found {
    acknowledged: usize,
    lost: usize,
    halves: usize,
}

/// Kills the server `kills` times while callers write.
async fn storm(server: &mut Server, way: Way, kills: usize) -> Found {
    let (told, mut heard) = mpsc::unbounded_channel();
    let stop = Arc::new(AtomicBool::new(false));
    let mut writers = tokio::task::JoinSet::new();
    for number in 0..WRITERS {
        writers.spawn(writer(way.clone(), number, told.clone(), stop.clone()));
    }
    drop(told);
    let mut dice = Dice::new(17);
    let mut acknowledged = BTreeSet::new();
    // The same store works after each end of the server as before, the last included.
    for round in 0..=kills {
        for _ in 0..UNITS {
            let name = tokio::time::timeout(PATIENCE, heard.recv()).await;
            let name = name.unwrap_or_else(|_| panic!("nothing is stored after {round} kills"));
            acknowledged.insert(name.expect("the writers ended by themselves"));
        }
        if round < kills {
            tokio::time::sleep(Duration::from_millis(dice.below(40) as u64)).await;
            server.kill();
            server.up().await;
            // What was acknowledged before its end does not show that the store works after it.
            while let Ok(name) = heard.try_recv() {
                acknowledged.insert(name);
            }
        }
    }
    stop.store(true, Ordering::Relaxed);
    while let Some(done) = writers.join_next().await {
        done.unwrap();
    }
    while let Some(name) = heard.recv().await {
        acknowledged.insert(name);
    }
    let [left, right] = server.sides();
    let gone = |name: &&String| !(left.contains(*name) && right.contains(*name));
    Found {
        acknowledged: acknowledged.len(),
        lost: acknowledged.iter().filter(gone).count(),
        halves: left.symmetric_difference(&right).count(),
    }
}

/// Where a session can ask for more than the server's default, as in PostgreSQL, the server starts with a weak one: the
/// store has to ask. MariaDB's setting is the server's alone.
fn default_is_weak(kind: Kind) -> bool {
    kind == Kind::Postgres
}

async fn nothing_is_lost(kind: Kind) {
    let kills = std::env::var("OPEN_CRM_TEST_KILLS").map_or(KILLS, |text| text.parse().unwrap());
    let Some(mut server) = Server::start(kind, default_is_weak(kind)).await else {
        return;
    };
    let store = server.open().await.unwrap();
    assert!(store.capability().durable);
    store.migrate(&[&PAIR]).await.unwrap();
    let found = storm(&mut server, Way::Whole(store), kills).await;
    println!("{kills} kills, {} acknowledged units", found.acknowledged);
    assert!(found.acknowledged > kills * UNITS);
    assert_eq!((found.lost, found.halves), (0, 0), "(lost, halves)");
}

/// The negative control: pairs stored in two units show as halves, and a server that answers before it writes loses.
async fn the_oracle_sees(kind: Kind) {
    let Some(mut server) = Server::start(kind, default_is_weak(kind)).await else {
        return;
    };
    let store = server.open().await.unwrap();
    store.migrate(&[&PAIR]).await.unwrap();
    let torn = storm(&mut server, Way::Torn(store), 2).await;
    assert!(torn.halves > 0, "none of {} is half", torn.acknowledged);

    server.kill();
    server.weak = true;
    server.up().await;
    succeeded(&server.ask("crm", "DROP TABLE pair"));
    succeeded(&server.ask(
        "crm",
        "CREATE TABLE pair (side varchar(9) NOT NULL, name varchar(99) NOT NULL, PRIMARY KEY (name, side))",
    ));
    let url = server.url();
    let careless = match kind {
        Kind::Mariadb => {
            let error = server.open().await.unwrap_err();
            let setting = Some("innodb_flush_log_at_trx_commit");
            assert_eq!(
                (error.kind(), error.context("setting")),
                (ErrorKind::Config, setting)
            );
            Way::CarelessMysql(sqlx::MySqlPool::connect(&url).await.unwrap())
        }
        Kind::Postgres => Way::CarelessPostgres(sqlx::PgPool::connect(&url).await.unwrap()),
    };
    let careless = storm(&mut server, careless, 3).await;
    assert!(careless.lost > 0, "none of {} is lost", careless.acknowledged);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_mariadb_has_what_it_acknowledged() {
    nothing_is_lost(Kind::Mariadb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_oracle_sees_what_mariadb_loses() {
    the_oracle_sees(Kind::Mariadb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_postgres_has_what_it_acknowledged() {
    nothing_is_lost(Kind::Postgres).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_oracle_sees_what_postgres_loses() {
    the_oracle_sees(Kind::Postgres).await;
}
