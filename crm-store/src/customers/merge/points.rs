//! The contact points of several people as those of one.

use std::collections::HashMap;

use crm_core::customer::{ContactPoint, ContactState};
use crm_core::record::{Stored, Value};
use crm_core::{CustomerId, Result, Uuid};

use super::super::shape::Loaded;
use super::PointPlan;

/// A contact point on its way to the winner.
pub(super) struct Point {
    pub(super) stored: Stored,
    pub(super) owner: CustomerId,
    pub(super) now: ContactPoint,
    pub(super) key: Option<String>,
    /// The one it becomes part of.
    pub(super) same_as: Option<Uuid>,
}

pub(super) fn dropped_points(points: &[Point]) -> HashMap<Uuid, Uuid> {
    points
        .iter()
        .filter_map(|point| Some((point.stored.id, point.same_as?)))
        .collect()
}

pub(super) fn points_of(points: &[Point]) -> Vec<PointPlan> {
    points
        .iter()
        .map(|point| PointPlan {
            id: point.stored.id.into(),
            customer: point.owner,
            same_as: point.same_as.map(Into::into),
            primary: point.now.primary,
        })
        .collect()
}

/// The contact points of all as the winner's: each address once, one primary a kind, the most telling state.
pub(super) fn united(people: &[Loaded]) -> Result<Vec<Point>> {
    let mut points: Vec<Point> = Vec::new();
    for one in people {
        for (point, stored) in one.customer.contact_points.iter().zip(&one.points) {
            let key = stored
                .record
                .get("match_key")
                .and_then(Value::as_str)
                .map(str::to_owned);
            let mut fresh = Point {
                stored: stored.clone(),
                owner: one.customer.id,
                now: point.clone(),
                key,
                same_as: None,
            };
            let same = points
                .iter_mut()
                .find(|known| known.same_as.is_none() && known.now.address == point.address);
            match same {
                Some(known) => {
                    fold(&mut known.now, point);
                    known.key = known.key.take().or(fresh.key.take());
                    fresh.same_as = Some(known.stored.id);
                    fresh.now.primary = false;
                }
                None => {
                    let first = !points
                        .iter()
                        .any(|known| known.now.primary && known.now.kind() == point.kind());
                    fresh.now.primary = point.primary && first;
                }
            }
            points.push(fresh);
        }
    }
    Ok(points)
}

/// What two say of one address: that it does not work outweighs that it was proven once.
fn fold(known: &mut ContactPoint, other: &ContactPoint) {
    let weight = |state: ContactState| match state {
        ContactState::Unverified => 0,
        ContactState::Verified => 1,
        ContactState::Invalid => 2,
    };
    if weight(other.state) > weight(known.state) {
        known.state = other.state;
    }
    known.verified_at = known.verified_at.max(other.verified_at);
    known.deliverability = known.deliverability.max(other.deliverability);
    if known.label.is_none() {
        known.label.clone_from(&other.label);
    }
}
