//! The suite of all stores on PostgreSQL, and what is particular to it.

use crm_core::testkit::store::{Under as _, agrees_with_memory};

use crate::own::postgres;
use crate::stores::{or_memory, sequences};

crm_core::store_suite!(suite, async { or_memory(postgres().await) });

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_sequence_of_operations_ends_as_in_the_model() {
    let under = or_memory(postgres().await);
    agrees_with_memory(under.store(), 20_261_122, sequences(60), 50).await;
}
