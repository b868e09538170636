//! Names to addresses, with the forbidden ones left out.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use async_trait::async_trait;

use super::guard::Guard;
use crate::{Error, ErrorKind, Result};

/// Looks names up. What it answers is filtered by the guard, and exactly the addresses that are left are dialled: there
/// is no second look-up that could answer otherwise.
#[async_trait]
pub trait Resolver: fmt::Debug + Send + Sync + 'static {
    /// All addresses of a host name.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] when it cannot be resolved.
    async fn resolve(&self, host: &str) -> Result<Vec<IpAddr>>;
}

/// Asks the operating system (hosts file and DNS, as it is configured).
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemResolver;

#[async_trait]
impl Resolver for SystemResolver {
    async fn resolve(&self, host: &str) -> Result<Vec<IpAddr>> {
        match tokio::net::lookup_host((host, 0)).await {
            Ok(addresses) => Ok(addresses.map(|address| address.ip()).collect()),
            Err(error) => Err(
                Error::new(ErrorKind::Unavailable, "the host's name cannot be resolved")
                    .with("host", host)
                    .source(error),
            ),
        }
    }
}

/// The resolver the transport sees. The transport does not say which port it is about to dial, so there is one client,
/// and one of these, a port.
pub(super) struct Filtered {
    pub(super) resolver: Arc<dyn Resolver>,
    pub(super) guard: Arc<Guard>,
    pub(super) port: u16,
}

/// Why there is no address to dial; found again in the transport's chain of causes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Blocked {
    Addresses,
    Name,
}

impl fmt::Display for Blocked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Addresses => "no address of this name may be dialled",
            Self::Name => "the name cannot be resolved",
        })
    }
}

impl std::error::Error for Blocked {}

impl reqwest::dns::Resolve for Filtered {
    fn resolve(&self, name: reqwest::dns::Name) -> reqwest::dns::Resolving {
        let (resolver, guard, port) = (self.resolver.clone(), self.guard.clone(), self.port);
        Box::pin(async move {
            let found = resolver.resolve(name.as_str()).await.map_err(|_| Blocked::Name)?;
            if found.is_empty() {
                return Err(Blocked::Name.into());
            }
            let permitted: Vec<SocketAddr> = found
                .into_iter()
                .map(|ip| SocketAddr::new(ip, port))
                .filter(|a| guard.permits(*a))
                .collect();
            if permitted.is_empty() {
                return Err(Blocked::Addresses.into());
            }
            Ok(Box::new(permitted.into_iter()) as reqwest::dns::Addrs)
        })
    }
}
