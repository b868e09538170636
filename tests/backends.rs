//! Says loudly which real servers the tests of this run did not have, and fails where they are required.
#![allow(clippy::panic, reason = "tests")]

use std::io::Write as _;

/// What a test run may be given, and which tests are for nothing without it.
const BACKENDS: [(&str, &str); 6] = [
    (
        "OPEN_CRM_TEST_MYSQL_URL",
        "MariaDB: the store on MySQL and MariaDB, races, faults",
    ),
    (
        "OPEN_CRM_TEST_POSTGRES_URL",
        "PostgreSQL: the store on PostgreSQL, races, faults",
    ),
    (
        "OPEN_CRM_TEST_MONGODB_URL",
        "MongoDB: the store on a replica set, races, faults",
    ),
    (
        "OPEN_CRM_TEST_SMTP_URL",
        "Postfix: mail over STARTTLS and TLS, log-in, refused recipients",
    ),
    (
        "OPEN_CRM_TEST_NGINX_URL",
        "nginx: crawling a site that is not ours, robots.txt",
    ),
    (
        "OPEN_CRM_TEST_SCHEMATHESIS",
        "Schemathesis: the REST interface asked by a tester of others' making",
    ),
];

#[test]
fn backends_that_are_missing_are_named() {
    let missing: Vec<_> = BACKENDS
        .into_iter()
        .filter(|(variable, _)| std::env::var_os(variable).is_none())
        .collect();
    let mut text = String::new();
    for (variable, what) in &missing {
        text += &format!("SKIPPED: {what} ({variable} is not set; scripts/test starts the server)\n");
    }
    if !cfg!(feature = "full") {
        text += "SKIPPED: everything that needs a feature; cargo test --workspace --all-features runs it\n";
    }
    // Past the test runner's capture: a skip nobody sees is a lie.
    let _ = std::io::stderr().write_all(text.as_bytes());
    assert!(
        missing.is_empty() || std::env::var_os("OPEN_CRM_REQUIRE_BACKENDS").is_none(),
        "OPEN_CRM_REQUIRE_BACKENDS is set, but servers are missing:\n{text}"
    );
}
