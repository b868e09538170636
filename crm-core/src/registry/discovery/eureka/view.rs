//! What a client knows of the register: the last full answer and all deltas since.

use std::collections::{BTreeMap, BTreeSet};

use super::model::{Action, Apps, Info, hash_of};
use super::translate::to_instance;
use crate::registry::discovery::{Instance, Service};

/// After how many leases without a renewal an instance that is still listed is doubted. A renewed lease lives for two,
/// and the register takes its time to look.
const OVERDUE: i64 = 3;

#[derive(Debug, Default)]
pub(super) struct View {
    apps: BTreeMap<String, BTreeMap<String, Info>>,
    /// Application and id of those that have not renewed for long, as the last full answer says.
    overdue: BTreeSet<(String, String)>,
    count: usize,
}

impl View {
    /// Takes over a full answer.
    pub(super) fn replace(&mut self, apps: Apps) {
        *self = Self::default();
        for app in apps.apps {
            for info in app.instances {
                self.put(&app.name, info);
            }
        }
        // Compared with the latest renewal in the same answer, so that no other clock matters: when none renews, it is
        // the register that cannot be reached, and nobody is doubted.
        let renewed = |info: &Info| info.lease.renewed.max(info.lease.registered);
        let latest = self
            .apps
            .values()
            .flat_map(BTreeMap::values)
            .map(renewed)
            .max()
            .unwrap_or(0);
        for (app, instances) in &self.apps {
            for (id, info) in instances {
                let silent = latest.saturating_sub(renewed(info));
                if silent > info.lease.duration_secs.clamp(1, 86_400) * 1000 * OVERDUE {
                    self.overdue.insert((app.clone(), id.clone()));
                }
            }
        }
    }

    fn put(&mut self, app: &str, info: Info) {
        let Some(id) = info.id().map(str::to_owned) else {
            return;
        };
        let old = self.apps.entry(app.to_owned()).or_default().insert(id, info);
        self.count += usize::from(old.is_none());
    }

    /// Takes over what changed. `false` when the result is not what the register has, or more than `most`.
    pub(super) fn apply(&mut self, delta: Apps, most: usize) -> bool {
        for app in delta.apps {
            for info in app.instances {
                let Some(id) = info.id().map(str::to_owned) else {
                    continue;
                };
                self.overdue.remove(&(app.name.clone(), id.clone()));
                if info.action == Some(Action::Deleted) {
                    let gone = self.apps.get_mut(&app.name).and_then(|all| all.remove(&id));
                    self.count -= usize::from(gone.is_some());
                } else {
                    self.put(&app.name, info);
                }
            }
        }
        self.apps.retain(|_, instances| !instances.is_empty());
        self.count <= most && self.hash() == delta.hash
    }

    pub(super) fn hash(&self) -> String {
        hash_of(self.apps.values().flat_map(BTreeMap::values))
    }

    /// Whether somebody is doubted.
    pub(super) fn doubts(&self) -> bool {
        !self.overdue.is_empty()
    }

    /// Those of an application that make sound instances of a service.
    pub(super) fn instances(&self, name: &str, service: &Service) -> Vec<Instance> {
        let Some(found) = self.apps.get(name) else {
            return Vec::new();
        };
        found
            .iter()
            .filter_map(|(id, info)| {
                let overdue = self.overdue.contains(&(name.to_owned(), id.clone()));
                to_instance(service, info, overdue)
            })
            .collect()
    }
}
