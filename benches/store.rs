//! What the store costs: wall time and processor time of all threads, a row and a call.
//!
//! ```sh
//! cargo bench --bench store                                   # 1,000,000 rows on a SQLite file
//! cargo bench --bench store -- --rows 100000 --section insert,get,update
//! cargo bench --features postgres --bench store -- --store postgres://user:password@host/database
//! ```
//!
//! Sections: `insert`, `get`, `email`, `page`, `update`, `scan`, `full`, `feed` (what the change feed costs), `journal`
//! (what an import's journal costs), `segment` (members kept up to date), and by name only `journalless` (`full` without
//! the journal that makes an import repeatable and undoable, so the same tables as the loop in C), `cache` (feature
//! `cached`), `sealed` (feature `sealed`: what encryption costs), `rfm` (groups of `--orders`) and `tables` (makes the
//! tables and ends). Every section checks its own answers.
//! The peers (SQLAlchemy, Python's sqlite3, a loop in C, `COPY`, `LOAD DATA`) are in `benches/peers/`, and the README
//! there has the figures.
//!
//! With `--server PID` of a database on this machine, its processes' time is told too, in a column of its own.
#![allow(
    clippy::print_stdout,
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    missing_docs,
    reason = "a program for people, not the library"
)]
#![allow(clippy::disallowed_methods, reason = "a benchmark reads the real clock")]

#[cfg(feature = "cached")]
#[path = "store/cache.rs"]
mod cache;
#[path = "store/feed.rs"]
mod feed;
#[path = "store/rfm.rs"]
mod rfm;
#[cfg(feature = "sealed")]
#[path = "store/sealed.rs"]
mod sealed;
#[path = "store/segment.rs"]
mod segment;

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::Parser as _;
use open_crm::capability::RecordStore;
use open_crm::customer::{Draft, ExternalRef, PersonName, Provenance};
use open_crm::query::{Filter, Query, Scan};
use open_crm::record::{Field, FieldType, Index, Record, Schema, Value, Write};
use open_crm::store::customers::{Customers, ImportOptions};
use open_crm::table::{ColumnData, Table};
use open_crm::{Context, RandomIds, SystemClock, TenantId, Timestamp, Uuid};

/// The narrow customer: one unique key and one index.
static PERSON: Schema = Schema {
    name: "bench_person",
    fields: &[
        Field::new("name", FieldType::Text),
        Field::new("email", FieldType::Text),
        Field::new("city", FieldType::Text),
    ],
    indexes: &[
        Index::unique("bench_person_email", &["email"]),
        Index::new("bench_person_city", &["city"]),
    ],
};

/// The wide customer, as analyses read it: with the id 12 columns.
static PROFILE: Schema = Schema {
    name: "bench_profile",
    fields: &[
        Field::new("given_name", FieldType::Text),
        Field::new("family_name", FieldType::Text),
        Field::new("city", FieldType::Text),
        Field::new("country", FieldType::Text),
        Field::new("plan", FieldType::Text).nullable(),
        Field::new("visits", FieldType::Int),
        Field::new("orders", FieldType::Int),
        Field::new("spent", FieldType::Float),
        Field::new("active", FieldType::Bool),
        Field::new("created_at", FieldType::Timestamp),
        Field::new("seen_at", FieldType::Timestamp).nullable(),
    ],
    indexes: &[],
};

/// Rows of one unit of work when many are written.
const BATCH: u64 = 10_000;
const CITIES: [&str; 8] = [
    "Oslo", "Tallinn", "Porto", "Lyon", "Graz", "Turku", "Gdynia", "Split",
];

#[derive(clap::Parser)]
struct Arguments {
    /// How many customers.
    #[arg(long, default_value_t = 1_000_000)]
    rows: u64,
    /// Which sections, with commas; all unless given.
    #[arg(long, value_delimiter = ',')]
    section: Vec<String>,
    /// The store's URL; a SQLite file in a new folder unless given.
    #[arg(long)]
    store: Option<String>,
    /// Where the SQLite file is made; kept afterwards.
    #[arg(long)]
    folder: Option<PathBuf>,
    /// The tenant whose rows are measured; a new one unless given, so that a peer finds the rows again when it is.
    #[arg(long)]
    tenant: Option<String>,
    /// How many orders the section `rfm` groups.
    #[arg(long, default_value_t = 10_000_000)]
    orders: u64,
    /// Whose they are.
    #[arg(long, default_value_t = 100_000)]
    customers: u64,
    /// A database server's process on this machine.
    #[arg(long)]
    server: Option<u32>,
    /// What `cargo bench` adds.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(run(Arguments::parse()))
}

struct Bench {
    store: Arc<dyn RecordStore>,
    ctx: Context,
    rows: u64,
    file: Option<PathBuf>,
}

async fn run(arguments: Arguments) -> Result<()> {
    let temporary = tempfile::tempdir()?;
    let folder = arguments
        .folder
        .clone()
        .unwrap_or_else(|| temporary.path().to_owned());
    let file = folder.join("bench.db");
    let url = match &arguments.store {
        Some(url) => url.clone(),
        None => {
            ensure!(!file.exists(), "there is already a file at {}", file.display());
            format!("sqlite:{}", file.display())
        }
    };
    let mut catalog = open_crm::registry::Catalog::new();
    open_crm::store::catalog::register(&mut catalog);
    let store = catalog.open::<dyn RecordStore>(&url).await?;
    store.migrate(&[&PERSON, &PROFILE, &rfm::ORDERS]).await?;
    if arguments.section == ["tables"] {
        return Ok(());
    }
    let tenant = arguments.tenant.clone();
    let tenant = tenant.unwrap_or_else(|| format!("b{}", std::process::id()));
    let bench = Bench {
        store,
        ctx: Context::new(TenantId::new(&tenant)?),
        rows: arguments.rows,
        file: arguments.store.is_none().then_some(file),
    };
    let named = |section: &str| arguments.section.iter().any(|s| s == section);
    let wanted = |section: &str| arguments.section.is_empty() || named(section);
    let server = SERVER.get_or_init(|| arguments.server);
    println!(
        "{:<44} {:>9} {:>9} {:>10} {:>9} {:>12}{}",
        "what",
        "count",
        "wall s",
        "each/s",
        "cpu s",
        "cpu us each",
        if server.is_some() { "    server us" } else { "" }
    );
    let needs_people = ["insert", "get", "email", "page", "update", "cache"]
        .iter()
        .any(|s| wanted(s));
    if needs_people {
        bench.insert().await?;
    }
    if wanted("get") {
        bench.get().await?;
    }
    if wanted("email") {
        bench.email().await?;
    }
    if wanted("page") {
        bench.page().await?;
    }
    if wanted("update") {
        bench.update().await?;
    }
    if wanted("scan") {
        bench.scan().await?;
    }
    if wanted("full") {
        bench
            .full("import of full customers", ImportOptions::default())
            .await?;
    }
    if named("journalless") {
        let options = ImportOptions::default().without_journal();
        bench.full("import without a journal", options).await?;
    }
    if wanted("feed") {
        bench.feed().await?;
    }
    if wanted("journal") {
        bench.journal().await?;
    }
    if wanted("segment") {
        bench.segment().await?;
    }
    #[cfg(feature = "cached")]
    if named("cache") {
        bench.cache().await?;
    }
    #[cfg(not(feature = "cached"))]
    ensure!(!named("cache"), "the section `cache` needs --features cached");
    #[cfg(feature = "sealed")]
    if named("sealed") {
        sealed::sealed(arguments.rows).await?;
    }
    #[cfg(not(feature = "sealed"))]
    ensure!(!named("sealed"), "the section `sealed` needs --features sealed");
    if named("rfm") {
        bench.rfm(arguments.orders, arguments.customers).await?;
    }
    Ok(())
}

/// The id of the `n`th row: in time's order, as fresh ids are.
fn id(n: u64) -> Uuid {
    Uuid::from_u128(
        u128::from(0x0190_0000_0000_u64 + n) << 80 | 0x7000_8000_0000_0000_0000 | u128::from(mixed(n) >> 4),
    )
}

fn mixed(n: u64) -> u64 {
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

/// Scattered, as addresses are.
fn email(n: u64) -> String {
    format!("{:06x}.{n}@example{}.com", mixed(n) >> 40, n % 97)
}

fn person(n: u64, name: String) -> Record {
    let values = vec![name.into(), email(n).into(), CITIES[(n % 8) as usize].into()];
    Record::from_values(&PERSON, values).unwrap()
}

fn profile(n: u64) -> Record {
    let chance = mixed(n);
    let values = vec![
        format!("Ana{}", chance % 500).into(),
        format!("Kask{}", chance % 20_000).into(),
        CITIES[(n % 8) as usize].into(),
        ["NO", "EE", "PT", "FR"][(chance % 4) as usize].into(),
        match chance % 3 {
            0 => Value::Null,
            1 => "free".into(),
            _ => "team".into(),
        },
        ((chance % 200) as i64).into(),
        ((chance % 20) as i64).into(),
        ((chance % 100_000) as f64 / 100.0).into(),
        chance.is_multiple_of(5).into(),
        Timestamp::from_micros(1_700_000_000_000_000 + (chance % 1_000_000) as i64 * 1_000_003).into(),
        match chance % 7 {
            0 => Value::Null,
            _ => Timestamp::from_micros(1_750_000_000_000_000 + (chance % 900_000) as i64 * 1_000_003).into(),
        },
    ];
    Record::from_values(&PROFILE, values).unwrap()
}

impl Bench {
    async fn fill(&self, of: impl Fn(u64) -> Record) -> Result<()> {
        let mut writes = Vec::new();
        for n in 0..self.rows {
            writes.push(Write::insert(id(n), of(n)));
            if writes.len() as u64 == BATCH || n + 1 == self.rows {
                self.store.apply(&self.ctx, &writes).await?;
                writes.clear();
            }
        }
        Ok(())
    }

    async fn insert(&self) -> Result<()> {
        timed("of it: making the records", self.rows, async {
            for n in 0..self.rows {
                std::hint::black_box(person(n, format!("Ana Kask {n}")));
            }
        })
        .await;
        let fill = self.fill(|n| person(n, format!("Ana Kask {n}")));
        timed("insert, UNIQUE e-mail and one index", self.rows, fill).await?;
        let count = self.store.count(&self.ctx, &PERSON, &Filter::All).await?;
        ensure!(count == self.rows, "{count} rows were stored");
        Ok(())
    }

    /// Rows to ask for, all over the table.
    fn some(&self, count: u64) -> Vec<u64> {
        (0..count).map(|n| mixed(n) % self.rows).collect()
    }

    async fn get(&self) -> Result<()> {
        let some = self.some(20_000);
        let work = async {
            for n in &some {
                let found = self.store.get(&self.ctx, &PERSON, &[id(*n)]).await?;
                ensure!(found[0].as_ref().is_some_and(|found| found.id == id(*n)));
            }
            Ok(())
        };
        timed("get by id, one by one", some.len() as u64, work).await?;
        let some = self.some(500_000);
        let work = async {
            for batch in some.chunks(500) {
                let ids: Vec<Uuid> = batch.iter().map(|n| id(*n)).collect();
                let found = self.store.get(&self.ctx, &PERSON, &ids).await?;
                ensure!(
                    found
                        .iter()
                        .zip(&ids)
                        .all(|(found, id)| found.as_ref().is_some_and(|found| found.id == *id))
                );
            }
            Ok(())
        };
        timed("get by id, 500 at once", some.len() as u64, work).await
    }

    async fn email(&self) -> Result<()> {
        let some = self.some(20_000);
        let work = async {
            for n in &some {
                let query = Query::new(Filter::eq("email", email(*n))).limit(1);
                let page = self.store.find(&self.ctx, &PERSON, &query).await?;
                ensure!(page.items.first().is_some_and(|found| found.id == id(*n)));
            }
            Ok(())
        };
        timed("look-up by e-mail", some.len() as u64, work).await
    }

    async fn page(&self) -> Result<()> {
        let pages = 4_000.min(self.rows / 50);
        let work = async {
            let mut query = Query::new(Filter::All).ascending("city").limit(50);
            let mut seen = BTreeSet::new();
            for _ in 0..pages {
                let page = self.store.find(&self.ctx, &PERSON, &query).await?;
                seen.extend(page.items.iter().map(|item| item.id));
                query.after = page.next;
            }
            ensure!(seen.len() as u64 == pages * 50, "pages overlap");
            Ok(())
        };
        timed("page of 50, ordered by an index", pages, work).await
    }

    /// `each` updates by each caller, every one committed before the next; nobody shares a row.
    async fn update(&self) -> Result<()> {
        for (callers, each) in [(1, 1_000), (64, 2_000)] {
            let mut tasks = tokio::task::JoinSet::new();
            let work = async {
                for caller in 0..callers {
                    let (store, ctx) = (self.store.clone(), self.ctx.clone());
                    let own = self.rows / callers;
                    tasks.spawn(async move {
                        let own: Vec<u64> = (0..each).map(|n| caller * own + mixed(n) % own).collect();
                        let ids: Vec<Uuid> = own.iter().map(|n| id(*n)).collect();
                        let mut versions = std::collections::HashMap::new();
                        for found in store.get(&ctx, &PERSON, &ids).await?.into_iter().flatten() {
                            versions.insert(found.id, found.version);
                        }
                        for n in own {
                            let version = versions.get_mut(&id(n)).unwrap();
                            let record = person(n, format!("Eva Kask {n} {version}"));
                            let write = Write::update(id(n), *version, record);
                            store.apply(&ctx, &[write]).await?;
                            *version += 1;
                        }
                        anyhow::Ok(())
                    });
                }
                while let Some(done) = tasks.join_next().await {
                    done??;
                }
                anyhow::Ok(())
            };
            timed(
                &format!("update with commit, {callers} caller(s)"),
                callers * each,
                work,
            )
            .await?;
        }
        let renamed = Filter::prefix("name", "Eva ");
        let changed = self.store.count(&self.ctx, &PERSON, &renamed).await?;
        ensure!(changed > 0, "nothing was changed");
        Ok(())
    }

    async fn scan(&self) -> Result<()> {
        timed("insert, 11 fields, no index", self.rows, self.fill(profile)).await?;
        let columns = std::iter::once("id").chain(PROFILE.fields.iter().map(|field| field.name));
        let scan = Scan::new(Filter::All, columns);
        let before = memory("VmRSS");
        std::fs::write("/proc/self/clear_refs", "5").ok();
        let mut whole: Option<Table> = None;
        let work = async {
            let mut take = |chunk: Table| match &mut whole {
                None => {
                    whole = Some(chunk);
                    Ok(())
                }
                Some(whole) => whole.append(chunk),
            };
            self.store.scan(&self.ctx, &PROFILE, &scan, &mut take).await
        };
        timed("scan, 12 columns, all kept", self.rows, work).await?;
        let peak = memory("VmHWM").saturating_sub(before);
        let table = whole.expect("chunks");
        ensure!(table.rows() as u64 == self.rows && table.columns().len() == 12);
        let size: usize = table.columns().iter().map(|column| size(column.data())).sum();
        println!(
            "{:<44} columns {:.1} MB, peak above before {:.1} MB: {:.2} times",
            "  memory of the scan",
            size as f64 / 1e6,
            peak as f64 / 1e3,
            peak as f64 * 1e3 / size as f64
        );
        drop(table);
        let mut rows = 0;
        let mut take = |chunk: Table| {
            rows += chunk.rows() as u64;
            Ok(())
        };
        let work = self.store.scan(&self.ctx, &PROFILE, &scan, &mut take);
        timed("scan, 12 columns, chunk by chunk", self.rows, work).await?;
        ensure!(rows == self.rows);
        Ok(())
    }

    /// The whole way: parsed, normalised, matched against everything stored before, with contact points and references.
    async fn full(&self, what: &str, options: ImportOptions) -> Result<()> {
        timed("of it: making the drafts", self.rows, async {
            (0..self.rows).for_each(|n| {
                std::hint::black_box(draft(n));
            });
        })
        .await;
        let customers = Customers::new(self.store.clone(), SystemClock::shared(), RandomIds::shared());
        customers.prepare().await?;
        let work = customers.import(&self.ctx, "bench", (0..self.rows).map(draft), options);
        let report = timed(what, self.rows, work).await?;
        ensure!(report.created == self.rows && report.rejected == 0, "{report:?}");
        if let Some(file) = &self.file {
            println!(
                "{:<44} {:.1} MB",
                "  file",
                std::fs::metadata(file)?.len() as f64 / 1e6
            );
        }
        Ok(())
    }
}

fn draft(n: u64) -> Draft {
    let mut draft = Draft::new(
        Provenance::new("bench", Timestamp::from_micros(1))
            .at("people.csv")
            .line(n),
    );
    draft.name = Some(PersonName::new("Ana", &format!("Kask{}", mixed(n) % 20_000)));
    draft.emails.push(email(n));
    draft
        .phones
        .push(format!("+61 4{:08}", 10_000_000 + n % 90_000_000));
    draft
        .external_refs
        .push(ExternalRef::new("shop", format!("C-{:06x}-{n}", mixed(n) >> 40)));
    draft
        .attributes
        .set("plan", ["free", "pro", "team"][(n % 3) as usize])
        .unwrap();
    draft.attributes.set("visits", n % 50).unwrap();
    draft
}

/// Processor time of this process, all threads, in ticks of 10 ms.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit(") ").next().unwrap_or_default();
    let ticks = after_name
        .split(' ')
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<u64>().ok());
    Duration::from_millis(ticks.sum::<u64>() * 10)
}

/// The database server whose time is told besides.
static SERVER: OnceLock<Option<u32>> = OnceLock::new();

/// Processor time of the server and all processes it started, those that ended too.
fn server_cpu() -> Option<Duration> {
    let root = (*SERVER.get()?)?;
    let mut processes = HashMap::new();
    for entry in std::fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let fields: Vec<u64> = stat
            .rsplit(") ")
            .next()
            .unwrap_or_default()
            .split(' ')
            .skip(1)
            .map(|field| field.parse().unwrap_or_default())
            .collect();
        if fields.len() > 13 {
            processes.insert(pid, (fields[0] as u32, fields[10..14].iter().sum::<u64>()));
        }
    }
    let under = |mut pid: u32| {
        while pid != root {
            match processes.get(&pid) {
                Some((parent, _)) if *parent > 1 => pid = *parent,
                _ => return false,
            }
        }
        true
    };
    let ticks: u64 = processes
        .iter()
        .filter(|(pid, _)| under(**pid))
        .map(|(_, (_, ticks))| ticks)
        .sum();
    Some(Duration::from_millis(ticks * 10))
}

/// A line of `/proc/self/status`, in kB.
fn memory(line: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let found = status
        .lines()
        .find_map(|text| text.strip_prefix(line)?.strip_prefix(':'));
    found
        .and_then(|text| text.split_whitespace().next()?.parse().ok())
        .unwrap_or_default()
}

fn size(data: &ColumnData) -> usize {
    match data {
        ColumnData::Bool(values) => values.len(),
        ColumnData::Int(values) | ColumnData::Timestamp(values) => values.len() * 8,
        ColumnData::Float(values) => values.len() * 8,
        ColumnData::Uuid(values) => values.len() * 16,
        ColumnData::Text(values) => values.iter().map(|text| text.len() + 8).sum(),
    }
}

async fn timed<T>(what: &str, count: u64, work: impl Future<Output = T>) -> T {
    let (wall, before, theirs) = (Instant::now(), cpu(), server_cpu());
    let answer = work.await;
    let (wall, used) = (wall.elapsed().as_secs_f64(), (cpu() - before).as_secs_f64());
    let server = match (theirs, server_cpu()) {
        (Some(before), Some(after)) => {
            let each = after.saturating_sub(before).as_secs_f64() * 1e6 / count as f64;
            format!(" {each:>12.2}")
        }
        _ => String::new(),
    };
    println!(
        "{what:<44} {count:>9} {wall:>9.2} {:>10.0} {used:>9.2} {:>12.2}{server}",
        count as f64 / wall,
        used * 1e6 / count as f64
    );
    answer
}
