//! The suites of those that learn without answers.

use super::*;

/// The properties of [`Clusterer`].
pub mod clusterer {
    use super::*;

    fn truth(groups: &[usize]) -> Vec<Option<usize>> {
        groups.iter().map(|group| Some(*group)).collect()
    }

    /// Three groups far apart are found, and numbered below their number.
    pub fn three_groups_far_apart_are_found(provider: &dyn Clusterer, _: &Read<dyn ClusterModel>) {
        let (x, groups) = three_groups();
        for seed in 0..5 {
            let model = provider.fit(&x, seed).expect("groups are found");
            let labels = model.predict(&x).expect("rows are grouped");
            assert_eq!(model.clusters(), 3, "three groups");
            assert_eq!(model.columns(), x.columns());
            assert!(
                labels.iter().flatten().all(|label| *label < 3),
                "labels are below the number of groups"
            );
            assert!(
                same_partition(&labels, &truth(&groups)),
                "the groups are the true ones"
            );
            if let Some(centers) = model.centers() {
                assert_eq!(
                    (centers.rows(), centers.columns()),
                    (3, x.columns()),
                    "a centre a group"
                );
            }
        }
    }

    /// Same rows and seed, same groups, to the last bit.
    pub fn same_rows_and_seed_same_groups(provider: &dyn Clusterer, _: &Read<dyn ClusterModel>) {
        let (x, _) = three_groups();
        let first = provider
            .fit(&x, 5)
            .and_then(|model| model.to_json())
            .expect("groups are found");
        for _ in 0..3 {
            let again = provider
                .fit(&x, 5)
                .and_then(|model| model.to_json())
                .expect("groups are found");
            assert_eq!(first, again, "the same model");
        }
    }

    /// Neither the order of the rows nor the names of the columns nor where the origin is changes the groups.
    pub fn neither_order_nor_names_nor_place_matter(provider: &dyn Clusterer, _: &Read<dyn ClusterModel>) {
        let (x, groups) = three_groups();
        let (mixed, order) = shuffled(&x);
        let labels = provider
            .fit(&mixed, 1)
            .and_then(|model| model.predict(&mixed))
            .expect("groups are found");
        let expected: Vec<Option<usize>> = order.iter().map(|row| Some(groups[*row])).collect();
        assert!(
            same_partition(&labels, &expected),
            "another order, the same groups"
        );
        for other in [renamed(&x), moved(&x, 1000.0)] {
            let labels = provider
                .fit(&other, 1)
                .and_then(|model| model.predict(&other))
                .expect("groups are found");
            assert!(same_partition(&labels, &truth(&groups)), "the same groups");
        }
    }

    /// A constant column changes no group.
    pub fn a_constant_column_changes_nothing(provider: &dyn Clusterer, _: &Read<dyn ClusterModel>) {
        let (x, groups) = three_groups();
        for constant in [0.0, -7.25, 1e6] {
            let x = with_constant(&x, constant);
            let labels = provider
                .fit(&x, 1)
                .and_then(|model| model.predict(&x))
                .expect("groups are found");
            assert!(same_partition(&labels, &truth(&groups)), "the same groups");
        }
    }

    /// Equal rows are in one group.
    pub fn equal_rows_are_in_one_group(provider: &dyn Clusterer, _: &Read<dyn ClusterModel>) {
        let (x, groups) = three_groups();
        let twice = Matrix::new(x.columns().to_vec(), [x.as_slice(), x.as_slice()].concat()).expect("finite");
        let labels = provider
            .fit(&twice, 1)
            .and_then(|model| model.predict(&twice))
            .expect("groups are found");
        assert_eq!(labels[..x.rows()], labels[x.rows()..], "a row and its copy");
        assert!(
            same_partition(&labels[..x.rows()], &truth(&groups)),
            "the same groups"
        );
    }

    /// No rows, or fewer different ones than groups, are refused.
    pub fn what_cannot_be_grouped_is_refused(provider: &dyn Clusterer, _: &Read<dyn ClusterModel>) {
        is_invalid("no rows", provider.fit(&named(&["a"], vec![]), 0));
        if let Some(four) = provider.with_clusters(4) {
            is_invalid(
                "three rows for four groups",
                four.fit(&named(&["a"], vec![1.0, 2.0, 3.0]), 0),
            );
            is_invalid(
                "three different rows for four groups",
                four.fit(&named(&["a"], [1.0, 2.0, 3.0].repeat(9)), 0),
            );
            assert_eq!(
                four.fit(&named(&["a"], [1.0, 2.0, 3.0, 9.0].repeat(9)), 0)
                    .expect("as many as groups")
                    .clusters(),
                4
            );
        }
        assert!(
            provider.with_clusters(0).is_none(),
            "there is no clusterer for no group"
        );
    }

    /// Other columns and rows that are too long, too short or not numbers are refused.
    pub fn rows_that_do_not_fit_are_refused(provider: &dyn Clusterer, _: &Read<dyn ClusterModel>) {
        let (x, _) = three_groups();
        let model = provider.fit(&x, 1).expect("groups are found");
        is_invalid("other names", model.predict(&renamed(&x)));
        is_invalid("another column", model.predict(&with_constant(&x, 0.0)));
        is_invalid("a short row", model.assign_row(&[1.0]));
        is_invalid("a long row", model.assign_row(&[1.0, 2.0, 3.0]));
        is_invalid("not a number", model.assign_row(&[1.0, f64::NAN]));
        is_invalid("no end", model.assign_row(&[f64::INFINITY, 1.0]));
    }

    /// One row is grouped as it is among many, wherever it lies.
    pub fn one_row_is_grouped_as_many(provider: &dyn Clusterer, _: &Read<dyn ClusterModel>) {
        let (x, _) = three_groups();
        let model = provider.fit(&x, 1).expect("groups are found");
        let mut values = x.as_slice().to_vec();
        for far in [1e3, -1e9, 1e100, f64::MAX] {
            values.extend([far, 3.0, 5.0, far, -far, far]);
        }
        let many = named(&["across", "up"], values);
        let labels = model.predict(&many).expect("rows are grouped");
        for (row, label) in many.iter_rows().zip(&labels) {
            assert_eq!(
                model.assign_row(row).expect("a row is grouped"),
                *label,
                "one as many"
            );
        }
    }

    /// A stored model reads back and answers the same.
    pub fn it_reads_back_to_the_last_bit(provider: &dyn Clusterer, read: &Read<dyn ClusterModel>) {
        let (x, _) = three_groups();
        let model = provider.fit(&x, 1).expect("groups are found");
        let again = read(stored(model.to_json())).expect("a stored model is read");
        assert_eq!(
            stored(again.to_json()),
            stored(model.to_json()),
            "to the last bit"
        );
        assert_eq!(
            again.predict(&x).expect("it groups"),
            model.predict(&x).expect("it groups")
        );
        assert_eq!(
            (again.clusters(), again.columns()),
            (model.clusters(), model.columns())
        );
        let error =
            read(serde_json::json!({"kind": "nothing", "format": 1, "model": {}})).expect_err("not a model");
        assert_eq!(error.kind(), ErrorKind::Corrupt);
    }

    /// A weight counts as so many rows, or weights are refused as unsupported; wrong ones are refused.
    pub fn weights_count_or_are_refused(provider: &dyn Clusterer, _: &Read<dyn ClusterModel>) {
        let (x, groups) = three_groups();
        match provider.fit_weighted(&x, &vec![2.0; x.rows()], 1) {
            Err(error) => assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}"),
            Ok(model) => {
                let labels = model.predict(&x).expect("rows are grouped");
                assert!(same_partition(&labels, &truth(&groups)), "the same groups");
                let mut values = x.as_slice().to_vec();
                values.extend([1e6, 1e6]);
                let outlier = named(&["across", "up"], values);
                let mut weights = vec![1.0; x.rows()];
                weights.push(0.0);
                let model = provider
                    .fit_weighted(&outlier, &weights, 1)
                    .expect("groups are found");
                let labels = model.predict(&x).expect("rows are grouped");
                assert!(
                    same_partition(&labels, &truth(&groups)),
                    "a row without weight counts nothing"
                );
                for wrong in [
                    vec![1.0; 3],
                    vec![0.0; x.rows()],
                    vec![-1.0; x.rows()],
                    vec![f64::NAN; x.rows()],
                ] {
                    is_invalid("wrong weights", provider.fit_weighted(&x, &wrong, 1));
                }
            }
        }
    }

    /// Whatever the rows, they are grouped soundly or refused as invalid.
    pub fn hostile_rows_are_grouped_or_refused(provider: &dyn Clusterer, read: &Read<dyn ClusterModel>) {
        for (what, x) in hostile() {
            match provider.fit(&x, 1) {
                Err(error) => must_be_invalid(what, &error),
                Ok(model) => {
                    let labels = model.predict(&x).expect(what);
                    assert_eq!(labels.len(), x.rows(), "{what}");
                    assert!(
                        labels.iter().flatten().all(|label| *label < model.clusters()),
                        "{what}: {labels:?}"
                    );
                    let again = read(stored(model.to_json())).expect(what);
                    assert_eq!(again.predict(&x).expect(what), labels, "{what}: read back");
                }
            }
        }
    }
}

/// The properties of [`Reducer`].
pub mod reducer {
    use super::*;

    /// Rows along a slope, thick to one side.
    fn slope() -> Matrix {
        let mut sequence = Sequence(5);
        let values = (0..200).flat_map(|_| {
            let (along, aside) = (sequence.next() * 20.0, sequence.next());
            [
                along * 0.6 - aside * 0.8 + 4.0,
                along * 0.8 + aside * 0.6 - 9.0,
                sequence.next() * 0.1,
            ]
        });
        named(&["a", "b", "c"], values.collect())
    }

    fn near(a: f64, b: f64) -> bool {
        (a - b).abs() <= 1e-9 * (1.0 + a.abs().max(b.abs()))
    }

    /// Directions have unit length, stand upright on each other, and their largest entry is positive.
    pub fn directions_are_unit_and_upright(provider: &dyn Reducer, _: &Read<dyn ReduceModel>) {
        let x = slope();
        let model = provider.fit(&x).expect("directions are found");
        let directions = model.components();
        assert_eq!(directions.columns(), x.columns());
        let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        for (i, a) in directions.iter_rows().enumerate() {
            for (j, b) in directions.iter_rows().enumerate() {
                assert!(
                    near(product(a, b), f64::from(u8::from(i == j))),
                    "direction {i} and {j}"
                );
            }
            let largest = a
                .iter()
                .copied()
                .fold(0.0_f64, |m, v| if v.abs() > m.abs() { v } else { m });
            assert!(largest > 0.0, "the largest entry of direction {i} is positive");
        }
        // The long way of the slope.
        let first = directions.row(0);
        assert!(
            (first[0] - 0.6).abs() < 0.02 && (first[1] - 0.8).abs() < 0.02,
            "{first:?}"
        );
    }

    /// Shares fall, are of the total variance, and are those of the projected rows.
    pub fn shares_are_of_the_total(provider: &dyn Reducer, _: &Read<dyn ReduceModel>) {
        let x = slope();
        let model = provider.fit(&x).expect("directions are found");
        let variance = |values: Vec<f64>| {
            let n = values.len() as f64;
            let mean = values.iter().sum::<f64>() / n;
            values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0)
        };
        let total: f64 = (0..x.cols()).map(|col| variance(x.iter_col(col).collect())).sum();
        let points = model.transform(&x).expect("rows are projected");
        let shares = model.explained_ratio();
        assert_eq!(shares.len(), points.cols());
        assert!(
            shares.windows(2).all(|w| w[0] >= w[1]),
            "the strongest first: {shares:?}"
        );
        for (at, share) in shares.iter().enumerate() {
            assert!(
                near(variance(points.iter_col(at).collect()) / total, *share),
                "direction {at}: {share}"
            );
        }
        assert!(shares.iter().sum::<f64>() <= 1.0 + 1e-9);
    }

    /// Neither the order of the rows nor the names of the columns changes the directions.
    pub fn neither_order_nor_names_matter(provider: &dyn Reducer, _: &Read<dyn ReduceModel>) {
        let x = slope();
        let first = provider.fit(&x).expect("directions are found");
        for other in [shuffled(&x).0, renamed(&x)] {
            let again = provider.fit(&other).expect("directions are found");
            let pairs = first
                .components()
                .as_slice()
                .iter()
                .zip(again.components().as_slice());
            assert!(
                pairs.clone().all(|(a, b)| (a - b).abs() < 1e-7),
                "the same directions"
            );
        }
    }

    /// A constant column changes no share and has no part in a direction.
    pub fn a_constant_column_changes_nothing(provider: &dyn Reducer, _: &Read<dyn ReduceModel>) {
        let x = slope();
        let plain = provider.fit(&x).expect("directions are found");
        let model = provider
            .fit(&with_constant(&x, 42.0))
            .expect("directions are found");
        assert!(
            model.components().iter_rows().all(|row| row[3].abs() < 1e-9),
            "no part"
        );
        assert!(
            plain
                .explained_ratio()
                .iter()
                .zip(model.explained_ratio())
                .all(|(a, b)| near(*a, *b))
        );
    }

    /// Fewer than two rows, or equal ones, are refused.
    pub fn what_does_not_vary_is_refused(provider: &dyn Reducer, _: &Read<dyn ReduceModel>) {
        is_invalid("no rows", provider.fit(&named(&["a", "b"], vec![])));
        is_invalid("one row", provider.fit(&named(&["a", "b"], vec![1.0, 2.0])));
        is_invalid(
            "equal rows",
            provider.fit(&named(&["a", "b"], [1.0, 2.0].repeat(5))),
        );
    }

    /// Other columns and rows that are too long, too short or not numbers are refused.
    pub fn rows_that_do_not_fit_are_refused(provider: &dyn Reducer, _: &Read<dyn ReduceModel>) {
        let x = slope();
        let model = provider.fit(&x).expect("directions are found");
        let directions = model.components().rows();
        is_invalid("other names", model.transform(&renamed(&x)));
        is_invalid(
            "a short row",
            model.project_row(&[1.0], &mut vec![0.0; directions]),
        );
        is_invalid(
            "not a number",
            model.project_row(&[1.0, f64::NAN, 1.0], &mut vec![0.0; directions]),
        );
        is_invalid(
            "a short place",
            model.project_row(&[1.0; 3], &mut vec![0.0; directions - 1]),
        );
    }

    /// One row is projected as it is among many.
    pub fn one_row_is_projected_as_many(provider: &dyn Reducer, _: &Read<dyn ReduceModel>) {
        let x = slope();
        let model = provider.fit(&x).expect("directions are found");
        let points = model.transform(&x).expect("rows are projected");
        let mut out = vec![0.0; points.cols()];
        for (row, point) in x.iter_rows().zip(points.iter_rows()) {
            model.project_row(row, &mut out).expect("a row is projected");
            assert_eq!(out, point, "one as many");
        }
    }

    /// A stored model reads back and answers the same.
    pub fn it_reads_back_to_the_last_bit(provider: &dyn Reducer, read: &Read<dyn ReduceModel>) {
        let x = slope();
        let model = provider.fit(&x).expect("directions are found");
        let again = read(stored(model.to_json())).expect("a stored model is read");
        assert_eq!(
            stored(again.to_json()),
            stored(model.to_json()),
            "to the last bit"
        );
        assert_eq!(
            again.transform(&x).expect("it projects"),
            model.transform(&x).expect("it projects")
        );
        let refit = provider.fit(&x).expect("directions are found");
        assert_eq!(
            stored(refit.to_json()),
            stored(model.to_json()),
            "learned again, the same"
        );
    }

    /// Whatever the rows, they are reduced soundly or refused as invalid.
    pub fn hostile_rows_are_reduced_or_refused(provider: &dyn Reducer, read: &Read<dyn ReduceModel>) {
        for (what, x) in hostile() {
            match provider.fit(&x) {
                Err(error) => must_be_invalid(what, &error),
                Ok(model) => {
                    let shares = model.explained_ratio();
                    assert!(
                        shares.iter().all(|s| (0.0..=1.0 + 1e-9).contains(s)),
                        "{what}: {shares:?}"
                    );
                    assert!(shares.windows(2).all(|w| w[0] >= w[1]), "{what}: {shares:?}");
                    assert_eq!(model.transform(&x).expect(what).rows(), x.rows(), "{what}");
                    read(stored(model.to_json())).expect(what);
                }
            }
        }
    }
}
