//! A worker that dies at a named point of its work, each of them once for a message that may be repeated and for one that
//! may not, on every database: what becomes of the message then is a table.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::Child;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use open_crm::capability::{MailCapability, Mailer, RecordStore, StoreCapability};
use open_crm::channels::OUTBOX;
use open_crm::message::{Email, MessageId, Permitted, Receipt};
use open_crm::query::{Aggregate, Claim, Filter, Page, Query, Scan};
use open_crm::record::{Outcome, Schema, Stored, Write};
use open_crm::table::Table;
use open_crm::{Context, Health, Provider, ProviderInfo, Result, Timestamp, Uuid};

use super::sink::{Sink, silent};
use super::worker::{LEASE, fill, mailer, outreach, start};
use super::{Place, places, table};

/// Where a worker dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Point {
    /// It has a message, and nobody knows yet that it will be handed over.
    Claimed,
    /// Right before it is written down that the message is begun.
    Beginning,
    /// Right after.
    Begun,
    /// In the mailer, before a connection is made.
    Connecting,
    /// The server has the whole message and has said nothing.
    Data,
    /// The server has said that it took it.
    Answered,
    /// Right before the end is written.
    Ending,
    /// Right after.
    Ended,
    /// While the lease is renewed, with the message being sent.
    Heartbeat,
}

impl Point {
    const ALL: [Self; 9] = [
        Self::Claimed,
        Self::Beginning,
        Self::Begun,
        Self::Connecting,
        Self::Data,
        Self::Answered,
        Self::Ending,
        Self::Ended,
        Self::Heartbeat,
    ];

    pub(super) fn parse(role: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|point| format!("{point:?}") == role)
    }

    /// What becomes of a message of a worker that died there: its state, and how often the sink gets it afterwards or got
    /// it before.
    fn expected(self, may_repeat: bool) -> (&'static str, usize) {
        match (self, may_repeat) {
            // It was not begun, or its end is written: nothing is in doubt.
            (Self::Claimed | Self::Beginning | Self::Ended, _) => ("sent", 1),
            // It may have gone out. What may be repeated is, under the same name.
            (Self::Answered | Self::Ending, true) => ("sent", 2),
            (_, true) => ("sent", 1),
            (Self::Answered | Self::Ending, false) => ("unknown", 1),
            (_, false) => ("unknown", 0),
        }
    }

    /// Whether its worker talks to a server that never answers.
    fn is_silent(self) -> bool {
        matches!(self, Self::Data | Self::Heartbeat)
    }
}

/// The process is gone at once: nothing is tidied up, and nobody is told.
fn die() -> ! {
    std::process::abort()
}

/// A store and a mailer in which the process dies at a point.
pub(super) fn trapped(
    point: Point,
    store: Arc<dyn RecordStore>,
    mailer: Arc<dyn Mailer>,
) -> (Arc<dyn RecordStore>, Arc<dyn Mailer>) {
    let sending = Arc::new(AtomicBool::new(false));
    (
        Arc::new(TrapStore {
            point,
            inner: store,
            sending: sending.clone(),
        }),
        Arc::new(TrapMailer {
            point,
            inner: mailer,
            sending,
        }),
    )
}

struct TrapStore {
    point: Point,
    inner: Arc<dyn RecordStore>,
    sending: Arc<AtomicBool>,
}

impl std::fmt::Debug for TrapStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TrapStore({:?})", self.point)
    }
}

/// Whether these writes say that a message is begun, or that it has ended.
fn says(writes: &[Write]) -> (bool, bool) {
    let (mut begun, mut ended) = (false, false);
    for write in writes {
        if let Write::Update { record, .. } = write
            && record.schema().name == OUTBOX.name
        {
            match record.text("state").unwrap() {
                "leased" => begun |= record.get("send_started_at").is_some_and(|at| !at.is_null()),
                "queued" => {}
                _ => ended = true,
            }
        }
    }
    (begun, ended)
}

#[async_trait]
impl Provider for TrapStore {
    fn info(&self) -> &ProviderInfo {
        self.inner.info()
    }
    async fn check(&self) -> Result<Health> {
        self.inner.check().await
    }
}

#[async_trait]
impl RecordStore for TrapStore {
    fn capability(&self) -> StoreCapability {
        self.inner.capability()
    }
    async fn now(&self) -> Result<Option<Timestamp>> {
        self.inner.now().await
    }
    async fn migrate(&self, schemas: &[&'static Schema]) -> Result<()> {
        self.inner.migrate(schemas).await
    }
    async fn apply(&self, ctx: &Context, writes: &[Write]) -> Result<Vec<Outcome>> {
        let (begun, ended) = says(writes);
        if (begun && self.point == Point::Beginning) || (ended && self.point == Point::Ending) {
            die();
        }
        let outcomes = self.inner.apply(ctx, writes).await?;
        if (begun && self.point == Point::Begun) || (ended && self.point == Point::Ended) {
            die();
        }
        Ok(outcomes)
    }
    async fn get(&self, ctx: &Context, schema: &'static Schema, ids: &[Uuid]) -> Result<Vec<Option<Stored>>> {
        self.inner.get(ctx, schema, ids).await
    }
    async fn find(&self, ctx: &Context, schema: &'static Schema, query: &Query) -> Result<Page<Stored>> {
        self.inner.find(ctx, schema, query).await
    }
    async fn count(&self, ctx: &Context, schema: &'static Schema, filter: &Filter) -> Result<u64> {
        self.inner.count(ctx, schema, filter).await
    }
    async fn claim(&self, ctx: &Context, schema: &'static Schema, claim: &Claim) -> Result<Vec<Stored>> {
        let claimed = self.inner.claim(ctx, schema, claim).await?;
        // A heartbeat assigns a new end of the lease, and nothing else.
        let beat = claim.assign.len() == 1;
        let dies = match self.point {
            Point::Claimed => !beat && !claimed.is_empty(),
            Point::Heartbeat => beat && self.sending.load(Ordering::SeqCst),
            _ => false,
        };
        if dies {
            die();
        }
        Ok(claimed)
    }
    async fn scan(
        &self,
        ctx: &Context,
        schema: &'static Schema,
        scan: &Scan,
        take: &mut (dyn FnMut(Table) -> Result<()> + Send),
    ) -> Result<()> {
        self.inner.scan(ctx, schema, scan, take).await
    }
    async fn aggregate(
        &self,
        ctx: &Context,
        schema: &'static Schema,
        aggregate: &Aggregate,
    ) -> Result<Table> {
        self.inner.aggregate(ctx, schema, aggregate).await
    }
}

#[derive(Debug)]
struct TrapMailer {
    point: Point,
    inner: Arc<dyn Mailer>,
    sending: Arc<AtomicBool>,
}

#[async_trait]
impl Provider for TrapMailer {
    fn info(&self) -> &ProviderInfo {
        self.inner.info()
    }
    async fn check(&self) -> Result<Health> {
        self.inner.check().await
    }
}

#[async_trait]
impl Mailer for TrapMailer {
    fn capability(&self) -> MailCapability {
        self.inner.capability()
    }
    async fn send(&self, ctx: &Context, mail: &Permitted<Email>) -> Result<Receipt> {
        if self.point == Point::Connecting {
            die();
        }
        self.sending.store(true, Ordering::SeqCst);
        let receipt = self.inner.send(ctx, mail).await?;
        if self.point == Point::Answered {
            die();
        }
        Ok(receipt)
    }
}

/// One message, and the worker that dies with it.
struct Case {
    point: Point,
    may_repeat: bool,
    place: Place,
    id: MessageId,
}

impl Case {
    fn state(&self) -> String {
        self.place
            .ask(&format!("select state from {} where tenant = $tenant", table()))
            .join(" ")
    }
}

fn until_dead(mut worker: Child, point: Point) {
    for _ in 0..3000 {
        if let Some(status) = worker.try_wait().unwrap() {
            assert!(!status.success(), "{point:?}: it came to its end");
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    worker.kill().unwrap();
    panic!("{point:?}: the worker never came there");
}

/// Lets a worker die with a message at its point.
fn dies(case: &Case, sink: &Sink) {
    let role = format!("{:?}", case.point);
    if !case.point.is_silent() {
        until_dead(start(&case.place, &role, &sink.at), case.point);
        return;
    }
    let (at, got, _never): (SocketAddr, _, _) = silent();
    let mut worker = start(&case.place, &role, &at.to_string());
    got.recv_timeout(Duration::from_secs(30))
        .expect("the server got no message");
    if case.point == Point::Data {
        worker.kill().unwrap();
    }
    until_dead(worker, case.point);
}

async fn case(place: Place, point: Point, may_repeat: bool) -> Case {
    // Of two messages the first is a piece of news, of one it is a receipt.
    let ids = fill(&place, if may_repeat { 1 } else { 2 }, !may_repeat).await;
    if !may_repeat {
        place.tell(&format!(
            "delete from {} where tenant = $tenant and {} = '{}'",
            table(),
            place.hex("id"),
            ids[1].to_string().replace('-', "")
        ));
    }
    Case {
        point,
        may_repeat,
        place,
        id: ids[0],
    }
}

async fn recover(place: &Place, sink: &Sink) {
    let outreach = outreach(place.open().await, mailer(&sink.at).await);
    let report = outreach.dispatcher().unwrap().drain(&place.ctx()).await.unwrap();
    assert_eq!(report.errors, 0, "{report:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_each_point_at_which_a_worker_dies_the_table_says_what_becomes_of_its_message() {
    let folder = tempfile::tempdir().unwrap();
    let Some(sink) = Sink::start() else {
        return;
    };
    let mut cases = Vec::new();
    for place in places(folder.path()) {
        for point in Point::ALL {
            for may_repeat in [true, false] {
                // A tenant of its own, and a file of its own where it is a file.
                let own = match place.url.strip_prefix("sqlite:") {
                    None => Place::new(&place.url),
                    Some(_) => Place::file(&folder.path().join(format!("{point:?}-{may_repeat}"))),
                };
                cases.push(case(own, point, may_repeat).await);
            }
        }
    }
    std::thread::scope(|scope| {
        for some in cases.chunks(cases.len().div_ceil(4)) {
            let sink = &sink;
            scope.spawn(move || some.iter().for_each(|case| dies(case, sink)));
        }
    });
    tokio::time::sleep(LEASE + Duration::from_millis(100)).await;
    for case in &cases {
        recover(&case.place, &sink).await;
    }
    let mails = sink.mails();
    let (mut wrong, mut seen) = (Vec::new(), BTreeMap::new());
    for case in &cases {
        let times = mails.get(&case.id.to_string().replace('-', "")).copied();
        let found = (case.state(), times.unwrap_or(0));
        let (state, copies) = case.point.expected(case.may_repeat);
        if found != (state.to_owned(), copies) {
            let scheme = case.place.url.split(':').next().unwrap_or_default();
            wrong.push(format!(
                "{scheme} {:?} {}: {found:?}",
                case.point, case.may_repeat
            ));
        }
        *seen.entry(case.point).or_insert(0) += 1;
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(seen.len() == Point::ALL.len());

    // Without the mark that it was begun, what may not be repeated is: the sink would show it.
    let place = Place::file(&folder.path().join("control"));
    let control = case(place, Point::Answered, false).await;
    dies(&control, &sink);
    control.place.tell(&format!(
        "update {} set send_started_at = null where tenant = $tenant",
        table()
    ));
    tokio::time::sleep(LEASE + Duration::from_millis(100)).await;
    recover(&control.place, &sink).await;
    let id = control.id.to_string().replace('-', "");
    assert_eq!((control.state().as_str(), sink.mails()[&id]), ("sent", 2));
}
