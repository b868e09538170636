//! Cleaning, encoding and model as one thing: learned, kept, asked for one row as for many.

use crm_analytics::clean::{Case, CleaningPlan, Columns, Decimal, Expr, Fill, Keep};
use crm_analytics::features::{Encoding, EncodingPlan, Impute, Scale};
use crm_analytics::model::ModelSpec;
use crm_analytics::pipeline::{Artefact, FittedPipeline, PipelinePlan, Scored, Scorer, StoredModels, Task};
use crm_analytics::pipeline::{Stage, Which};
use crm_core::capability::RecordStore;
use crm_core::memory::MemoryStore;
use crm_core::record::Value;
use crm_core::testkit::fixtures::{self, Dice};
use crm_core::{Column, ErrorKind, ManualClock, SeededIds, Table, Timestamp};
use std::sync::Arc;

fn at() -> Timestamp {
    Timestamp::from_ymd(2026, 3, 1).unwrap()
}

/// Customers whose churn follows plan and visits, with some chance; written as people write.
fn people(rows: usize, seed: u64) -> Table {
    let mut dice = Dice::new(seed);
    let mut columns = ["plan", "price"].map(Column::text).to_vec();
    let (mut visits, mut churned, mut spend) = (
        Column::float("visits"),
        Column::text("churned"),
        Column::float("spend"),
    );
    for _ in 0..rows {
        let pro = dice.one_in(2);
        let seen = dice.below(30) as f64;
        let plan = ["pro", " Pro", "PRO "][dice.below(3)];
        columns[0].push_text(if dice.one_in(20) {
            None
        } else {
            Some(if pro { plan } else { "free" })
        });
        columns[1].push_text(Some(&format!("1.{:03},50 €", dice.below(1_000))));
        visits
            .push(if dice.one_in(10) { Value::Null } else { seen.into() })
            .unwrap();
        let leaves = (!pro && seen < 18.0) != dice.one_in(12);
        churned.push_text(if dice.one_in(40) {
            None
        } else {
            Some(if leaves { "yes" } else { "no" })
        });
        spend
            .push((seen * 3.0 + if pro { 50.0 } else { 0.0 } + dice.below(5) as f64).into())
            .unwrap();
    }
    columns.extend([visits, churned, spend]);
    Table::new(columns).unwrap()
}

fn plan(kind: &str, task: Task) -> PipelinePlan {
    let number = |missing| Encoding::Number {
        impute: Impute::Median,
        log1p: false,
        scale: Scale::Standard,
        missing,
    };
    PipelinePlan {
        name: "churn".into(),
        cleaning: CleaningPlan::new()
            .squeeze("plan")
            .case("plan", Case::Lower)
            .number("price", Decimal::Comma)
            .fill("plan", "none")
            .derive("per_visit", Expr::column("price").over(Expr::column("visits")))
            .keep_rows(Expr::column("price").above(1_010.0)),
        encoding: EncodingPlan::new(7)
            .feature("plan", Encoding::one_hot())
            .feature("visits", number(true))
            .feature("per_visit", number(false))
            .outcome("spend")
            .outcome("churned"),
        model: ModelSpec::new(kind),
        task,
        seed: 7,
        features: None,
    }
}

fn row(table: &Table, row: usize) -> Vec<Value> {
    table.columns().iter().map(|column| column.value(row)).collect()
}

fn bits(scored: &Scored) -> Vec<u64> {
    match scored {
        Scored::Probabilities(p) => p.iter().map(|p| p.to_bits()).collect(),
        Scored::Number(v) => vec![v.to_bits()],
        Scored::Group(group) => vec![group.map_or(u64::MAX, |group| group as u64)],
        Scored::LeftOut => Vec::new(),
    }
}

/// The columns a pipeline takes.
fn asked(table: &Table) -> Table {
    let left = table
        .columns()
        .iter()
        .filter(|c| !["churned", "spend"].contains(&c.name()));
    Table::new(left.cloned().collect()).unwrap()
}

#[test]
fn every_model_scores_one_row_as_it_scores_all_also_when_it_was_kept() {
    let (learned_from, others) = (people(400, 1), asked(&people(300, 2)));
    let classify = || Task::Classify("churned".into());
    let estimate = || Task::Estimate("spend".into());
    let kinds = ModelSpec::CLASSIFIERS.iter().map(|kind| (*kind, classify()));
    let kinds = kinds.chain(ModelSpec::REGRESSORS.iter().map(|kind| (*kind, estimate())));
    let kinds = kinds.chain(ModelSpec::CLUSTERERS.iter().map(|kind| (*kind, Task::Group)));
    for (kind, task) in kinds {
        let mut pipeline = plan(kind, task.clone());
        if kind == "ridge" {
            // One column a category, and a constant: without a penalty they are not determined.
            pipeline.model = pipeline.model.with("l2", 1.0);
        }
        let artefact = pipeline
            .fit(&learned_from, at())
            .unwrap_or_else(|e| panic!("{kind}: {e}"));
        assert_eq!(
            pipeline.fit(&learned_from, at()).unwrap(),
            artefact,
            "{kind}: same seed, same pipeline"
        );
        let read = Artefact::<FittedPipeline>::from_bytes(&artefact.to_bytes().unwrap()).unwrap();
        assert_eq!(read, artefact, "{kind}");
        let scorer = Scorer::new(&read.learned).unwrap();
        let all = scorer.score(&others).unwrap();
        let mut left_out = 0;
        for (at, among) in all.iter().enumerate() {
            let alone = scorer.score_row(&row(&others, at)).unwrap();
            assert_eq!((&alone, bits(&alone)), (among, bits(among)), "{kind} row {at}");
            left_out += usize::from(alone == Scored::LeftOut);
        }
        assert!(left_out > 0 && left_out < 50, "{kind}: {left_out}");
        match task {
            Task::Classify(_) => {
                assert_eq!(scorer.labels(), ["no", "yes"]);
                assert!(
                    artefact.metrics["held_out_auc"] > 0.75,
                    "{kind}: {:?}",
                    artefact.metrics
                );
            }
            Task::Estimate(_) => assert!(
                artefact.metrics["held_out_r2"] > 0.8,
                "{kind}: {:?}",
                artefact.metrics
            ),
            Task::Group => {}
        }
    }
}

#[test]
fn categories_never_seen_and_missing_values_are_defined() {
    let artefact = plan("logistic", Task::Classify("churned".into()))
        .fit(&people(400, 1), at())
        .unwrap();
    let scorer = Scorer::new(&artefact.learned).unwrap();
    let input: Vec<&str> = scorer.input().map(|(name, _)| name).collect();
    assert_eq!(input, ["plan", "price", "visits"]);
    let score =
        |plan: Value, visits: Value| match scorer.score_row(&[plan, "1.500,00".into(), visits]).unwrap() {
            Scored::Probabilities(p) => p[1],
            other => panic!("{other:?}"),
        };
    let known = score("free".into(), Value::Float(3.0));
    let never_seen = score("enterprise".into(), Value::Float(3.0));
    let missing = score(Value::Null, Value::Null);
    assert!(
        [known, never_seen, missing]
            .iter()
            .all(|p| p.is_finite() && (0.0..=1.0).contains(p))
    );
    assert_ne!(known.to_bits(), never_seen.to_bits());
    // NaN is missing, and a plan written otherwise is the same plan.
    assert_eq!(
        score(Value::Null, Value::Float(f64::NAN)).to_bits(),
        missing.to_bits()
    );
    assert_eq!(
        score("  FREE ".into(), Value::Float(3.0)).to_bits(),
        known.to_bits()
    );
    let error = scorer.score_row(&["free".into(), "1".into()]).unwrap_err();
    assert_eq!(
        (error.kind(), error.context("wanted")),
        (ErrorKind::Invalid, Some("3"))
    );
    let error = scorer
        .score_row(&["free".into(), Value::Float(1.0), Value::Null])
        .unwrap_err();
    assert_eq!(error.context("column"), Some("price"));
}

#[test]
fn nothing_that_is_known_with_the_outcome_is_learned_from() {
    let table = people(400, 1);
    let task = || Task::Classify("churned".into());
    let leaks: [(&str, PipelinePlan); 4] = [
        ("churned", {
            let mut p = plan("cart", task());
            p.encoding = p.encoding.feature("churned", Encoding::one_hot());
            p
        }),
        ("spend", {
            let mut p = plan("cart", task());
            p.encoding = p.encoding.feature("spend", Encoding::number());
            p
        }),
        ("churned", {
            let mut p = plan("cart", task());
            p.cleaning = p.cleaning.derive("again", Expr::column("churned"));
            p
        }),
        ("spend", {
            let mut p = plan("cart", task());
            p.cleaning = p.cleaning.fill(
                "visits",
                Fill::Group {
                    by: vec!["spend".into()],
                    with: crm_analytics::clean::Statistic::Mean,
                },
            );
            p
        }),
    ];
    for (column, pipeline) in leaks {
        let error = pipeline.fit(&table, at()).unwrap_err();
        assert_eq!(
            (error.kind(), error.context("column")),
            (ErrorKind::Invalid, Some(column))
        );
        assert!(
            error.to_string().contains("only known with the outcome"),
            "{error}"
        );
    }
    // `Columns::All` does not see it either: the model of a plan over all columns does not change with the outcome's text.
    let mut all = plan("cart", task());
    all.cleaning = all.cleaning.then(crm_analytics::clean::Step::Squeeze {
        columns: Columns::All,
    });
    let artefact = all.fit(&table, at()).unwrap();
    assert!(
        artefact
            .learned
            .cleaning
            .input()
            .all(|name| name != "churned" && name != "spend")
    );
    // A step that looks at other rows cannot score one.
    let mut twice = plan("cart", task());
    twice.cleaning = twice.cleaning.deduplicate("price", Keep::First);
    let error = twice.fit(&table, at()).unwrap_err();
    assert_eq!(
        (error.kind(), error.context("step")),
        (ErrorKind::Unsupported, Some("deduplicate"))
    );
}

#[test]
fn target_encodings_learn_from_the_outcome_of_others_only() {
    let table = people(600, 3);
    let mut pipeline = plan("logistic", Task::Classify("churned".into()));
    pipeline.encoding = EncodingPlan::new(7)
        .feature("plan", Encoding::Target { smoothing: 5.0 })
        .outcome("spend");
    let artefact = pipeline.fit(&table, at()).unwrap();
    assert!(artefact.metrics["held_out_auc"] > 0.6);
    let scorer = Scorer::new(&artefact.learned).unwrap();
    let p = |plan: &str| match scorer
        .score_row(&[plan.into(), "1.500,00".into(), Value::Null])
        .unwrap()
    {
        Scored::Probabilities(p) => p[1],
        other => panic!("{other:?}"),
    };
    assert!(p("free") > p("pro") && p("free") > p("never seen") && p("never seen") > p("pro"));
}

#[tokio::test]
async fn pipelines_are_published_promoted_and_loaded_by_stage() {
    let clock = Arc::new(ManualClock::at(at()));
    let store = Arc::new(MemoryStore::new("records"));
    store.migrate(&StoredModels::schemas()).await.unwrap();
    let models = StoredModels::new(store, clock.clone(), Arc::new(SeededIds::new(clock, 1)));
    let ctx = fixtures::context();
    let first = plan("logistic", Task::Classify("churned".into()))
        .fit(&people(300, 1), at())
        .unwrap();
    let second = plan("cart", Task::Classify("churned".into()))
        .fit(&people(300, 1), at())
        .unwrap();
    let one = models
        .publish(&ctx, "churn", &first.to_bytes().unwrap())
        .await
        .unwrap();
    models
        .stage(&ctx, "churn", one.number, Stage::Live)
        .await
        .unwrap();
    let two = models
        .publish(&ctx, "churn", &second.to_bytes().unwrap())
        .await
        .unwrap();
    let live = async |which| {
        let (record, bytes) = models.load(&ctx, "churn", which).await.unwrap();
        (
            record.number,
            Artefact::<FittedPipeline>::from_bytes(&bytes).unwrap(),
        )
    };
    assert_eq!(live(Which::Live).await, (1, first.clone()));
    assert_eq!(live(Which::Newest).await, (2, second.clone()));
    models
        .stage(&ctx, "churn", two.number, Stage::Live)
        .await
        .unwrap();
    assert_eq!(live(Which::Live).await, (2, second));
    // Taken back.
    models
        .stage(&ctx, "churn", one.number, Stage::Live)
        .await
        .unwrap();
    assert_eq!(live(Which::Live).await, (1, first));
}
