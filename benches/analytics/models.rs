//! k-means, principal components, trees and single rows.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;

use anyhow::{Result, ensure};
use open_crm::Matrix;
use open_crm::analytics::metrics::{accuracy, log_loss};
use open_crm::analytics::model::{
    BoostConfig, CartTree, ForestConfig, GradientBoosting, KMeans, KMeansConfig, LogisticConfig,
    LogisticRegression, Pca, PcaConfig, RandomForest, TreeConfig,
};
use open_crm::capability::{ClassifierModel, ClusterModel, ReduceModel};

use crate::{processor, step};

/// A seeded sequence (SplitMix64).
struct Sequence(u64);

impl Sequence {
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
    /// About normal.
    fn normal(&mut self) -> f64 {
        (0..6).map(|_| self.unit()).sum::<f64>() * std::f64::consts::SQRT_2 - 3.0 * std::f64::consts::SQRT_2
    }
}

/// Eleven kinds of customers that overlap, in eight columns; who leaves hangs on three of them, with chance.
fn generate(rows: usize) -> Result<(Matrix, Vec<usize>)> {
    let mut sequence = Sequence(7);
    let centers: Vec<f64> = (0..88).map(|_| sequence.normal() * 2.5).collect();
    let (mut values, mut leaves) = (Vec::with_capacity(rows * 8), Vec::with_capacity(rows));
    for _ in 0..rows {
        // Kinds of different size.
        let kind = ((sequence.unit() * sequence.unit()) * 11.0) as usize;
        let spread = 0.6 + (kind % 4) as f64 * 0.35;
        let row: Vec<f64> = centers[kind * 8..kind * 8 + 8]
            .iter()
            .map(|c| c + spread * sequence.normal())
            .collect();
        let odds = 1.1 * row[0] - 0.8 * row[3] * f64::from(u8::from(row[5] > 0.0)) + 0.6 * row[7] - 0.5;
        leaves.push(usize::from(sequence.unit() < 1.0 / (1.0 + (-odds).exp())));
        values.extend(row);
    }
    Ok((
        Matrix::new((0..8).map(|i| format!("x{i}")).collect(), values)?,
        leaves,
    ))
}

pub(crate) fn run(rows: usize, folder: &Path) -> Result<()> {
    let (x, leaves) = generate(rows)?;
    let mut file = BufWriter::new(File::create(folder.join("rows.f64"))?);
    for value in x.as_slice() {
        file.write_all(&value.to_le_bytes())?;
    }
    file.into_inner()?.sync_all()?;
    std::fs::write(
        folder.join("leaves.u8"),
        leaves.iter().map(|class| *class as u8).collect::<Vec<_>>(),
    )?;

    for (k, starts) in [(8, 10), (8, 1), (3, 10)] {
        let config = KMeansConfig {
            starts,
            ..KMeansConfig::new(k)
        };
        let name = format!("k-means k={k} starts={starts}");
        let model = step(
            &name,
            || Ok(KMeans::new(config)?.learn(&x, None, 1)?),
            |model| format!("inertia {:.1}, {} rounds", model.inertia(), model.iterations()),
        )?;
        if starts == 10 && k == 8 {
            step(
                "k-means predict",
                || Ok(model.predict(&x)?),
                |labels| format!("{} rows", labels.len()),
            )?;
            let mut sum = 0;
            let spent = processor();
            for row in x.iter_rows().take(100_000) {
                sum += model.assign_row(row)?.unwrap_or(0);
            }
            println!("k-means one row\t{:.4} us\t\t{sum}", (processor() - spent) * 10.0);
        }
    }
    let fit = || {
        step(
            "PCA(2) fit",
            || Ok(Pca::new(PcaConfig::default())?.learn(&x)?),
            |model| format!("shares {:?}", model.explained_ratio()),
        )
    };
    // Three times, as a short step tells more about the machine than a long one.
    fit()?;
    fit()?;
    let plane = fit()?;
    step(
        "PCA(2) transform",
        || Ok(plane.transform(&x)?),
        |points| format!("{} rows", points.rows()),
    )?;

    let learned = rows * 4 / 5;
    let part =
        |from: usize, to: usize| Matrix::new(x.columns().to_vec(), x.as_slice()[from * 8..to * 8].to_vec());
    let (train, test) = (part(0, learned)?, part(learned, rows)?);
    let (seen, unseen) = (&leaves[..learned], &leaves[learned..]);
    let judge = |model: &dyn ClassifierModel| -> String {
        let told = model
            .predict(&test)
            .and_then(|told| accuracy(unseen, &told))
            .unwrap_or(0.0);
        let loss = model
            .probabilities(&test)
            .and_then(|p| log_loss(&p, unseen))
            .unwrap_or(f64::NAN);
        format!("accuracy {told:.5}, log loss {loss:.5}")
    };
    let one = |name: &str, model: &dyn ClassifierModel| -> Result<()> {
        let mut out = [0.0; 2];
        let (mut sum, times) = (0.0, test.rows());
        ensure!(times > 0, "too few rows to score");
        let spent = processor();
        for row in test.iter_rows() {
            model.score_row(row, &mut out)?;
            sum += out[1];
        }
        println!(
            "{name} one row\t{:.4} us\t\t{:.4}",
            (processor() - spent) * 1e6 / times as f64,
            sum / times as f64
        );
        Ok(())
    };
    let tree = step(
        "tree depth 6",
        || Ok(CartTree::new(TreeConfig::new(6))?.learn(&train, seen, None)?),
        |m| judge(m),
    )?;
    one("tree", &tree)?;
    let logistic = LogisticRegression::new(LogisticConfig::default())?;
    let model = step(
        "logistic",
        || Ok(logistic.learn(&train, seen, None)?),
        |m| judge(m),
    )?;
    one("logistic", &model)?;
    let boosting = GradientBoosting::new(BoostConfig::default())?;
    let model = step(
        "boosting 100 rounds",
        || Ok(boosting.learn(&train, seen, None, 1)?),
        |m| judge(m),
    )?;
    one("boosting", &model)?;
    let forest = RandomForest::new(ForestConfig {
        trees: 10,
        max_depth: 8,
        ..ForestConfig::default()
    })?;
    let model = step(
        "forest of 10, depth 8",
        || Ok(forest.learn(&train, seen, None, 1)?),
        |m| judge(m),
    )?;
    one("forest", &model)
}
