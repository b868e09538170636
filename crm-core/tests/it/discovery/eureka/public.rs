//! Public clients of two languages against our server, over HTTP: they register, are seen, renew, see each other, and
//! leave. `scripts/services` installs them.

use std::process::Stdio;

use crm_core::SystemClock;
use crm_core::registry::discovery::Discovery;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};

use super::*;

/// The folder in which a client is installed; without it the test steps aside, or fails when backends are required.
fn installed(variable: &str) -> Option<String> {
    match std::env::var(variable) {
        Ok(folder) => Some(folder),
        Err(_) => {
            assert!(
                std::env::var_os("OPEN_CRM_REQUIRE_BACKENDS").is_none(),
                "{variable} is not set; scripts/services up eureka installs the clients"
            );
            eprintln!("SKIPPED: {variable} is not set, a public Eureka client was not run");
            None
        }
    }
}

const PYTHON: &str = r"
import sys, logging
import py_eureka_client.eureka_client as ec
ec.init(eureka_server=sys.argv[1], app_name='PYPEER', instance_port=9001, instance_host='127.0.0.1',
        instance_ip='127.0.0.1', instance_id='py-1', renewal_interval_in_secs=1, duration_in_secs=5, metadata={'k': 'v'})
print('up', flush=True)
for line in sys.stdin:
    if line.strip() == 'apps':
        print('sees', ','.join(sorted(a.name for a in ec.get_client().applications.applications)), flush=True)
    else:
        break
ec.stop()
print('left', flush=True)
";

const NODE: &str = r"
const { Eureka } = require('eureka-js-client');
const url = new URL(process.argv[1]);
const client = new Eureka({
  instance: { app: 'jspeer', instanceId: 'js-1', hostName: '127.0.0.1', ipAddr: '127.0.0.1', statusPageUrl: 'http://127.0.0.1:9002/info',
    port: { '$': 9002, '@enabled': true }, vipAddress: 'jspeer', metadata: { k: 'v' },
    dataCenterInfo: { '@class': 'com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo', name: 'MyOwn' },
    leaseInfo: { renewalIntervalInSecs: 1, durationInSecs: 5 } },
  eureka: { host: url.hostname, port: Number(url.port), servicePath: '/eureka/v2/apps/', heartbeatInterval: 1000, registryFetchInterval: 500 } });
client.logger.level('fatal');
client.start((error) => console.log(error ? 'failed ' + error : 'up'));
require('readline').createInterface({ input: process.stdin }).on('line', (line) => {
  if (line === 'apps') {
    const names = ['PYPEER', 'JSPEER', 'OURS'].filter((name) => client.getInstancesByAppId(name).length > 0);
    console.log('sees ' + names.sort().join(','));
  } else {
    client.stop((error) => { console.log(error ? 'failed ' + error : 'left'); process.exit(0); });
  }
});
";

struct Peer {
    child: Child,
    lines: tokio::io::Lines<BufReader<tokio::process::ChildStdout>>,
}

impl Peer {
    fn start(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// Reads on until a line begins like this.
    async fn hears(&mut self, beginning: &str) -> String {
        let reading = async {
            loop {
                let line = self.lines.next_line().await.unwrap().expect("the client ended");
                assert!(!line.starts_with("failed"), "{line}");
                if line.starts_with(beginning) {
                    return line;
                }
            }
        };
        tokio::time::timeout(seconds(60), reading).await.expect(beginning)
    }

    async fn say(&mut self, line: &str) {
        let stdin = self.child.stdin.as_mut().unwrap();
        stdin.write_all(format!("{line}\n").as_bytes()).await.unwrap();
        stdin.flush().await.unwrap();
    }

    /// Asks what it sees until that is as wanted.
    async fn sees(&mut self, wanted: &str) {
        let mut last = String::new();
        for _ in 0..200 {
            self.say("apps").await;
            last = self.hears("sees").await;
            if last == format!("sees {wanted}") {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("it sees {last}, not {wanted}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn public_clients_of_two_languages_live_with_our_server() {
    let (Some(python), Some(node)) = (
        installed("OPEN_CRM_TEST_EUREKA_PYTHON"),
        installed("OPEN_CRM_TEST_EUREKA_NODE"),
    ) else {
        return;
    };
    let config = EurekaServerConfig {
        evict_every: 1,
        ..EurekaServerConfig::default()
    };
    let server = EurekaServer::new(config, SystemClock::shared()).unwrap();
    let served = served(&server).await;
    let url = format!("http://{}/eureka/v2/", served.address);

    // Our own client is a third one: in its eyes the others are services too.
    let mut settings = super::config(&[&served]);
    settings.fetch_every = 1;
    for (service, app) in [
        ("peer/python", "PYPEER"),
        ("peer/node", "JSPEER"),
        ("peer/ours", "OURS"),
    ] {
        settings.apps.insert(service.parse().unwrap(), app.into());
    }
    let ours = EurekaDiscovery::new("ours", settings, http_to(&[&served]), SystemClock::shared()).unwrap();
    let me = crm_core::testkit::discovery::instance(&"peer/ours".parse().unwrap(), "rust-1");
    ours.register(&me.lease(seconds(120))).await.unwrap();

    let mut command = Command::new("python3");
    command
        .args(["-c", PYTHON, &url])
        .env("PYTHONPATH", &python)
        .env("no_proxy", "*");
    let mut py = Peer::start(command);
    let mut command = Command::new("node");
    command
        .args(["-e", NODE, &url])
        .current_dir(&node)
        .env("NODE_PATH", format!("{node}/node_modules"));
    let mut js = Peer::start(command);
    py.hears("up").await;
    js.hears("up").await;
    // Each sees all three, by full fetches and deltas, in XML and in JSON.
    py.sees("JSPEER,OURS,PYPEER").await;
    js.sees("JSPEER,OURS,PYPEER").await;
    for (service, id, address) in [
        ("peer/python", "py-1", "http://127.0.0.1:9001/"),
        ("peer/node", "js-1", "http://127.0.0.1:9002/"),
    ] {
        let service = service.parse().unwrap();
        let mut seen = None;
        for _ in 0..100 {
            seen = ours.list(&service).await.unwrap().get(id).cloned();
            if seen.is_some() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let seen = seen.expect(id);
        assert_eq!(seen.address.as_str(), address);
        assert_eq!(seen.metadata.get("k").map(String::as_str), Some("v"));
    }
    // They outlive the lease of 5 s that nobody renewed would have, and the double one, too.
    tokio::time::sleep(seconds(12)).await;
    py.sees("JSPEER,OURS,PYPEER").await;
    js.sees("JSPEER,OURS,PYPEER").await;

    py.say("leave").await;
    py.hears("left").await;
    js.sees("JSPEER,OURS").await;
    js.say("leave").await;
    js.hears("left").await;
    assert_eq!(ask(&server, "GET", "/eureka/v2/apps/PYPEER", None).status(), 404);
    assert_eq!(ask(&server, "GET", "/eureka/v2/apps/JSPEER", None).status(), 404);
}
