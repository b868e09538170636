//! Between our instances and Eureka's.

use std::time::Duration;

use url::{Host, Url};

use super::model::{DataCenter, HOME_PAGE, Info, Port, SECURE_VIP, Status, VIP};
use crate::registry::discovery::{Instance, InstanceStatus, Service};

/// The whole address, since Eureka has a host and ports only.
const ADDRESS: &str = "crm-address";
const ZONE: &str = "zone";

/// Which application a service is, unless the settings say otherwise.
pub(super) fn app_of(service: &Service) -> String {
    format!("{}.{}", service.capability(), service.name()).to_ascii_uppercase()
}

pub(super) fn status_of(status: InstanceStatus) -> Status {
    match status {
        InstanceStatus::Up => Status::Up,
        InstanceStatus::Starting => Status::Starting,
        InstanceStatus::Down => Status::Down,
        InstanceStatus::OutOfService => Status::OutOfService,
        InstanceStatus::Unknown => Status::Unknown,
    }
}

fn ours(status: Status) -> InstanceStatus {
    match status {
        Status::Up => InstanceStatus::Up,
        Status::Starting => InstanceStatus::Starting,
        Status::Down => InstanceStatus::Down,
        Status::OutOfService => InstanceStatus::OutOfService,
        Status::Unknown => InstanceStatus::Unknown,
    }
}

/// What is registered for an instance.
pub(super) fn to_info(app: &str, instance: &Instance, dirty_ms: i64) -> Info {
    let mut info = Info::blank(dirty_ms);
    let address = &instance.address;
    let host = address.host_str().unwrap_or_default().to_owned();
    let port = Port {
        number: address.port_or_known_default().unwrap_or(0).into(),
        enabled: true,
    };
    let closed = |number| Port {
        number,
        enabled: false,
    };
    let secure = address.scheme() == "https";
    (info.port, info.secure_port) = if secure {
        (closed(80), port)
    } else {
        (port, closed(443))
    };
    info.instance_id = Some(instance.id.clone());
    // A name, where there is no number; only who asks resolves it.
    info.ip = Some(match address.host() {
        Some(Host::Ipv6(ip)) => ip.to_string(),
        _ => host.clone(),
    });
    info.host = Some(host);
    info.app = Some(app.to_owned());
    info.status = status_of(instance.status);
    // So that the server lets us say it ourselves, and take it back.
    if instance.status == InstanceStatus::OutOfService {
        info.overridden = Status::OutOfService;
    }
    info.data_center = Some(DataCenter {
        name: Some("MyOwn".into()),
        metadata: Vec::new(),
    });
    let lease = i64::try_from(instance.lease.as_secs()).unwrap_or(90);
    info.lease.duration_secs = lease;
    info.lease.renewal_secs = (lease / 3).max(1);
    info.metadata = instance
        .metadata
        .iter()
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    if let Some(zone) = &instance.zone {
        info.metadata.push((ZONE.into(), zone.clone()));
    }
    info.metadata.push((ADDRESS.into(), address.to_string()));
    let vip = app.to_ascii_lowercase();
    for (which, value) in [
        (
            HOME_PAGE,
            matches!(address.scheme(), "http" | "https").then(|| address.to_string()),
        ),
        (VIP, Some(vip.clone())),
        (SECURE_VIP, Some(vip)),
    ] {
        if let Some(text) = info.texts.get_mut(which) {
            *text = value;
        }
    }
    info
}

fn address_of(info: &Info) -> Option<Url> {
    let said = info
        .metadata
        .iter()
        .find(|(key, _)| key == ADDRESS)
        .map(|(_, value)| value.as_str());
    let home = info.text(HOME_PAGE).filter(|home| !home.is_empty());
    if let Some(url) = said.or(home) {
        return url.parse().ok();
    }
    let host = info.host.as_deref().or(info.ip.as_deref())?;
    let (scheme, port) = if info.secure_port.enabled {
        ("https", info.secure_port.number)
    } else {
        ("http", info.port.number)
    };
    format!("{scheme}://{host}:{port}/").parse().ok()
}

/// One of ours out of what Eureka lists; `None` when it does not make a sound one. `overdue` is whether it has not renewed
/// for so long that nobody should take the register's word for it.
pub(super) fn to_instance(service: &Service, info: &Info, overdue: bool) -> Option<Instance> {
    let mut instance = Instance::new(service.clone(), info.id()?, address_of(info)?);
    for (key, value) in &info.metadata {
        match key.as_str() {
            ADDRESS => {}
            ZONE => instance.zone = Some(value.clone()),
            _ => {
                instance.metadata.insert(key.clone(), value.clone());
            }
        }
    }
    instance.status = match ours(info.status) {
        InstanceStatus::Up if overdue => InstanceStatus::Unknown,
        status => status,
    };
    let lease = info.lease.duration_secs.clamp(1, 3600);
    instance.lease = Duration::from_secs(lease.unsigned_abs());
    instance.validate().is_ok().then_some(instance)
}
