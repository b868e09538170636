//! Which addresses may be dialled.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Error, ErrorKind, Result};

/// IPv4 ranges that are not the public Internet (IANA IPv4 Special-Purpose Address Registry, RFC 6890), and multicast.
const SPECIAL_V4: &[(Ipv4Addr, u8)] = &[
    (Ipv4Addr::new(0, 0, 0, 0), 8),
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(100, 64, 0, 0), 10),
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 0, 0, 0), 24),
    (Ipv4Addr::new(192, 0, 2, 0), 24),
    (Ipv4Addr::new(192, 88, 99, 0), 24),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    (Ipv4Addr::new(198, 18, 0, 0), 15),
    (Ipv4Addr::new(198, 51, 100, 0), 24),
    (Ipv4Addr::new(203, 0, 113, 0), 24),
    (Ipv4Addr::new(224, 0, 0, 0), 4),
    (Ipv4Addr::new(240, 0, 0, 0), 4),
];

/// The IPv6 ones (IANA IPv6 Special-Purpose Address Registry), and every range that carries an IPv4 address inside:
/// a translator or tunnel would turn it back. `::ffff:0:0/96` is not listed, it is unwrapped before the check.
const SPECIAL_V6: &[(Ipv6Addr, u8)] = &[
    // Unspecified, loopback and the deprecated IPv4-compatible addresses.
    (Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 0), 96),
    // IPv4-translated (RFC 2765).
    (Ipv6Addr::new(0, 0, 0, 0, 0xffff, 0, 0, 0), 96),
    (Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), 96),
    (Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, 0, 0), 48),
    (Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 0), 64),
    // IETF protocol assignments, with Teredo, benchmarking and ORCHID.
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23),
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32),
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16),
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20),
    (Ipv6Addr::new(0x5f00, 0, 0, 0, 0, 0, 0, 0), 16),
    (Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7),
    (Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10),
    // Site-local, deprecated but still routed inside some networks.
    (Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 0), 10),
    (Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8),
];

/// An exception from the guard: an address range and the ports in it that may be dialled. Written
/// `127.0.0.1/32:8080`, `10.1.0.0/16:80,443`, `[fd00::]/8:8443`.
///
/// A range that lies wholly inside one special range (loopback, private network, ...) opens it. A wider one, such as
/// `0.0.0.0/0:8443`, opens the ports for public addresses only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AllowEntry {
    network: IpAddr,
    prefix: u8,
    ports: Vec<u16>,
}

impl AllowEntry {
    /// An entry for one address and port.
    pub fn address(address: SocketAddr) -> Self {
        let prefix = if address.is_ipv4() { 32 } else { 128 };
        Self {
            network: unwrap(address.ip()),
            prefix,
            ports: vec![address.port()],
        }
    }

    /// The ports.
    pub fn ports(&self) -> &[u16] {
        &self.ports
    }

    fn covers(&self, ip: IpAddr, port: u16) -> bool {
        self.ports.contains(&port) && within(ip, self.network, self.prefix)
    }

    /// Whether it lies wholly inside one special range.
    fn is_inside_special(&self) -> bool {
        match self.network {
            IpAddr::V4(ip) => SPECIAL_V4
                .iter()
                .any(|(net, prefix)| self.prefix >= *prefix && within(ip.into(), (*net).into(), *prefix)),
            IpAddr::V6(ip) => SPECIAL_V6
                .iter()
                .any(|(net, prefix)| self.prefix >= *prefix && within(ip.into(), (*net).into(), *prefix)),
        }
    }
}

impl FromStr for AllowEntry {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = |message: &'static str| {
            Error::config(message)
                .with("setting", "allow")
                .with("entry", text)
        };
        let (range, ports) = match text.rsplit_once("]:") {
            Some((v6, ports)) if !v6.contains('/') => (format!("{v6}]"), ports),
            _ => match text.rsplit_once(':') {
                Some((range, ports)) if !range.is_empty() && !ports.contains([']', '/']) => {
                    (range.to_owned(), ports)
                }
                _ => {
                    return Err(wrong(
                        "an allow entry is an address range and ports: 127.0.0.1/32:8080",
                    ));
                }
            },
        };
        let (address, prefix) = match range.split_once('/') {
            Some((address, prefix)) => (address.to_owned(), Some(prefix)),
            None => (range.clone(), None),
        };
        let address = address.trim_start_matches('[').trim_end_matches(']');
        let network: IpAddr = address.parse().map_err(|_| {
            wrong("not an IP address; names are not allowed here, and IPv6 stands in brackets")
        })?;
        let most = if network.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => most,
            Some(prefix) => match prefix.parse::<u8>() {
                Ok(prefix) if prefix <= most => prefix,
                _ => {
                    return Err(wrong(
                        "the number after / is 0 to 32 for IPv4 and 0 to 128 for IPv6",
                    ));
                }
            },
        };
        let ports = ports
            .split(',')
            .map(|port| port.trim().parse::<u16>().ok().filter(|port| *port != 0))
            .collect::<Option<Vec<u16>>>()
            .ok_or_else(|| wrong("ports are numbers from 1 to 65535, separated by commas"))?;
        Ok(Self {
            network,
            prefix,
            ports,
        })
    }
}

impl TryFrom<String> for AllowEntry {
    type Error = Error;
    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<AllowEntry> for String {
    fn from(entry: AllowEntry) -> Self {
        entry.to_string()
    }
}

impl fmt::Display for AllowEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.network {
            IpAddr::V4(ip) => write!(f, "{ip}/{}:", self.prefix)?,
            IpAddr::V6(ip) => write!(f, "[{ip}]/{}:", self.prefix)?,
        }
        for (i, port) in self.ports.iter().enumerate() {
            write!(f, "{}{port}", if i == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

/// Decides on the address that is dialled.
#[derive(Debug, Clone, Default)]
pub(super) struct Guard {
    allow: Vec<AllowEntry>,
}

impl Guard {
    pub(super) fn new(allow: Vec<AllowEntry>) -> Self {
        Self { allow }
    }

    /// Whether `address` may be dialled.
    pub(super) fn permits(&self, address: SocketAddr) -> bool {
        let ip = unwrap(address.ip());
        let port = address.port();
        if is_special(ip) {
            return self
                .allow
                .iter()
                .any(|entry| entry.covers(ip, port) && entry.is_inside_special());
        }
        matches!(port, 80 | 443) || self.allow.iter().any(|entry| entry.covers(ip, port))
    }

    /// Whether any address at all may be dialled at `port`: asked before a name is looked up.
    pub(super) fn knows_port(&self, port: u16) -> bool {
        matches!(port, 80 | 443) || self.allow.iter().any(|entry| entry.ports.contains(&port))
    }

    /// Every port that may be dialled somewhere.
    pub(super) fn ports(&self) -> Vec<u16> {
        let mut ports: Vec<u16> = self
            .allow
            .iter()
            .flat_map(|entry| entry.ports.iter().copied())
            .chain([80, 443])
            .collect();
        ports.sort_unstable();
        ports.dedup();
        ports
    }
}

pub(super) fn refused(host: &str, port: u16) -> Error {
    Error::new(
        ErrorKind::PermissionDenied,
        "this address may not be dialled: it is private or special, or the port is not 80 or 443; add an allow entry if it is meant",
    )
    .operation("http.dial")
    .with("host", host)
    .with("port", port)
}

/// An IPv4 address that stands in IPv6 clothes is judged as what it is.
fn unwrap(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(ip, IpAddr::V4),
        IpAddr::V4(_) => ip,
    }
}

fn is_special(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(_) => SPECIAL_V4
            .iter()
            .any(|(net, prefix)| within(ip, (*net).into(), *prefix)),
        IpAddr::V6(_) => SPECIAL_V6
            .iter()
            .any(|(net, prefix)| within(ip, (*net).into(), *prefix)),
    }
}

fn within(ip: IpAddr, network: IpAddr, prefix: u8) -> bool {
    match (ip, network) {
        (IpAddr::V4(ip), IpAddr::V4(net)) => {
            let shift = 32 - u32::from(prefix.min(32));
            ip.to_bits().checked_shr(shift).unwrap_or(0) == net.to_bits().checked_shr(shift).unwrap_or(0)
        }
        (IpAddr::V6(ip), IpAddr::V6(net)) => {
            let shift = 128 - u32::from(prefix.min(128));
            ip.to_bits().checked_shr(shift).unwrap_or(0) == net.to_bits().checked_shr(shift).unwrap_or(0)
        }
        _ => false,
    }
}
