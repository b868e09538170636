//! Names for groups, made of what sets them apart.

use super::Trait;

/// Below this many standard deviations a difference is not worth a word.
const WORTH_A_WORD: f64 = 0.3;
/// Below this many the word is softened, so that two groups on the same side of the average get different names.
const PLAIN: f64 = 0.6;
/// From this many on it is stressed.
const STRESSED: f64 = 1.25;

/// Words for a column above and below the rest.
fn words(column: &str) -> (String, String) {
    let known = match column {
        "recency_days" => Some(("lapsed", "recent")),
        "frequency" => Some(("frequent", "rare")),
        "monetary" => Some(("high spend", "low spend")),
        "tenure_days" => Some(("long-standing", "new")),
        "days_between_orders" => Some(("slow to come back", "quick to come back")),
        _ => None,
    };
    // `orders_30d` and `spend_30d`: of the last days.
    if let Some((what, days)) = column.strip_suffix('d').and_then(|rest| rest.rsplit_once('_'))
        && matches!(what, "orders" | "spend")
        && days.parse::<u32>().is_ok()
    {
        let of = format!("in {days} days");
        return match what {
            "orders" => (format!("many orders {of}"), format!("few orders {of}")),
            _ => (format!("high spend {of}"), format!("low spend {of}")),
        };
    }
    match known {
        Some((above, below)) => (above.into(), below.into()),
        None => {
            let plain = column
                .strip_prefix("attributes.")
                .unwrap_or(column)
                .replace('_', " ");
            (format!("high {plain}"), format!("low {plain}"))
        }
    }
}

/// The columns worth a word, the strongest first.
pub(super) fn traits(columns: &[String], means: &[f64], overall: &[f64], effects: &[f64]) -> Vec<Trait> {
    let mut traits: Vec<Trait> = columns
        .iter()
        .zip(means.iter().zip(overall).zip(effects))
        .filter(|(_, (_, effect))| effect.abs() >= WORTH_A_WORD)
        .map(|(column, ((mean, overall), effect))| Trait {
            column: column.clone(),
            mean: *mean,
            overall: *overall,
            effect: *effect,
        })
        .collect();
    traits.sort_by(|a, b| b.effect.abs().total_cmp(&a.effect.abs()));
    traits
}

/// `very recent, frequent, fairly high spend`: up to three words; `typical` when nothing sets the group apart.
pub(super) fn name(traits: &[Trait]) -> String {
    let words: Vec<String> = traits
        .iter()
        .take(3)
        .map(|one| {
            let (above, below) = words(&one.column);
            let word = if one.effect > 0.0 { above } else { below };
            match one.effect.abs() {
                size if size < PLAIN => format!("fairly {word}"),
                size if size < STRESSED => word,
                _ => format!("very {word}"),
            }
        })
        .collect();
    if words.is_empty() {
        "typical".into()
    } else {
        words.join(", ")
    }
}

/// Full names, each once: the second of equals gets a 2.
pub(super) fn unique(prefix: &str, names: &[String]) -> Vec<String> {
    let mut given: Vec<String> = Vec::with_capacity(names.len());
    for name in names {
        let short: String = name.chars().take(120).collect();
        let mut full = format!("{prefix}: {short}");
        let mut number = 2;
        while given.contains(&full) {
            full = format!("{prefix}: {short} {number}");
            number += 1;
        }
        given.push(full);
    }
    given
}

/// A number for people: as many digits as matter.
pub(crate) fn figure(value: f64) -> String {
    let size = value.abs();
    let text = if size >= 1e15 || (size > 0.0 && size < 1e-3) {
        return format!("{value:.2e}");
    } else if size >= 100.0 {
        format!("{value:.0}")
    } else if size >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    };
    let short = if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.')
    } else {
        &text
    };
    let (sign, digits) = short
        .strip_prefix('-')
        .map_or(("", short), |digits| ("-", digits));
    let (whole, rest) = digits.split_once('.').unwrap_or((digits, ""));
    let mut grouped = String::new();
    for (i, c) in whole.chars().enumerate() {
        if i > 0 && (whole.len() - i).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(c);
    }
    let sign = if grouped == "0" && rest.is_empty() {
        ""
    } else {
        sign
    };
    if rest.is_empty() {
        format!("{sign}{grouped}")
    } else {
        format!("{sign}{grouped}.{rest}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_sets_apart() {
        let columns: Vec<String> = ["recency_days", "frequency", "monetary", "attributes.open_tickets"]
            .map(String::from)
            .into();
        let found = traits(
            &columns,
            &[3.0, 9.0, 50.0, 1.0],
            &[30.0, 3.0, 49.0, 0.1],
            &[-0.8, 1.2, 0.1, 0.5],
        );
        assert_eq!(name(&found), "frequent, recent, fairly high open tickets");
        let strong = traits(&columns, &[0.0; 4], &[0.0; 4], &[-1.3, 0.0, 0.0, 0.0]);
        assert_eq!(name(&strong), "very recent");
        assert_eq!(name(&[]), "typical");
        assert_eq!(words("orders_30d").0, "many orders in 30 days");
        assert_eq!(words("spend_7d").1, "low spend in 7 days");
        assert_eq!(words("attributes.spend_d").0, "high spend d");
        let names = unique("v", &["a".into(), "b".into(), "a".into()]);
        assert_eq!(names, ["v: a", "v: b", "v: a 2"]);
    }

    #[test]
    fn figures() {
        for (value, text) in [
            (0.0, "0"),
            (-0.001, "0"),
            (0.5, "0.5"),
            (2.4649, "2.46"),
            (31.66, "31.7"),
            (1234.5, "1,234"),
            (-1_000_000.0, "-1,000,000"),
            (0.0001, "1.00e-4"),
            (100.0, "100"),
            (20.0, "20"),
        ] {
            assert_eq!(figure(value), text, "{value}");
        }
    }
}
