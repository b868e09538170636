//! Numbers and dates as people write them.

use crm_core::Timestamp;

use super::{DateOrder, Decimal};

/// Signs of currencies that may stand before or behind a number; three capital letters (ISO 4217) may as well.
const CURRENCIES: &[char] = &[
    '$', '€', '£', '¥', '₹', '₽', '₩', '₺', '₫', '₴', '₦', '₱', '฿', '₪',
];

/// What may separate thousands besides the sign that is not the decimal one: blanks of all widths and apostrophes.
fn is_spacing(c: char) -> bool {
    matches!(c, ' ' | '\u{a0}' | '\u{2009}' | '\u{202f}' | '\'' | '’')
}

/// A number as people write it; `None` when it is none, or could be read in two ways.
pub(crate) fn number(text: &str, decimal: Decimal) -> Option<f64> {
    let mut rest = text.trim();
    let mut negative = false;
    if let Some(inner) = rest.strip_prefix('(').and_then(|rest| rest.strip_suffix(')')) {
        rest = inner.trim();
        negative = true;
    }
    let mut signs = usize::from(negative);
    let mut currencies = 0;
    // A sign and a currency, each at most once, in any order, in front or behind.
    loop {
        let before = rest;
        for sign in ['-', '−', '+'] {
            let stripped = rest.strip_prefix(sign).or_else(|| rest.strip_suffix(sign));
            if let Some(stripped) = stripped {
                negative |= sign != '+';
                signs += 1;
                rest = stripped.trim();
            }
        }
        if let Some(stripped) = rest
            .strip_prefix(CURRENCIES)
            .or_else(|| rest.strip_suffix(CURRENCIES))
        {
            currencies += 1;
            rest = stripped.trim();
        } else if let Some(stripped) = without_code(rest) {
            currencies += 1;
            rest = stripped.trim();
        }
        if rest == before {
            break;
        }
    }
    if signs > 1 || currencies > 1 {
        return None;
    }
    let (point, group) = match decimal {
        Decimal::Point => ('.', ','),
        Decimal::Comma => (',', '.'),
    };
    let (whole, fraction) = rest.split_once(point).unwrap_or((rest, ""));
    let mut plain = String::with_capacity(rest.len() + 1);
    if negative {
        plain.push('-');
    }
    plain.push_str(&ungrouped(whole, group)?);
    if !fraction.is_empty() {
        plain.push('.');
        plain.push_str(fraction);
    }
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if !digits(fraction) || (whole.is_empty() && fraction.is_empty()) {
        return None;
    }
    plain.parse().ok().filter(|number: &f64| number.is_finite())
}

/// Without a currency's code of three capital letters.
fn without_code(text: &str) -> Option<&str> {
    let capitals = |code: &str| code.bytes().all(|b| b.is_ascii_uppercase());
    match (text.get(..3), text.get(3..)) {
        (Some(code), Some(rest)) if capitals(code) => return Some(rest),
        _ => {}
    }
    let at = text.len().checked_sub(3)?;
    match (text.get(at..), text.get(..at)) {
        (Some(code), Some(rest)) if capitals(code) => Some(rest),
        _ => None,
    }
}

/// The digits of a whole number whose thousands may be grouped, in threes and by one sign only.
fn ungrouped(whole: &str, group: char) -> Option<String> {
    let all_digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() {
        return Some("0".to_owned());
    }
    if all_digits(whole) {
        return Some(whole.to_owned());
    }
    let sign = whole.chars().find(|c| !c.is_ascii_digit())?;
    if sign != group && !is_spacing(sign) {
        return None;
    }
    let mut parts = whole.split(sign);
    let first = parts.next()?;
    if !all_digits(first) || first.len() > 3 {
        return None;
    }
    let mut out = first.to_owned();
    for part in parts {
        if part.len() != 3 || !all_digits(part) {
            return None;
        }
        out.push_str(part);
    }
    Some(out)
}

const MONTHS: [&str; 12] = [
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
];

/// An instant as people write it, in UTC.
pub(crate) fn instant(text: &str, order: DateOrder) -> Option<i64> {
    let text = text.trim();
    // Only with a year of four digits: `26-12-31` would be a day of the year 26.
    let four = text.bytes().take(5).take_while(u8::is_ascii_digit).count() == 4;
    if let (true, Ok(time)) = (four, text.parse::<Timestamp>()) {
        return Some(time.as_micros());
    }
    // The time begins where the first colon's digits begin.
    let (date, time) = match text.find(':') {
        Some(colon) => {
            let before = text.get(..colon)?;
            let digits = before.bytes().rev().take_while(u8::is_ascii_digit).count();
            text.split_at_checked(colon - digits)?
        }
        None => (text, ""),
    };
    let date = date.trim_end_matches([' ', ',', 'T']);
    let midnight = day(date, order)?;
    let micros = if time.is_empty() { 0 } else { time_of_day(time)? };
    midnight.checked_add(micros)
}

fn day(date: &str, order: DateOrder) -> Option<i64> {
    let parts: Vec<&str> = date
        .split(['.', '/', '-', ' ', ','])
        .filter(|part| !part.is_empty())
        .collect();
    let [first, second, third] = parts.try_into().ok()?;
    let number = |part: &str| {
        let plain = part.len() <= 4 && part.bytes().all(|b| b.is_ascii_digit());
        if plain { part.parse::<u32>().ok() } else { None }
    };
    let month = |part: &str| {
        if part.len() < 3 || !part.bytes().all(|b| b.is_ascii_alphabetic()) {
            return None;
        }
        let lower = part.to_ascii_lowercase();
        let at = MONTHS.iter().position(|name| name.starts_with(&lower))?;
        u32::try_from(at + 1).ok()
    };
    let (year, month, day) = if let Some(named) = month(second) {
        // 31 Dec 2026, 2026-Dec-31
        if first.len() == 4 {
            (first, named, number(third)?)
        } else {
            (third, named, number(first)?)
        }
    } else if let Some(named) = month(first) {
        // Dec 31, 2026
        (third, named, number(second)?)
    } else if first.len() == 4 {
        (first, number(second)?, number(third)?)
    } else {
        match order {
            DateOrder::DayFirst => (third, number(second)?, number(first)?),
            DateOrder::MonthFirst => (third, number(first)?, number(second)?),
            DateOrder::YearFirst => (first, number(second)?, number(third)?),
        }
    };
    let year = match (year.len(), number(year)?) {
        (4, year) => year,
        (2, year @ 69..) => 1900 + year,
        (2, year) => 2000 + year,
        _ => return None,
    };
    Some(Timestamp::from_ymd(i32::try_from(year).ok()?, month, day)?.as_micros())
}

/// Microseconds since midnight.
fn time_of_day(time: &str) -> Option<i64> {
    let lower = time.trim().to_ascii_lowercase();
    let (clock, half) = if let Some(clock) = lower.strip_suffix("pm") {
        (clock.trim_end(), Some(12))
    } else if let Some(clock) = lower.strip_suffix("am") {
        (clock.trim_end(), Some(0))
    } else {
        (lower.strip_suffix('z').unwrap_or(&lower), None)
    };
    let mut parts = clock.split(':');
    let two = |part: &str, most: i64| {
        let plain = (1..=2).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
        part.parse::<i64>().ok().filter(|value| plain && *value <= most)
    };
    let hour = two(parts.next()?, 23)?;
    let minute = two(parts.next()?, 59)?;
    let seconds = parts.next().unwrap_or("0");
    if parts.next().is_some() {
        return None;
    }
    let (second, fraction) = seconds.split_once('.').unwrap_or((seconds, "0"));
    let second = two(second, 59)?;
    if fraction.is_empty() || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let micros: i64 = format!("{:0<6.6}", fraction).parse().ok()?;
    let hour = match half {
        None => hour,
        Some(half) if (1..=12).contains(&hour) => hour % 12 + half,
        Some(_) => return None,
    };
    Some(((hour * 60 + minute) * 60 + second) * 1_000_000 + micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_as_people_write_them() {
        for (text, decimal, wanted) in [
            ("1,234.50", Decimal::Point, 1234.5),
            ("1.234,50", Decimal::Comma, 1234.5),
            ("1 234,50 €", Decimal::Comma, 1234.5),
            ("€ -12,5", Decimal::Comma, -12.5),
            ("(99.95)", Decimal::Point, -99.95),
            ("12.50-", Decimal::Point, -12.5),
            ("USD 1,000", Decimal::Point, 1000.0),
            ("1'234'567 CHF", Decimal::Point, 1_234_567.0),
            ("$.5", Decimal::Point, 0.5),
            ("−3", Decimal::Comma, -3.0),
            ("007", Decimal::Comma, 7.0),
        ] {
            assert_eq!(number(text, decimal), Some(wanted), "{text}");
        }
        for (text, decimal) in [
            ("", Decimal::Point),
            ("1,23", Decimal::Point),
            ("1.23", Decimal::Comma),
            ("1,234,5", Decimal::Point),
            ("12,34,567", Decimal::Point),
            ("1,234 567", Decimal::Point),
            ("--5", Decimal::Point),
            ("(-5)", Decimal::Point),
            ("$5€", Decimal::Point),
            ("1e5", Decimal::Point),
            ("12%", Decimal::Point),
            (".", Decimal::Point),
            ("$", Decimal::Point),
            ("nan", Decimal::Point),
            ("NAN", Decimal::Point),
            ("1.2.3", Decimal::Point),
            ("１２", Decimal::Point),
        ] {
            assert_eq!(number(text, decimal), None, "{text}");
        }
    }

    #[test]
    fn dates_as_people_write_them() {
        let at = |text: &str| Some(text.parse::<Timestamp>().unwrap().as_micros());
        for (text, order, wanted) in [
            ("31.12.2026", DateOrder::DayFirst, "2026-12-31"),
            ("12/31/26", DateOrder::MonthFirst, "2026-12-31"),
            ("1/2/2026", DateOrder::DayFirst, "2026-02-01"),
            ("1/2/2026", DateOrder::MonthFirst, "2026-01-02"),
            ("2026/2/1", DateOrder::DayFirst, "2026-02-01"),
            ("26-12-31", DateOrder::YearFirst, "2026-12-31"),
            ("31 Dec 2026", DateOrder::MonthFirst, "2026-12-31"),
            ("December 31, 1999", DateOrder::DayFirst, "1999-12-31"),
            ("01.01.69", DateOrder::DayFirst, "1969-01-01"),
            ("01.01.68", DateOrder::DayFirst, "2068-01-01"),
            ("1.2.2026 17:30", DateOrder::DayFirst, "2026-02-01T17:30:00Z"),
            (
                "2/1/2026, 5:30:15.25 PM",
                DateOrder::MonthFirst,
                "2026-02-01T17:30:15.25Z",
            ),
            ("2/1/2026 12:05 am", DateOrder::MonthFirst, "2026-02-01T00:05:00Z"),
            ("2026-02-01 08:00", DateOrder::DayFirst, "2026-02-01T08:00:00Z"),
            (
                "2026-02-01T08:00:00+02:00",
                DateOrder::DayFirst,
                "2026-02-01T06:00:00Z",
            ),
        ] {
            assert_eq!(instant(text, order), at(wanted), "{text}");
        }
        for (text, order) in [
            ("31.02.2026", DateOrder::DayFirst),
            ("12/31/2026", DateOrder::DayFirst),
            ("1.2.3.2026", DateOrder::DayFirst),
            ("1.2", DateOrder::DayFirst),
            ("1.2.326", DateOrder::DayFirst),
            ("ju 1 2026", DateOrder::DayFirst),
            ("1.2.2026 25:00", DateOrder::DayFirst),
            ("1.2.2026 13:00 pm", DateOrder::DayFirst),
            ("1.2.2026 1:2:3:4", DateOrder::DayFirst),
            (":", DateOrder::DayFirst),
            ("ä:ö", DateOrder::DayFirst),
            ("", DateOrder::DayFirst),
        ] {
            assert_eq!(instant(text, order), None, "{text}");
        }
    }
}
