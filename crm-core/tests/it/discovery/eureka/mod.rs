//! Eureka: our server against recorded requests and public clients, our client against our server and recorded answers.

mod client;
mod public;
mod replay;
mod rules;

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use crm_core::http::{HttpClient, HttpConfig};
use crm_core::registry::discovery::eureka::{
    EurekaConfig, EurekaDiscovery, EurekaServer, EurekaServerConfig,
};
use crm_core::{Clock, ManualClock};
use http::{Request, Response};

use super::http1::Served;

fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::at("2026-11-22T12:10:59.587Z".parse().unwrap()))
}

/// A server that looks for lapsed leases every 2 s.
fn server(clock: &Arc<ManualClock>) -> EurekaServer {
    let config = EurekaServerConfig {
        evict_every: 2,
        ..EurekaServerConfig::default()
    };
    EurekaServer::new(config, clock.clone()).unwrap()
}

async fn served(server: &EurekaServer) -> Served {
    let server = server.clone();
    Served::new(move |request| server.handle(request)).await
}

fn http_to(served: &[&Served]) -> HttpClient {
    let mut config = HttpConfig::default();
    for one in served {
        config
            .allow
            .push(format!("127.0.0.1/32:{}", one.address.port()).parse().unwrap());
    }
    HttpClient::new(config).unwrap()
}

fn config(served: &[&Served]) -> EurekaConfig {
    let peers = served
        .iter()
        .map(|one| format!("http://{}/eureka/v2/", one.address).parse().unwrap())
        .collect();
    let mut config = EurekaConfig::new(peers);
    config.fetch_every = 2;
    config
}

fn client(served: &[&Served], clock: &Arc<ManualClock>) -> EurekaDiscovery {
    EurekaDiscovery::new(
        "eureka",
        config(served),
        http_to(served),
        clock.clone() as Arc<dyn Clock>,
    )
    .unwrap()
}

fn ask(server: &EurekaServer, method: &str, path: &str, accept: Option<&str>) -> Response<Bytes> {
    let mut request = Request::builder().method(method).uri(path);
    if let Some(accept) = accept {
        request = request.header("accept", accept);
    }
    server.handle(&request.body(Bytes::new()).unwrap())
}

fn post(server: &EurekaServer, path: &str, content_type: &str, body: &str) -> Response<Bytes> {
    let request = Request::post(path).header("content-type", content_type);
    server.handle(&request.body(Bytes::copy_from_slice(body.as_bytes())).unwrap())
}

fn text(response: &Response<Bytes>) -> String {
    if response.headers().get("content-encoding").is_none() {
        return String::from_utf8(response.body().to_vec()).unwrap();
    }
    let mut out = String::new();
    flate2::read::GzDecoder::new(response.body().as_ref())
        .read_to_string(&mut out)
        .unwrap();
    out
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// `crm-1` of the application `CRM`, as it was registered in the recordings.
const CRM_1: &str = r#"{"instance":{"instanceId":"crm-1","hostName":"127.0.0.1","app":"CRM","ipAddr":"127.0.0.1","status":"UP","overriddenstatus":"UNKNOWN","port":{"$":8080,"@enabled":"true"},"securePort":{"$":443,"@enabled":"false"},"countryId":1,"dataCenterInfo":{"@class":"com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo","name":"MyOwn"},"leaseInfo":{"renewalIntervalInSecs":2,"durationInSecs":6},"metadata":{"zone":"z1","weight":"3"},"homePageUrl":"http://127.0.0.1:8080/","statusPageUrl":"http://127.0.0.1:8080/info","healthCheckUrl":"http://127.0.0.1:8080/health","vipAddress":"crm","secureVipAddress":"crm"}}"#;
