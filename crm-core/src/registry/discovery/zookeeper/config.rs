use serde::Deserialize;

use crate::{Error, Result, Secret};

/// Where ZooKeeper is and how this process appears to it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ZooKeeperConfig {
    /// The servers of the ensemble, `host:port` each. One of them is used at a time.
    pub servers: Vec<String>,
    /// Under which node everything stands (a chroot). `/open-crm/services`.
    #[serde(default = "usual_root")]
    pub root: String,
    /// After how many seconds without a sign of life the ensemble gives this process up. 10 s; the servers keep it
    /// between 2 and 20 of their ticks.
    #[serde(default = "ten")]
    pub session_timeout: u64,
    /// The user, when nodes are to be protected (digest). Sent in the clear, as ZooKeeper does.
    #[serde(default)]
    pub user: Option<String>,
    /// That user's password.
    #[serde(default)]
    pub password: Option<Secret>,
    /// Whether others may read what this user wrote; only with a user.
    #[serde(default)]
    pub public_read: bool,
    /// The most instances of a service. 10,000.
    #[serde(default = "ten_thousand")]
    pub max_instances: usize,
}

fn usual_root() -> String {
    "/open-crm/services".into()
}
fn ten() -> u64 {
    10
}
fn ten_thousand() -> usize {
    10_000
}

impl ZooKeeperConfig {
    /// Of these servers, everything else as usual.
    pub fn new(servers: Vec<String>) -> Self {
        Self {
            servers,
            root: usual_root(),
            session_timeout: ten(),
            user: None,
            password: None,
            public_read: false,
            max_instances: ten_thousand(),
        }
    }

    /// From `zookeeper://host:port,host:port/root`; the port is 2181 when none is given.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Config`] when it is not of this form.
    pub fn from_url(url: &str) -> Result<Self> {
        let wrong = || {
            Error::config(
                "a ZooKeeper URL is zookeeper://host:port,host:port/root, without user and password",
            )
            .with("setting", "servers")
        };
        let rest = url.strip_prefix("zookeeper://").ok_or_else(wrong)?;
        if rest.contains(['@', '?', '#']) {
            return Err(wrong());
        }
        let (servers, root) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        let servers = servers
            .split(',')
            .map(|server| {
                let has_port = server
                    .rsplit_once(':')
                    .is_some_and(|(_, port)| !port.contains(']'));
                if has_port {
                    server.to_owned()
                } else {
                    format!("{server}:2181")
                }
            })
            .collect();
        let mut config = Self::new(servers);
        if !matches!(root, "" | "/") {
            root.clone_into(&mut config.root);
        }
        config.validate()?;
        Ok(config)
    }

    /// Checks every setting.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Config`] naming the setting.
    pub fn validate(&self) -> Result<()> {
        let wrong = |setting: &'static str, message: &'static str| {
            Err(Error::config(message).with("setting", setting))
        };
        if self.servers.is_empty() || self.servers.len() > 16 {
            return wrong("servers", "1 to 16 servers are needed");
        }
        let sound = |server: &String| {
            server.rsplit_once(':').is_some_and(|(host, port)| {
                !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0)
            }) && !server.contains(['/', '@'])
        };
        if !self.servers.iter().all(sound) {
            return wrong("servers", "a server is written host:port");
        }
        let part = |part: &str| {
            !part.is_empty()
                && part != "."
                && part != ".."
                && part.len() <= 128
                && part.bytes().all(|byte| byte.is_ascii_graphic())
        };
        let root = self.root.strip_prefix('/');
        if !root.is_some_and(|root| root.split('/').all(part)) || self.root.len() > 512 {
            return wrong(
                "root",
                "a root is a path such as /open-crm/services, without a slash at the end",
            );
        }
        if !(1..=3600).contains(&self.session_timeout) {
            return wrong("session_timeout", "1 s to 3600 s");
        }
        if self.user.is_some() != self.password.is_some() {
            return wrong("user", "user and password are set both or neither");
        }
        if self
            .user
            .as_ref()
            .is_some_and(|user| user.is_empty() || user.contains(':'))
        {
            return wrong("user", "a user's name is not empty and has no colon");
        }
        if self.public_read && self.user.is_none() {
            return wrong("public_read", "without a user everybody may read and write");
        }
        if self.max_instances == 0 {
            return wrong("max_instances", "at least 1");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_named() {
        let with = |change: fn(&mut ZooKeeperConfig)| {
            let mut config = ZooKeeperConfig::new(vec!["zk:2181".into()]);
            change(&mut config);
            config.validate()
        };
        assert!(with(|_| ()).is_ok());
        type Change = fn(&mut ZooKeeperConfig);
        let cases: [(&str, Change); 11] = [
            ("servers", |c| c.servers.clear()),
            ("servers", |c| c.servers = vec!["zk".into()]),
            ("servers", |c| c.servers = vec!["u:p@zk:2181".into()]),
            ("servers", |c| c.servers = vec!["zk:0".into()]),
            ("root", |c| c.root = "/".into()),
            ("root", |c| c.root = "/a/../b".into()),
            ("root", |c| c.root = "a".into()),
            ("session_timeout", |c| c.session_timeout = 0),
            ("user", |c| c.user = Some("u".into())),
            ("public_read", |c| c.public_read = true),
            ("max_instances", |c| c.max_instances = 0),
        ];
        for (setting, change) in cases {
            assert_eq!(with(change).unwrap_err().context("setting"), Some(setting));
        }
        for url in [
            "http://a",
            "zookeeper://",
            "zookeeper://u:p@a:1",
            "zookeeper://a:1/x/",
            "zookeeper://a:b",
        ] {
            assert!(ZooKeeperConfig::from_url(url).is_err(), "{url}");
        }
        let config = ZooKeeperConfig::from_url("zookeeper://a,[::1],[::1]:7").unwrap();
        assert_eq!(config.servers, ["a:2181", "[::1]:2181", "[::1]:7"]);
        let config: ZooKeeperConfig =
            serde_json::from_str(r#"{"servers":["a:1"],"user":"u","password":"s3cret"}"#).unwrap();
        assert!(config.validate().is_ok() && !format!("{config:?}").contains("s3cret"));
    }
}
