//! The interface asked by Schemathesis: a tester of others' making, which reads the OpenAPI description and sends what it allows
//! and what it forbids.

use std::process::Command;

use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use crm_store::api::openapi;
use serde_json::{Value as Json, json};

use super::Server;

fn installed() -> Option<String> {
    let variable = "OPEN_CRM_TEST_SCHEMATHESIS";
    match std::env::var(variable) {
        Ok(folder) => Some(folder),
        Err(_) => {
            assert!(
                std::env::var_os("OPEN_CRM_REQUIRE_BACKENDS").is_none(),
                "{variable} is not set; scripts/services up schemathesis installs it"
            );
            eprintln!("SKIPPED: {variable} is not set, the REST interface was not asked by Schemathesis");
            None
        }
    }
}

/// What the tester says, and whether it found nothing.
async fn asked(folder: &str, server: &Server, description: &str, more: &[&str]) -> (bool, String) {
    let key = server.key("shop", &["*.*"]).await;
    let said = json!({ "name": "Ana Kask", "email": "ana@example.com" });
    server.post(&key, "/customers/upsert", &said).await;
    let base = format!("http://{}", server.address);
    let mut tester = Command::new("python3");
    tester
        .env("PYTHONPATH", folder)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .args(["-m", "schemathesis.cli", "run", &format!("{base}{description}")])
        .args([
            "--url",
            &base,
            "--header",
            &format!("Authorization: Bearer {key}"),
        ])
        // Every check but one: a description cannot say which texts are filters, numbers or addresses.
        .args(["--exclude-checks", "positive_data_acceptance"])
        .args([
            "--phases",
            "coverage,fuzzing",
            "--seed",
            "1",
            "--continue-on-failure",
        ])
        .args(more);
    let room = tempfile::tempdir().unwrap();
    tester.current_dir(room.path());
    let done = tokio::task::spawn_blocking(move || tester.output())
        .await
        .unwrap()
        .unwrap();
    let text = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
    (done.status.success(), text)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_are_as_described() {
    let Some(folder) = installed() else { return };
    let server = Server::start().await;
    let (good, text) = asked(&folder, &server, "/openapi.json", &["--max-examples", "15"]).await;
    assert!(good, "{text}");
    assert!(text.contains("Tested: 16"), "every operation was asked: {text}");
}

/// The control: a description that promises what is not there is found out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_description_that_is_wrong_is_found_out() {
    let Some(folder) = installed() else { return };
    let mut wrong = openapi().clone();
    let required = wrong
        .pointer_mut("/components/schemas/Customer/required")
        .unwrap();
    required.as_array_mut().unwrap().push(Json::from("shoe_size"));
    let wrong = wrong.to_string();
    let answer = async move || ([(CONTENT_TYPE, "application/json")], wrong);
    let more = axum::Router::new().route("/wrong.json", get(answer));
    let server = Server::start_with(more).await;
    let only = ["--max-examples", "3", "--include-operation-id", "listCustomers"];
    let (good, text) = asked(&folder, &server, "/wrong.json", &only).await;
    assert!(!good && text.contains("shoe_size"), "{text}");
}
