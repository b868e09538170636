//! Who has a connection, and who waits for one.
//!
//! Nothing runs by itself: a sender drives its own message over a connection it has for that time, and hands the
//! connection on to whoever waited longest. It even says the other's `MAIL`, `RCPT` and `DATA` right behind its own
//! final dot (RFC 2920), so that each message costs one way there and back.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crm_core::Timestamp;
use tokio::sync::oneshot;

use super::converse::Envelope;
use super::link::Link;

/// Connections of one mailer.
#[derive(Default)]
pub(super) struct Pool {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    idle: Vec<Link>,
    /// Connections in use, idle, or being made.
    open: usize,
    waiting: VecDeque<Waiter>,
}

/// Somebody who waits for a connection.
struct Waiter {
    /// `None` for who does not want to send.
    envelope: Option<Envelope>,
    turn: oneshot::Sender<Turn>,
}

/// The right to use one connection: one that stands, or one to be made.
pub(super) struct Turn {
    pub(super) slot: Slot,
    pub(super) link: Option<Link>,
    /// The envelope was already said on it.
    pub(super) opened: bool,
}

/// A place among the connections. Dropped, it goes to the next who waits, so that nobody waits for nothing.
pub(super) struct Slot {
    pool: Arc<Pool>,
    held: bool,
    /// Whose envelope was said behind our message.
    next: Option<Waiter>,
}

impl Pool {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn slot(self: &Arc<Self>) -> Slot {
        Slot {
            pool: self.clone(),
            held: true,
            next: None,
        }
    }

    /// A connection that stands and was used within `idle`, or the right to make one of at most `most`, or the next that
    /// comes free.
    pub(super) async fn turn(
        self: &Arc<Self>,
        envelope: Option<Envelope>,
        most: usize,
        now: Timestamp,
        idle: Duration,
    ) -> Turn {
        let mut envelope = envelope;
        loop {
            let mut old = Vec::new();
            let waits = {
                let mut state = self.lock();
                let mut found = None;
                while let Some(mut link) = state.idle.pop() {
                    if now.since(link.last) < idle && link.is_quiet() {
                        found = Some(link);
                        break;
                    }
                    state.open = state.open.saturating_sub(1);
                    old.push(link);
                }
                if found.is_some() || state.open < most {
                    if found.is_none() {
                        state.open += 1;
                    }
                    Ok(found)
                } else {
                    let (turn, wait) = oneshot::channel();
                    state.waiting.push_back(Waiter {
                        envelope: envelope.take(),
                        turn,
                    });
                    Err(wait)
                }
            };
            old.into_iter().for_each(Link::farewell);
            match waits {
                Ok(link) => {
                    return Turn {
                        slot: self.slot(),
                        link,
                        opened: false,
                    };
                }
                Err(wait) => {
                    if let Ok(turn) = wait.await {
                        return turn;
                    }
                }
            }
        }
    }

    fn invite(&self, fits: impl Fn(&Envelope) -> bool) -> Option<Waiter> {
        let mut state = self.lock();
        while state
            .waiting
            .front()
            .is_some_and(|waiter| waiter.turn.is_closed())
        {
            state.waiting.pop_front();
        }
        let fits = state
            .waiting
            .front()
            .and_then(|waiter| waiter.envelope.as_ref())
            .is_some_and(fits);
        if fits { state.waiting.pop_front() } else { None }
    }
}

impl Slot {
    /// Takes the envelope of whoever waits longest, if it can be said on this connection.
    pub(super) fn invite(&mut self, fits: impl Fn(&Envelope) -> bool) {
        if self.next.is_none() {
            self.next = self.pool.invite(fits);
        }
    }

    /// Whose envelope is said behind our message.
    pub(super) fn invited(&self) -> Option<&Envelope> {
        self.next.as_ref()?.envelope.as_ref()
    }

    /// Passes the connection on: to the one whose envelope was said on it, else to who waits, else it is kept.
    pub(super) fn pass(mut self, link: Link) {
        let pool = self.pool.clone();
        if let Some(next) = self.next.take() {
            self.held = false;
            // When the other went away meanwhile, the connection ends here: its envelope cannot be taken back.
            let _ = next.turn.send(Turn {
                slot: pool.slot(),
                link: Some(link),
                opened: true,
            });
            return;
        }
        let mut link = link;
        loop {
            let waiter = {
                let mut state = pool.lock();
                match state.waiting.pop_front() {
                    Some(waiter) => waiter,
                    None => {
                        state.idle.push(link);
                        self.held = false;
                        return;
                    }
                }
            };
            let turn = Turn {
                slot: pool.slot(),
                link: Some(link),
                opened: false,
            };
            match waiter.turn.send(turn) {
                Ok(()) => {
                    self.held = false;
                    return;
                }
                Err(mut turn) => {
                    turn.slot.held = false;
                    match turn.link.take() {
                        Some(back) => link = back,
                        None => return,
                    }
                }
            }
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if !self.held {
            return;
        }
        loop {
            let waiter = match self.next.take() {
                Some(next) => next,
                None => {
                    let mut state = self.pool.lock();
                    match state.waiting.pop_front() {
                        Some(waiter) => waiter,
                        None => {
                            state.open = state.open.saturating_sub(1);
                            return;
                        }
                    }
                }
            };
            let turn = Turn {
                slot: self.pool.slot(),
                link: None,
                opened: false,
            };
            match waiter.turn.send(turn) {
                Ok(()) => return,
                Err(mut turn) => turn.slot.held = false,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use futures_util::future::join_all;

    fn turn(pool: &Arc<Pool>) -> impl Future<Output = Turn> {
        let pool = pool.clone();
        async move { pool.turn(None, 2, Timestamp::EPOCH, Duration::from_secs(1)).await }
    }

    #[tokio::test]
    async fn a_place_that_comes_free_goes_to_who_waits_longest() {
        let pool = Arc::new(Pool::default());
        let (first, second) = (turn(&pool).await, turn(&pool).await);
        let mut waiting: Vec<_> = (0..3).map(|_| Box::pin(turn(&pool))).collect();
        for waiter in &mut waiting {
            assert!(waiter.now_or_never().is_none(), "only two at a time");
        }
        // The one who waits longest goes away: the place goes to the next.
        drop(waiting.remove(0));
        drop(first);
        let third = waiting[0].as_mut().now_or_never().expect("it has the place");
        assert!(waiting[1].as_mut().now_or_never().is_none());
        drop((second, third));
        assert!(waiting[1].as_mut().now_or_never().is_some());
    }

    #[tokio::test]
    async fn nobody_is_forgotten_when_many_go_away() {
        let pool = Arc::new(Pool::default());
        for round in 0..50 {
            let held = (turn(&pool).await, turn(&pool).await);
            let mut waiting: Vec<_> = (0..20).map(|_| Box::pin(turn(&pool))).collect();
            for waiter in &mut waiting {
                assert!(waiter.now_or_never().is_none());
            }
            let mut n = 0;
            waiting.retain(|_| {
                n += 1;
                (n * 7 + round) % 3 == 0
            });
            drop(held);
            let all = join_all(
                waiting
                    .into_iter()
                    .map(|waiter| async move { drop(waiter.await) }),
            );
            tokio::time::timeout(Duration::from_secs(5), all)
                .await
                .expect("everybody had a turn");
            assert_eq!(pool.lock().open, 0);
        }
    }
}
