//! The undo of an import, a merge and its undo, and a copy are killed at a write to the disk: what is left is whole, and the
//! next run ends where an undisturbed one does. SQLite's own program reads the files.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crm_core::activity::Money;
use crm_core::capability::RecordStore;
use crm_core::customer::{
    CONTACT_POINT, CUSTOMER, Draft, ExternalRef, InteractionDraft, OrderDraft, PersonName, Provenance,
};
use crm_core::query::{Filter, Query};
use crm_core::record::Write;
use crm_core::{Context, ErrorKind, ManualClock, RandomIds, TenantId, Timestamp, Uuid};
use crm_store::copy::{CopyOptions, copy};
use crm_store::customers::{Customers, ImportOptions, MergeRules};
use crm_store::{SqliteConfig, SqliteStore};
use tempfile::TempDir;

use crate::child::{armed, number, role, sound, sqlite3, struck, through, writes};

/// At how many writes, spread evenly over the work, a process is killed.
const KILLS: usize = 5;

fn ctx() -> Context {
    Context::new(TenantId::new("shop").unwrap())
}

async fn open(path: impl AsRef<Path>) -> Arc<dyn RecordStore> {
    let store = SqliteStore::open_file(path, SqliteConfig::default()).await;
    Arc::new(store.unwrap())
}

/// Customers of a file, always at the same time of day.
async fn customers(path: impl AsRef<Path>) -> Customers {
    let clock = Arc::new(ManualClock::at("2026-03-01T09:00:00Z".parse().unwrap()));
    let ids = RandomIds::new(clock.clone());
    let customers = Customers::new(open(path).await, clock, Arc::new(ids));
    customers.prepare().await.unwrap();
    customers
}

fn person(n: usize, given: &str, seen: i64) -> Draft {
    let mut draft = Draft::new(Provenance::new("shop", Timestamp::from_micros(seen)));
    draft.name = Some(PersonName::new(given, "Kask"));
    draft.external_refs.push(ExternalRef::new("shop", n.to_string()));
    draft.emails.push(format!("p{n}@example.com"));
    draft
}

fn order(n: usize, event: usize) -> OrderDraft {
    OrderDraft {
        event_id: format!("o{n}-{event}"),
        at: Timestamp::from_micros(event as i64),
        total: Money::new(100, "EUR").unwrap(),
        items: 1,
    }
}

fn visit(n: usize) -> InteractionDraft {
    InteractionDraft {
        event_id: format!("v{n}"),
        at: Timestamp::from_micros(n as i64),
        kind: "visit".into(),
        data: Default::default(),
    }
}

/// Every value of every table but those that tell of the work itself, and the number of changes (`version`).
fn dump(path: &Path) -> BTreeSet<String> {
    let tables = sqlite3(
        path,
        "SELECT format('SELECT ''%s|'' || %s FROM \"%s\";', m.name, \
           group_concat(format('quote(\"%s\")', c.name), ' || ''|'' || '), m.name) \
         FROM sqlite_schema m, pragma_table_info(m.name) c \
         WHERE m.type = 'table' AND m.name LIKE 'crm\\_%' ESCAPE '\\' AND m.name NOT LIKE 'crm\\_import%' ESCAPE '\\' \
           AND m.name NOT IN ('crm_ledger', 'crm_merge', 'crm_merge_image') AND c.name NOT IN ('version', 'merge_id') \
         GROUP BY m.name",
    );
    assert!(tables.len() > 10, "{tables:?}");
    sqlite3(path, &tables.concat()).into_iter().collect()
}

/// A file that is done with, to be copied for each kill.
struct Prepared {
    folder: TempDir,
    path: PathBuf,
}

impl Prepared {
    fn new(name: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        Self { folder, path }
    }

    /// Brings everything into the file itself.
    fn seal(&self) {
        let busy = sqlite3(&self.path, "PRAGMA wal_checkpoint(TRUNCATE)");
        assert_eq!(busy, ["0|0|0"]);
    }

    fn copied(&self, name: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        // The log of an earlier copy is not this one's.
        for log in ["-wal", "-shm"] {
            let _ = std::fs::remove_file(path.with_file_name(format!("{name}{log}")));
        }
        std::fs::copy(&self.path, &path).unwrap();
        path
    }
}

/// Has the work done in a process that is killed at one of its writes, again and again from the same start; `look` sees what
/// each left, `again` is the role that ends it. Answers how many were killed.
fn strike(
    prepared: &Prepared,
    test: &str,
    begin: &str,
    again: &str,
    mut look: impl FnMut(&Path),
    mut after: impl FnMut(&Path),
) -> usize {
    let whole = prepared.copied("whole.db");
    let total = writes(test, &whole, begin);
    assert!(total > KILLS, "only {total} writes: nothing to kill in");
    after(&whole);
    let mut killed = 0;
    for kill in 0..KILLS {
        let at = 1 + total * (2 * kill + 1) / (2 * KILLS);
        let path = prepared.copied(&format!("{at}.db"));
        killed += usize::from(struck(test, &path, begin, at));
        sound(&path);
        look(&path);
        through(test, &path, again);
        sound(&path);
        after(&path);
    }
    killed
}

/// What a customer is without, or has without being there; and rows of the journal that do not tell what is.
const HALVES: &str = "SELECT \
   (SELECT count(*) FROM crm_contact_point WHERE customer_id NOT IN (SELECT id FROM crm_customer)) \
 + (SELECT count(*) FROM crm_external_ref WHERE customer_id NOT IN (SELECT id FROM crm_customer)) \
 + (SELECT count(*) FROM crm_order WHERE customer_id NOT IN (SELECT id FROM crm_customer)) \
 + (SELECT count(*) FROM crm_interaction WHERE customer_id NOT IN (SELECT id FROM crm_customer)) \
 + (SELECT count(*) FROM crm_import_row WHERE customer_id NOT IN (SELECT id FROM crm_customer)) \
 + (SELECT count(*) FROM crm_customer WHERE id NOT IN (SELECT customer_id FROM crm_contact_point)) \
 + (SELECT count(*) FROM crm_customer c WHERE (given_name IN ('Changed', 'New')) \
      <> EXISTS (SELECT 1 FROM crm_import_row r WHERE r.customer_id = c.id))";

/// People who were there, and an import that changed some and brought more.
async fn imported() -> (Prepared, BTreeSet<String>, BTreeSet<String>) {
    const OLD: usize = 40;
    const ALL: usize = 260;
    let prepared = Prepared::new("imported.db");
    let before = {
        let customers = customers(&prepared.path).await;
        let old = (0..OLD).map(|n| {
            let mut draft = person(n, "Old", 10);
            draft.orders.push(order(n, 0));
            draft
        });
        let options = ImportOptions::default().without_journal();
        customers.import(&ctx(), "old", old, options).await.unwrap();
        let before = dump(&prepared.path);
        let list = (OLD / 2..ALL).map(|n| {
            let mut draft = person(n, if n < OLD { "Changed" } else { "New" }, 1_000);
            draft.orders.push(order(n, 1));
            draft.interactions.push(visit(n));
            draft
        });
        let report = customers
            .import(&ctx(), "list", list, ImportOptions::default())
            .await;
        let report = report.unwrap();
        assert_eq!(
            (report.created, report.updated),
            ((ALL - OLD) as u64, (OLD / 2) as u64)
        );
        before
    };
    prepared.seal();
    let after = dump(&prepared.path);
    assert_eq!(number(&prepared.path, HALVES), 0);
    (prepared, before, after)
}

/// In the child: undoes the import; `torn` does what it would, one record after the other.
async fn undo_import(path: &str, role: &str) {
    let customers = customers(path).await;
    if role == "undo" {
        customers.undo_import(&ctx(), "list", &mut |_| ()).await.unwrap();
        return;
    }
    let store = customers.store_ref();
    for schema in [&CONTACT_POINT, &CUSTOMER] {
        let all = store
            .find(&ctx(), schema, &Query::new(Filter::All).limit(300))
            .await
            .unwrap();
        for one in all.items {
            store
                .apply(&ctx(), &[Write::delete(schema, one.id, None)])
                .await
                .unwrap();
        }
    }
}

#[tokio::test]
async fn a_killed_undo_of_an_import_goes_on() {
    const TEST: &str = "undo_kill::a_killed_undo_of_an_import_goes_on";
    if let Some((path, role)) = role() {
        return undo_import(&path, &role).await;
    }
    if !armed() {
        return;
    }
    let (prepared, before, after) = imported().await;
    let mut underway = 0;
    let killed = strike(
        &prepared,
        TEST,
        "undo",
        "undo",
        |path| {
            assert_eq!(number(path, HALVES), 0, "a customer is half undone");
            let now = dump(path);
            let strange = now
                .iter()
                .find(|row| !before.contains(*row) && !after.contains(*row));
            assert_eq!(strange, None, "neither as before the import nor as after it");
            underway += usize::from(now != before && now != after);
        },
        |path| {
            assert!(dump(path) == before, "the undo did not end as it should");
            assert_eq!(number(path, "SELECT count(*) FROM crm_import_row"), 0);
        },
    );
    assert!(killed >= KILLS / 2, "{killed} were killed");
    assert!(
        underway > 0,
        "none was killed in the middle: the test proves nothing"
    );
}

/// The negative control.
#[tokio::test]
async fn the_oracle_sees_half_an_undo() {
    const TEST: &str = "undo_kill::the_oracle_sees_half_an_undo";
    if let Some((path, role)) = role() {
        return undo_import(&path, &role).await;
    }
    if !armed() {
        return;
    }
    let (prepared, ..) = imported().await;
    let path = prepared.copied("torn.db");
    assert!(struck(TEST, &path, "torn", 200));
    assert!(number(&path, HALVES) > 0);
}

const MERGED: &str = "SELECT count(*) FROM crm_merge WHERE state = 'applied'";

/// Three customers with a history, to become one: the file before, and how many rows of each table there are.
async fn three() -> (Prepared, BTreeSet<String>) {
    let prepared = Prepared::new("three.db");
    {
        let customers = customers(&prepared.path).await;
        for n in 0..3 {
            let mut draft = person(n, ["Ana", "Anna", "A."][n], 10 + n as i64);
            draft.orders.extend((0..150).map(|event| order(n, event)));
            draft.interactions.push(visit(n));
            customers.upsert(&ctx(), draft).await.unwrap();
        }
    }
    prepared.seal();
    let before = dump(&prepared.path);
    (prepared, before)
}

/// In the child: merges, or takes the merge back; `torn` gives the contact points away one after the other.
async fn merge(path: &str, role: &str) {
    let customers = customers(path).await;
    let (ctx, merge) = (ctx(), customers.merge());
    let page = customers
        .find(&ctx, &Query::new(Filter::All).ascending("given_name"))
        .await
        .unwrap();
    let ids: Vec<_> = page.items.iter().map(|customer| customer.id).collect();
    match role {
        "merge" => {
            // Somebody who did it already has nobody left to give it.
            if let [winner, losers @ ..] = &ids[..]
                && !losers.is_empty()
            {
                let plan = merge
                    .plan(&ctx, *winner, losers, MergeRules::default())
                    .await
                    .unwrap();
                merge.apply(&ctx, &plan).await.unwrap();
            }
        }
        "torn" => {
            let store = customers.store_ref();
            let points = store
                .find(&ctx, &CONTACT_POINT, &Query::new(Filter::All))
                .await
                .unwrap();
            for _ in 0..30 {
                for point in &points.items {
                    let given = point.record.clone().with("customer_id", ids[0]).unwrap();
                    store.apply(&ctx, &[Write::put(point.id, given)]).await.unwrap();
                }
            }
        }
        undo => {
            let id: Uuid = undo.parse().unwrap();
            if let Err(error) = merge.undo(&ctx, id.into()).await {
                assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
                assert!(error.to_string().contains("taken back already"), "{error}");
            }
        }
    }
}

#[tokio::test]
async fn a_killed_merge_or_its_undo_is_whole_or_not_there() {
    const TEST: &str = "undo_kill::a_killed_merge_or_its_undo_is_whole_or_not_there";
    if let Some((path, role)) = role() {
        return merge(&path, &role).await;
    }
    if !armed() {
        return;
    }
    let (prepared, before) = three().await;
    // What a merge makes of them, undisturbed.
    let whole = prepared.copied("merged.db");
    through(TEST, &whole, "merge");
    let after = Prepared {
        path: whole,
        folder: tempfile::tempdir().unwrap(),
    };
    after.seal();
    let merged = dump(&after.path);
    assert_ne!(merged, before);
    let (mut there, mut absent) = (0, 0);
    let mut look = |path: &Path| {
        let (now, applied) = (dump(path), number(path, MERGED));
        assert!(
            (now == before && applied == 0) || (now == merged && applied == 1),
            "half a merge: {applied} applied"
        );
        there += applied;
        absent += 1 - applied;
    };
    let end = |path: &Path| assert!(dump(path) == merged && number(path, MERGED) == 1);
    let killed = strike(&prepared, TEST, "merge", "merge", &mut look, end);
    assert!(killed >= KILLS / 2, "{killed} were killed");

    let id = sqlite3(&after.path, "SELECT lower(hex(id)) FROM crm_merge");
    let end = |path: &Path| assert!(dump(path) == before && number(path, MERGED) == 0);
    let killed = strike(&after, TEST, &id[0], &id[0], &mut look, end);
    assert!(killed >= KILLS / 2, "{killed} were killed");
    assert!(there > 0 && absent > 0, "{there} there, {absent} not");
}

/// The negative control.
#[tokio::test]
async fn the_oracle_sees_half_a_merge() {
    const TEST: &str = "undo_kill::the_oracle_sees_half_a_merge";
    if let Some((path, role)) = role() {
        return merge(&path, &role).await;
    }
    if !armed() {
        return;
    }
    let (prepared, before) = three().await;
    let path = prepared.copied("torn.db");
    assert!(struck(TEST, &path, "torn", 40));
    assert!(dump(&path) != before && number(&path, MERGED) == 0);
}

/// Records of one unit of work of a copy.
const PAGE: u32 = 50;

/// In the child: copies the file beside into this one, in units of [`PAGE`] records; `torn` takes others.
async fn copies(path: &str, role: &str) {
    let to = open(path).await;
    let from = open(Path::new(path).with_file_name("source.db")).await;
    let page = if role == "torn" { PAGE - 3 } else { PAGE };
    let options = CopyOptions::default().page(page).resume();
    copy(&ctx(), &*from, &*to, options).await.unwrap();
}

/// A file with people, and an empty one to copy them into.
async fn source() -> (Prepared, BTreeSet<String>) {
    let source = Prepared::new("source.db");
    {
        let customers = customers(&source.path).await;
        let people = (0..170).map(|n| {
            let mut draft = person(n, "Ana", 10);
            draft.orders.push(order(n, 0));
            draft
        });
        let (ctx, options) = (ctx(), ImportOptions::default());
        customers.import(&ctx, "people", people, options).await.unwrap();
    }
    source.seal();
    let all = dump(&source.path);
    let path = source.folder.path().join("empty.db");
    drop(customers(&path).await);
    let empty = Prepared {
        path,
        folder: source.folder,
    };
    empty.seal();
    (empty, all)
}

/// Tables of the copy that hold neither all of the source's nor whole pages.
fn torn_pages(path: &Path, all: &BTreeSet<String>) -> Vec<String> {
    let count =
        |rows: &BTreeSet<String>, table: &str| rows.iter().filter(|row| row.starts_with(table)).count();
    let now = dump(path);
    let tables = [
        "crm_customer|",
        "crm_contact_point|",
        "crm_external_ref|",
        "crm_order|",
    ];
    let torn = tables.into_iter().filter(|table| {
        let found = count(&now, table);
        found != count(all, table) && found % PAGE as usize != 0
    });
    torn.map(str::to_owned).collect()
}

#[tokio::test]
async fn a_killed_copy_goes_on_to_equality() {
    const TEST: &str = "undo_kill::a_killed_copy_goes_on_to_equality";
    if let Some((path, role)) = role() {
        return copies(&path, &role).await;
    }
    if !armed() {
        return;
    }
    let (empty, all) = source().await;
    let mut underway = 0;
    let killed = strike(
        &empty,
        TEST,
        "copy",
        "copy",
        |path| {
            let now = dump(path);
            assert!(now.is_subset(&all), "a record is not as in the source");
            assert_eq!(torn_pages(path, &all), Vec::<String>::new());
            underway += usize::from(!now.is_empty() && now != all);
        },
        |path| assert!(dump(path) == all, "the copy is not equal"),
    );
    assert!(killed >= KILLS / 2, "{killed} were killed");
    assert!(
        underway > 0,
        "none was killed in the middle: the test proves nothing"
    );
}

/// The negative control: a unit of work of another size shows as one that is torn.
#[tokio::test]
async fn the_oracle_sees_a_torn_page() {
    const TEST: &str = "undo_kill::the_oracle_sees_a_torn_page";
    if let Some((path, role)) = role() {
        return copies(&path, &role).await;
    }
    if !armed() {
        return;
    }
    let (empty, all) = source().await;
    let total = writes(TEST, &empty.copied("whole.db"), "torn");
    let path = empty.copied("torn.db");
    assert!(struck(TEST, &path, "torn", total / 2));
    assert!(!torn_pages(&path, &all).is_empty());
}
