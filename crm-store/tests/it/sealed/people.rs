//! Customers through an encrypting store: the same answers as without, over everything that customers can do. (All their
//! other tests run through one as well: the modules `on_sealed` of theirs.)

use std::sync::Arc;

use crm_core::customer::{CONTACT_POINT, ContactKind};
use crm_core::memory::MemoryStore;
use crm_core::query::{Filter, Query, Relation};
use crm_core::testkit::fixtures;
use crm_core::{RandomIds, SystemClock};
use crm_store::customers::{Customers, SCHEMAS};
use crm_store::sealed::SealConfig;

use super::sealed_with;
use crate::customers::keys;

/// ENC-6: an address is found however it is written, because what is indexed is what was stored.
#[tokio::test]
async fn enc_6_addresses_are_found_however_they_are_written() {
    let store = Arc::new(sealed_with(
        Arc::new(MemoryStore::new("plain")),
        SealConfig::default(),
    ));
    let customers = Customers::new(store.clone(), SystemClock::shared(), RandomIds::shared());
    let ctx = fixtures::context();
    let ana = customers
        .upsert(&ctx, keys("1", "ana@example.com", "+49 30 123456"))
        .await
        .unwrap()
        .id;
    for (kind, raw) in [
        (ContactKind::Email, "Ana@EXAMPLE.com"),
        (ContactKind::Email, "ana@example.com"),
        (ContactKind::Phone, "+49 (30) 123-456"),
    ] {
        let found = customers.by_contact(&ctx, kind, raw).await.unwrap();
        assert_eq!(found.map(|customer| customer.id), Some(ana), "{raw}");
    }
    assert!(
        customers
            .by_contact(&ctx, ContactKind::Email, "bo@example.com")
            .await
            .unwrap()
            .is_none()
    );
    // Conditions on what belongs to a customer, on encrypted fields: by the index and by decryption.
    for filter in [
        Filter::eq("value", "ana@example.com"),
        Filter::prefix("value", "ana@"),
    ] {
        let having = Filter::at_least(1, Relation::CONTACT_POINTS, filter);
        assert_eq!(customers.count(&ctx, &having).await.unwrap(), 1);
    }
    let none = Filter::none_of(
        Relation::CONTACT_POINTS,
        Filter::contains("value", "@example.org"),
    );
    assert_eq!(customers.count(&ctx, &none).await.unwrap(), 1);
    let physical = store.stored_as(&CONTACT_POINT).unwrap();
    let rows = store
        .inner()
        .find(&ctx, physical, &Query::new(Filter::All))
        .await
        .unwrap()
        .items;
    assert_eq!(rows.len(), 2);
    for row in rows {
        assert!(row.record.text("value").is_err() && row.record.uuid("value_bidx").is_ok());
    }
}

/// Every shape of this crate and the core can be encrypted, and what is personal is.
#[test]
fn every_schema_has_an_encrypted_shape() {
    use crm_core::record::Privacy;
    let store = sealed_with(Arc::new(MemoryStore::new("plain")), SealConfig::default());
    let mut sealed = 0;
    for schema in SCHEMAS {
        let physical = store.stored_as(schema).unwrap();
        physical.validate().unwrap();
        for field in schema.fields {
            let (_, stored) = physical.field(field.name).unwrap();
            assert_eq!(
                stored.privacy == Privacy::Sealed,
                field.privacy == Privacy::Personal,
                "{}.{}",
                schema.name,
                field.name
            );
            sealed += u32::from(stored.privacy == Privacy::Sealed);
        }
        let names = |schema: &crm_core::record::Schema| {
            let all = schema
                .indexes
                .iter()
                .map(|index| (index.name, index.unique, index.fields.len()));
            all.collect::<Vec<_>>()
        };
        assert_eq!(names(schema), names(physical), "errors name the same indexes");
        assert_eq!(physical.name, schema.name);
    }
    assert!(sealed > 20, "{sealed} fields are encrypted");
}
