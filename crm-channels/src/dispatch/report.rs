use crm_core::ErrorKind;
use crm_core::message::MessageId;

/// How it went with one claimed message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Done {
    Sent,
    Recorded,
    Refused,
    Retried,
    Failed,
    Dead,
    Unknown,
    Expired,
    Cancelled,
    /// Back in the queue without a try, until it may go.
    Snoozed,
    /// Back in the queue without a try: the provider cannot be used for reasons of its own.
    Paused(ErrorKind),
    /// Back in the queue without a try: the dispatcher stops.
    Released,
    LeaseLost,
    /// The store failed; the lease will end by itself.
    StoreError,
}

/// What a dispatcher did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct TickReport {
    /// Messages taken.
    pub claimed: u64,
    /// Among them those whose earlier dispatcher died.
    pub rescued: u64,
    /// Taken by a live provider.
    pub sent: u64,
    /// Only recorded.
    pub recorded: u64,
    /// Not let out by the gate.
    pub refused: u64,
    /// To be tried again later.
    pub retried: u64,
    /// Put off without a try: quiet hours, limits, an earlier message that must go first.
    pub snoozed: u64,
    /// Refused for good by the other side.
    pub failed: u64,
    /// Given up.
    pub dead: u64,
    /// Those whose time was over.
    pub expired: u64,
    /// Those whose campaign was called off.
    pub cancelled: u64,
    /// Those that may have been sent, to be looked into.
    pub unknown: Vec<MessageId>,
    /// Put back untried.
    pub released: u64,
    /// Those another dispatcher took over meanwhile, or that were cancelled.
    pub lease_lost: u64,
    /// Those whose permission or end could not be read or written; they are claimed again, at the latest when their
    /// lease ends.
    pub errors: u64,
    /// News that came in before their message's reference was stored, and found it now.
    pub adopted: u64,
    /// Messages whose outcome was unknown, and that a vendor was asked about and knew.
    pub reconciled: u64,
    /// Why sending pauses: a provider's own trouble (log-in, settings), not the messages'.
    pub paused: Option<ErrorKind>,
}

impl TickReport {
    pub(super) fn count(&mut self, id: MessageId, done: Done) {
        match done {
            Done::Sent => self.sent += 1,
            Done::Recorded => self.recorded += 1,
            Done::Refused => self.refused += 1,
            Done::Retried => self.retried += 1,
            Done::Failed => self.failed += 1,
            Done::Dead => self.dead += 1,
            Done::Unknown => self.unknown.push(id),
            Done::Expired => self.expired += 1,
            Done::Cancelled => self.cancelled += 1,
            Done::Snoozed => self.snoozed += 1,
            Done::Paused(kind) => {
                self.released += 1;
                self.paused.get_or_insert(kind);
            }
            Done::Released => self.released += 1,
            Done::LeaseLost => self.lease_lost += 1,
            Done::StoreError => self.errors += 1,
        }
    }

    pub(super) fn add(&mut self, other: Self) {
        self.claimed += other.claimed;
        self.rescued += other.rescued;
        self.sent += other.sent;
        self.recorded += other.recorded;
        self.refused += other.refused;
        self.retried += other.retried;
        self.snoozed += other.snoozed;
        self.failed += other.failed;
        self.dead += other.dead;
        self.expired += other.expired;
        self.cancelled += other.cancelled;
        self.unknown.extend(other.unknown);
        self.released += other.released;
        self.lease_lost += other.lease_lost;
        self.errors += other.errors;
        self.adopted += other.adopted;
        self.reconciled += other.reconciled;
        self.paused = other.paused.or(self.paused);
    }
}
