//! Copies from any store to any other.

use std::sync::{Arc, Mutex};

use crm_core::capability::RecordStore;
use crm_core::customer::CUSTOMER;
use crm_core::memory::MemoryStore;
use crm_core::query::{Filter, Query};
use crm_core::record::Write;
use crm_core::{Context, ErrorKind, TenantId};
use crm_store::copy::{CopyOptions, copy};

use crate::conformance::{in_memory, on_file};
use crate::export::{beside, everything, filled};
use crate::stores::{Opened, servers};

async fn copies(from: Arc<dyn RecordStore>, to: Arc<dyn RecordStore>) {
    let here = filled(from, 25).await;
    let there = beside(&here, to);
    let told = Arc::new(Mutex::new(0));
    let seen = told.clone();
    let options = CopyOptions::default()
        .page(10)
        .on_progress(move |report| *seen.lock().unwrap() = report.records());
    let (source, target) = (here.customers.store_ref(), there.customers.store_ref());
    let report = copy(&here.ctx, &**source, &**target, options).await.unwrap();
    assert_eq!(everything(&there).await, everything(&here).await);
    assert_eq!(*told.lock().unwrap(), report.records());
    let customers = report
        .schemas
        .iter()
        .find(|one| one.schema == CUSTOMER.name)
        .unwrap();
    assert_eq!((customers.records, customers.written), (25, 25));
    assert!(
        report
            .schemas
            .iter()
            .any(|one| one.schema == "crm_import_row" && one.records == 25)
    );

    // Unasked, nothing is put on top of anything.
    let error = copy(&here.ctx, &**source, &**target, CopyOptions::default())
        .await
        .unwrap_err();
    assert!(
        error.kind() == ErrorKind::Conflict && error.context("schema").is_some(),
        "{error}"
    );

    // Damaged and cut short behind its back: going on with it mends it.
    let page = target
        .find(&here.ctx, &CUSTOMER, &Query::new(Filter::All).limit(3))
        .await
        .unwrap();
    let [a, b, _] = &page.items[..] else {
        panic!("three")
    };
    let edited = a.record.clone().with("given_name", "other").unwrap();
    let writes = [
        Write::update(a.id, a.version, edited),
        Write::delete(&CUSTOMER, b.id, None),
    ];
    target.apply(&here.ctx, &writes).await.unwrap();
    assert_ne!(everything(&there).await, everything(&here).await);
    let report = copy(&here.ctx, &**source, &**target, CopyOptions::default().resume())
        .await
        .unwrap();
    assert_eq!(report.schemas.iter().map(|one| one.written).sum::<u64>(), 2);
    assert_eq!(everything(&there).await, everything(&here).await);

    // A record too many is not overlooked.
    let extra = Write::insert(crm_core::Uuid::from_u128(9), a.record.clone());
    target.apply(&here.ctx, &[extra]).await.unwrap();
    let error = copy(&here.ctx, &**source, &**target, CopyOptions::default().resume())
        .await
        .unwrap_err();
    assert!(error.to_string().contains("differ after the copy"), "{error}");
    assert_eq!(error.context("target_records"), Some("26"));

    // Another tenant's things stay where they are.
    let other = Context::new(TenantId::new("other").unwrap());
    assert_eq!(target.count(&other, &CUSTOMER, &Filter::All).await.unwrap(), 0);
}

#[tokio::test]
async fn memory_to_sqlite() {
    let (file, _folder) = on_file().await;
    copies(Arc::new(MemoryStore::new("m")), file).await;
}

#[tokio::test]
async fn sqlite_to_memory() {
    copies(in_memory().await, Arc::new(MemoryStore::new("m"))).await;
}

#[tokio::test]
async fn to_and_from_every_server() {
    for Opened { store, name, .. } in servers().await {
        eprintln!("to {name}");
        copies(in_memory().await, store).await;
    }
    for Opened { store, name, .. } in servers().await {
        eprintln!("from {name}");
        copies(store, Arc::new(MemoryStore::new("m"))).await;
    }
}
