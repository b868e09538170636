//! Three servers, whose leader is killed.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::*;

/// From the Debian package `zookeeper`, which `scripts/services` installs.
pub(super) const JAR: &str = "/usr/share/java/zookeeper.jar";

struct Ensemble {
    folder: PathBuf,
    clients: Vec<String>,
    servers: Vec<Child>,
}

impl Drop for Ensemble {
    fn drop(&mut self) {
        for server in &mut self.servers {
            let _ = server.kill();
            let _ = server.wait();
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Ports that nobody holds at this moment.
fn free_ports(count: usize) -> Vec<u16> {
    let held: Vec<std::net::TcpListener> = (0..count)
        .map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap())
        .collect();
    held.iter()
        .map(|listener| listener.local_addr().unwrap().port())
        .collect()
}

impl Ensemble {
    fn start() -> Self {
        let folder = std::env::temp_dir().join(format!("open-crm-zookeeper-{}", fixtures::id()));
        let ports = free_ports(9);
        let members: String = (0..3)
            .map(|n| format!("server.{}=127.0.0.1:{}:{}\n", n + 1, ports[3 + n], ports[6 + n]))
            .collect();
        let mut ensemble = Self {
            folder: folder.clone(),
            clients: ports[..3]
                .iter()
                .map(|port| format!("127.0.0.1:{port}"))
                .collect(),
            servers: Vec::new(),
        };
        for (n, port) in ports.iter().take(3).enumerate() {
            let home = folder.join(n.to_string());
            std::fs::create_dir_all(home.join("data")).unwrap();
            std::fs::write(home.join("data/myid"), format!("{}\n", n + 1)).unwrap();
            std::fs::write(
                home.join("log4j.properties"),
                "log4j.rootLogger=ERROR, CONSOLE\nlog4j.appender.CONSOLE=org.apache.log4j.ConsoleAppender\nlog4j.appender.CONSOLE.layout=org.apache.log4j.SimpleLayout\n",
            )
            .unwrap();
            std::fs::write(
                home.join("zoo.cfg"),
                format!(
                    "tickTime=500\ninitLimit=40\nsyncLimit=20\ndataDir={}\nclientPort={port}\nclientPortAddress=127.0.0.1\nadmin.enableServer=false\n4lw.commands.whitelist=*\nmaxClientCnxns=0\n{members}",
                    home.join("data").display(),
                ),
            )
            .unwrap();
            let log = std::fs::File::create(home.join("log")).unwrap();
            let server = Command::new("java")
                .args(["-Xmx96m", "-XX:TieredStopAtLevel=1", "-cp"])
                .arg(format!("{}:{JAR}", home.display()))
                .arg("org.apache.zookeeper.server.quorum.QuorumPeerMain")
                .arg(home.join("zoo.cfg"))
                .stdin(Stdio::null())
                .stdout(log.try_clone().unwrap())
                .stderr(log)
                .spawn()
                .unwrap();
            ensemble.servers.push(server);
        }
        ensemble
    }

    /// Which server leads.
    async fn leader(&self) -> Option<usize> {
        for (n, server) in self.clients.iter().enumerate() {
            if four(server, "srvr").await.contains("Mode: leader") {
                return Some(n);
            }
        }
        None
    }

    /// Waits until a leader serves.
    async fn lead(&self) -> usize {
        for _ in 0..600 {
            if let Some(leader) = self.leader().await {
                return leader;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("no leader: see {}", self.folder.display());
    }
}

/// REG-2: the leader is killed. The session goes on with another server, what was announced stays announced, and changes
/// are seen again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_is_killed() {
    if settings().is_none() {
        return;
    }
    assert!(Path::new(JAR).exists(), "ZooKeeper is there, but not its package");
    let mut ensemble = Ensemble::start();
    let leader = ensemble.lead().await;
    // The leader first, so that both processes are connected to the one that dies.
    let mut servers = ensemble.clients.clone();
    servers.rotate_left(leader);
    let mut config = ZooKeeperConfig::new(servers);
    config.session_timeout = 10;
    let (near, far) = (open(&config), open(&config));
    let service = fresh_service();
    let path = format!("{}/{}/{}/a", config.root, service.capability(), service.name());
    near.register(&instance(&service, "a")).await.unwrap();
    let mut watch = far.watch(&service).await.unwrap();
    assert_eq!(watch.next().await.unwrap().instances.len(), 1);
    let before = owner(&ensemble.clients[leader], &path)
        .await
        .expect("the leader has it");

    ensemble.servers[leader].kill().unwrap();
    ensemble.servers[leader].wait().unwrap();
    let (mut stale, mut well) = (false, false);
    for _ in 0..600 {
        let (one, two) = (near.tick().await, far.tick().await);
        let known = watch.newest();
        assert_eq!(known.instances.len(), 1, "what was known stays");
        stale |= known.stale;
        if one.is_ok() && two.is_ok() && near.renew(&service, "a").await.is_ok() {
            well = true;
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(well, "both came to another server");
    eprintln!("while there was no leader, what was known was marked stale: {stale}");
    let new = ensemble.lead().await;
    assert_ne!(new, leader);
    assert_eq!(
        owner(&ensemble.clients[new], &path).await.as_deref(),
        Some(before.as_str()),
        "the same session"
    );
    near.register(&instance(&service, "b")).await.unwrap();
    for _ in 0..200 {
        far.tick().await.unwrap();
        if watch.newest().instances.len() == 2 {
            break;
        }
        moment().await;
    }
    let seen = watch.newest();
    assert_eq!(
        (seen.instances.len(), seen.stale),
        (2, false),
        "the watch was armed again"
    );
}
