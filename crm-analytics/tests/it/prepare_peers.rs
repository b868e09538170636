//! What pandas and scikit-learn make of the same frame (`benches/peers/analytics/prepare.py`).

use crm_analytics::clean::{Bounds, CleaningPlan, Fill, OutlierAction, OutlierRule, Statistic};
use crm_analytics::features::{Encoding, EncodingPlan, Impute, Scale};
use crm_core::record::{FieldType, Value};
use crm_core::{Column, Table};
use serde_json::Value as Json;

fn fixture() -> Json {
    serde_json::from_str(include_str!("../fixtures/prepare.json")).unwrap()
}

fn frame(json: &Json) -> Table {
    let mut columns = Vec::new();
    for name in ["plan", "city", "age", "spend", "visits", "constant", "order"] {
        let ty = if ["plan", "city"].contains(&name) {
            FieldType::Text
        } else {
            FieldType::Float
        };
        let mut column = Column::empty(name, ty).unwrap();
        for value in json["frame"][name].as_array().unwrap() {
            let value = match value {
                Json::Null => Value::Null,
                Json::String(text) => text.as_str().into(),
                number => number.as_f64().unwrap().into(),
            };
            column.push(value).unwrap();
        }
        columns.push(column);
    }
    Table::new(columns).unwrap()
}

fn numbers(json: &Json) -> Vec<Option<f64>> {
    json.as_array().unwrap().iter().map(Json::as_f64).collect()
}

/// One column of rows of numbers.
fn column(json: &Json, at: usize) -> Vec<Option<f64>> {
    json.as_array()
        .unwrap()
        .iter()
        .map(|row| row[at].as_f64())
        .collect()
}

fn of(table: &Table, name: &str) -> Vec<Option<f64>> {
    let column = table.column(name).unwrap();
    (0..column.len()).map(|row| column.f64_at(row)).collect()
}

fn alike(found: &[Option<f64>], wanted: &[Option<f64>], what: &str) {
    assert_eq!(found.len(), wanted.len(), "{what}");
    for (row, (found, wanted)) in found.iter().zip(wanted).enumerate() {
        match (found, wanted) {
            (None, None) => {}
            (Some(a), Some(b)) => {
                let scale = a.abs().max(b.abs()).max(1.0);
                assert!((a - b).abs() <= 1e-12 * scale, "{what} row {row}: {a} and {b}");
            }
            _ => panic!("{what} row {row}: {found:?} and {wanted:?}"),
        }
    }
}

fn cleaned(plan: CleaningPlan, table: &Table) -> Table {
    plan.fit(table).unwrap().table
}

#[test]
fn missing_values_are_filled_as_pandas_and_scikit_learn_fill_them() {
    let json = fixture();
    let table = frame(&json);
    for (name, fill) in [
        ("mean", Fill::Mean),
        ("median", Fill::Median),
        ("most_frequent", Fill::Mode),
    ] {
        let found = cleaned(CleaningPlan::new().fill(["age", "spend", "visits"], fill), &table);
        for (at, feature) in ["age", "spend", "visits"].into_iter().enumerate() {
            alike(
                &of(&found, feature),
                &column(&json["imputed"][name], at),
                &format!("{name} of {feature}"),
            );
        }
    }
    let group = Fill::Group {
        by: vec!["city".into()],
        with: Statistic::Median,
    };
    let found = cleaned(CleaningPlan::new().fill("age", group), &table);
    alike(
        &of(&found, "age"),
        &numbers(&json["group_median"]),
        "group median",
    );
    let forward = Fill::Forward {
        order: "order".into(),
        by: vec!["city".into()],
    };
    let found = cleaned(CleaningPlan::new().fill("visits", forward), &table);
    alike(&of(&found, "visits"), &numbers(&json["forward"]), "forward");
}

#[test]
fn numbers_are_bounded_and_bent_as_pandas_does() {
    let json = fixture();
    let table = frame(&json);
    let clip = CleaningPlan::new().clip(
        "spend",
        Bounds::Quantiles {
            low: 0.05,
            high: 0.95,
        },
    );
    alike(
        &of(&cleaned(clip, &table), "spend"),
        &numbers(&json["clip"]),
        "clip",
    );
    let iqr = CleaningPlan::new().outliers("spend", OutlierRule::Iqr { k: 1.5 }, OutlierAction::Clip);
    alike(&of(&cleaned(iqr, &table), "spend"), &numbers(&json["iqr"]), "iqr");
    let log = CleaningPlan::new().log1p("spend");
    alike(
        &of(&cleaned(log, &table), "spend"),
        &numbers(&json["log1p"]),
        "log1p",
    );
}

/// `df.fillna(0)` and `pd.get_dummies(df, columns=["plan"])`: two lines of a plan.
#[test]
fn the_seed_of_it_is_two_lines() {
    let json = fixture();
    let table = frame(&json);
    let plan = CleaningPlan::new().fill(["age", "spend"], 0.0).dummies("plan");
    let found = cleaned(plan, &table);
    for (at, name) in json["seed_columns"].as_array().unwrap().iter().enumerate() {
        let name = name.as_str().unwrap();
        alike(&of(&found, name), &column(&json["seed"], at), name);
    }
}

#[test]
fn columns_are_scaled_as_scikit_learn_scales_them() {
    let json = fixture();
    let table = frame(&json);
    let names = ["age", "spend", "visits", "constant"];
    let rows = table.rows() as f64;
    // Ours is the standard deviation of a sample, scikit-learn's that of a population.
    let ratio = (rows / (rows - 1.0)).sqrt();
    for (scale, fixture, factor) in [
        (Scale::Standard, "standard", ratio),
        (Scale::Robust, "robust", 1.0),
        (Scale::MinMax, "minmax", 1.0),
    ] {
        let count = if scale == Scale::Standard { 4 } else { 3 };
        let mut plan = EncodingPlan::new(1);
        for name in &names[..count] {
            plan = plan.feature(
                *name,
                Encoding::Number {
                    impute: Impute::Mean,
                    log1p: false,
                    scale,
                    missing: false,
                },
            );
        }
        // As the fixture: filled first, then scaled.
        let filled = cleaned(
            CleaningPlan::new().fill(["age", "spend", "visits"], Fill::Mean),
            &table,
        );
        let matrix = plan.fit(&filled, None).unwrap().matrix;
        for (at, name) in names.iter().enumerate().take(count) {
            let found: Vec<Option<f64>> = matrix.iter_col(at).map(|v| Some(v * factor)).collect();
            alike(
                &found,
                &column(&json[fixture], at),
                &format!("{fixture} of {name}"),
            );
        }
    }
    let found = cleaned(
        CleaningPlan::new().fill("age", Fill::Mean).standardise("age"),
        &table,
    );
    let found: Vec<Option<f64>> = of(&found, "age").iter().map(|v| v.map(|v| v * ratio)).collect();
    alike(&found, &column(&json["standard"], 0), "standardise");
}

#[test]
fn categories_are_encoded_as_scikit_learn_encodes_them() {
    let json = fixture();
    let mut table = cleaned(CleaningPlan::new().fill("plan", "none"), &frame(&json));
    let outcome = json["outcome"]
        .as_array()
        .unwrap()
        .iter()
        .map(|v| v.as_i64().unwrap())
        .collect();
    table.push(Column::ints("left", outcome)).unwrap();
    let mut ask = Column::text("plan");
    let asked = json["ask"].as_array().unwrap();
    asked.iter().for_each(|text| ask.push_text(text.as_str()));
    let ask = Table::new(vec![ask]).unwrap();
    let encoded = |encoding, outcome| {
        let fitted = EncodingPlan::new(1)
            .feature("plan", encoding)
            .fit(&table, outcome)
            .unwrap()
            .fitted;
        fitted.apply(&ask).unwrap().0
    };
    let hot = encoded(Encoding::one_hot(), None);
    let names: Vec<String> = json["one_hot_columns"]
        .as_array()
        .unwrap()
        .iter()
        .map(|n| format!("plan={}", n.as_str().unwrap()))
        .collect();
    assert_eq!(hot.columns(), names);
    for (at, name) in names.iter().enumerate() {
        let found: Vec<Option<f64>> = hot.iter_col(at).map(Some).collect();
        alike(&found, &column(&json["one_hot"], at), name);
    }
    let levels = ["free", "pro", "größer"].map(str::to_owned).into();
    let ordinal: Vec<Option<f64>> = encoded(Encoding::Ordinal { levels }, None)
        .iter_col(0)
        .map(Some)
        .collect();
    alike(&ordinal, &numbers(&json["ordinal"]), "ordinal");
    let target: Vec<Option<f64>> = encoded(Encoding::Target { smoothing: 5.0 }, Some("left"))
        .iter_col(0)
        .map(Some)
        .collect();
    alike(&target, &numbers(&json["target"]), "target");
}
