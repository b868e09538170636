use std::collections::HashMap;
use std::sync::OnceLock;

use super::TimeZone;

/// Where somebody may be: the countries and the time zones that are possible.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// ISO 3166-1 alpha-2.
    pub countries: Vec<&'static str>,
    /// Every zone that is possible.
    pub zones: Vec<TimeZone>,
}

/// The longest beginning of a number in the table, in digits.
const LONGEST: usize = 4;

/// Written by `scripts/zones.py`.
static PHONES: &str = include_str!("phone.tsv");
static COUNTRIES: &str = include_str!("country.tsv");

fn zones(names: &str) -> Vec<TimeZone> {
    names.split(',').filter_map(|name| name.parse().ok()).collect()
}

/// Where somebody with this number (E.164) may be, by its country code and, where those tell, its first digits: an area
/// in North America, Brazil or Russia. People keep their number when they move, so it is a guess; a `timezone` that
/// they told is better.
pub fn of_phone(e164: &str) -> Option<&'static Place> {
    static TABLE: OnceLock<HashMap<&'static str, Place>> = OnceLock::new();
    let table = TABLE.get_or_init(|| {
        PHONES
            .lines()
            .filter_map(|line| {
                let mut cells = line.split('\t');
                let (beginning, countries, names) = (cells.next()?, cells.next()?, cells.next()?);
                let place = Place {
                    countries: countries.split(',').collect(),
                    zones: zones(names),
                };
                Some((beginning, place))
            })
            .collect()
    });
    let digits = e164.strip_prefix('+')?;
    (1..=LONGEST)
        .rev()
        .filter_map(|length| digits.get(..length))
        .find_map(|beginning| table.get(beginning))
}

/// The zones of a country (ISO 3166-1 alpha-2, any case); empty for one that is not known.
pub fn of_country(code: &str) -> &'static [TimeZone] {
    static TABLE: OnceLock<HashMap<&'static str, Vec<TimeZone>>> = OnceLock::new();
    let table = TABLE.get_or_init(|| {
        COUNTRIES
            .lines()
            .filter_map(|line| line.split_once('\t').map(|(code, names)| (code, zones(names))))
            .collect()
    });
    table
        .get(code.to_ascii_uppercase().as_str())
        .map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_the_tables_is_understood() {
        for line in PHONES.lines() {
            let cells: Vec<&str> = line.split('\t').collect();
            assert!(
                cells[0].len() <= LONGEST && cells[0].bytes().all(|b| b.is_ascii_digit()),
                "{line}"
            );
            assert_eq!(zones(cells[2]).len(), cells[2].split(',').count(), "{line}");
            assert!(cells[1].split(',').all(|country| country.len() == 2), "{line}");
        }
        for line in COUNTRIES.lines() {
            let (_, names) = line.split_once('\t').unwrap();
            assert_eq!(zones(names).len(), names.split(',').count(), "{line}");
        }
        assert!(PHONES.lines().count() > 800 && COUNTRIES.lines().count() > 240);
    }

    #[test]
    fn numbers_tell_where_they_may_be() {
        let names = |number: &str| {
            of_phone(number).map(|p| p.zones.iter().map(|z| z.name()).collect::<Vec<_>>().join(","))
        };
        assert_eq!(names("+12125551234").as_deref(), Some("America/New_York"));
        assert_eq!(names("+13105551234").as_deref(), Some("America/Los_Angeles"));
        assert_eq!(
            names("+12085551234").as_deref(),
            Some("America/Boise,America/Denver,America/Los_Angeles")
        );
        assert_eq!(names("+8613812345678").as_deref(), Some("Asia/Shanghai"));
        assert_eq!(of_phone("+18765551234").unwrap().countries, ["JM"]);
        assert_eq!(of_phone("+14165551234").unwrap().countries, ["CA"]);
        // A mobile number of a wide country may be anywhere in it.
        assert!(of_phone("+61491570156").unwrap().zones.len() > 5);
        assert!(of_phone("+79161234567").unwrap().zones.len() > 9);
        assert_eq!(
            (of_phone("12125551234"), of_phone("+"), of_phone("+999")),
            (None, None, None)
        );
        assert!(of_country("us").len() > 20 && of_country("ZZ").is_empty());
        assert_eq!(of_country("DE").len(), 2, "Büsingen keeps Swiss time");
    }
}
