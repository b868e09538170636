//! What campaigns say about their messages right before they are sent: those that are paused, cancelled, rehearsed, or whose
//! members are asked about once more.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Duration;

use crm_core::query::{Filter, Query};
use crm_core::{Context, Result, Uuid};

use super::begin::Job;
use super::settle::{End, What};
use super::{Dispatcher, SECOND};
use crate::campaign::{CAMPAIGN_RUN, CampaignState, Run, in_any};
use crate::outbox::OutboxState;

/// How long a message of a paused campaign that a dispatcher has already taken is put off.
const PAUSED: Duration = Duration::from_secs(30);

/// How the campaigns of a group of messages stand.
#[derive(Debug, Default)]
pub(super) struct Campaigns {
    runs: HashMap<String, Run>,
    /// Who may still get it, of the campaigns whose members are asked about once more.
    members: HashMap<String, HashSet<Uuid>>,
}

impl Campaigns {
    /// What becomes of a message whatever else is known of it.
    pub(super) fn end(&self, job: &Job, dispatcher: &Dispatcher) -> Option<What> {
        let run = self.runs.get(job.entry.campaign.as_ref()?)?;
        let over = |state, why: &str| Some(What::End(End::new(state, why)));
        let why = run.reason.as_deref().unwrap_or_default();
        match run.state {
            CampaignState::Paused => {
                let at = dispatcher
                    .now()
                    .plus(PAUSED.min(dispatcher.settings.pause).max(SECOND));
                return Some(What::snooze(at, &format!("campaign: paused: {why}")));
            }
            CampaignState::Cancelled => {
                return over(OutboxState::Cancelled, &format!("campaign: cancelled: {why}"));
            }
            _ => {}
        }
        let members = self.members.get(&run.name)?;
        if members.contains(&job.entry.customer.uuid()) {
            return None;
        }
        over(
            OutboxState::Refused,
            "audience: left it before the message was sent",
        )
    }

    /// Whether a message is only rehearsed.
    pub(super) fn rehearses(&self, job: &Job) -> bool {
        let run = job.entry.campaign.as_ref().and_then(|name| self.runs.get(name));
        run.is_some_and(|run| run.rehearsal)
    }
}

impl Dispatcher {
    /// How the campaigns of these messages stand: one question for all of them, and one more for each whose members are
    /// asked about once more.
    pub(super) async fn campaigns<'j>(
        &self,
        ctx: &Context,
        jobs: impl Iterator<Item = &'j Job> + Clone,
        members: bool,
    ) -> Result<Campaigns> {
        let mut campaigns = Campaigns::default();
        let names: BTreeSet<&str> = jobs
            .clone()
            .filter_map(|job| job.entry.campaign.as_deref())
            .collect();
        if names.is_empty() {
            return Ok(campaigns);
        }
        let most = u32::try_from(names.len()).unwrap_or(u32::MAX).clamp(1, 10_000);
        let query = Query::new(Filter::one_of("name", names)).limit(most);
        for stored in self.store.find(ctx, &CAMPAIGN_RUN, &query).await?.items {
            let run = Run::read(&stored)?;
            campaigns.runs.insert(run.name.clone(), run);
        }
        if !members {
            return Ok(campaigns);
        }
        for run in campaigns.runs.values() {
            let Some(recheck) = &run.recheck else { continue };
            let of: Vec<Uuid> = jobs
                .clone()
                .filter(|job| job.entry.campaign.as_deref() == Some(run.name.as_str()))
                .map(|job| job.entry.customer.uuid())
                .collect();
            let now = self.now();
            let mut still = in_any(&*self.store, now, ctx, &[recheck.member], &of).await?;
            for out in in_any(&*self.store, now, ctx, &recheck.exclude, &of).await? {
                still.remove(&out);
            }
            campaigns.members.insert(run.name.clone(), still);
        }
        Ok(campaigns)
    }
}
