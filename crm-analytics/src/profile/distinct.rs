//! Counting distinct values and equal rows.

use std::collections::{HashMap, HashSet};

use crm_core::record::Value;
use crm_core::table::ColumnData;
use crm_core::{Column, Result, Table};

use super::{Distinct, TopValue};

/// Registers of the sketch, as a power of 2: standard error 1.04 / sqrt(2^14) = 0.8 %.
const PRECISION: u32 = 14;

/// HyperLogLog (Flajolet, Fusy, Gandouet, Meunier 2007), with linear counting where few registers are touched. Hashes are
/// of 64 bits, so that nothing is corrected for at the upper end.
struct Sketch(Vec<u8>);

impl Sketch {
    fn new() -> Self {
        Self(vec![0; 1 << PRECISION])
    }

    fn add(&mut self, hash: u64) {
        let register = (hash >> (64 - PRECISION)) as usize;
        let rest = hash << PRECISION;
        // The position of the first 1 bit in what is left; at most 51.
        let rank = (rest.leading_zeros() + 1).min(64 - PRECISION + 1) as u8;
        if let Some(slot) = self.0.get_mut(register) {
            *slot = rank.max(*slot);
        }
    }

    fn estimate(&self) -> f64 {
        let m = self.0.len() as f64;
        let harmonic: f64 = self.0.iter().map(|rank| (-f64::from(*rank)).exp2()).sum();
        let raw = 0.7213 / (1.0 + 1.079 / m) * m * m / harmonic;
        let untouched = self.0.iter().filter(|rank| **rank == 0).count() as f64;
        if raw <= 2.5 * m && untouched > 0.0 {
            m * (m / untouched).ln()
        } else {
            raw
        }
    }
}

/// A hash that is the same on every machine: FNV-1a, then the finaliser of MurmurHash3, so that every bit counts.
fn hash(bytes: &[u8], seed: u64) -> u64 {
    let mut hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64 ^ seed, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

/// The bytes of a value; `None` when it is missing. Equal values have equal bytes.
fn bytes(column: &Column, row: usize, out: &mut Vec<u8>) -> bool {
    out.clear();
    if !column.is_valid(row) {
        return false;
    }
    match column.data() {
        ColumnData::Text(data) => out.extend(data.get(row).unwrap_or_default().as_bytes()),
        ColumnData::Float(data) => {
            let value = data.get(row).copied().unwrap_or_default();
            if value.is_nan() {
                return false;
            }
            // 0 and -0 are one number.
            out.extend((value + 0.0).to_bits().to_le_bytes());
        }
        ColumnData::Int(data) | ColumnData::Timestamp(data) => {
            out.extend(data.get(row).copied().unwrap_or_default().to_le_bytes());
        }
        ColumnData::Bool(data) => out.push(data.get(row).copied().unwrap_or_default().into()),
        ColumnData::Uuid(data) => out.extend(data.get(row).copied().unwrap_or_default().as_bytes()),
    }
    true
}

/// How often each distinct value of a column stands there.
pub(super) struct Counted {
    pub(super) distinct: Distinct,
    pub(super) top: Vec<TopValue>,
    /// How often the most frequent value stands there; 0 when values were not counted one by one.
    pub(super) most: usize,
}

pub(super) fn count(column: &Column, exact: usize, top: usize) -> Counted {
    let mut counts: HashMap<Box<[u8]>, (usize, usize)> = HashMap::new();
    let mut sketch: Option<Sketch> = None;
    let mut key = Vec::new();
    for row in 0..column.len() {
        if !bytes(column, row, &mut key) {
            continue;
        }
        if let Some(sketch) = &mut sketch {
            sketch.add(hash(&key, 0));
            continue;
        }
        if let Some((_, count)) = counts.get_mut(key.as_slice()) {
            *count += 1;
            continue;
        }
        counts.insert(key.as_slice().into(), (row, 1));
        if counts.len() > exact {
            let mut begun = Sketch::new();
            counts.drain().for_each(|(key, _)| begun.add(hash(&key, 0)));
            sketch = Some(begun);
        }
    }
    if let Some(sketch) = sketch {
        return Counted {
            distinct: Distinct {
                count: sketch.estimate().round() as usize,
                exact: false,
            },
            top: Vec::new(),
            most: 0,
        };
    }
    let distinct = Distinct {
        count: counts.len(),
        exact: true,
    };
    // By frequency; equals by the row they first stood in, so that the order never depends on the hash map.
    let mut ranked: Vec<(usize, usize)> = counts.into_values().collect();
    ranked.sort_unstable_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
    Counted {
        distinct,
        most: ranked.first().map_or(0, |(_, count)| *count),
        top: ranked
            .into_iter()
            .take_while(|(_, count)| *count > 1)
            .take(top)
            .map(|(row, count)| TopValue {
                value: shown(column, row),
                count,
            })
            .collect(),
    }
}

/// A value as text.
pub(super) fn shown(column: &Column, row: usize) -> String {
    match column.value(row) {
        Value::Bool(v) => v.to_string(),
        Value::Int(v) => v.to_string(),
        Value::Float(v) => v.to_string(),
        Value::Text(v) => v,
        Value::Timestamp(v) => v.to_string(),
        Value::Uuid(v) => v.to_string(),
        _ => String::new(),
    }
}

/// How many rows are equal to one before them in these columns; a row without any value in them is equal to none. Rows are
/// told apart by 128 bits of hash.
pub(super) fn duplicates(table: &Table, names: &[&str]) -> Result<usize> {
    let columns = names
        .iter()
        .map(|name| table.column(name))
        .collect::<Result<Vec<_>>>()?;
    let mut seen: HashSet<(u64, u64)> = HashSet::new();
    let (mut value, mut row_bytes) = (Vec::new(), Vec::new());
    let mut found = 0;
    for row in 0..table.rows() {
        row_bytes.clear();
        let mut any = false;
        for column in &columns {
            let present = bytes(column, row, &mut value);
            any |= present;
            row_bytes.push(u8::from(present));
            row_bytes.extend((value.len() as u64).to_le_bytes());
            row_bytes.extend(&value);
        }
        if any && !seen.insert((hash(&row_bytes, 0), hash(&row_bytes, 0x9e37_79b9_7f4a_7c15))) {
            found += 1;
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_distinct_values_are_estimated_within_three_standard_errors() {
        for n in [2_000_i64, 50_000, 400_000] {
            let column = Column::ints("n", (0..n).chain(0..n).collect());
            let counted = count(&column, 1_000, 3);
            assert!(!counted.distinct.exact);
            let off = (counted.distinct.count as f64 - n as f64).abs() / n as f64;
            assert!(off < 0.025, "{n}: {}", counted.distinct.count);
            let exact = count(&column, n as usize, 3);
            assert_eq!(
                exact.distinct,
                Distinct {
                    count: n as usize,
                    exact: true
                }
            );
            assert_eq!((exact.most, exact.top[0].value.as_str()), (2, "0"));
        }
    }
}
