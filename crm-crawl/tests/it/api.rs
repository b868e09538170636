//! A server whose answers a test writes, and what was asked of it.

use std::collections::HashMap;
use std::future::IntoFuture;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Response, StatusCode};
use crm_core::capability::Progress;
use crm_core::{Error, Result};
use crm_crawl::rest::{RestCollector, RestSpec};
use serde_json::{Value as Json, json};

use crate::{Kept, run};

/// A request as the server saw it.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) path: String,
    pub(crate) query: HashMap<String, String>,
    pub(crate) headers: HeaderMap,
}

/// What the server answers.
pub(crate) struct Answer(
    pub(crate) u16,
    pub(crate) Vec<(&'static str, String)>,
    pub(crate) Vec<u8>,
);

pub(crate) fn page(json: Json) -> Answer {
    Answer(
        200,
        vec![("content-type", "application/json".into())],
        json.to_string().into_bytes(),
    )
}

pub(crate) fn status(code: u16) -> Answer {
    Answer(code, Vec::new(), b"secret customer data".to_vec())
}

impl Answer {
    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.1.push((name, value.into()));
        self
    }
}

type Script = dyn Fn(&Asked, usize) -> Answer + Send + Sync;

#[derive(Clone)]
pub(crate) struct Api {
    pub(crate) address: SocketAddr,
    pub(crate) log: Arc<Mutex<Vec<Asked>>>,
}

impl Api {
    /// `script` answers; the number says how many requests came before.
    pub(crate) async fn start(script: impl Fn(&Asked, usize) -> Answer + Send + Sync + 'static) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let api = Self {
            address: listener.local_addr().unwrap(),
            log: Arc::default(),
        };
        let script: Arc<Script> = Arc::new(script);
        let app = Router::new().fallback(answer).with_state((api.clone(), script));
        tokio::spawn(axum::serve(listener, app).into_future());
        api
    }

    pub(crate) fn log(&self) -> Vec<Asked> {
        self.log.lock().unwrap().clone()
    }

    /// The values of a parameter, request by request.
    pub(crate) fn asked(&self, param: &str) -> Vec<String> {
        self.log()
            .iter()
            .map(|asked| asked.query.get(param).cloned().unwrap_or_default())
            .collect()
    }

    pub(crate) fn spec(&self, more: Json) -> RestSpec {
        let mut json = json!({
            "name": "api",
            "url": format!("http://{}/v1/people", self.address),
            "items": "items",
            "backoff": 0.01,
            "http": {"allow": [format!("127.0.0.1/32:{}", self.address.port())]},
        });
        json.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        serde_json::from_value(json).unwrap()
    }

    pub(crate) async fn read(&self, more: Json) -> (Kept, Result<Progress>) {
        run(&RestCollector::new(self.spec(more)).unwrap(), None).await
    }

    pub(crate) async fn fails(&self, more: Json) -> Error {
        self.read(more).await.1.unwrap_err()
    }
}

async fn answer(State((api, script)): State<(Api, Arc<Script>)>, request: Request) -> Response<Body> {
    let query = request.uri().query().unwrap_or_default();
    let asked = Asked {
        path: request.uri().path().to_owned(),
        query: url::form_urlencoded::parse(query.as_bytes())
            .into_owned()
            .collect(),
        headers: request.headers().clone(),
    };
    let before = {
        let mut log = api.log.lock().unwrap();
        log.push(asked.clone());
        log.len() - 1
    };
    let Answer(code, headers, body) = script(&asked, before);
    let mut response = Response::builder().status(StatusCode::from_u16(code).unwrap());
    for (name, value) in headers {
        response = response.header(name, value);
    }
    response.body(Body::from(body)).unwrap()
}

pub(crate) fn person(n: usize) -> Json {
    json!({"id": n, "email": format!("p{n}@x.example"), "name": format!("P {n}")})
}

pub(crate) fn people(range: std::ops::Range<usize>) -> Json {
    range.map(person).collect()
}

pub(crate) fn all(count: usize) -> Vec<String> {
    let mut all: Vec<String> = (0..count).map(|n| format!("p{n}@x.example")).collect();
    all.sort();
    all
}

/// Which ten the parameters ask for.
pub(crate) fn ten(asked: &Asked, param: &str) -> usize {
    asked.query.get(param).map_or(0, |text| text.parse().unwrap())
}
