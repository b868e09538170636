//! The outbox on real databases, with processes that die: what the databases and a mail sink hold is read with programs
//! that are not ours.

mod campaign;
mod clock;
mod fair;
mod frozen;
mod kill;
mod news;
#[path = "../../../crm-store/tests/it/own_server.rs"]
mod own_server;
mod points;
mod rollback;
mod sink;
mod unique;
mod worker;

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use open_crm::capability::RecordStore;
use open_crm::channels::{OUTBOX, Outreach};
use open_crm::consent::AddressKey;
use open_crm::customer::{CONTACT_POINT, EmailAddress};
use open_crm::message::{Email, Mailbox};
use open_crm::record::{Record, Write};
use open_crm::{Context, CustomerId, IdSource, RandomIds, Secret, TenantId, Timestamp, Uuid};

/// Says loudly what is not tested, and why; fails where everything is required.
fn skipped(why: &str) {
    assert!(
        std::env::var_os("OPEN_CRM_REQUIRE_BACKENDS").is_none(),
        "OPEN_CRM_REQUIRE_BACKENDS is set, but: {why}"
    );
    // The runner shows what a passing test wrote to the file descriptor, not what went through the macro.
    let _ = std::io::stderr().write_all(format!("SKIPPED: {why}\n").as_bytes());
}

fn fresh() -> Uuid {
    static IDS: OnceLock<Arc<dyn IdSource>> = OnceLock::new();
    IDS.get_or_init(RandomIds::shared).fresh()
}

fn key() -> AddressKey {
    AddressKey::new(&Secret::new("a key that tests use and nobody else")).unwrap()
}

/// A database, and the program that reads it.
#[derive(Clone)]
struct Place {
    url: String,
    tenant: String,
}

impl Place {
    fn new(url: &str) -> Self {
        let tenant = format!("t{}", fresh().simple());
        Self {
            url: url.to_owned(),
            tenant,
        }
    }

    fn file(folder: &Path) -> Self {
        std::fs::create_dir_all(folder).unwrap();
        Self::new(&format!("sqlite:{}", folder.join("outbox.db").display()))
    }

    /// The server that a variable names.
    fn server(variable: &str) -> Option<Self> {
        let Ok(url) = std::env::var(variable) else {
            skipped(&format!(
                "{variable} is not set; scripts/services starts the servers"
            ));
            return None;
        };
        Some(Self::new(&url))
    }

    fn ctx(&self) -> Context {
        Context::new(TenantId::new(&self.tenant).unwrap())
    }

    async fn open(&self) -> Arc<dyn RecordStore> {
        let mut catalog = open_crm::registry::Catalog::new();
        open_crm::store::catalog::register(&mut catalog);
        let store = catalog.open::<dyn RecordStore>(&self.url).await.unwrap();
        store.migrate(&Outreach::schemas()).await.unwrap();
        store
    }

    /// As [`Place::open`], for a server that may be starting at that moment.
    async fn open_again(&self) -> Arc<dyn RecordStore> {
        let mut catalog = open_crm::registry::Catalog::new();
        open_crm::store::catalog::register(&mut catalog);
        for _ in 0..300 {
            if let Ok(store) = catalog.open::<dyn RecordStore>(&self.url).await
                && store.migrate(&Outreach::schemas()).await.is_ok()
            {
                return store;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        self.open().await
    }

    /// A column of ids as hexadecimal digits, in the database's own words.
    fn hex(&self, column: &str) -> String {
        match self.url.starts_with("postgres") {
            true => format!("replace(cast({column} as text), '-', '')"),
            false => format!("lower(hex({column}))"),
        }
    }

    /// A column of documents as text, in the database's own words.
    fn text(&self, column: &str) -> String {
        match self.url.starts_with("mysql") {
            true => column.to_owned(),
            false => format!("cast({column} as text)"),
        }
    }

    /// One question, asked by the database's own client; rows as text, columns separated by tabs.
    fn ask(&self, sql: &str) -> Vec<String> {
        self.client(sql, true)
    }

    /// As [`Place::ask`], changing what is there.
    fn tell(&self, sql: &str) {
        self.client(sql, false);
    }

    fn client(&self, sql: &str, readonly: bool) -> Vec<String> {
        let sql = sql.replace("$tenant", &format!("'{}'", self.tenant));
        let plain = self.url.split('?').next().unwrap();
        let (scheme, rest) = plain.split_once(':').unwrap();
        let mut client = match scheme {
            "sqlite" => {
                let mut client = Command::new("sqlite3");
                // The store may still be closing its file.
                if readonly {
                    client.arg("-readonly");
                }
                client.args(["-cmd", ".timeout 10000", "-separator", "\t", rest, &sql]);
                client
            }
            "postgres" => {
                let mut client = Command::new("psql");
                client.args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align"]);
                client.args(["--field-separator=\t", "--dbname", plain, "--command", &sql]);
                client
            }
            _ => {
                // //user:password@host:port/database
                let (who, place) = rest.trim_start_matches('/').split_once('@').unwrap();
                let (user, password) = who.split_once(':').unwrap_or((who, ""));
                let (address, database) = place.split_once('/').unwrap();
                let (host, port) = address.split_once(':').unwrap();
                let mut client = Command::new("mariadb");
                client.args([
                    "--no-defaults",
                    "--protocol=tcp",
                    "--batch",
                    "--skip-column-names",
                ]);
                client.args([
                    "--host",
                    host,
                    "--port",
                    port,
                    "--user",
                    user,
                    "--execute",
                    &sql,
                    database,
                ]);
                client.env("MYSQL_PWD", password);
                client
            }
        };
        let answer: Output = client.stdin(Stdio::null()).output().unwrap();
        assert!(
            answer.status.success(),
            "{sql}: {}",
            String::from_utf8_lossy(&answer.stderr)
        );
        let text = String::from_utf8(answer.stdout).unwrap();
        text.lines().map(str::to_owned).collect()
    }
}

/// Every database there is.
fn places(folder: &Path) -> Vec<Place> {
    let servers = ["OPEN_CRM_TEST_POSTGRES_URL", "OPEN_CRM_TEST_MYSQL_URL"];
    let mut places = vec![Place::file(folder)];
    places.extend(servers.into_iter().filter_map(Place::server));
    places
}

fn address(n: usize) -> EmailAddress {
    EmailAddress::parse(&format!("person{n}@test.example")).unwrap()
}

fn mail(n: usize) -> Email {
    let from = Mailbox::new(EmailAddress::parse("shop@example.com").unwrap(), "Shop").unwrap();
    let to = Mailbox::new(address(n), "").unwrap();
    Email::new(fresh().into(), from, to, "Hello", "How are you?")
}

/// A customer's address, as the gate wants to see it.
fn contact(customer: CustomerId, n: usize) -> Write {
    let record = Record::new(&CONTACT_POINT)
        .with("customer_id", customer)
        .unwrap()
        .with("kind", "email")
        .unwrap()
        .with("value", address(n).as_str())
        .unwrap()
        .with("match_key", format!("email:{}", address(n).as_str()))
        .unwrap()
        .with("primary_point", true)
        .unwrap()
        .with("state", "unverified")
        .unwrap()
        .with("created_at", Timestamp::EPOCH)
        .unwrap();
    Write::insert(fresh(), record)
}

/// The name of the table that holds the outbox.
fn table() -> &'static str {
    OUTBOX.name
}
