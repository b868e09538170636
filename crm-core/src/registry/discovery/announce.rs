use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;

use super::{BREATH, Discovery, IDLE, Instance, InstanceStatus};
use crate::{Clock, ErrorKind, Result, Timestamp};

/// Keeps one instance registered: announces it, renews its lease three times a lease, announces it again when the
/// register has lost it, and takes it out at the end.
///
/// See the example of the [module](super).
pub struct Announcer {
    discovery: Arc<dyn Discovery>,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

struct State {
    instance: Instance,
    /// When it is renewed next; `None` while it is not registered.
    due: Option<Timestamp>,
    left: bool,
}

impl fmt::Debug for Announcer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Announcer")
            .field("discovery", &self.discovery.info().name)
            .finish_non_exhaustive()
    }
}

impl Announcer {
    /// Prepares to announce an instance; nothing is sent yet.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] as [`Instance::validate`].
    pub fn new(discovery: Arc<dyn Discovery>, instance: Instance, clock: Arc<dyn Clock>) -> Result<Self> {
        instance.validate()?;
        Ok(Self {
            discovery,
            clock,
            state: Mutex::new(State {
                instance,
                due: None,
                left: false,
            }),
        })
    }

    /// Registers, or renews when a third of the lease has passed. Gives the time until it wants to be called again.
    ///
    /// # Errors
    /// What the register answered. Call it again: what was not done stays due.
    pub async fn tick(&self) -> Result<Duration> {
        let mut state = self.state.lock().await;
        if state.left {
            return Ok(IDLE);
        }
        let rhythm = state.instance.lease / 3;
        let now = self.clock.now();
        match state.due {
            Some(due) if due > now => return Ok(due.since(now).clamp(BREATH, rhythm.max(BREATH))),
            Some(_) => match self
                .discovery
                .renew(&state.instance.service, &state.instance.id)
                .await
            {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    state.due = None;
                    self.discovery.register(&state.instance).await?;
                }
                Err(error) => return Err(error),
            },
            None => self.discovery.register(&state.instance).await?,
        }
        state.due = Some(now.plus(rhythm));
        Ok(rhythm.max(BREATH))
    }

    /// Says whether it may be called from now on.
    ///
    /// # Errors
    /// What the register answered; the next tick says it again.
    pub async fn set_status(&self, status: InstanceStatus) -> Result<()> {
        let mut state = self.state.lock().await;
        state.instance.status = status;
        if state.left {
            return Ok(());
        }
        state.due = None;
        let instance = state.instance.clone();
        self.discovery.register(&instance).await?;
        state.due = Some(self.clock.now().plus(instance.lease / 3));
        Ok(())
    }

    /// Takes the instance out, for good. Called before the process stops serving.
    ///
    /// # Errors
    /// What the register answered; the lease ends it later on.
    pub async fn leave(&self) -> Result<()> {
        let mut state = self.state.lock().await;
        state.left = true;
        self.discovery
            .deregister(&state.instance.service, &state.instance.id)
            .await
    }

    /// Keeps the instance registered and drives the register until `shutdown` resolves, then takes the instance out.
    /// What fails in between is traced and done again.
    ///
    /// # Errors
    /// What kept it from taking the instance out.
    pub async fn run(&self, shutdown: impl Future<Output = ()>) -> Result<()> {
        let mut shutdown = pin!(shutdown);
        loop {
            let mut wait = Duration::from_secs(1);
            match self.discovery.tick().await {
                Ok(due) => wait = due,
                Err(error) => self.note(&error),
            }
            match self.tick().await {
                Ok(due) => wait = wait.min(due),
                Err(error) => {
                    self.note(&error);
                    wait = wait.min(Duration::from_secs(1));
                }
            }
            tokio::select! {
                () = &mut shutdown => return self.leave().await,
                () = tokio::time::sleep(wait.clamp(BREATH, IDLE)) => {}
                () = self.discovery.stirred() => {}
            }
        }
    }

    fn note(&self, error: &crate::Error) {
        tracing::warn!(provider = %self.discovery.info(), kind = %error.kind(), "the instance could not be kept registered");
    }
}
