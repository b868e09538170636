//! Cleaning a frame: beside `benches/peers/analytics/clean.py`, which does the same with pandas and Polars from Python.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result};
use open_crm::analytics::clean::{
    Bounds, Case, CleaningPlan, Fill, Keep, OutlierAction, OutlierRule, Statistic, Step,
};
use open_crm::analytics::features::{Encoding, EncodingPlan};
use open_crm::analytics::model::ModelSpec;
use open_crm::analytics::pipeline::{PipelinePlan, Scorer, Task};
use open_crm::record::{FieldType, Value};
use open_crm::{Column, Table, Timestamp};

/// A seeded source of numbers.
struct Dice(u64);

impl Dice {
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
    fn below(&mut self, n: usize) -> usize {
        (self.unit() * n as f64) as usize % n
    }
}

/// Customers as lists bring them: blanks and capitals by chance, every tenth value missing, one in fifty there twice.
fn frame(rows: usize) -> Table {
    let mut dice = Dice(7);
    let mut texts = ["email", "name", "plan", "city"].map(Column::text);
    let (mut age, mut spend, mut visits) = (
        Column::float("age"),
        Column::float("spend"),
        Column::float("visits"),
    );
    let plans = ["free", "pro", "team", "enterprise"];
    let cities = ["Perth", "Tallinn", "Lodz", "Graz", "Oslo", "Bern"];
    for row in 0..rows {
        let person = if dice.below(50) == 0 { row / 2 } else { row };
        let loud = dice.below(4) == 0;
        let email = format!("{}.{person}@example.com", if loud { "ANA" } else { "ana" });
        texts[0].push_text(Some(&if dice.below(8) == 0 {
            format!(" {email} ")
        } else {
            email
        }));
        texts[1].push_text(Some(&format!(
            "  Ana {}Kask",
            if dice.below(3) == 0 { " " } else { "" }
        )));
        let plan = if dice.below(1_000) == 0 {
            "trial"
        } else {
            plans[dice.below(4)]
        };
        let plan = if loud {
            plan.to_uppercase()
        } else {
            plan.to_owned()
        };
        texts[2].push_text((dice.below(10) > 0).then_some(plan.as_str()));
        texts[3].push_text(Some(cities[dice.below(6)]));
        let number = |column: &mut Column, value: f64, missing: bool| {
            let value = if missing { Value::Null } else { Value::Float(value) };
            column.push(value).expect("a number");
        };
        let missing = [dice.below(10) == 0, dice.below(10) == 0, dice.below(10) == 0];
        let (u, v, w) = (dice.unit(), dice.unit(), dice.unit());
        number(&mut age, (18.0 + 60.0 * u).floor(), missing[0]);
        number(&mut spend, (8.0 * v).exp(), missing[1]);
        number(&mut visits, (30.0 * w * w).floor(), missing[2]);
    }
    let mut columns: Vec<Column> = texts.into();
    columns.extend([age, spend, visits]);
    Table::new(columns).expect("a table")
}

/// A column a file: a value a line, empty where there is none.
fn leave(table: &Table, folder: &Path) -> Result<()> {
    for column in table.columns() {
        let mut out = String::new();
        for row in 0..column.len() {
            match column.value(row) {
                Value::Text(text) => out.push_str(&text),
                Value::Float(value) => write!(out, "{value}")?,
                _ => {}
            }
            out.push('\n');
        }
        std::fs::write(folder.join(format!("clean-{}.txt", column.name())), out).context("a column")?;
    }
    Ok(())
}

fn plan() -> CleaningPlan {
    CleaningPlan::new()
        .trim(["email", "name"])
        .case(["email", "plan"], Case::Lower)
        .fill("plan", "none")
        .then(Step::Fold {
            columns: "plan".into(),
            synonyms: Default::default(),
            min_count: 5_000,
            max_categories: None,
            other: "other".into(),
        })
        .fill("age", Fill::Median)
        .fill("visits", 0.0)
        .fill(
            "spend",
            Fill::Group {
                by: vec!["city".into()],
                with: Statistic::Median,
            },
        )
        .outliers("spend", OutlierRule::Iqr { k: 1.5 }, OutlierAction::Clip)
        .clip(
            "visits",
            Bounds::Quantiles {
                low: 0.01,
                high: 0.99,
            },
        )
        .log1p("visits")
        .standardise(["age", "spend", "visits"])
        .dummies("plan")
        .dummies("city")
}

/// Processor seconds of the whole process, from the kernel: Polars has threads of its own.
fn process_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = text
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    let ticks = |at: usize| {
        fields
            .get(at)
            .and_then(|field| field.parse::<f64>().ok())
            .unwrap_or_default()
    };
    (ticks(11) + ticks(12)) / 100.0
}

/// A line of /proc/self/status, in MiB.
fn memory(line: &str) -> f64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let found = text.lines().find_map(|one| one.strip_prefix(line));
    let kib = found.and_then(|rest| rest.trim_matches([':', ' ', '\t', 'k', 'B']).parse::<f64>().ok());
    kib.unwrap_or_default() / 1_024.0
}

fn measured<T>(name: &str, run: impl FnOnce() -> Result<T>, found: impl FnOnce(&T) -> String) -> Result<T> {
    // Forgets the peak so far.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
    let (before, begun, spent) = (memory("VmRSS"), Instant::now(), process_seconds());
    let answer = run()?;
    let (spent, took) = (process_seconds() - spent, begun.elapsed().as_secs_f64());
    let peak = memory("VmHWM") - before;
    println!(
        "{name}\t{spent:.2} CPU s\t{took:.3} s\t{peak:.0} MiB more at the peak\t{}",
        found(&answer)
    );
    Ok(answer)
}

fn sums(table: &Table) -> String {
    let numbers = table.columns().iter().filter_map(|column| {
        column.f64_at(0)?;
        let sum: f64 = (0..column.len())
            .filter_map(|row| column.f64_at(row))
            .map(f64::abs)
            .sum();
        Some(format!("{}={sum:.3}", column.name()))
    });
    numbers.collect::<Vec<_>>().join(" ")
}

pub(super) fn run(rows: usize, folder: &Path) -> Result<()> {
    let before = memory("VmRSS");
    let table = frame(rows);
    println!("the frame: {rows} rows, {:.0} MiB", memory("VmRSS") - before);
    leave(&table, folder)?;
    let cleaned = measured(
        "clean (13 steps, learned and run)",
        || Ok(plan().fit(&table)?),
        |cleaned| sums(&cleaned.table),
    )?;
    measured(
        "clean (learned before)",
        || Ok(cleaned.fitted.apply(&table)?),
        |(table, _)| sums(table),
    )?;
    let seed = CleaningPlan::new()
        .fill(["age", "spend", "visits"], 0.0)
        .dummies("plan");
    measured(
        "fillna(0) and get_dummies",
        || Ok(seed.fit(&table)?),
        |cleaned| sums(&cleaned.table),
    )?;
    let twice = CleaningPlan::new()
        .trim("email")
        .case("email", Case::Lower)
        .deduplicate("email", Keep::First);
    measured(
        "deduplicate by e-mail",
        || Ok(twice.fit(&table)?),
        |cleaned| format!("{} rows left", cleaned.table.rows()),
    )?;
    one_row(&table)
}

/// What scoring one customer takes.
fn one_row(table: &Table) -> Result<()> {
    let mut columns: Vec<Column> = Vec::new();
    for column in table.columns().iter().filter(|column| column.name() != "email") {
        let mut some = Column::empty(column.name(), column.ty())?;
        for row in 0..table.rows().min(20_000) {
            some.push(column.value(row))?;
        }
        columns.push(some);
    }
    let some = Table::new(columns)?;
    for kind in ["logistic", "gradient-boosting"] {
        let pipeline = PipelinePlan {
            name: "visits".into(),
            cleaning: CleaningPlan::new()
                .trim("name")
                .case("plan", Case::Lower)
                .fill("plan", "none")
                .fill(
                    "spend",
                    Fill::Group {
                        by: vec!["city".into()],
                        with: Statistic::Median,
                    },
                )
                .outliers("spend", OutlierRule::Iqr { k: 1.5 }, OutlierAction::Clip)
                .log1p("spend")
                .fill("visits", 0.0),
            encoding: EncodingPlan::new(7)
                .feature("age", Encoding::number())
                .feature("spend", Encoding::number())
                .feature("visits", Encoding::number())
                .feature("plan", Encoding::one_hot()),
            model: ModelSpec::new(kind),
            task: Task::Classify("leaves".into()),
            seed: 7,
            features: None,
        };
        let mut with = some.clone();
        let mut leaves = Column::empty("leaves", FieldType::Bool)?;
        for row in 0..some.rows() {
            let visits = some.column("visits")?.f64_at(row).unwrap_or_default();
            leaves.push(Value::Bool((visits as u64 + row as u64 % 7).is_multiple_of(3)))?;
        }
        with.push(leaves)?;
        let artefact = pipeline.fit(&with, Timestamp::EPOCH)?;
        let scorer = Scorer::new(&artefact.learned)?;
        let names: Vec<String> = scorer.input().map(|(name, _)| name.to_owned()).collect();
        let rows: Vec<Vec<Value>> = (0..1_000)
            .map(|row| {
                names
                    .iter()
                    .map(|name| Ok(some.column(name)?.value(row)))
                    .collect::<Result<_>>()
            })
            .collect::<Result<_>>()?;
        let times = 200;
        let (begun, spent) = (Instant::now(), super::processor());
        let mut scored = 0;
        for _ in 0..times {
            for row in &rows {
                scored += usize::from(scorer.score_row(row).is_ok());
            }
        }
        let (spent, took) = (super::processor() - spent, begun.elapsed().as_secs_f64());
        let each = 1e6 / (times * rows.len()) as f64;
        println!(
            "one customer, cleaned, encoded and scored ({kind})\t{:.2} us CPU\t{:.2} us\t{scored} scored",
            spent * each,
            took * each
        );
    }
    Ok(())
}
