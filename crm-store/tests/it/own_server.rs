//! Database servers of a test's own, to be killed. Used by the tests of the root package too.

use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use tempfile::TempDir;

/// How long a server or a writer may take to come back before the test is given up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Kind {
    Mariadb,
    Postgres,
}

/// A server of a test alone, to be killed.
pub(crate) struct Server {
    pub(crate) kind: Kind,
    /// With settings that lose what was acknowledged when the process dies, unless a session asks for more.
    pub(crate) weak: bool,
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

pub(crate) fn succeeded(out: &Output) {
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
    /// An empty server that answers, or why there is none.
    pub(crate) async fn start(kind: Kind, weak: bool) -> Result<Self, String> {
        let (name, programs) = match kind {
            Kind::Mariadb => ("MariaDB", ["mariadbd", "mariadb-install-db", "mariadb"]),
            Kind::Postgres => ("PostgreSQL", ["postgres", "initdb", "psql"]),
        };
        if programs.iter().any(|name| program(name).is_none()) {
            return Err(format!("{name} is not installed, so no server of it was killed"));
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
        Ok(server)
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
    pub(crate) async fn up(&mut self) {
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
    pub(crate) fn kill(&mut self) {
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
    pub(crate) fn ask(&self, database: &str, sql: &str) -> Output {
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

    pub(crate) fn url(&self) -> String {
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
