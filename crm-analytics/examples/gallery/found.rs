//! Pictures of what methods find in made-up customers: nothing in them is drawn by hand.

use std::sync::Arc;

use crm_analytics::Insights;
use crm_analytics::features::{FeaturePlan, Features, to_matrix};
use crm_analytics::insights::{Groups, Segmentation, SegmentationPlan};
use crm_analytics::judge::{GroupCriteria, Split, choose_groups, drift, permutation_importance, train_test};
use crm_analytics::metrics::{confusion, lift_table, precision_recall, reliability, roc};
use crm_analytics::model::{
    BoostConfig, CartTree, GradientBoosting, KMeans, KMeansConfig, Pca, PcaConfig, TreeConfig,
};
use crm_analytics::plot::Chart;
use crm_core::activity::{Money, ORDER, Order};
use crm_core::capability::{Classifier, ClassifierModel, Clusterer, RecordStore, Reducer};
use crm_core::customer::{Attributes, CUSTOMER};
use crm_core::memory::MemoryStore;
use crm_core::record::{Entity, Record, Write};
use crm_core::segment::{SEGMENT, SEGMENT_MEMBER};
use crm_core::{
    Column, Consumer, Context, Error, IdSource, ManualClock, Matrix, Registry, Result, SeededIds, Table,
    TenantId, Timestamp,
};

use super::Dice;

/// Charts by the names of their files.
pub(crate) type Charts = Vec<(&'static str, Chart)>;

/// How one kind of customers buys: how many of a hundred they are, orders, days between two, days since the last, what
/// is paid.
const KINDS: [(u32, f64, f64, f64, f64); 4] = [
    (22, 14.0, 18.0, 9.0, 95.0),
    (34, 2.4, 60.0, 380.0, 38.0),
    (18, 1.2, 20.0, 22.0, 42.0),
    (26, 7.0, 45.0, 70.0, 60.0),
];

async fn store(dice: &mut Dice, today: Timestamp) -> Result<(Arc<dyn RecordStore>, Context)> {
    let store = MemoryStore::new("records");
    store
        .migrate(&[&CUSTOMER, &ORDER, &SEGMENT, &SEGMENT_MEMBER])
        .await?;
    let shop = Context::new(TenantId::new("shop")?);
    let ids = SeededIds::new(Arc::new(ManualClock::at(today)), 7);
    let ago = |days: f64| Timestamp::from_micros(today.as_micros() - (days.max(0.5) * 86_400e6) as i64);
    for number in 0..1_500_u32 {
        let mut rest = number % 100;
        let kind = KINDS.iter().find(|(share, ..)| {
            let found = rest < *share;
            rest = rest.saturating_sub(*share);
            found
        });
        let (_, orders, gap, last, spend) = kind.copied().unwrap_or(KINDS[0]);
        let mut record = Record::new(&CUSTOMER);
        for field in ["given_name", "family_name", "display_name"] {
            record.set(field, "")?;
        }
        for field in ["addresses", "tags", "provenance"] {
            record.set(field, serde_json::json!([]))?;
        }
        let mut known = Attributes::default();
        known.set(
            "visits",
            serde_json::json!((orders * (1.0 + dice.unit() * 4.0)) as i64),
        )?;
        record.set("attributes", serde_json::json!(known))?;
        let orders = (orders * (0.35 * dice.normal()).exp()).round().max(1.0) as u32;
        let last = last * (0.45 * dice.normal()).exp();
        let first = ago(last + f64::from(orders) * gap + 30.0);
        record.set("created_at", first)?;
        record.set("updated_at", first)?;
        let customer = ids.fresh();
        let mut writes = vec![Write::insert(customer, record)];
        for order in 0..orders {
            let id = ids.fresh();
            let minor = (spend * 100.0 * (0.4 * dice.normal()).exp()) as i64;
            let order = Order {
                id: id.into(),
                customer_id: customer.into(),
                at: ago(last + f64::from(order) * gap * (0.6 + 0.8 * dice.unit())),
                total: Money::new(minor, "EUR")?,
                items: 1,
                source: "gallery".into(),
                event_id: id.to_string(),
            };
            writes.push(Write::insert(id, order.to_record()?));
        }
        store.apply(&shop, &writes).await?;
    }
    Ok((Arc::new(store), shop))
}

/// Segments of customers, and everything that is drawn of them.
pub(crate) async fn segments(dice: &mut Dice) -> Result<Charts> {
    let today = Timestamp::from_ymd(2026, 6, 1).ok_or_else(|| Error::invalid("no such day"))?;
    let (store, shop) = store(dice, today).await?;
    let registry = Registry::builder()
        .provide::<dyn RecordStore>(0, store.clone())
        .provide::<dyn Clusterer>(0, KMeans::shared(KMeansConfig::new(4))?)
        .provide::<dyn Reducer>(0, Pca::shared(PcaConfig::default())?)
        .provide::<dyn Classifier>(0, CartTree::shared(TreeConfig::new(3))?)
        .build()?;
    let insights = Insights::bind(&registry)?.with_clock(Arc::new(ManualClock::at(today)));
    let plan = SegmentationPlan::new("shop", FeaturePlan::rfm(today))
        .groups(Groups::Choose { from: 2, to: 8 })
        .seed(7);
    let found = insights.preview(&shop, &plan, &mut |_| ()).await?;
    let features = plan.features.read(&shop, &*store, &mut |_| ()).await?;

    let mut charts = vec![
        ("sizes", Chart::sizes(&found)),
        ("profile", Chart::profile(&found)),
        ("profile-dots", Chart::profile_dots(&found)),
        ("segment-importances", Chart::segment_importances(&found)),
        ("tree", tree(&found, &features)?),
        ("number-of-groups", number_of_groups(&found, &features)?),
    ];
    let of_plane = [
        ("plane", Chart::plane(&found)),
        ("loadings", Chart::loadings(&found)),
    ];
    charts.extend(
        of_plane
            .into_iter()
            .filter_map(|(name, chart)| Some((name, chart?))),
    );
    charts.push((
        "correlations",
        Chart::correlations_of(&to_matrix(&features.table)?),
    ));
    Ok(charts)
}

fn number_of_groups(found: &Segmentation, features: &Features) -> Result<Chart> {
    let x = found.pipeline.prepare(&features.table)?;
    let clusterer = KMeans::new(KMeansConfig::new(4))?;
    Ok(Chart::from(&choose_groups(
        &clusterer,
        &x,
        &GroupCriteria::between(2..=8),
        7,
    )?))
}

fn tree(found: &Segmentation, features: &Features) -> Result<Chart> {
    let x = to_matrix(&features.table)?;
    let classes: Vec<usize> = found.assignments.iter().flatten().copied().collect();
    let names: Vec<&str> = found
        .segments
        .iter()
        .map(|segment| segment.name.trim_start_matches("shop: "))
        .collect();
    let tree = CartTree::new(TreeConfig::new(3))?.learn(&x, &classes, None)?;
    Ok(Chart::tree("How to tell the segments apart", &tree, &names))
}

/// Customers of whom some leave, for reasons that chance blurs.
fn leavers(dice: &mut Dice, rows: usize, change: f64) -> Result<(Matrix, Vec<usize>)> {
    let names = [
        "recency_days",
        "frequency",
        "monetary",
        "tenure_days",
        "newsletter",
    ];
    let (mut values, mut leaves) = (Vec::new(), Vec::new());
    for _ in 0..rows {
        let recency = (3.6 + change + 0.9 * dice.normal()).exp();
        let frequency = (1.4 + 0.7 * dice.normal()).exp().round().max(1.0);
        let monetary = frequency * (3.7 + change / 2.0 + 0.5 * dice.normal()).exp();
        let tenure = recency + dice.unit() * 700.0;
        let newsletter = f64::from(u8::from(dice.unit() < 0.4));
        let odds = 0.9 * (recency.ln() - 3.6) - 0.8 * (frequency.ln() - 1.4) - 0.9 * newsletter - 0.7
            + 0.5 * f64::from(u8::from(monetary < 60.0 && recency > 60.0));
        leaves.push(usize::from(dice.unit() < 1.0 / (1.0 + (-1.6 * odds).exp())));
        values.extend([recency, frequency, monetary, tenure, newsletter]);
    }
    Ok((Matrix::new(names.map(String::from).to_vec(), values)?, leaves))
}

/// What a model foretells, judged on customers it has not seen.
pub(crate) fn predictions(dice: &mut Dice) -> Result<Charts> {
    let (x, leaves) = leavers(dice, 6_000, 0.0)?;
    let fold = train_test(x.rows(), 0.4, &Split::Stratified(&leaves), 7)?;
    let part = |rows: &[usize]| -> Result<(Matrix, Vec<usize>)> {
        let values = rows.iter().flat_map(|row| x.row(*row).iter().copied());
        let classes = rows.iter().filter_map(|row| leaves.get(*row).copied());
        Ok((
            Matrix::new(x.columns().to_vec(), values.collect())?,
            classes.collect(),
        ))
    };
    let ((train, seen), (test, unseen)) = (part(&fold.train)?, part(&fold.test)?);
    let config = BoostConfig {
        rounds: 60,
        max_leaves: 8,
        ..BoostConfig::default()
    };
    let model = GradientBoosting::new(config)?.learn(&train, &seen, None, 7)?;
    let scores: Vec<f64> = model.probabilities(&test)?.iter_col(1).collect();
    let left: Vec<bool> = unseen.iter().map(|class| *class == 1).collect();
    let rules = CartTree::new(TreeConfig {
        min_leaf_rows: 60,
        ..TreeConfig::new(3)
    })?
    .learn(&train, &seen, None)?;
    let names = ["stays", "leaves"];
    let told = confusion(&unseen, &model.predict(&test)?)?;
    let (later, _) = leavers(dice, 3_000, 0.35)?;
    Ok(vec![
        ("roc", Chart::from(&roc(&scores, &left)?)),
        (
            "precision-recall",
            Chart::from(&precision_recall(&scores, &left)?),
        ),
        ("gain-lift", Chart::from(&lift_table(&scores, &left, 10)?)),
        ("calibration", Chart::from(&reliability(&scores, &left, 10)?)),
        (
            "importances",
            Chart::permutation_importances(&permutation_importance(&model, &test, &unseen, 10, 7)?),
        ),
        (
            "confusion",
            Chart::confusion(&names.map(String::from), &told.counts),
        ),
        ("tree-leaves", Chart::tree("Who leaves", &rules, &names)),
        ("drift", Chart::from(&drift(&train, &later, 10)?)),
    ])
}

/// Profiles with holes: who has no phone number has no address either, mostly.
pub(crate) fn holes(dice: &mut Dice) -> Result<Charts> {
    let names = ["email", "phone", "city", "postal_code", "birthday", "company"];
    let mut columns: Vec<Column> = names.iter().map(|name| Column::text(*name)).collect();
    for _ in 0..4_000 {
        let (careless, business) = (dice.unit() < 0.2, dice.unit() < 0.3);
        let mut missing = |share: f64| dice.unit() < share;
        let nowhere = missing(if careless { 0.7 } else { 0.02 });
        let lacks = [
            missing(0.01),
            missing(if careless { 0.8 } else { 0.1 }),
            nowhere,
            nowhere || missing(0.03),
            missing(0.6),
            !business,
        ];
        for (column, lacks) in columns.iter_mut().zip(lacks) {
            column.push_text((!lacks).then_some("known"));
        }
    }
    let table = Table::new(columns)?;
    Ok(vec![
        ("missing", Chart::missing_of(&table)),
        ("missing-patterns", Chart::missing_patterns(&table)),
    ])
}
