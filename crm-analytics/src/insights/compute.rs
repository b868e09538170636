//! The part of a segmentation that only computes.

use std::collections::BTreeMap;

use crm_core::capability::{ClusterModel, Clusterer};
use crm_core::segment::Lineage;
use crm_core::{CustomerId, Error, ErrorKind, Matrix, Result, TenantId, Uuid};
use sha2::{Digest, Sha256};

use super::names::{figure, name, traits, unique};
use super::{
    Groups, Models, Pipeline, Projection, SegmentRule, SegmentSummary, Segmentation, SegmentationPlan,
};
use crate::features::{Features, Scaling, to_matrix};
use crate::metrics::{accuracy, inertia, silhouette, sizes};
use crate::model::{Choice, choose_clusters};
use crate::sample::{sample_rows, take_rows};

/// Silhouettes grow with the square of the rows.
const SILHOUETTE_ROWS: usize = 5_000;

/// The number of groups shows in few rows, and is tried many times over.
const CHOICE_ROWS: usize = 10_000;

pub(super) fn segmentation(
    models: &Models,
    plan: &SegmentationPlan,
    tenant: &TenantId,
    features: Features,
) -> Result<Segmentation> {
    let enough = |rows: usize, cleaned_away: usize| {
        if rows < 2 {
            return Err(Error::invalid(
                "there are too few customers to group; look at the plan's filter, instant and cleaning",
            )
            .with("customers", rows)
            .with("left_out", features.report.left_out)
            .with("cleaned_away", cleaned_away));
        }
        Ok(())
    };
    enough(features.ids.len(), 0)?;
    let mut notes = Vec::new();
    let cleaned = plan.cleaning.fit(&features.table)?;
    // Cleaning may leave rows out; whose they are goes with them.
    let cleaned_away = cleaned.report.left_out.len();
    let kept = cleaned.report.kept();
    let ids: Vec<_> = kept
        .iter()
        .filter_map(|row| features.ids.get(*row))
        .copied()
        .collect();
    let rows = ids.len();
    enough(rows, cleaned_away)?;
    if cleaned_away > 0 {
        notes.push(format!(
            "{} customers were left out by the cleaning.",
            figure(cleaned_away as f64)
        ));
    }
    let x = to_matrix(&cleaned.table)?;
    // The default logarithms are of columns that a plan may have dropped; others must be there.
    let logs: Vec<String> = plan
        .logs
        .iter()
        .filter(|log| x.columns().contains(log) || !["frequency", "monetary"].contains(&log.as_str()))
        .cloned()
        .collect();
    let scaling = Scaling::fit(&x, &logs)?;
    let scaled = scaling.apply(&x)?;
    let constant: Vec<&str> = scaling.constant().collect();
    if !constant.is_empty() {
        notes.push(format!(
            "All customers agree in {}: it says nothing about groups.",
            constant.join(", ")
        ));
    }
    if let Some(audience) = &features.report.audience {
        let out = audience.objected + audience.without_consent + audience.suppressed;
        if out > 0 {
            notes.push(format!(
                "{} customers may not be looked at for the purpose {} and were left out.",
                figure(out as f64),
                audience.purpose
            ));
        }
    }
    if features.report.left_out > 0 {
        notes.push(format!(
            "{} customers without orders were left out.",
            figure(features.report.left_out as f64)
        ));
    }
    let learned = sample_rows(rows, plan.fit_rows, plan.seed, 0xf17);
    let fit_x = take_rows(&scaled, &learned)?;
    if learned.len() < rows {
        notes.push(format!(
            "The groups were learned from {} customers drawn by the seed; all {} were assigned.",
            figure(learned.len() as f64),
            figure(rows as f64)
        ));
    }
    let (model, choice) = grouped(&*models.clusterer, plan, &fit_x)?;
    let clusters = model.clusters();
    let assignments = canonical(model.predict(&scaled)?, clusters)?;
    let counts = sizes(&assignments, clusters);
    let noise = rows - counts.iter().sum::<usize>();
    if noise > 0 {
        notes.push(format!("{} customers are in no group.", figure(noise as f64)));
    }
    let fit_labels: Vec<Option<usize>> = learned
        .iter()
        .filter_map(|row| assignments.get(*row).copied())
        .collect();
    let mut metrics = BTreeMap::from([
        ("rows".to_owned(), rows as f64),
        ("rows_fitted".into(), learned.len() as f64),
    ]);
    if let Some(centers) = model.centers() {
        metrics.insert("inertia".into(), inertia(&scaled, &assignments, centers)?);
    }
    if counts.iter().filter(|count| **count > 0).count() > 1 {
        // A sample may miss a tiny group; then there is no silhouette rather than a wrong one.
        if let Ok(score) = silhouette(&fit_x, &fit_labels, SILHOUETTE_ROWS, plan.seed) {
            metrics.insert("silhouette".into(), score.mean);
        }
    }
    let (rules, importances) = told_apart(
        models,
        &take_rows(&x, &learned)?,
        &fit_labels,
        plan.seed,
        &mut metrics,
    )?;
    let projection = projected(models, plan, &scaled, &fit_x, &assignments, &mut notes)?;

    let run = run_id(plan, tenant, &ids, &x)?;
    let method = format!("{}(k={clusters})", models.clusterer.info().scheme);
    let lineage = Lineage {
        run,
        method,
        seed: plan.seed,
        as_of: plan.features.as_of.instant(),
        features: x.columns().to_vec(),
        schema_hash: schema_hash(plan, x.columns())?,
        metrics: metrics.clone(),
    };
    let overall_means = column_means(&x, None, &assignments);
    let overall_medians = column_medians(&x, None, &assignments);
    let mut segments = Vec::with_capacity(clusters);
    for (segment, size) in counts.iter().enumerate() {
        let means = column_means(&x, Some(segment), &assignments);
        let effects = column_means(&scaled, Some(segment), &assignments);
        segments.push(SegmentSummary {
            id: derived(run, &format!("segment {segment}")).into(),
            name: String::new(),
            description: String::new(),
            size: *size,
            share: *size as f64 / rows as f64,
            traits: traits(x.columns(), &means, &overall_means, &effects),
            medians: column_medians(&x, Some(segment), &assignments),
            means,
            effects,
        });
    }
    let names: Vec<String> = segments.iter().map(|segment| name(&segment.traits)).collect();
    for (segment, name) in segments.iter_mut().zip(unique(&plan.name_prefix, &names)) {
        segment.description = describe(segment);
        segment.name = name;
    }
    let pipeline = Pipeline {
        cleaning: cleaned.fitted,
        scaling,
        clusters: model.to_json()?,
    };
    Ok(Segmentation {
        run,
        lineage,
        columns: x.columns().to_vec(),
        overall_medians,
        segments,
        ids,
        assignments,
        projection,
        rules,
        importances,
        choice,
        metrics,
        features: features.report,
        cleaning: cleaned.report,
        notes,
        pipeline,
    })
}

fn grouped(
    clusterer: &dyn Clusterer,
    plan: &SegmentationPlan,
    x: &Matrix,
) -> Result<(Box<dyn ClusterModel>, Option<Choice>)> {
    let sized = |clusters: usize| {
        clusterer.with_clusters(clusters).ok_or_else(|| {
            Error::new(
                ErrorKind::Unsupported,
                "this clusterer finds the number of groups by itself; use as_configured",
            )
            .with("provider", clusterer.info())
            .with("setting", "groups")
        })
    };
    match plan.groups {
        Groups::AsConfigured => Ok((clusterer.fit(x, plan.seed)?, None)),
        Groups::Fixed(clusters) => Ok((sized(clusters)?.fit(x, plan.seed)?, None)),
        Groups::Choose { from, to } => {
            let small = take_rows(x, &sample_rows(x.rows(), CHOICE_ROWS, plan.seed, 0xc0))?;
            let choice = choose_clusters(clusterer, &small, from..=to, SILHOUETTE_ROWS, plan.seed)?;
            Ok((sized(choice.best)?.fit(x, plan.seed)?, Some(choice)))
        }
    }
}

/// A label outside of what the model promised would be written as a segment that does not exist.
fn canonical(labels: Vec<Option<usize>>, clusters: usize) -> Result<Vec<Option<usize>>> {
    if clusters == 0 || labels.iter().flatten().any(|label| *label >= clusters) {
        return Err(
            Error::unexpected("the clusterer answered a group outside of those it has")
                .with("clusters", clusters),
        );
    }
    Ok(labels)
}

/// Rules in the columns' own units, learned from the groups.
fn told_apart(
    models: &Models,
    x: &Matrix,
    labels: &[Option<usize>],
    seed: u64,
    metrics: &mut BTreeMap<String, f64>,
) -> Result<(Vec<SegmentRule>, Vec<f64>)> {
    let kept: Vec<usize> = labels
        .iter()
        .enumerate()
        .filter_map(|(row, label)| label.map(|_| row))
        .collect();
    let classes: Vec<usize> = labels.iter().flatten().copied().collect();
    if classes.iter().max() == classes.iter().min() {
        return Ok((Vec::new(), vec![0.0; x.cols()]));
    }
    let x = take_rows(x, &kept)?;
    let tree = models.classifier.fit(&x, &classes, seed)?;
    metrics.insert("rule_accuracy".into(), accuracy(&classes, &tree.predict(&x)?)?);
    let mut rules: Vec<SegmentRule> = tree
        .rules()
        .into_iter()
        .map(|rule| {
            let conditions: Vec<String> = rule
                .conditions
                .iter()
                .map(|(column, low, value)| {
                    format!("{column} {} {}", if *low { "≤" } else { ">" }, figure(*value))
                })
                .collect();
            let text = if conditions.is_empty() {
                "always".into()
            } else {
                conditions.join(" and ")
            };
            let members = classes.iter().filter(|class| **class == rule.class).count();
            SegmentRule {
                segment: rule.class,
                text,
                conditions: rule.conditions,
                rows: rule.rows,
                purity: rule.purity,
                coverage: rule.rows as f64 * rule.purity / members.max(1) as f64,
            }
        })
        .collect();
    rules.sort_by(|a, b| a.segment.cmp(&b.segment).then(b.rows.cmp(&a.rows)));
    Ok((rules, tree.importances().to_vec()))
}

fn projected(
    models: &Models,
    plan: &SegmentationPlan,
    scaled: &Matrix,
    fit_x: &Matrix,
    assignments: &[Option<usize>],
    notes: &mut Vec<String>,
) -> Result<Option<Projection>> {
    if fit_x.cols() < 2 {
        notes.push("There is only one column, so there is no plane to draw on.".into());
        return Ok(None);
    }
    let model = models.reducer.fit(fit_x)?;
    if model.components().rows() < 2 {
        notes.push("The reducer keeps only one direction, so there is no plane to draw on.".into());
        return Ok(None);
    }
    let drawn = sample_rows(scaled.rows(), plan.picture_rows, plan.seed, 0xd0);
    Ok(Some(Projection {
        points: model.transform(&take_rows(scaled, &drawn)?)?,
        segments: drawn
            .iter()
            .map(|row| assignments.get(*row).copied().flatten())
            .collect(),
        explained: model.explained_ratio().to_vec(),
        components: model.components().clone(),
    }))
}

fn rows_of<'a>(
    x: &'a Matrix,
    segment: Option<usize>,
    assignments: &'a [Option<usize>],
) -> impl Iterator<Item = &'a [f64]> {
    x.iter_rows()
        .zip(assignments)
        .filter(move |(_, label)| segment.is_none() || **label == segment)
        .map(|(row, _)| row)
}

fn column_means(x: &Matrix, segment: Option<usize>, assignments: &[Option<usize>]) -> Vec<f64> {
    let mut sums = vec![0.0; x.cols()];
    let mut count = 0.0;
    for row in rows_of(x, segment, assignments) {
        sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
        count += 1.0;
    }
    sums.iter()
        .map(|sum| if count > 0.0 { sum / count } else { 0.0 })
        .collect()
}

fn column_medians(x: &Matrix, segment: Option<usize>, assignments: &[Option<usize>]) -> Vec<f64> {
    let mut values = Vec::new();
    (0..x.cols())
        .map(|col| {
            values.clear();
            values.extend(rows_of(x, segment, assignments).filter_map(|row| row.get(col).copied()));
            median(&mut values)
        })
        .collect()
}

/// The middle value, or the mean of the middle two; 0 without values.
fn median(values: &mut [f64]) -> f64 {
    if values.is_empty() {
        return 0.0;
    }
    let (even, half) = (values.len().is_multiple_of(2), values.len() / 2);
    let (below, middle, _) = values.select_nth_unstable_by(half, f64::total_cmp);
    let middle = *middle;
    if even {
        below
            .iter()
            .copied()
            .max_by(f64::total_cmp)
            .map_or(middle, |low| low + (middle - low) / 2.0)
    } else {
        middle
    }
}

fn describe(segment: &SegmentSummary) -> String {
    let share = format!("{:.1} % of the customers", segment.share * 100.0);
    if segment.traits.is_empty() {
        return format!("{share}; near the average in everything.");
    }
    let traits: Vec<String> = segment
        .traits
        .iter()
        .take(4)
        .map(|one| {
            format!(
                "{} {} on average ({} over all)",
                one.column,
                figure(one.mean),
                figure(one.overall)
            )
        })
        .collect();
    format!("{share}; {}.", traits.join("; "))
}

/// SHA-256 over what gives the numbers their meaning: columns, features, cleaning, logarithms.
fn schema_hash(plan: &SegmentationPlan, columns: &[String]) -> Result<String> {
    let mut features = plan.features.clone();
    // The instant changes the numbers, not what they mean; it stands in the lineage by itself.
    features.as_of = crm_core::Timestamp::EPOCH.into();
    let json = serde_json::to_vec(&(columns, features, &plan.cleaning, &plan.logs))
        .map_err(|e| Error::unexpected("a plan cannot be written as JSON").source(e))?;
    Ok(Sha256::digest(json)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

/// The run's id is made of everything that went in: the same again is the same run, so that a broken-off one goes on.
fn run_id(plan: &SegmentationPlan, tenant: &TenantId, ids: &[CustomerId], x: &Matrix) -> Result<Uuid> {
    let json = serde_json::to_vec(plan)
        .map_err(|e| Error::unexpected("a plan cannot be written as JSON").source(e))?;
    let mut hash = Sha256::new();
    hash.update(tenant.as_str());
    hash.update([0]);
    hash.update(json);
    ids.iter().for_each(|id| hash.update(id.uuid().as_bytes()));
    x.as_slice()
        .iter()
        .for_each(|value| hash.update(value.to_bits().to_be_bytes()));
    Ok(from_hash(&hash.finalize()))
}

/// An id made of another and a name: the same every time.
pub(super) fn derived(from: Uuid, name: &str) -> Uuid {
    let mut hash = Sha256::new();
    hash.update(from.as_bytes());
    hash.update(name);
    from_hash(&hash.finalize())
}

/// UUIDv8 (RFC 9562, 5.8) of a hash's first bytes.
fn from_hash(hash: &[u8]) -> Uuid {
    let mut bits = hash
        .iter()
        .take(16)
        .fold(0_u128, |bits, byte| (bits << 8) | u128::from(*byte));
    bits = (bits & !(0xf << 76)) | (0x8 << 76);
    bits = (bits & !(0x3 << 62)) | (0x2 << 62);
    Uuid::from_u128(bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derived_ids_are_version_8_of_the_rfc() {
        let id = derived(Uuid::nil(), "a");
        assert_eq!(
            (id.get_version_num(), id.get_variant()),
            (8, Uuid::from_u128(0x2 << 62).get_variant())
        );
        assert_eq!(id, derived(Uuid::nil(), "a"));
        assert_ne!(id, derived(Uuid::nil(), "b"));
    }

    #[test]
    fn medians() {
        assert_eq!(median(&mut [3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&mut [4.0, 1.0, 2.0, 10.0]), 3.0);
        assert_eq!(median(&mut []), 0.0);
    }
}
