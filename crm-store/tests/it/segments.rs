//! Segments: what makes a member, why, and members kept up to date.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crm_core::activity::{INTERACTION, Money, ORDER};
use crm_core::capability::RecordStore;
use crm_core::customer::{
    AFFILIATION, CONTACT_POINT, CUSTOMER, Draft, ExternalRef, InteractionDraft, OrderDraft, Provenance,
};
use crm_core::memory::MemoryStore;
use crm_core::query::{Compare, Filter, Measure, Query, Relation, Scan, Span};
use crm_core::record::Write;
use crm_core::segment::{SEGMENT_MEMBER, SEGMENT_OVERRIDE, SegmentId, SegmentKind};
use crm_core::testkit::fixtures::{self, Dice};
use crm_core::{
    Actor, Clock, Context, CustomerId, ErrorKind, ManualClock, RandomIds, SystemClock, Table, Timestamp, Uuid,
};
use crm_store::Customers;
use crm_store::changes::{ChangeLog, Entity, Op};
use crm_store::customers::Affiliation;
use crm_store::segments::{Budget, Explanation, NewSegment, Reason, Segments};

use crate::stores::{Opened, on_each_store, stores};

const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);
/// Organisations that customers are with.
const PLACES: [Uuid; 2] = [Uuid::from_u128(0xa1), Uuid::from_u128(0xa2)];

/// Customers of a tenant of their own, with a clock to turn.
struct World {
    customers: Customers,
    segments: Segments,
    /// Around the log: nobody hears of what is written here.
    silent: Arc<dyn RecordStore>,
    clock: Arc<ManualClock>,
    ctx: Context,
    dice: Dice,
    people: Vec<CustomerId>,
    events: u64,
}

impl World {
    fn new(store: &Arc<dyn RecordStore>, seed: u64) -> Self {
        let clock = Arc::new(ManualClock::at(Timestamp::from_ymd(2026, 6, 1).unwrap()));
        let log = ChangeLog::new(store.clone(), clock.clone(), RandomIds::shared());
        let feed = log.feed();
        let customers = Customers::new(Arc::new(log), clock.clone(), RandomIds::shared()).with_feed(feed);
        Self {
            segments: customers.segments(),
            customers,
            silent: store.clone(),
            clock,
            ctx: fixtures::context().actor(Actor::user("ana")),
            dice: Dice::new(seed),
            people: Vec::new(),
            events: 0,
        }
    }

    fn draft(&mut self, n: usize) -> Draft {
        let mut draft = Draft::new(Provenance::new("test", self.clock.now()));
        draft.external_refs.push(ExternalRef::new("test", n.to_string()));
        if self.dice.one_in(2) {
            draft.emails.push(format!("p{n}@example{}.com", n % 3));
        }
        let dice = &mut self.dice;
        draft
            .attributes
            .set("plan", *dice.pick(&["free", "pro", "team"]))
            .unwrap();
        draft.attributes.set("visits", dice.below(20) as i64).unwrap();
        draft
    }

    async fn person(&mut self) -> CustomerId {
        let draft = self.draft(self.people.len());
        let id = self.customers.upsert(&self.ctx, draft).await.unwrap().id;
        self.people.push(id);
        id
    }

    async fn order(&mut self, customer: CustomerId, ago: Duration, minor: i64) {
        self.events += 1;
        let order = OrderDraft {
            at: self.clock.now().minus(ago),
            total: Money::new(minor, "EUR").unwrap(),
            items: 1,
            event_id: self.events.to_string(),
        };
        self.customers
            .append(&self.ctx, customer, "test", order)
            .await
            .unwrap();
    }

    /// The customer is, was or will be with an organisation, or is with it no longer.
    async fn affiliation(&mut self, who: CustomerId) {
        let organisations = self.customers.organisations();
        let place = *self.dice.pick(&PLACES);
        if organisations
            .get(&self.ctx, place.into())
            .await
            .unwrap()
            .is_none()
        {
            let mut one = organisations.named("Acme");
            one.id = place.into();
            organisations.save(&self.ctx, one).await.unwrap();
        }
        let role = *self.dice.pick(&["buyer", "employee"]);
        let from = DAY * self.dice.below(60) as u32;
        let from = (!self.dice.one_in(3)).then(|| self.clock.now().minus(from));
        let to = self.dice.one_in(2).then(|| self.clock.now().plus(DAY));
        let done = organisations
            .affiliate(&self.ctx, who, place.into(), role, false, (from, to))
            .await;
        // The same place from the same day on, until another one.
        if let Err(error) = done {
            assert_eq!(error.context("index"), Some("crm_affiliation_key"));
        }
    }

    /// Something random happens.
    async fn change(&mut self) {
        if self.people.len() < 12 || self.dice.one_in(6) {
            self.person().await;
            return;
        }
        let who = *self.dice.pick(&self.people);
        match self.dice.below(8) {
            5 => self.affiliation(who).await,
            0 | 1 => {
                let ago = HOUR * self.dice.below(24 * 60) as u32;
                let minor = self.dice.below(5_000) as i64;
                self.order(who, ago, minor).await;
            }
            2 => {
                self.events += 1;
                let visit = InteractionDraft {
                    at: self.clock.now(),
                    kind: (*self.dice.pick(&["visit", "call"])).to_owned(),
                    event_id: self.events.to_string(),
                    data: Default::default(),
                };
                self.customers
                    .append(&self.ctx, who, "test", visit)
                    .await
                    .unwrap();
            }
            3 if self.people.len() > 12 => {
                self.people.retain(|id| *id != who);
                self.customers.delete(&self.ctx, who).await.unwrap();
            }
            4 => {
                let hours = 1 + self.dice.below(40) as u32;
                self.clock.advance(HOUR * hours);
            }
            _ => {
                let mut customer = self.customers.get(&self.ctx, who).await.unwrap().unwrap();
                let tag = *self.dice.pick(&["vip", "press", "50%_off"]);
                if customer.tags.iter().any(|known| known == tag) {
                    customer.tags.retain(|known| known != tag);
                } else {
                    customer.tags.push(tag.to_owned());
                }
                let visits = self.dice.below(20) as i64;
                customer.attributes.set("visits", visits).unwrap();
                if self.dice.one_in(3) {
                    customer.contact_points.clear();
                }
                self.customers.update(&self.ctx, &customer).await.unwrap();
            }
        }
    }

    /// A random rule over customers; about `known` segments too.
    fn rule(&mut self, known: &[SegmentId], depth: usize) -> Filter {
        let dice = &mut self.dice;
        let days = Span::days(1 + dice.below(60) as i32);
        match dice.below(if depth == 0 { 11 } else { 14 }) {
            13 => !self.rule(known, depth - 1),
            10 => {
                let there = Filter::eq("organisation_id", *dice.pick(&PLACES));
                match dice.below(3) {
                    0 => Filter::at_least(1, Relation::AFFILIATIONS, there),
                    1 => Filter::none_of(Relation::AFFILIATIONS, there.and(Filter::eq("role", "buyer"))),
                    _ => {
                        let (from, to) = (self.clock.now().minus(40 * DAY), self.clock.now());
                        Affiliation::during((*dice.pick(&PLACES)).into(), from, to)
                    }
                }
            }
            0 => Filter::has("tags", *dice.pick(&["vip", "press", "50%_off"])),
            1 => Filter::ge("attributes.visits", dice.below(20) as i64),
            2 => Filter::one_of("attributes.plan", ["free", "pro"]),
            3 => Filter::at_least(
                1 + dice.below(3) as i64,
                Relation::ORDERS,
                Filter::ago("at", days),
            ),
            4 => Filter::none_of(Relation::ORDERS, Filter::ge("total_minor", 2_000_i64)),
            5 => Filter::related(
                Relation::ORDERS,
                Filter::All,
                Measure::Sum("total_minor".into()),
                *dice.pick(&[Compare::Ge, Compare::Lt]),
                dice.below(8_000) as i64,
            ),
            6 => Filter::at_least(1, Relation::INTERACTIONS, Filter::eq("kind", "visit")),
            7 => Filter::at_least(1, Relation::CONTACT_POINTS, Filter::prefix("value", "p1")),
            8 => Filter::before("created_at", days),
            9 => match known {
                [] => Filter::null("attributes.nothing"),
                known => Filter::InSegment(dice.pick(known).uuid()),
            },
            11 => Filter::And(vec![self.rule(known, depth - 1), self.rule(known, depth - 1)]),
            _ => Filter::Or(vec![self.rule(known, depth - 1), self.rule(known, depth - 1)]),
        }
    }

    async fn dynamic(&mut self, known: &[SegmentId]) -> SegmentId {
        let rule = self.rule(known, 2);
        let name = format!("s{}", fixtures::id());
        let new = NewSegment::dynamic(name, rule);
        self.segments.create(&self.ctx, new).await.unwrap().id
    }

    async fn members(&self, id: SegmentId) -> BTreeSet<CustomerId> {
        let (mut found, mut after) = (BTreeSet::new(), None);
        loop {
            let page = self.segments.members(&self.ctx, id, 7, after).await.unwrap();
            found.extend(page.items);
            after = page.next;
            if after.is_none() {
                return found;
            }
        }
    }

    /// Who should be a member, decided one by one from the explanation of the rule.
    async fn by_reason(&self, id: SegmentId) -> BTreeSet<CustomerId> {
        let mut found = BTreeSet::new();
        for customer in &self.people {
            let why = self.segments.explain(&self.ctx, *customer, id).await.unwrap();
            let wanted = match (&why.by_hand, &why.rule) {
                (Some(by_hand), _) => by_hand.included,
                (None, Some(rule)) => rule.holds,
                (None, None) => why.member,
            };
            if wanted {
                found.insert(*customer);
            }
        }
        found
    }

    /// The history of a segment: alternating per customer, and what it adds up to.
    async fn replayed(&self, id: SegmentId) -> BTreeSet<CustomerId> {
        let (mut inside, mut after) = (BTreeSet::new(), None);
        loop {
            let page = self.segments.events(&self.ctx, id, 50, after).await.unwrap();
            for event in page.items {
                let new = if event.entered {
                    inside.insert(event.customer)
                } else {
                    inside.remove(&event.customer)
                };
                assert!(new, "entered or left twice in a row");
            }
            after = page.next;
            if after.is_none() {
                return inside;
            }
        }
    }
}

fn named(id: SegmentId) -> Filter {
    Filter::InSegment(id.uuid())
}

#[tokio::test]
async fn members_by_hand_by_rule_and_frozen() {
    for Opened { store, name, .. } in stores().await {
        eprintln!("on {name}");
        let mut w = World::new(&store, 1);
        let (a, b, c) = (w.person().await, w.person().await, w.person().await);
        let (ctx, s) = (w.ctx.clone(), w.segments.clone());

        let manual = s.create(&ctx, NewSegment::manual("friends")).await.unwrap();
        s.add(&ctx, manual.id, &[a, b]).await.unwrap();
        s.add(&ctx, manual.id, &[b]).await.unwrap();
        s.remove(&ctx, manual.id, &[b, c]).await.unwrap();
        assert_eq!(w.members(manual.id).await, BTreeSet::from([a]));
        assert_eq!(w.replayed(manual.id).await, BTreeSet::from([a]));
        let nobody: CustomerId = fixtures::id().into();
        let error = s.add(&ctx, manual.id, &[nobody]).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.context("customer_id").is_some()),
            (ErrorKind::NotFound, true)
        );
        assert_eq!(
            s.release(&ctx, manual.id, &[a]).await.unwrap_err().kind(),
            ErrorKind::Invalid
        );

        w.order(b, DAY, 100).await;
        w.order(b, DAY * 2, 100).await;
        w.order(c, DAY * 100, 100).await;
        let rule = Filter::at_least(2, Relation::ORDERS, Filter::ago("at", Span::days(90)));
        let regulars = s
            .create(&ctx, NewSegment::dynamic("regulars", rule))
            .await
            .unwrap();
        assert_eq!(w.members(regulars.id).await, BTreeSet::from([b]));
        s.add(&ctx, regulars.id, &[c]).await.unwrap();
        s.remove(&ctx, regulars.id, &[b]).await.unwrap();
        assert_eq!(w.members(regulars.id).await, BTreeSet::from([c]));
        let why = s.explain(&ctx, b, regulars.id).await.unwrap();
        let by_hand = why.by_hand.as_ref().unwrap();
        assert_eq!(
            (why.member, by_hand.included, by_hand.actor.as_str()),
            (false, false, "user:ana")
        );
        let reason = why.rule.as_ref().unwrap();
        assert_eq!((reason.holds, reason.seen.clone()), (true, Some(2_i64.into())));
        assert!(!format!("{why:?}").contains('2') || !format!("{:?}", reason.seen).contains('2'));
        s.release(&ctx, regulars.id, &[b, c]).await.unwrap();
        assert_eq!(w.members(regulars.id).await, BTreeSet::from([b]));
        assert_eq!(
            w.silent
                .count(&ctx, &SEGMENT_OVERRIDE, &Filter::All)
                .await
                .unwrap(),
            0
        );

        // Nested, both ways of asking.
        let rule = named(manual.id).or(named(regulars.id));
        let both = s
            .create(&ctx, NewSegment::dynamic("both", rule.clone()))
            .await
            .unwrap();
        assert_eq!(w.members(both.id).await, BTreeSet::from([a, b]));
        assert_eq!(s.count(&ctx, both.id).await.unwrap(), 2);
        assert_eq!(w.customers.count(&ctx, &(!named(both.id))).await.unwrap(), 1);
        let found = w.customers.find(&ctx, &Query::new(named(both.id))).await.unwrap();
        assert_eq!(found.items.len(), 2);
        assert_eq!(s.among(&ctx, both.id, &[c, b, nobody]).await.unwrap(), [b]);
        let preview = s.estimate(&ctx, &rule).await.unwrap();
        assert_eq!((preview.count, preview.exact), (2, true));
        let why = s.explain(&ctx, c, both.id).await.unwrap();
        let nested = why.rule.unwrap().parts[1].segment.clone().unwrap();
        assert_eq!(
            (why.member, nested.name.as_str(), nested.member),
            (false, "regulars", false)
        );
        assert_eq!(nested.rule.unwrap().seen, Some(0_i64.into()));

        // Frozen: time and changes pass it by.
        let frozen = s.snapshot(&ctx, both.id, "june").await.unwrap();
        w.clock.advance(DAY * 365);
        assert_eq!(w.members(both.id).await, BTreeSet::from([a]));
        assert_eq!(w.members(frozen.id).await, BTreeSet::from([a, b]));
        let SegmentKind::Snapshot { lineage } = &frozen.kind else {
            panic!("{frozen:?}")
        };
        assert_eq!(lineage.features.len(), 2);
        assert!(lineage.method.contains(&both.id.to_string()));
        assert_eq!(
            s.add(&ctx, frozen.id, &[c]).await.unwrap_err().kind(),
            ErrorKind::Invalid
        );
        let error = s.snapshot(&ctx, both.id, "june").await.unwrap_err();
        assert_eq!(
            (error.kind(), error.context("field")),
            (ErrorKind::Conflict, Some("name"))
        );

        // A used one is not deleted.
        let error = s.delete(&ctx, regulars.id).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert_eq!(error.context("used_by"), Some(both.id.to_string().as_str()));
        assert_eq!(s.dependents(&ctx, regulars.id).await.unwrap(), [both.id]);
        s.delete(&ctx, both.id).await.unwrap();
        s.delete(&ctx, regulars.id).await.unwrap();
        assert_eq!(
            s.delete(&ctx, regulars.id).await.unwrap_err().kind(),
            ErrorKind::NotFound
        );
        let names: Vec<String> = s
            .list(&ctx, 10, None)
            .await
            .unwrap()
            .items
            .into_iter()
            .map(|s| s.name)
            .collect();
        assert_eq!(names, ["friends", "june"]);
        // A deleted customer is no member.
        w.customers.delete(&ctx, a).await.unwrap();
        assert_eq!(w.members(manual.id).await, BTreeSet::new());
        // Another tenant has none of them.
        let error = s
            .members(&fixtures::context(), manual.id, 10, None)
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }
}

#[tokio::test]
async fn wrong_definitions_are_refused_by_name() {
    let store: Arc<dyn RecordStore> = Arc::new(MemoryStore::new("records"));
    let w = World::new(&store, 1);
    let (ctx, s) = (w.ctx.clone(), w.segments.clone());
    let make = |name: &str, rule: Filter| {
        let (s, ctx, new) = (s.clone(), ctx.clone(), NewSegment::dynamic(name, rule));
        async move { s.create(&ctx, new).await }
    };
    let a = make("a", Filter::All).await.unwrap();
    let error = make("a", Filter::All).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.context("field")),
        (ErrorKind::Conflict, Some("name"))
    );
    assert_eq!(
        make(" ", Filter::All).await.unwrap_err().context("field"),
        Some("name")
    );
    let error = make("x", Filter::eq("nope", "x")).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.context("field")),
        (ErrorKind::Invalid, Some("nope"))
    );
    let error = make("x", Filter::InSegment(Uuid::from_u128(5)))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let inside = Filter::at_least(1, Relation::ORDERS, named(a.id));
    assert_eq!(
        make("x", inside).await.unwrap_err().context("field"),
        Some("rule")
    );
    assert_eq!(
        make("x", Filter::ago("tags", Span::days(1)))
            .await
            .unwrap_err()
            .kind(),
        ErrorKind::Invalid
    );

    // Kept as data it could not be read again.
    let foreign = Relation::new(&crm_store::segments::SEGMENT_EVENT, "customer_id");
    let error = make("x", Filter::at_least(1, foreign, Filter::All))
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind(), error.context("field")),
        (ErrorKind::Invalid, Some("rule"))
    );

    // In a circle, directly and over others.
    let b = make("b", named(a.id)).await.unwrap();
    let c = make("c", !named(b.id)).await.unwrap();
    for (segment, other) in [(&a, &c), (&a, &a), (&b, &c)] {
        let mut changed = s.get(&ctx, segment.id).await.unwrap().unwrap();
        changed.kind = SegmentKind::Dynamic {
            filter: named(other.id),
        };
        let error = s.update(&ctx, &changed).await.unwrap_err();
        assert!(error.to_string().contains("circle"), "{error}");
    }
    // Two at once, each harmless alone.
    for _ in 0..10 {
        let one = make(&fixtures::id().to_string(), Filter::All).await.unwrap();
        let two = make(&fixtures::id().to_string(), Filter::All).await.unwrap();
        let close = |mut segment: crm_core::segment::Segment, other: SegmentId| {
            let (s, ctx) = (s.clone(), ctx.clone());
            segment.kind = SegmentKind::Dynamic { filter: named(other) };
            tokio::spawn(async move { s.update(&ctx, &segment).await.is_ok() })
        };
        let (first, second) = (close(one.clone(), two.id), close(two.clone(), one.id));
        assert!(first.await.unwrap() != second.await.unwrap());
    }
    // Too deep, from below and from above.
    let mut last = a.id;
    for n in 0..13 {
        last = make(&format!("deep{n}"), named(last)).await.unwrap().id;
    }
    let top = make("top", named(last)).await.unwrap();
    make("over", named(top.id)).await.unwrap();
    let error = make(
        "too deep",
        named(s.by_name(&ctx, "over").await.unwrap().unwrap().id),
    )
    .await
    .unwrap_err();
    assert!(error.to_string().contains("16"), "{error}");
    let below = make("below", Filter::All).await.unwrap();
    let mut changed = s.get(&ctx, a.id).await.unwrap().unwrap();
    changed.kind = SegmentKind::Dynamic {
        filter: named(below.id),
    };
    assert!(
        s.update(&ctx, &changed)
            .await
            .unwrap_err()
            .to_string()
            .contains("16")
    );

    let mut stale = b.clone();
    stale.description = "first".into();
    s.update(&ctx, &stale).await.unwrap();
    let error = s.update(&ctx, &stale).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.context("index")),
        (ErrorKind::Conflict, Some("version"))
    );
    let mut other = s.get(&ctx, b.id).await.unwrap().unwrap();
    other.kind = SegmentKind::Manual;
    assert_eq!(
        s.update(&ctx, &other).await.unwrap_err().context("field"),
        Some("kind")
    );
    // Without a feed members cannot be kept up to date.
    let plain = Customers::new(w.silent.clone(), SystemClock::shared(), RandomIds::shared());
    let error = plain.segments().materialise(&ctx, a.id, HOUR).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    let error = s.check(&ctx, a.id).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
}

/// Random changes, rules and refreshes: stored members are what a full evaluation finds, and what the events add up to.
async fn keeps_up(store: &Arc<dyn RecordStore>, seed: u64, rounds: usize) {
    let mut w = World::new(store, seed);
    let ctx = w.ctx.clone();
    for _ in 0..12 {
        w.change().await;
    }
    let manual = w
        .segments
        .create(&ctx, NewSegment::manual("by hand"))
        .await
        .unwrap()
        .id;
    let mut known = vec![manual];
    let mut kept = Vec::new();
    for _ in 0..5 {
        let id = w.dynamic(&known).await;
        // Some are asked live, so that stored ones nest live ones and the other way round.
        if !w.dice.one_in(3) {
            w.segments.materialise(&ctx, id, HOUR).await.unwrap();
            kept.push(id);
        }
        known.push(id);
    }
    for round in 0..rounds {
        for _ in 0..w.dice.below(8) {
            w.change().await;
        }
        let who = *w.dice.pick(&w.people);
        let which = *w.dice.pick(&known);
        match w.dice.below(4) {
            0 => w.segments.add(&ctx, which, &[who]).await.unwrap(),
            1 => w.segments.remove(&ctx, which, &[who]).await.unwrap(),
            2 if which != manual => w.segments.release(&ctx, which, &[who]).await.unwrap(),
            _ => {}
        }
        if w.dice.one_in(6) {
            // The rule of one is another now; only those before it can be in it.
            let at = 1 + w.dice.below(known.len() - 1);
            let rule = w.rule(&known[..at], 1);
            let mut changed = w.segments.get(&ctx, known[at]).await.unwrap().unwrap();
            changed.kind = SegmentKind::Dynamic { filter: rule };
            w.segments.update(&ctx, &changed).await.unwrap();
        }
        if w.dice.one_in(8) {
            let everything = Timestamp::from_micros(i64::MAX);
            w.customers.feed().unwrap().prune(&ctx, everything).await.unwrap();
        }
        // Time only shows when it is due.
        w.clock.advance(HOUR);
        // In small pieces, as a job of the host would.
        while w
            .segments
            .refresh(&ctx, Budget { customers: 3 })
            .await
            .unwrap()
            .more
        {}
        for id in &kept {
            let members = w.members(*id).await;
            assert_eq!(members, w.by_reason(*id).await, "seed {seed}, round {round}");
            assert_eq!(
                members,
                w.replayed(*id).await,
                "seed {seed}, round {round}: events"
            );
        }
        // The same question live and through the stored members, and of single customers.
        for id in &known {
            let members = w.members(*id).await;
            assert_eq!(w.segments.count(&ctx, *id).await.unwrap(), members.len() as u64);
            let who = *w.dice.pick(&w.people);
            let why = w.segments.explain(&ctx, who, *id).await.unwrap();
            assert_eq!(why.member, members.contains(&who), "seed {seed}, round {round}");
            assert_eq!(w.segments.contains(&ctx, *id, who).await.unwrap(), why.member);
        }
    }
    for id in &kept {
        let drift = w.segments.check(&ctx, *id).await.unwrap();
        assert!(drift.is_clean() && drift.changing == 0, "{drift:?}");
    }
    // The feed tells the same story as the events.
    let mut told: BTreeMap<SegmentId, Vec<(CustomerId, bool)>> = BTreeMap::new();
    if let Ok(changes) = w.customers.changes_since(&ctx, None, 10_000).await {
        for change in changes.items {
            match (change.entity, change.op) {
                (Entity::Customer(who), Op::Entered(id)) => told.entry(id).or_default().push((who, true)),
                (Entity::Customer(who), Op::Left(id)) => told.entry(id).or_default().push((who, false)),
                _ => {}
            }
        }
        for id in &kept {
            let page = w.segments.events(&ctx, *id, 10_000, None).await.unwrap();
            let mut events: Vec<(CustomerId, bool)> =
                page.items.iter().map(|e| (e.customer, e.entered)).collect();
            let mut told = told.remove(id).unwrap_or_default();
            events.sort();
            told.sort();
            assert_eq!(events, told);
        }
    }
}

on_each_store!(stored_members_keep_up_with_any_changes);

async fn stored_members_keep_up_with_any_changes(opened: Opened) {
    for seed in 0..opened.seeds {
        eprintln!("seed {seed}");
        keeps_up(&opened.store, seed, 12).await;
    }
}

#[tokio::test]
async fn time_passes_without_a_change() {
    for Opened { store, .. } in stores().await {
        let mut w = World::new(&store, 3);
        let ctx = w.ctx.clone();
        let who = w.person().await;
        w.order(who, DAY, 100).await;
        let rule = Filter::at_least(1, Relation::ORDERS, Filter::ago("at", Span::days(30)));
        let id = w
            .segments
            .create(&ctx, NewSegment::dynamic("recent", rule))
            .await
            .unwrap()
            .id;
        // Asked live, it is always right.
        let over = named(id);
        let live = w
            .segments
            .create(&ctx, NewSegment::dynamic("live", over))
            .await
            .unwrap()
            .id;
        w.segments.materialise(&ctx, id, DAY).await.unwrap();
        assert_eq!(w.members(live).await, BTreeSet::from([who]));
        w.clock.advance(DAY * 29 + HOUR);
        let none = w.segments.refresh(&ctx, Budget::default()).await.unwrap();
        assert_eq!(
            (none.full, none.left),
            (1, 1),
            "it was due, and the order is too old"
        );
        assert_eq!(w.members(id).await, BTreeSet::new());
        // Not due: nothing happens until it is, except on change.
        w.clock.advance(HOUR);
        assert_eq!(w.segments.refresh(&ctx, Budget::default()).await.unwrap().full, 0);
        w.order(who, HOUR, 100).await;
        let on_change = w.segments.refresh(&ctx, Budget::default()).await.unwrap();
        assert_eq!(
            (on_change.full, on_change.entered, on_change.evaluated),
            (0, 1, 1)
        );
        let estimate = w.segments.estimate(&ctx, &named(live)).await.unwrap();
        assert_eq!(
            (estimate.count, estimate.exact, estimate.as_of),
            (1, false, Some(w.clock.now()))
        );
        // No longer kept: asked live again.
        w.segments.dematerialise(&ctx, id).await.unwrap();
        w.clock.advance(DAY * 60);
        assert_eq!(w.members(id).await, BTreeSet::new());
        assert_eq!(
            w.silent.count(&ctx, &SEGMENT_MEMBER, &Filter::All).await.unwrap(),
            0
        );
    }
}

#[tokio::test]
async fn drift_is_seen_and_repaired() {
    for Opened { store, .. } in stores().await {
        let mut w = World::new(&store, 4);
        let ctx = w.ctx.clone();
        for _ in 0..8 {
            w.person().await;
        }
        let id = w
            .segments
            .create(&ctx, NewSegment::dynamic("all", Filter::All))
            .await
            .unwrap()
            .id;
        w.segments.materialise(&ctx, id, DAY).await.unwrap();
        assert!(w.segments.check(&ctx, id).await.unwrap().is_clean());
        // Behind the log's back: a membership goes, a customer goes, somebody comes.
        let gone = w.people[0];
        let filter = Filter::eq("segment_id", id).and(Filter::eq("customer_id", gone));
        let row = w
            .silent
            .find(&ctx, &SEGMENT_MEMBER, &Query::new(filter))
            .await
            .unwrap();
        let lost = w.people[1];
        let new = fixtures::id();
        let writes = [
            Write::delete(&SEGMENT_MEMBER, row.items[0].id, None),
            Write::delete(&CUSTOMER, lost, None),
            Write::insert(new, crate::changes::profile(1)),
        ];
        w.silent.apply(&ctx, &writes).await.unwrap();
        let drift = w.segments.check(&ctx, id).await.unwrap();
        let mut missing = vec![gone, new.into()];
        missing.sort();
        assert_eq!((drift.missing, drift.extra), (missing, vec![lost]));
        assert_eq!(drift.unaccounted, [gone]);
        let report = w.segments.repair(&ctx, id).await.unwrap();
        assert_eq!((report.entered, report.left), (1, 1));
        assert!(w.segments.check(&ctx, id).await.unwrap().is_clean());
        let events = w.segments.events(&ctx, id, 100, None).await.unwrap().items;
        assert_eq!(events.iter().filter(|event| event.cause == "repair").count(), 2);
    }
}

/// Writers, two refreshers and somebody who adds and removes by hand, all at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn at_once_everything_ends_right() {
    for Opened { store, name, .. } in stores().await {
        let mut w = World::new(&store, 5);
        let ctx = w.ctx.clone();
        for _ in 0..20 {
            w.person().await;
        }
        let rule = Filter::ge("attributes.visits", 10_i64);
        let id = w
            .segments
            .create(&ctx, NewSegment::dynamic("often", rule))
            .await
            .unwrap()
            .id;
        w.segments.materialise(&ctx, id, DAY).await.unwrap();
        let people = w.people.clone();
        let writers = (0..4_u64).map(|n| {
            let (customers, ctx, people) = (w.customers.clone(), ctx.clone(), people.clone());
            tokio::spawn(async move {
                let mut dice = Dice::new(n);
                for _ in 0..25 {
                    let who = *dice.pick(&people);
                    let mut customer = customers.get(&ctx, who).await.unwrap().unwrap();
                    customer.attributes.set("visits", dice.below(20) as i64).unwrap();
                    if let Err(error) = customers.update(&ctx, &customer).await {
                        assert_eq!(error.kind(), ErrorKind::Conflict);
                    }
                }
            })
        });
        let refreshers = (0..2).map(|_| {
            let (segments, ctx) = (w.segments.clone(), ctx.clone());
            tokio::spawn(async move {
                for _ in 0..15 {
                    segments.refresh(&ctx, Budget::default()).await.unwrap();
                }
            })
        });
        let hands = (0..2_u64).map(|n| {
            let (segments, ctx, people) = (w.segments.clone(), ctx.clone(), people.clone());
            tokio::spawn(async move {
                let mut dice = Dice::new(100 + n);
                for _ in 0..10 {
                    let who = [*dice.pick(&people)];
                    match dice.below(3) {
                        0 => segments.add(&ctx, id, &who).await.unwrap(),
                        1 => segments.remove(&ctx, id, &who).await.unwrap(),
                        _ => segments.release(&ctx, id, &who).await.unwrap(),
                    }
                }
            })
        });
        let all: Vec<_> = writers.chain(refreshers).chain(hands).collect();
        for task in all {
            task.await.unwrap();
        }
        let drift = w.segments.check(&ctx, id).await.unwrap();
        assert!(drift.is_clean(), "{name}: {drift:?}");
        let members = w.members(id).await;
        assert_eq!(members, w.replayed(id).await, "{name}");
        assert_eq!(members, w.by_reason(id).await, "{name}");
    }
}

/// A table of what a filter looks at.
async fn table(
    store: &Arc<dyn RecordStore>,
    ctx: &Context,
    schema: &'static crm_core::record::Schema,
    columns: &[&str],
) -> Table {
    let mut chunks: Vec<Table> = Vec::new();
    let mut scan = Scan::new(Filter::All, columns.iter().copied());
    scan.chunk_rows = 100_000;
    store
        .scan(ctx, schema, &scan, &mut |chunk| {
            chunks.push(chunk);
            Ok(())
        })
        .await
        .unwrap();
    chunks.pop().unwrap_or_default()
}

/// Whether a filter can be decided on tables: columns of paths are text there.
fn on_tables(filter: &Filter) -> bool {
    !filter.any(&|leaf| match leaf {
        Filter::Is { field, .. } => !field.path.is_empty(),
        Filter::Null { field } => !field.path.is_empty(),
        _ => false,
    })
}

/// The same customers everywhere: the same rule finds the same ids, and on tables too.
#[tokio::test]
async fn one_rule_finds_the_same_customers_everywhere() {
    let opened = stores().await;
    let mut worlds: Vec<World> = opened.iter().map(|opened| World::new(&opened.store, 6)).collect();
    // One is filled, and copied record by record: ids and times are the same everywhere.
    let (first, others) = worlds.split_first_mut().unwrap();
    let ctx = first.ctx.clone();
    for _ in 0..120 {
        first.change().await;
    }
    let manual = first
        .segments
        .create(&ctx, NewSegment::manual("by hand"))
        .await
        .unwrap()
        .id;
    first
        .segments
        .add(&ctx, manual, &first.people[..5])
        .await
        .unwrap();
    let mut known = vec![manual];
    for _ in 0..4 {
        let id = first.dynamic(&known).await;
        let who = [first.people[0], first.people[1]];
        first.segments.add(&ctx, id, &who[..1]).await.unwrap();
        first.segments.remove(&ctx, id, &who[1..]).await.unwrap();
        known.push(id);
    }
    for other in others.iter() {
        other.customers.prepare().await.unwrap();
        for schema in crm_store::customers::SCHEMAS {
            let mut query = Query::new(Filter::All).limit(1_000);
            loop {
                let page = first.silent.find(&ctx, schema, &query).await.unwrap();
                let writes: Vec<Write> = page
                    .items
                    .into_iter()
                    .map(|stored| Write::put(stored.id, stored.record))
                    .collect();
                other.silent.apply(&ctx, &writes).await.unwrap();
                query.after = page.next;
                if query.after.is_none() {
                    break;
                }
            }
        }
    }
    let customers = table(
        &first.silent,
        &ctx,
        &CUSTOMER,
        &["id", "tags", "created_at", "attributes.plan"],
    )
    .await;
    let orders = table(&first.silent, &ctx, &ORDER, &["customer_id", "at", "total_minor"]).await;
    let events = table(&first.silent, &ctx, &INTERACTION, &["customer_id", "kind"]).await;
    let points = table(&first.silent, &ctx, &CONTACT_POINT, &["customer_id", "value"]).await;
    let members = table(
        &first.silent,
        &ctx,
        &SEGMENT_MEMBER,
        &["customer_id", "segment_id"],
    )
    .await;
    let hands = table(
        &first.silent,
        &ctx,
        &SEGMENT_OVERRIDE,
        &["customer_id", "segment_id", "included"],
    )
    .await;
    let places = table(
        &first.silent,
        &ctx,
        &AFFILIATION,
        &["customer_id", "organisation_id", "role", "valid_from", "valid_to"],
    )
    .await;
    assert!(places.rows() > 5, "some are with organisations");
    let related = [
        ("crm_affiliation", &places),
        ("crm_order", &orders),
        ("crm_interaction", &events),
        ("crm_contact_point", &points),
        ("crm_segment_member", &members),
        ("crm_segment_override", &hands),
    ];
    let ids = customers.column("id").unwrap();
    let now = first.clock.now();
    let (mut tables, mut some, mut sizes) = (0, 0, BTreeSet::new());
    for n in 0..150 {
        let rule = first.rule(&known, 3);
        let mut answers = Vec::new();
        for store in std::iter::once(&*first).chain(others.iter()) {
            let resolved = crm_core::segment::resolve(&*store.silent, &ctx, now, &rule)
                .await
                .unwrap();
            let page = store
                .silent
                .find(&ctx, &CUSTOMER, &Query::new(resolved).limit(10_000))
                .await
                .unwrap();
            answers.push(
                page.items
                    .into_iter()
                    .map(|stored| stored.id)
                    .collect::<BTreeSet<Uuid>>(),
            );
        }
        for (answer, opened) in answers.iter().zip(&opened) {
            assert_eq!(answer, &answers[0], "rule {n} on {}: {rule:?}", opened.name);
        }
        let resolved = crm_core::segment::resolve(&*first.silent, &ctx, now, &rule)
            .await
            .unwrap();
        if on_tables(&resolved) {
            tables += 1;
            let rows = resolved.select_related(&customers, &related).unwrap();
            let on_table: BTreeSet<Uuid> = (0..customers.rows())
                .filter(|row| rows[*row])
                .filter_map(|row| ids.uuid_at(row))
                .collect();
            assert_eq!(on_table, answers[0], "rule {n} on tables: {rule:?}");
        }
        some += usize::from(!answers[0].is_empty() && answers[0].len() < customers.rows());
        sizes.insert(answers[0].len());
    }
    // The rules were worth it.
    assert!(
        tables > 40 && some > 60 && sizes.len() > 8,
        "{tables} {some} {sizes:?}"
    );
}

/// All conditions of an explanation are there, each decided like the whole.
fn consistent(reason: &Reason) -> bool {
    let parts = || reason.parts.iter().map(|part| part.holds);
    let right = match &reason.condition {
        Filter::And(all) => reason.parts.len() == all.len() && reason.holds == parts().all(|holds| holds),
        Filter::Or(any) => reason.parts.len() == any.len() && reason.holds == parts().any(|holds| holds),
        Filter::Not(_) => reason.holds != reason.parts[0].holds,
        Filter::InSegment(_) => reason.segment.as_ref().is_some_and(|s| s.member == reason.holds),
        _ => reason.parts.is_empty(),
    };
    let nested = |why: &Explanation| why.rule.as_ref().is_none_or(consistent);
    right && reason.parts.iter().all(consistent) && reason.segment.as_deref().is_none_or(nested)
}

#[tokio::test]
async fn explanations_add_up_and_go_out_as_data() {
    let store: Arc<dyn RecordStore> = Arc::new(MemoryStore::new("records"));
    let mut w = World::new(&store, 9);
    let ctx = w.ctx.clone();
    for _ in 0..60 {
        w.change().await;
    }
    let mut known = Vec::new();
    for _ in 0..12 {
        let id = w.dynamic(&known).await;
        known.push(id);
        let members = w.members(id).await;
        for who in &w.people {
            let why = w.segments.explain(&ctx, *who, id).await.unwrap();
            assert!(why.rule.as_ref().is_some_and(consistent));
            assert_eq!(why.member, members.contains(who));
            assert!(serde_json::to_value(&why).unwrap()["rule"]["holds"].is_boolean());
        }
    }
    let error = w
        .segments
        .explain(&ctx, fixtures::id().into(), known[0])
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}
