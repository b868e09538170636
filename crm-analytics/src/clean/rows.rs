//! Steps that look at more than one row: duplicates, groups, what came before.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::HashMap;

use crm_core::record::{FieldType, Value};
use crm_core::{Error, Result};
use polars::prelude as pl;
use polars::prelude::NamedFrom;
use serde::{Deserialize, Serialize};

use super::Keep;
use super::expr::{Cell, Cells, Held};
use super::frame::{Frame, classify};

/// The types that can be part of a key.
pub(super) const KEYS: &[FieldType] = &[
    FieldType::Text,
    FieldType::Bool,
    FieldType::Int,
    FieldType::Float,
    FieldType::Timestamp,
];

/// What was learned of one group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Group {
    /// The values that the rows of the group agree in, as text.
    pub key: Vec<Option<String>>,
    pub value: Value,
}

/// The values of some columns, row by row, as keys.
struct Keys<'a>(Vec<Cells<'a>>);

impl<'a> Keys<'a> {
    fn of(held: &'a [Held]) -> Result<Self> {
        held.iter().map(Cells::of).collect::<Result<Vec<_>>>().map(Self)
    }

    /// The parts one after the other, each with its length in front, so that no two keys look alike. Writes into `key`;
    /// answers whether any part is there.
    fn write(&self, row: usize, key: &mut Vec<u8>) -> bool {
        write_key(self.0.iter().map(|cells| cells.cell(row).shown()), key)
    }

    fn texts(&self, row: usize) -> Vec<Option<String>> {
        let texts = self
            .0
            .iter()
            .map(|cells| cells.cell(row).shown().map(|text| text.into_owned()));
        texts.collect()
    }
}

/// Writes the parts of a key; answers whether any part is there.
pub(super) fn write_key<'a>(parts: impl Iterator<Item = Option<Cow<'a, str>>>, key: &mut Vec<u8>) -> bool {
    key.clear();
    let mut any = false;
    for part in parts {
        match part {
            None => key.push(0),
            Some(text) => {
                any = true;
                key.push(1);
                key.extend((text.len() as u64).to_le_bytes());
                key.extend(text.as_bytes());
            }
        }
    }
    any
}

/// Which rows stay when of those with the same key only one does.
pub(super) fn unique(frame: &Frame, by: &[String], keep: Keep) -> Result<Vec<bool>> {
    let names: Vec<&str> = by.iter().map(String::as_str).collect();
    let held = Held::all(frame, &names)?;
    let keys = Keys::of(&held)?;
    let others: Vec<&str> = match keep {
        Keep::MostComplete => frame
            .columns()
            .iter()
            .filter(|(_, ty)| KEYS.contains(ty))
            .map(|(name, _)| name.as_str())
            .collect(),
        _ => Vec::new(),
    };
    let others = Held::all(frame, &others)?;
    let others = others.iter().map(Cells::of).collect::<Result<Vec<_>>>()?;
    let complete = |row: usize| others.iter().filter(|cells| !cells.cell(row).is_null()).count();
    let mut stay = vec![true; frame.rows()];
    let mut first: HashMap<Box<[u8]>, (usize, usize)> = HashMap::new();
    let mut key = Vec::new();
    for row in 0..frame.rows() {
        if !keys.write(row, &mut key) {
            continue;
        }
        let values = complete(row);
        let Some((winner, most)) = first.get_mut(key.as_slice()) else {
            first.insert(key.as_slice().into(), (row, values));
            continue;
        };
        let better = match keep {
            Keep::First => false,
            Keep::Last => true,
            Keep::MostComplete => values > *most,
        };
        let loser = if better { *winner } else { row };
        if better {
            (*winner, *most) = (row, values);
        }
        if let Some(stays) = stay.get_mut(loser) {
            *stays = false;
        }
    }
    Ok(stay)
}

/// What the rows of a group agree in, and which rows they are.
type Members = (Vec<Option<String>>, Vec<pl::IdxSize>);

/// The rows of each group, the groups in the order of their keys.
pub(super) fn groups(frame: &Frame, by: &[String]) -> Result<Vec<Members>> {
    let names: Vec<&str> = by.iter().map(String::as_str).collect();
    let held = Held::all(frame, &names)?;
    let keys = Keys::of(&held)?;
    let mut found: HashMap<Box<[u8]>, Vec<pl::IdxSize>> = HashMap::new();
    let mut key = Vec::new();
    for row in 0..frame.rows() {
        keys.write(row, &mut key);
        let at = pl::IdxSize::try_from(row).map_err(|_| {
            Error::invalid("more rows than can be grouped at once").with("rows", frame.rows())
        })?;
        match found.get_mut(key.as_slice()) {
            Some(rows) => rows.push(at),
            None => {
                found.insert(key.as_slice().into(), vec![at]);
            }
        }
    }
    let mut groups: Vec<_> = found
        .into_values()
        .map(|rows| {
            let key = rows
                .first()
                .map(|row| keys.texts(*row as usize))
                .unwrap_or_default();
            (key, rows)
        })
        .collect();
    groups.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    Ok(groups)
}

/// For each row the position of its group, `None` for one never seen.
pub(super) fn group_of(frame: &Frame, by: &[String], groups: &[Group]) -> Result<Vec<Option<usize>>> {
    let names: Vec<&str> = by.iter().map(String::as_str).collect();
    let held = Held::all(frame, &names)?;
    let keys = Keys::of(&held)?;
    let mut known: HashMap<Box<[u8]>, usize> = HashMap::new();
    let mut key = Vec::new();
    for (at, group) in groups.iter().enumerate() {
        write_key(
            group.key.iter().map(|part| part.as_deref().map(Cow::Borrowed)),
            &mut key,
        );
        known.insert(key.as_slice().into(), at);
    }
    let find = |row| {
        keys.write(row, &mut key);
        known.get(key.as_slice()).copied()
    };
    Ok((0..frame.rows()).map(find).collect())
}

/// The column with the last value that is there in the place of missing ones, in the order of another column.
pub(super) fn forward(frame: &Frame, column: &str, order: &str, by: &[String]) -> Result<pl::Series> {
    let held = Held::all(frame, &[column, order])?;
    let [values, times] = held.as_slice() else {
        return Err(Error::unexpected("a step lost its column").with("column", column));
    };
    let (values, times) = (Cells::of(values)?, Cells::of(times)?);
    let before = |a: &Cell<'_>, b: &Cell<'_>| match (a, b) {
        (Cell::Int(a), Cell::Int(b)) | (Cell::Time(a), Cell::Time(b)) => a.cmp(b),
        (a, b) => match (a.as_f64(), b.as_f64()) {
            (Some(a), Some(b)) => a.total_cmp(&b),
            _ => Ordering::Equal,
        },
    };
    let rows = frame.rows();
    let mut source: Vec<Option<pl::IdxSize>> = (0..rows)
        .map(|row| {
            pl::IdxSize::try_from(row)
                .ok()
                .filter(|_| !values.cell(row).is_null())
        })
        .collect();
    for (_, mut members) in groups(frame, by)? {
        members.retain(|row| !times.cell(*row as usize).is_null());
        // Stable: rows of one instant keep their order.
        members.sort_by(|a, b| before(&times.cell(*a as usize), &times.cell(*b as usize)));
        let mut last = None;
        for row in members {
            if let Some(slot) = source.get_mut(row as usize) {
                match slot {
                    Some(own) => last = Some(*own),
                    None => *slot = last,
                }
            }
        }
    }
    let indices = pl::IdxCa::new("source".into(), source);
    frame.series(column)?.take(&indices).map_err(classify)
}
