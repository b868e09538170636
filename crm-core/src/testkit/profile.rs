//! The conformance suite of [`ProfileWriter`].
//!
//! Each function takes a writer and the store it writes to, which has room for [`CUSTOMER`]; it makes its own customers in
//! a tenant of its own, and looks at them through the store. [`profile_suite!`](crate::profile_suite) makes a test of
//! each.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! use std::sync::Arc;
//! use crm_core::SystemClock;
//! use crm_core::capability::RecordStore;
//! use crm_core::customer::CUSTOMER;
//! use crm_core::memory::{MemoryProfiles, MemoryStore};
//! use crm_core::testkit::profile;
//!
//! let store: Arc<dyn RecordStore> = Arc::new(MemoryStore::new("records"));
//! store.migrate(&[&CUSTOMER]).await.unwrap();
//! let writer = Arc::new(MemoryProfiles::new(store.clone(), SystemClock::shared()));
//! profile::undo_gives_back_what_was(writer, store).await;
//! # });
//! ```

use std::sync::Arc;

use serde_json::{Value as Json, json};

use super::fixtures;
use crate::capability::{EditRun, Edited, ProfileEdit, ProfileField, ProfileWriter, RecordStore};
use crate::customer::{CUSTOMER, CustomerId, Provenance};
use crate::record::{Record, Stored, Value, Write};
use crate::{Context, ErrorKind, Timestamp};

/// Makes a module with one `#[tokio::test]` for every property of [`testkit::profile`](crate::testkit::profile).
///
/// The expression is evaluated anew in each test; awaited, it gives an `(Arc<dyn ProfileWriter>, Arc<dyn RecordStore>)`.
/// The invoking crate needs `tokio` with `macros` and `rt-multi-thread`.
#[macro_export]
macro_rules! profile_suite {
    ($name:ident, $writer:expr) => {
        $crate::__profile_suite! {
            $name, $writer;
            an_edit_changes_what_it_says_and_nothing_else,
            an_address_follows_its_parts,
            who_was_changed_meanwhile_is_left_alone,
            a_customer_is_edited_whole_or_not_at_all,
            one_that_cannot_be_edited_does_not_keep_the_others,
            nothing_is_written_dry,
            a_repeated_call_writes_once,
            undo_gives_back_what_was,
            who_was_changed_since_is_not_undone,
            tenants_do_not_meet,
            a_run_without_a_name_is_refused,
            many_are_edited_in_order,
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __profile_suite {
    ($name:ident, $writer:expr; $($case:ident),* $(,)?) => {
        mod $name {
            #[allow(unused_imports)]
            use super::*;
            $(
                #[::tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    let (writer, store) = { $writer }.await;
                    $crate::testkit::profile::$case(writer, store).await;
                }
            )*
        }
    };
}

type Writer = Arc<dyn ProfileWriter>;
type Store = Arc<dyn RecordStore>;

fn field(name: &str) -> ProfileField {
    name.parse().expect("a field of the profile")
}

fn run(name: &str) -> EditRun {
    let said_by = Provenance::new("spring-cleaning", Timestamp::EPOCH);
    EditRun::new(name, said_by)
}

/// A customer as it is stored: two addresses, two attributes.
fn profile(n: usize) -> Record {
    let home = json!({"lines": ["Main street 1"], "city": "perth", "region": "", "postal_code": "6000", "country": "AU"});
    let other = json!({"lines": [], "city": "Tallinn", "region": "", "postal_code": "", "country": "EE"});
    let said = json!([{"source": "shop", "observed_at": Timestamp::EPOCH}]);
    Record::from_values(
        &CUSTOMER,
        vec![
            format!("  ana{n}").into(),
            "KASK".into(),
            "".into(),
            "perth".into(),
            Value::Null,
            "AU".into(),
            Value::Json(json!([home, other])),
            Value::Json(json!(["vip"])),
            Value::Json(json!({"plan": "Pro ", "visits": n})),
            Value::Json(said),
            Timestamp::EPOCH.into(),
            Timestamp::EPOCH.into(),
            Value::Null,
        ],
    )
    .expect("a profile")
}

async fn people(store: &Store, ctx: &Context, count: usize) -> Vec<CustomerId> {
    let ids: Vec<CustomerId> = (0..count).map(|_| fixtures::id().into()).collect();
    let writes: Vec<Write> = (1..)
        .zip(&ids)
        .map(|(n, id)| Write::insert(*id, profile(n)))
        .collect();
    for some in writes.chunks(500) {
        store.apply(ctx, some).await.expect("room for customers");
    }
    ids
}

async fn look(store: &Store, ctx: &Context, id: CustomerId) -> Stored {
    let found = store.get(ctx, &CUSTOMER, &[id.uuid()]).await.expect("a look");
    found.into_iter().flatten().next().expect("the customer is there")
}

fn values(stored: &Stored, names: &[&str]) -> Vec<Json> {
    let read = |name: &&str| field(name).read(&stored.record).expect("a field");
    names.iter().map(read).collect()
}

/// Values, version, who said it; all else stays.
pub async fn an_edit_changes_what_it_says_and_nothing_else(writer: Writer, store: Store) {
    let ctx = fixtures::context();
    let ids = people(&store, &ctx, 2).await;
    let before = look(&store, &ctx, ids[0]).await;
    let edit = ProfileEdit::new(ids[0], before.version)
        .set(field("given_name"), "Ana")
        .set(field("attributes.plan"), "pro")
        .set(field("attributes.visits"), Json::Null)
        .set(field("attributes.age"), 41);
    let done = writer.edit(&ctx, &run("r"), &[edit]).await.expect("an edit");
    let after = look(&store, &ctx, ids[0]).await;
    assert_eq!(done, [Edited::Written(after.version)]);
    assert_eq!(after.version, before.version + 1);
    let names = [
        "given_name",
        "attributes.plan",
        "attributes.visits",
        "attributes.age",
    ];
    assert_eq!(
        values(&after, &names),
        [json!("Ana"), json!("pro"), Json::Null, json!(41)]
    );
    for kept in [
        "family_name",
        "display_name",
        "city",
        "addresses",
        "tags",
        "provenance",
        "created_at",
    ] {
        assert_eq!(after.record.get(kept), before.record.get(kept), "{kept} stays");
    }
    let said: std::collections::BTreeMap<String, Provenance> = after.record.json("known_from").unwrap();
    let by: Vec<(&str, &str)> = said
        .iter()
        .map(|(k, by)| (k.as_str(), by.source.as_str()))
        .collect();
    let own = "spring-cleaning";
    assert_eq!(
        by,
        [("attributes.age", own), ("attributes.plan", own), ("name", own)]
    );
    // The same again changes nothing, whoever says it.
    let again = ProfileEdit::new(ids[0], after.version).set(field("given_name"), "Ana");
    let done = writer.edit(&ctx, &run("other"), &[again]).await.expect("an edit");
    assert_eq!(done, [Edited::Unchanged]);
    assert_eq!(look(&store, &ctx, ids[0]).await.version, after.version);
    assert_eq!(
        look(&store, &ctx, ids[1]).await.record,
        profile(2),
        "nobody else is touched"
    );
}

/// City, region and country belong to the first address, and to the columns that are searched.
pub async fn an_address_follows_its_parts(writer: Writer, store: Store) {
    let ctx = fixtures::context();
    let id = people(&store, &ctx, 1).await[0];
    let edit = ProfileEdit::new(id, 1)
        .set(field("city"), "Perth")
        .set(field("country"), Json::Null);
    writer.edit(&ctx, &run("r"), &[edit]).await.expect("an edit");
    let after = look(&store, &ctx, id).await;
    assert_eq!(
        values(&after, &["city", "region", "country"]),
        [json!("Perth"), Json::Null, Json::Null]
    );
    let addresses: Vec<Json> = after.record.json("addresses").unwrap();
    assert_eq!(addresses.len(), 2);
    assert_eq!(
        (
            &addresses[0]["city"],
            &addresses[0]["country"],
            &addresses[0]["postal_code"]
        ),
        (&json!("Perth"), &json!(""), &json!("6000"))
    );
    assert_eq!(addresses[1]["city"], "Tallinn");
}

/// A version that is not the one looked at is told, with the one there is.
pub async fn who_was_changed_meanwhile_is_left_alone(writer: Writer, store: Store) {
    let ctx = fixtures::context();
    let id = people(&store, &ctx, 1).await[0];
    let other = profile(1).with("family_name", "Tamm").unwrap();
    store
        .apply(&ctx, &[Write::update(id, 1, other.clone())])
        .await
        .expect("a change");
    let edit = ProfileEdit::new(id, 1).set(field("given_name"), "Ana");
    let done = writer.edit(&ctx, &run("r"), &[edit]).await.expect("an answer");
    assert_eq!(done, [Edited::ChangedSince(2)]);
    assert_eq!(look(&store, &ctx, id).await.record, other);
}

/// One value that cannot be stored keeps the customer's other values from being written.
pub async fn a_customer_is_edited_whole_or_not_at_all(writer: Writer, store: Store) {
    let ctx = fixtures::context();
    let id = people(&store, &ctx, 1).await[0];
    let long = "x".repeat(400);
    for (name, wrong) in [
        ("city", json!("per\0th")),
        ("family_name", json!(long)),
        ("given_name", json!(7)),
        ("country", json!("Australia")),
        ("attributes.note", json!("nul\0")),
    ] {
        let edit = ProfileEdit::new(id, 1)
            .set(field("given_name"), "Ana")
            .set(field(name), wrong);
        let done = writer.edit(&ctx, &run("r"), &[edit]).await.expect("an answer");
        let [Edited::Refused { field, reason }] = done.as_slice() else {
            panic!("{name}: {done:?}")
        };
        assert!(
            field
                .as_deref()
                .is_some_and(|told| name.starts_with(told) || told == name)
        );
        assert!(!reason.contains("xxx") && !reason.is_empty());
        assert_eq!(look(&store, &ctx, id).await.record, profile(1), "{name}");
    }
}

/// Gone, stale, twice, wrong: each is told by itself.
pub async fn one_that_cannot_be_edited_does_not_keep_the_others(writer: Writer, store: Store) {
    let ctx = fixtures::context();
    let ids = people(&store, &ctx, 4).await;
    let to = |id: CustomerId, version| ProfileEdit::new(id, version).set(field("given_name"), "Ana");
    let edits = [
        to(ids[0], 1),
        to(fixtures::id().into(), 1),
        to(ids[1], 7),
        to(ids[2], 1).set(field("country"), "nowhere"),
        to(ids[3], 1),
        to(ids[3], 1).set(field("family_name"), "Kask"),
    ];
    let done = writer.edit(&ctx, &run("r"), &edits).await.expect("answers");
    assert_eq!(done.len(), edits.len());
    assert_eq!(
        (&done[0], &done[1], &done[2], &done[4]),
        (
            &Edited::Written(2),
            &Edited::Gone,
            &Edited::ChangedSince(1),
            &Edited::Written(2)
        )
    );
    assert!(matches!(done[3], Edited::Refused { .. }) && matches!(done[5], Edited::Refused { .. }));
    for (at, wanted) in [
        (0, json!("Ana")),
        (1, json!("  ana2")),
        (2, json!("  ana3")),
        (3, json!("Ana")),
    ] {
        assert_eq!(
            values(&look(&store, &ctx, ids[at]).await, &["given_name"]),
            [wanted]
        );
    }
}

/// A dry run answers as the run would, and leaves everything as it is.
pub async fn nothing_is_written_dry(writer: Writer, store: Store) {
    let ctx = fixtures::context();
    let ids = people(&store, &ctx, 2).await;
    let edits = [
        ProfileEdit::new(ids[0], 1).set(field("given_name"), "Ana"),
        ProfileEdit::new(ids[1], 3).set(field("given_name"), "Ana"),
    ];
    let told = writer.edit(&ctx, &run("r").dry(), &edits).await.expect("answers");
    for (n, id) in (1..).zip(&ids) {
        let now = look(&store, &ctx, *id).await;
        assert_eq!((now.version, now.record), (1, profile(n)));
    }
    assert_eq!(
        writer.undo(&ctx, "r").await.unwrap_err().kind(),
        ErrorKind::NotFound,
        "a dry run is none"
    );
    assert_eq!(writer.edit(&ctx, &run("r"), &edits).await.expect("answers"), told);
}

/// A call that is repeated, as after a crash, finds what it did; also after somebody else changed it.
pub async fn a_repeated_call_writes_once(writer: Writer, store: Store) {
    let ctx = fixtures::context();
    let ids = people(&store, &ctx, 3).await;
    let edits: Vec<ProfileEdit> = ids
        .iter()
        .map(|id| ProfileEdit::new(*id, 1).set(field("given_name"), "Ana"))
        .collect();
    // Broken off after the first two.
    writer.edit(&ctx, &run("r"), &edits[..2]).await.expect("answers");
    let other = look(&store, &ctx, ids[1])
        .await
        .record
        .with("given_name", "Bea")
        .unwrap();
    store
        .apply(&ctx, &[Write::update(ids[1], 2, other)])
        .await
        .expect("a change");
    let done = writer.edit(&ctx, &run("r"), &edits).await.expect("answers");
    assert_eq!(done, [Edited::Repeated, Edited::Repeated, Edited::Written(2)]);
    assert_eq!(
        values(&look(&store, &ctx, ids[1]).await, &["given_name"]),
        [json!("Bea")]
    );
    assert_eq!(look(&store, &ctx, ids[0]).await.version, 2);
}

/// Undone, every profile is as before the run, and the run can be made again.
pub async fn undo_gives_back_what_was(writer: Writer, store: Store) {
    let ctx = fixtures::context();
    let ids = people(&store, &ctx, 3).await;
    let edits: Vec<ProfileEdit> = ids
        .iter()
        .map(|id| {
            ProfileEdit::new(*id, 1)
                .set(field("given_name"), "Ana")
                .set(field("city"), "Perth")
                .set(field("attributes.visits"), Json::Null)
        })
        .collect();
    writer.edit(&ctx, &run("r"), &edits).await.expect("answers");
    let undone = writer.undo(&ctx, "r").await.expect("undone");
    assert_eq!((undone.restored, undone.kept), (3, 0));
    for (n, id) in (1..).zip(&ids) {
        assert_eq!(look(&store, &ctx, *id).await.record, profile(n));
    }
    let again = writer.undo(&ctx, "r").await.expect("nothing left to do");
    assert_eq!((again.restored, again.kept), (0, 0));
    let version = look(&store, &ctx, ids[0]).await.version;
    let edit = ProfileEdit::new(ids[0], version).set(field("given_name"), "Ana");
    let done = writer.edit(&ctx, &run("r"), &[edit]).await.expect("answers");
    assert_eq!(done, [Edited::Written(version + 1)]);
    assert_eq!(
        writer.undo(&ctx, "another").await.unwrap_err().kind(),
        ErrorKind::NotFound
    );
}

/// Who was changed after the run stays so, and is named.
pub async fn who_was_changed_since_is_not_undone(writer: Writer, store: Store) {
    let ctx = fixtures::context();
    let ids = people(&store, &ctx, 2).await;
    let edits: Vec<ProfileEdit> = ids
        .iter()
        .map(|id| ProfileEdit::new(*id, 1).set(field("given_name"), "Ana"))
        .collect();
    writer.edit(&ctx, &run("r"), &edits).await.expect("answers");
    let newer = look(&store, &ctx, ids[0])
        .await
        .record
        .with("family_name", "Tamm")
        .unwrap();
    store
        .apply(&ctx, &[Write::update(ids[0], 2, newer.clone())])
        .await
        .expect("a change");
    let undone = writer.undo(&ctx, "r").await.expect("undone");
    assert_eq!((undone.restored, undone.kept), (1, 1));
    assert_eq!(undone.kept_customers, [ids[0]]);
    assert_eq!(look(&store, &ctx, ids[0]).await.record, newer);
    assert_eq!(look(&store, &ctx, ids[1]).await.record, profile(2));
}

/// Another tenant's customer is nobody, and its run is none.
pub async fn tenants_do_not_meet(writer: Writer, store: Store) {
    let (ctx, other) = (fixtures::context(), fixtures::context());
    let id = people(&store, &ctx, 1).await[0];
    let edit = [ProfileEdit::new(id, 1).set(field("given_name"), "Ana")];
    let done = writer.edit(&other, &run("r"), &edit).await.expect("an answer");
    assert_eq!(done, [Edited::Gone]);
    assert_eq!(look(&store, &ctx, id).await.record, profile(1));
    writer.edit(&ctx, &run("mine"), &edit).await.expect("an answer");
    assert_eq!(
        writer.undo(&other, "mine").await.unwrap_err().kind(),
        ErrorKind::NotFound
    );
    assert_eq!(look(&store, &ctx, id).await.version, 2);
}

/// Names and sources that cannot be kept are refused before anything is written.
pub async fn a_run_without_a_name_is_refused(writer: Writer, store: Store) {
    let ctx = fixtures::context();
    let id = people(&store, &ctx, 1).await[0];
    let edit = [ProfileEdit::new(id, 1).set(field("given_name"), "Ana")];
    for name in ["", " ", "nul\0", &"x".repeat(256)] {
        let error = writer.edit(&ctx, &run(name), &edit).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.context("field")),
            (ErrorKind::Invalid, Some("name"))
        );
    }
    assert_eq!(look(&store, &ctx, id).await.record, profile(1));
}

/// More than one unit of work: every answer stands where its edit stood.
pub async fn many_are_edited_in_order(writer: Writer, store: Store) {
    let ctx = fixtures::context();
    let ids = people(&store, &ctx, 1_203).await;
    let edit = |(n, id): (usize, &CustomerId)| {
        let stale = n % 100 == 7;
        ProfileEdit::new(*id, if stale { 5 } else { 1 }).set(field("given_name"), format!("Ana {n}"))
    };
    let edits: Vec<ProfileEdit> = ids.iter().enumerate().map(edit).collect();
    let done = writer.edit(&ctx, &run("many"), &edits).await.expect("answers");
    for (n, (id, done)) in ids.iter().zip(&done).enumerate() {
        let stale = n % 100 == 7;
        assert_eq!(
            *done,
            if stale {
                Edited::ChangedSince(1)
            } else {
                Edited::Written(2)
            },
            "{n}"
        );
        if n % 97 == 0 && !stale {
            let now = values(&look(&store, &ctx, *id).await, &["given_name"]);
            assert_eq!(now, [json!(format!("Ana {n}"))]);
        }
    }
    let undone = writer.undo(&ctx, "many").await.expect("undone");
    assert_eq!((undone.restored, undone.kept), (1_191, 0));
}
