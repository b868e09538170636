//! The suites of those that learn from answers.

use super::*;

/// The properties of [`Classifier`].
pub mod classifier {
    use super::*;

    fn accuracy(found: &[usize], expected: &[usize]) -> f64 {
        found.iter().zip(expected).filter(|(a, b)| a == b).count() as f64 / expected.len() as f64
    }

    fn most_probable(row: &[f64]) -> usize {
        row.iter()
            .enumerate()
            .fold(
                (0, -1.0),
                |best, (at, p)| if *p > best.1 { (at, *p) } else { best },
            )
            .0
    }

    /// Classes far apart are told, two as well as three.
    pub fn classes_far_apart_are_told(provider: &dyn Classifier, _: &Read<dyn ClassifierModel>) {
        let (x, groups) = three_groups();
        let two: Vec<usize> = groups.iter().map(|group| usize::from(*group == 1)).collect();
        for (classes, count) in [(&groups, 3), (&two, 2)] {
            let model = provider.fit(&x, classes, 1).expect("classes are learned");
            assert_eq!((model.classes(), model.columns()), (count, x.columns()));
            assert_eq!(
                accuracy(&model.predict(&x).expect("rows are told"), classes),
                1.0,
                "classes far apart"
            );
            let importances = model.importances();
            assert_eq!(importances.len(), x.cols());
            assert!(
                (importances.iter().sum::<f64>() - 1.0).abs() < 1e-9,
                "importances are shares: {importances:?}"
            );
            let rows: usize = model.rules().iter().map(|rule| rule.rows).sum();
            assert!(rows == 0 || rows == x.rows(), "rules, if any, are for every row");
        }
    }

    /// Probabilities are between 0 and 1, sum to 1, and the largest one says the class.
    pub fn probabilities_are_such(provider: &dyn Classifier, _: &Read<dyn ClassifierModel>) {
        let (x, groups) = three_groups();
        // Noise, so that probabilities are not all 0 and 1.
        let noisy: Vec<usize> = groups
            .iter()
            .enumerate()
            .map(|(row, g)| if row % 7 == 0 { (g + 1) % 3 } else { *g })
            .collect();
        let two: Vec<usize> = noisy.iter().map(|class| usize::from(*class == 0)).collect();
        for classes in [&noisy, &two] {
            let model = provider.fit(&x, classes, 1).expect("classes are learned");
            let probabilities = model.probabilities(&x).expect("rows are scored");
            let told = model.predict(&x).expect("rows are told");
            assert_eq!(
                (probabilities.rows(), probabilities.cols()),
                (x.rows(), model.classes())
            );
            for (row, class) in probabilities.iter_rows().zip(told) {
                assert!(row.iter().all(|p| (0.0..=1.0).contains(p)), "{row:?}");
                assert!(
                    (row.iter().sum::<f64>() - 1.0).abs() < 1e-9,
                    "a row sums to 1: {row:?}"
                );
                assert_eq!(most_probable(row), class, "the largest says the class: {row:?}");
            }
        }
    }

    /// Same rows and seed, same model, to the last bit.
    pub fn same_rows_and_seed_same_model(provider: &dyn Classifier, _: &Read<dyn ClassifierModel>) {
        let (x, groups) = three_groups();
        let noisy: Vec<usize> = groups
            .iter()
            .enumerate()
            .map(|(row, g)| if row % 5 == 0 { 0 } else { *g })
            .collect();
        let first = provider
            .fit(&x, &noisy, 5)
            .and_then(|model| model.to_json())
            .expect("classes are learned");
        for _ in 0..3 {
            let again = provider
                .fit(&x, &noisy, 5)
                .and_then(|model| model.to_json())
                .expect("classes are learned");
            assert_eq!(first, again, "the same model");
        }
    }

    /// Neither the order of the rows nor names nor units change what is told.
    pub fn neither_order_nor_names_nor_units_matter(
        provider: &dyn Classifier,
        _: &Read<dyn ClassifierModel>,
    ) {
        let (x, groups) = three_groups();
        let (mixed, order) = shuffled(&x);
        let of: Vec<usize> = order.iter().map(|row| groups[*row]).collect();
        let told = provider
            .fit(&mixed, &of, 1)
            .and_then(|model| model.predict(&mixed))
            .expect("classes are learned");
        assert_eq!(accuracy(&told, &of), 1.0, "another order");
        for other in [renamed(&x), moved(&x, -77.0), rescaled(&x)] {
            let told = provider
                .fit(&other, &groups, 1)
                .and_then(|model| model.predict(&other))
                .expect("classes are learned");
            assert_eq!(accuracy(&told, &groups), 1.0, "other names, places and units");
        }
    }

    /// A constant column has no importance.
    pub fn a_constant_column_does_not_matter(provider: &dyn Classifier, _: &Read<dyn ClassifierModel>) {
        let (x, groups) = three_groups();
        let x = with_constant(&x, 1e5);
        let model = provider.fit(&x, &groups, 1).expect("classes are learned");
        assert_eq!(accuracy(&model.predict(&x).expect("rows are told"), &groups), 1.0);
        assert!(model.importances()[2].abs() < 1e-12, "{:?}", model.importances());
    }

    /// No rows, one class and lengths that differ are refused.
    pub fn what_cannot_be_learned_is_refused(provider: &dyn Classifier, _: &Read<dyn ClassifierModel>) {
        let (x, groups) = three_groups();
        is_invalid("no rows", provider.fit(&named(&["a"], vec![]), &[], 0));
        is_invalid("one class", provider.fit(&x, &vec![1; x.rows()], 0));
        is_invalid("too few classes", provider.fit(&x, &groups[1..], 0));
        let mut wild = groups.clone();
        wild[0] = usize::MAX;
        is_invalid("a class without end", provider.fit(&x, &wild, 0));
    }

    /// Other columns and rows that are too long, too short or not numbers are refused.
    pub fn rows_that_do_not_fit_are_refused(provider: &dyn Classifier, _: &Read<dyn ClassifierModel>) {
        let (x, groups) = three_groups();
        let model = provider.fit(&x, &groups, 1).expect("classes are learned");
        is_invalid("other names", model.predict(&renamed(&x)));
        is_invalid("another column", model.probabilities(&with_constant(&x, 0.0)));
        is_invalid("a short row", model.score_row(&[1.0], &mut [0.0; 3]));
        is_invalid("not a number", model.score_row(&[1.0, f64::NAN], &mut [0.0; 3]));
        is_invalid("a short place", model.score_row(&[1.0, 1.0], &mut [0.0; 2]));
        is_invalid("no such class", model.explain_row(&[1.0, f64::NAN], 0));
    }

    /// One row is scored as it is among many.
    pub fn one_row_is_scored_as_many(provider: &dyn Classifier, _: &Read<dyn ClassifierModel>) {
        let (x, groups) = three_groups();
        let noisy: Vec<usize> = groups
            .iter()
            .enumerate()
            .map(|(row, g)| if row % 5 == 0 { 0 } else { *g })
            .collect();
        let model = provider.fit(&x, &noisy, 1).expect("classes are learned");
        let mut values = x.as_slice().to_vec();
        values.extend([1e3, -1e9, 1e30, 1e30, -1e30, 0.0]);
        let many = named(&["across", "up"], values);
        let probabilities = model.probabilities(&many).expect("rows are scored");
        let mut out = vec![0.0; 3];
        for (row, expected) in many.iter_rows().zip(probabilities.iter_rows()) {
            model.score_row(row, &mut out).expect("a row is scored");
            assert_eq!(out, expected, "one as many");
        }
    }

    /// A stored model reads back and answers the same.
    pub fn it_reads_back_to_the_last_bit(provider: &dyn Classifier, read: &Read<dyn ClassifierModel>) {
        let (x, groups) = three_groups();
        let noisy: Vec<usize> = groups
            .iter()
            .enumerate()
            .map(|(row, g)| if row % 5 == 0 { 0 } else { *g })
            .collect();
        let two: Vec<usize> = noisy.iter().map(|class| usize::from(*class == 0)).collect();
        for classes in [&noisy, &two] {
            let model = provider.fit(&x, classes, 1).expect("classes are learned");
            let again = read(stored(model.to_json())).expect("a stored model is read");
            assert_eq!(
                stored(again.to_json()),
                stored(model.to_json()),
                "to the last bit"
            );
            let score = |model: &dyn ClassifierModel| model.probabilities(&x).expect("it scores");
            assert_eq!(score(&*again), score(&*model));
            assert_eq!(
                (again.classes(), again.columns()),
                (model.classes(), model.columns())
            );
        }
        let error =
            read(serde_json::json!({"kind": "nothing", "format": 1, "model": {}})).expect_err("not a model");
        assert_eq!(error.kind(), ErrorKind::Corrupt);
    }

    /// Rows without weight count nothing, or weights are refused as unsupported; wrong ones are refused.
    pub fn weights_count_or_are_refused(provider: &dyn Classifier, _: &Read<dyn ClassifierModel>) {
        let (x, groups) = three_groups();
        // Every row a second time under a wrong class, without weight.
        let twice = Matrix::new(x.columns().to_vec(), [x.as_slice(), x.as_slice()].concat()).expect("finite");
        let classes: Vec<usize> = groups
            .iter()
            .copied()
            .chain(groups.iter().map(|group| (group + 1) % 3))
            .collect();
        let weights: Vec<f64> = [vec![1.0; x.rows()], vec![0.0; x.rows()]].concat();
        match provider.fit_weighted(&twice, &classes, &weights, 1) {
            Err(error) => assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}"),
            Ok(model) => {
                let told = model.predict(&x).expect("rows are told");
                assert_eq!(accuracy(&told, &groups), 1.0, "rows without weight count nothing");
                for wrong in [
                    vec![1.0; 3],
                    vec![0.0; x.rows()],
                    vec![-1.0; x.rows()],
                    vec![f64::NAN; x.rows()],
                ] {
                    is_invalid("wrong weights", provider.fit_weighted(&x, &groups, &wrong, 1));
                }
            }
        }
    }

    /// Contributions, if there are any, sum to the probability or to its log-odds.
    pub fn contributions_sum_to_the_margin(provider: &dyn Classifier, _: &Read<dyn ClassifierModel>) {
        let (x, groups) = three_groups();
        let noisy: Vec<usize> = groups
            .iter()
            .enumerate()
            .map(|(row, g)| if row % 5 == 0 { 0 } else { *g })
            .collect();
        let two: Vec<usize> = noisy.iter().map(|class| usize::from(*class == 0)).collect();
        for classes in [&noisy, &two] {
            let model = provider.fit(&x, classes, 1).expect("classes are learned");
            let mut p = vec![0.0; model.classes()];
            is_invalid("no such class", model.explain_row(x.row(0), model.classes()));
            for row in x.iter_rows().step_by(13) {
                model.score_row(row, &mut p).expect("a row is scored");
                let told: Option<Vec<f64>> = (0..model.classes())
                    .map(|class| {
                        let parts = model.explain_row(row, class).expect("a row is explained")?;
                        assert_eq!(parts.parts.len(), x.cols(), "a part a column");
                        Some(parts.margin())
                    })
                    .collect();
                let Some(margins) = told else { return };
                let near = |a: f64, b: f64| (a - b).abs() < 1e-7;
                let sum: f64 = margins.iter().map(|m| m.exp()).sum();
                let as_they_are = margins.iter().zip(&p).all(|(m, p)| near(*m, *p));
                let log_odds = margins
                    .iter()
                    .zip(&p)
                    .all(|(m, p)| near(1.0 / (1.0 + (-m).exp()), *p));
                let of_all = margins.iter().zip(&p).all(|(m, p)| near(m.exp() / sum, *p));
                assert!(
                    as_they_are || log_odds || of_all,
                    "margins {margins:?}, probabilities {p:?}"
                );
            }
        }
    }

    /// Whatever the rows, they are learned soundly or refused as invalid.
    pub fn hostile_rows_are_learned_or_refused(provider: &dyn Classifier, read: &Read<dyn ClassifierModel>) {
        for (what, x) in hostile() {
            for count in [2, 3] {
                let classes: Vec<usize> = (0..x.rows()).map(|row| row % count).collect();
                match provider.fit(&x, &classes, 1) {
                    Err(error) => must_be_invalid(what, &error),
                    Ok(model) => {
                        let probabilities = model.probabilities(&x).expect(what);
                        let sound = |row: &[f64]| (row.iter().sum::<f64>() - 1.0).abs() < 1e-9;
                        assert!(probabilities.iter_rows().all(sound), "{what}");
                        assert!(
                            model.importances().iter().all(|i| (0.0..=1.0 + 1e-9).contains(i)),
                            "{what}"
                        );
                        let again = read(stored(model.to_json())).expect(what);
                        assert_eq!(
                            again.probabilities(&x).expect(what),
                            probabilities,
                            "{what}: read back"
                        );
                    }
                }
            }
        }
    }
}

/// The properties of [`Regressor`].
pub mod regressor {
    use super::*;

    /// A value that rises in steps along one column; the other says nothing.
    fn steps() -> (Matrix, Vec<f64>) {
        let mut sequence = Sequence(9);
        let (mut values, mut answers) = (Vec::new(), Vec::new());
        for row in 0..240 {
            let step = f64::from(row % 4);
            values.extend([step * 10.0 + sequence.next(), sequence.next() * 5.0]);
            answers.push(100.0 + 20.0 * step);
        }
        (named(&["step", "noise"], values), answers)
    }

    fn explained(model: &dyn RegressorModel, x: &Matrix, values: &[f64]) -> f64 {
        let found = model.predict(x).expect("rows are foretold");
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let errors: f64 = found.iter().zip(values).map(|(a, b)| (a - b).powi(2)).sum();
        1.0 - errors / values.iter().map(|v| (v - mean).powi(2)).sum::<f64>()
    }

    /// Steps are foretold, whatever the order, the names and the units.
    pub fn steps_are_foretold(provider: &dyn Regressor, _: &Read<dyn RegressorModel>) {
        let (x, values) = steps();
        for x in [x.clone(), renamed(&x), moved(&x, 55.0), rescaled(&x)] {
            let model = provider.fit(&x, &values, 1).expect("values are learned");
            assert_eq!(model.columns(), x.columns());
            let share = explained(&*model, &x, &values);
            assert!(share > 0.98, "explains {share}");
            let importances = model.importances();
            assert!(
                (importances.iter().sum::<f64>() - 1.0).abs() < 1e-9,
                "importances are shares: {importances:?}"
            );
            assert!(importances[0] > 0.9, "the step matters: {importances:?}");
        }
        let (mixed, order) = shuffled(&x);
        let of: Vec<f64> = order.iter().map(|row| values[*row]).collect();
        let model = provider.fit(&mixed, &of, 1).expect("values are learned");
        assert!(explained(&*model, &mixed, &of) > 0.98, "another order");
    }

    /// Same rows and seed, same model, to the last bit.
    pub fn same_rows_and_seed_same_model(provider: &dyn Regressor, _: &Read<dyn RegressorModel>) {
        let (x, values) = steps();
        let first = provider
            .fit(&x, &values, 5)
            .and_then(|model| model.to_json())
            .expect("values are learned");
        for _ in 0..3 {
            let again = provider
                .fit(&x, &values, 5)
                .and_then(|model| model.to_json())
                .expect("values are learned");
            assert_eq!(first, again, "the same model");
        }
    }

    /// A constant column has no importance.
    pub fn a_constant_column_does_not_matter(provider: &dyn Regressor, _: &Read<dyn RegressorModel>) {
        let (x, values) = steps();
        let x = with_constant(&x, 1e5);
        let model = provider.fit(&x, &values, 1).expect("values are learned");
        assert!(model.importances()[2].abs() < 1e-12, "{:?}", model.importances());
        assert!(explained(&*model, &x, &values) > 0.98);
    }

    /// No rows, lengths that differ and values that are not finite are refused.
    pub fn what_cannot_be_learned_is_refused(provider: &dyn Regressor, _: &Read<dyn RegressorModel>) {
        let (x, values) = steps();
        is_invalid("no rows", provider.fit(&named(&["a"], vec![]), &[], 0));
        is_invalid("too few values", provider.fit(&x, &values[1..], 0));
        for wrong in [f64::NAN, f64::INFINITY] {
            let mut values = values.clone();
            values[3] = wrong;
            is_invalid("not a number", provider.fit(&x, &values, 0));
        }
    }

    /// Other columns and rows that are too long, too short or not numbers are refused.
    pub fn rows_that_do_not_fit_are_refused(provider: &dyn Regressor, _: &Read<dyn RegressorModel>) {
        let (x, values) = steps();
        let model = provider.fit(&x, &values, 1).expect("values are learned");
        is_invalid("other names", model.predict(&renamed(&x)));
        is_invalid("a short row", model.score_row(&[1.0]));
        is_invalid("not a number", model.score_row(&[1.0, f64::NAN]));
        is_invalid("not a number", model.explain_row(&[1.0, f64::NAN]));
    }

    /// One row is foretold as it is among many.
    pub fn one_row_is_scored_as_many(provider: &dyn Regressor, _: &Read<dyn RegressorModel>) {
        let (x, values) = steps();
        let model = provider.fit(&x, &values, 1).expect("values are learned");
        let found = model.predict(&x).expect("rows are foretold");
        for (row, expected) in x.iter_rows().zip(found) {
            assert_eq!(
                model.score_row(row).expect("a row is foretold"),
                expected,
                "one as many"
            );
        }
    }

    /// A stored model reads back and answers the same.
    pub fn it_reads_back_to_the_last_bit(provider: &dyn Regressor, read: &Read<dyn RegressorModel>) {
        let (x, values) = steps();
        let model = provider.fit(&x, &values, 1).expect("values are learned");
        let again = read(stored(model.to_json())).expect("a stored model is read");
        assert_eq!(
            stored(again.to_json()),
            stored(model.to_json()),
            "to the last bit"
        );
        assert_eq!(
            again.predict(&x).expect("it foretells"),
            model.predict(&x).expect("it foretells")
        );
        let error =
            read(serde_json::json!({"kind": "nothing", "format": 1, "model": {}})).expect_err("not a model");
        assert_eq!(error.kind(), ErrorKind::Corrupt);
    }

    /// Rows without weight count nothing, or weights are refused as unsupported; wrong ones are refused.
    pub fn weights_count_or_are_refused(provider: &dyn Regressor, _: &Read<dyn RegressorModel>) {
        let (x, values) = steps();
        let twice = Matrix::new(x.columns().to_vec(), [x.as_slice(), x.as_slice()].concat()).expect("finite");
        let answers: Vec<f64> = values
            .iter()
            .copied()
            .chain(values.iter().map(|value| value - 1e4))
            .collect();
        let weights: Vec<f64> = [vec![1.0; x.rows()], vec![0.0; x.rows()]].concat();
        match provider.fit_weighted(&twice, &answers, &weights, 1) {
            Err(error) => assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}"),
            Ok(model) => {
                assert!(
                    explained(&*model, &x, &values) > 0.98,
                    "rows without weight count nothing"
                );
                for wrong in [
                    vec![1.0; 3],
                    vec![0.0; x.rows()],
                    vec![-1.0; x.rows()],
                    vec![f64::NAN; x.rows()],
                ] {
                    is_invalid("wrong weights", provider.fit_weighted(&x, &values, &wrong, 1));
                }
            }
        }
    }

    /// Contributions, if there are any, sum to the value.
    pub fn contributions_sum_to_the_value(provider: &dyn Regressor, _: &Read<dyn RegressorModel>) {
        let (x, values) = steps();
        let model = provider.fit(&x, &values, 1).expect("values are learned");
        for row in x.iter_rows().step_by(11) {
            let value = model.score_row(row).expect("a row is foretold");
            let Some(parts) = model.explain_row(row).expect("a row is explained") else {
                return;
            };
            assert_eq!(parts.parts.len(), x.cols(), "a part a column");
            assert!(
                (parts.margin() - value).abs() < 1e-7 * (1.0 + value.abs()),
                "{parts:?} sums to {value}"
            );
        }
    }

    /// Whatever the rows, they are learned soundly or refused as invalid.
    pub fn hostile_rows_are_learned_or_refused(provider: &dyn Regressor, read: &Read<dyn RegressorModel>) {
        for (what, x) in hostile() {
            for scale in [1.0, 1e-300, 1e120, 1e308] {
                let values: Vec<f64> = (0..x.rows())
                    .map(|row| scale * ((row * row % 7) as f64 - 3.0) / 4.0)
                    .collect();
                match provider.fit(&x, &values, 1) {
                    Err(error) => must_be_invalid(what, &error),
                    Ok(model) => {
                        let found = model.predict(&x).expect(what);
                        assert!(found.iter().all(|value| value.is_finite()), "{what}: {found:?}");
                        let again = read(stored(model.to_json())).expect(what);
                        assert_eq!(again.predict(&x).expect(what), found, "{what}: read back");
                    }
                }
            }
        }
    }
}
