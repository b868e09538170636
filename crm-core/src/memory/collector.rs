use async_trait::async_trait;

use crate::capability::{Checkpoint, Collector, CollectorCapability, Delivery, DraftSink, Progress, Reject};
use crate::customer::Draft;
use crate::{Context, Error, Health, Provider, ProviderInfo, Result};

/// A [`Collector`] that yields drafts it was given, some at a time, each delivery with a checkpoint to go on from.
///
/// ```
/// use crm_core::capability::Collector;
/// use crm_core::customer::{Draft, Provenance};
/// use crm_core::memory::MemoryCollector;
/// use crm_core::Timestamp;
///
/// let drafts = vec![Draft::new(Provenance::new("list", Timestamp::EPOCH)); 3];
/// let collector = MemoryCollector::new("list", drafts).per_delivery(2);
/// assert!(collector.capability().resumable);
/// ```
#[derive(Debug)]
pub struct MemoryCollector {
    info: ProviderInfo,
    drafts: Vec<Draft>,
    rejects: Vec<Reject>,
    per_delivery: usize,
}

impl MemoryCollector {
    /// A collector of this name that yields these drafts, 100 a delivery.
    pub fn new(name: impl Into<String>, drafts: Vec<Draft>) -> Self {
        Self {
            info: ProviderInfo::new("memory", name),
            drafts,
            rejects: Vec::new(),
            per_delivery: 100,
        }
    }

    /// Sets how many drafts a delivery has; at least one.
    #[must_use]
    pub fn per_delivery(mut self, drafts: usize) -> Self {
        self.per_delivery = drafts.max(1);
        self
    }

    /// Adds rejects; they come with the last delivery.
    #[must_use]
    pub fn with_rejects(mut self, rejects: Vec<Reject>) -> Self {
        self.rejects = rejects;
        self
    }

    /// The number of drafts before the checkpoint.
    fn start(&self, resume: Option<&Checkpoint>) -> Result<usize> {
        let Some(Checkpoint(json)) = resume else {
            return Ok(0);
        };
        json.get("next")
            .and_then(serde_json::Value::as_u64)
            .and_then(|next| usize::try_from(next).ok())
            .filter(|next| *next <= self.drafts.len())
            .ok_or_else(|| {
                Error::invalid("not a checkpoint of this collector; start without it")
                    .operation("collector.collect")
                    .with("field", "resume")
            })
    }
}

#[async_trait]
impl Provider for MemoryCollector {
    fn info(&self) -> &ProviderInfo {
        &self.info
    }

    async fn check(&self) -> Result<Health> {
        Ok(Health::Ready)
    }
}

#[async_trait]
impl Collector for MemoryCollector {
    fn capability(&self) -> CollectorCapability {
        CollectorCapability::new(true, true)
    }

    async fn collect(
        &self,
        _ctx: &Context,
        resume: Option<&Checkpoint>,
        sink: &mut dyn DraftSink,
    ) -> Result<Progress> {
        let start = self.start(resume)?;
        let mut progress = Progress {
            done: start as u64,
            total: Some(self.drafts.len() as u64),
            ..Progress::default()
        };
        let rest = self.drafts.get(start..).unwrap_or_default();
        let mut chunks = rest.chunks(self.per_delivery).peekable();
        while let Some(chunk) = chunks.next() {
            let last = chunks.peek().is_none();
            let rejects = if last { self.rejects.clone() } else { Vec::new() };
            progress.done += chunk.len() as u64;
            progress.drafts += chunk.len() as u64;
            progress.rejects += rejects.len() as u64;
            let checkpoint = Checkpoint(serde_json::json!({ "next": progress.done }));
            sink.deliver(Delivery {
                drafts: chunk.to_vec(),
                rejects,
                checkpoint: Some(checkpoint),
                progress,
                ..Delivery::default()
            })
            .await?;
        }
        if self.drafts.is_empty() && !self.rejects.is_empty() {
            progress.rejects = self.rejects.len() as u64;
            let checkpoint = Some(Checkpoint(serde_json::json!({ "next": 0 })));
            sink.deliver(Delivery {
                drafts: Vec::new(),
                rejects: self.rejects.clone(),
                checkpoint,
                progress,
                ..Delivery::default()
            })
            .await?;
        }
        Ok(progress)
    }
}
