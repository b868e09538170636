//! How long a million customers take, and how much memory: `cargo run --release -p crm-analytics --example million`.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::disallowed_methods
)]

use std::time::Instant;

use crm_analytics::clean::{Bounds, CleaningPlan, Columns, Fill};
use crm_analytics::features::{Scaling, to_matrix};
use crm_analytics::model::{CartTree, KMeans, KMeansConfig, Pca, PcaConfig, TreeConfig, choose_clusters};
use crm_core::capability::{ClassifierModel, ClusterModel, ReduceModel};
use crm_core::{Column, Table};

fn main() {
    let rows: usize = std::env::args().nth(1).map_or(1_000_000, |n| n.parse().unwrap());
    // A simple linear congruence is enough: four kinds of customers with a spread.
    let mut state = 1_u64;
    let mut unit = move || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 11) as f64 / (1_u64 << 53) as f64
    };
    let mut columns = [const { Vec::new() }; 4];
    for row in 0..rows {
        let (recency, orders, spend) = [
            (5.0, 20.0, 900.0),
            (40.0, 6.0, 200.0),
            (200.0, 3.0, 80.0),
            (600.0, 1.0, 30.0),
        ][row % 4];
        let spread = 0.5 + unit();
        let values = [
            recency * (0.5 + unit()),
            orders * spread,
            spend * spread * (0.7 + unit()),
            recency + 700.0 * unit(),
        ];
        columns
            .iter_mut()
            .zip(values)
            .for_each(|(column, value)| column.push(value));
    }
    let names = ["recency_days", "frequency", "monetary", "tenure_days"];
    let table = Table::new(
        names
            .iter()
            .zip(columns)
            .map(|(n, v)| Column::floats(*n, v))
            .collect(),
    )
    .unwrap();
    let started = Instant::now();
    let mut last = started;
    let mut step = |name: &str| {
        println!("{name:<34} {:>7.2} s", last.elapsed().as_secs_f64());
        last = Instant::now();
    };
    let plan = CleaningPlan::new().fill(Columns::All, Fill::Median).clip(
        "monetary",
        Bounds::Quantiles {
            low: 0.0,
            high: 0.999,
        },
    );
    let cleaned = plan.fit(&table).unwrap();
    step("clean: fill medians, clip");
    let x = to_matrix(&cleaned.table).unwrap();
    let scaled = Scaling::fit(&x, &["frequency".into(), "monetary".into()])
        .unwrap()
        .apply(&x)
        .unwrap();
    step("matrix, logarithms, scale");
    let kmeans = KMeans::new(KMeansConfig::new(4)).unwrap();
    let sample = crm_core::Matrix::new(
        scaled.columns().to_vec(),
        scaled.as_slice()[..(10_000 * 4).min(rows * 4)].to_vec(),
    )
    .unwrap();
    let choice = choose_clusters(&kmeans, &sample, 2..=8, 5_000, 1).unwrap();
    step("choose 2..=8 groups on 10,000");
    let model = kmeans.learn(&scaled, None, 1).unwrap();
    step("k-means (k=4) on all rows");
    let labels: Vec<usize> = model.predict(&scaled).unwrap().into_iter().flatten().collect();
    step("assign all rows");
    let plane = Pca::new(PcaConfig::default()).unwrap().learn(&scaled).unwrap();
    step("principal components of all rows");
    plane.transform(&scaled).unwrap();
    step("project all rows");
    let n = rows.min(50_000);
    let part = crm_core::Matrix::new(x.columns().to_vec(), x.as_slice()[..n * 4].to_vec()).unwrap();
    let tree = CartTree::new(TreeConfig::default())
        .unwrap()
        .learn(&part, &labels[..n], None)
        .unwrap();
    step("rules from 50,000");
    println!(
        "best k {}, inertia {:.1}, sizes {:?}, {} rules",
        choice.best,
        model.inertia(),
        model.sizes(),
        tree.rules().len()
    );
    let memory = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = memory
        .lines()
        .find(|line| line.starts_with("VmHWM"))
        .unwrap_or("no peak memory known");
    println!("all together {:.2} s, {peak}", started.elapsed().as_secs_f64());
}
