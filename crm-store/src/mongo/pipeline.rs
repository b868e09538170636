//! Questions as aggregation pipelines.

use crm_core::query::{Aggregate, Cursor, Filter, GroupBy, Measure, Order, Query, Scan};
use crm_core::record::{FieldType, Schema, Value};
use crm_core::{Error, ErrorKind, Result, TenantId, Uuid};
use mongodb::bson::{Bson, Document, RawBsonRef, RawDocument, doc};

use super::filter::{self, Condition};
use super::wire::{self, ID, OWN_ID, TENANT, VERSION};

/// Whose records a question is about, and where they lie.
#[derive(Clone, Copy)]
pub(super) struct Of<'a> {
    pub(super) schema: &'static Schema,
    pub(super) tenant: &'a TenantId,
    pub(super) prefix: &'a str,
}

impl Of<'_> {
    fn condition(self, filter: &Filter) -> Result<Condition> {
        filter::condition(self.schema, self.tenant, self.prefix, filter)
    }

    /// The tenant's records. By id, the range of their keys is named too, for the index on it: needed for the order of
    /// ids and where no other index leads to the few that match.
    fn records(self, by_id: bool, after: Option<Uuid>) -> Vec<Document> {
        let mut all = vec![doc! { TENANT: self.tenant.as_str() }];
        if by_id {
            let tenant = self.tenant.as_str();
            let start = match after {
                Some(id) => doc! { "$gt": wire::key(self.tenant, id) },
                None => doc! { "$gt": { "t": tenant, "i": Bson::MinKey } },
            };
            all.push(doc! { ID: start });
            all.push(doc! { ID: { "$lt": { "t": tenant, "i": Bson::MaxKey } } });
        }
        all
    }

    /// The stages that leave the records that match.
    fn matching(self, filter: &Filter) -> Result<Vec<Document>> {
        let condition = self.condition(filter)?;
        let by_id = !filter::is_pinned(self.schema, filter);
        Ok(staged(self.records(by_id, None), condition, None))
    }
}

/// The stages of a condition; sorted before related records are looked up, so that a page looks up few.
fn staged(mut first: Vec<Document>, condition: Condition, sort: Option<Document>) -> Vec<Document> {
    first.push(condition.early);
    first.retain(|one| !one.is_empty());
    let mut stages = vec![doc! { "$match": { "$and": first } }];
    stages.extend(sort.map(|sort| doc! { "$sort": sort }));
    stages.extend(condition.lookups);
    stages.extend(condition.late.map(|late| doc! { "$match": late }));
    stages
}

/// A page of records, and one more when there are more.
pub(super) fn find(of: Of<'_>, query: &Query) -> Result<Vec<Document>> {
    ordered(
        of,
        &query.filter,
        &query.order,
        query.after.as_ref(),
        i64::from(query.limit) + 1,
    )
}

/// The first `limit` records in this order, after the cursor when given.
pub(super) fn ordered(
    of: Of<'_>,
    filter: &Filter,
    order: &[Order],
    after: Option<&Cursor>,
    limit: i64,
) -> Result<Vec<Document>> {
    let by_id = order.is_empty();
    let from = after.filter(|_| by_id).map(|cursor| cursor.id);
    let mut first = of.records(by_id || !filter::is_pinned(of.schema, filter), from);
    if let Some(cursor) = after.filter(|_| !by_id) {
        first.extend(behind(order, cursor)?);
    }
    let mut sort = Document::new();
    for order in order {
        sort.insert(
            wire::place(&order.field),
            if order.descending { -1_i32 } else { 1 },
        );
    }
    if by_id {
        sort.insert(ID, 1);
    } else if !sort.contains_key(OWN_ID) {
        sort.insert(OWN_ID, 1);
    }
    let mut stages = staged(first, of.condition(filter)?, Some(sort));
    stages.push(doc! { "$limit": limit });
    Ok(stages)
}

/// What lies behind a cursor: equal in the first keys and behind in the next, for every number of keys; absent values
/// come first when ascending. The range of the first key stands alone too, for an index on it.
fn behind(order: &[Order], cursor: &Cursor) -> Result<Vec<Document>> {
    let mut ways = Vec::new();
    let mut equal: Vec<Document> = Vec::new();
    for (order, key) in order.iter().zip(&cursor.keys) {
        let place = wire::place(&order.field);
        let further = match (order.descending, wire::bson(key)?) {
            (false, Some(key)) => Some(doc! { place: { "$gt": key } }),
            (true, Some(key)) => {
                Some(doc! { "$or": [{ place: { "$lt": key } }, { place: { "$eq": Bson::Null } }] })
            }
            (false, None) => Some(doc! { place: { "$ne": Bson::Null } }),
            (true, None) => None,
        };
        ways.extend(further.map(|further| {
            let all = [equal.as_slice(), &[further]].concat();
            doc! { "$and": all }
        }));
        equal.push(doc! { place: { "$eq": wire::bson(key)?.unwrap_or(Bson::Null) } });
    }
    equal.push(doc! { OWN_ID: { "$gt": wire::uuid(cursor.id) } });
    ways.push(doc! { "$and": equal });
    let mut all = vec![doc! { "$or": ways }];
    if let (Some(order), Some(key)) = (order.first(), cursor.keys.first())
        && !order.descending
        && let Some(key) = wire::bson(key)?
    {
        all.push(doc! { wire::place(&order.field): { "$gte": key } });
    }
    Ok(all)
}

/// The number of records that match, as `n`.
pub(super) fn count(of: Of<'_>, filter: &Filter) -> Result<Vec<Document>> {
    let mut stages = of.matching(filter)?;
    stages.push(doc! { "$count": "n" });
    Ok(stages)
}

/// The next chunk of a scan, after `after`: only the fields that are asked for.
pub(super) fn scan(of: Of<'_>, scan: &Scan, after: Option<Uuid>) -> Result<Vec<Document>> {
    let condition = of.condition(&scan.filter)?;
    let mut stages = staged(of.records(true, after), condition, Some(doc! { ID: 1 }));
    let mut fields = doc! { ID: 1 };
    for column in scan.columns.iter().filter(|column| column.field != "id") {
        fields.insert(&column.field, 1);
    }
    stages.push(doc! { "$limit": i64::try_from(scan.chunk_rows).unwrap_or(i64::MAX) });
    stages.push(doc! { "$project": fields });
    Ok(stages)
}

/// The fields that say whether a key is taken.
pub(super) fn keys_only(fields: impl Iterator<Item = &'static str>) -> Document {
    let mut wanted = doc! { ID: 1, VERSION: 1 };
    wanted.extend(fields.map(|field| (field.to_owned(), Bson::Int32(1))));
    wanted
}

/// The years MongoDB writes as text, 0 to 9999, in microseconds.
const FIRST_YEAR: i64 = -62_167_219_200_000_000;
const LAST_YEAR: i64 = 253_402_300_799_999_999;

/// A group's key.
fn key(by: &GroupBy) -> Bson {
    let value = format!("${}", wire::place(by.field()));
    let floor = |width: i64, shift: i64| {
        // `$mod` rounds towards zero: two widths are added first.
        doc! { "$mod": [{ "$add": [{ "$mod": [&value, width] }, shift] }, width] }
    };
    match by {
        GroupBy::Field(_) => doc! { "$ifNull": [value, Bson::Null] }.into(),
        GroupBy::Bucket { width, start, .. } => {
            let width = (*width).max(1);
            doc! { "$subtract": [&value, floor(width, 2 * width - start.rem_euclid(width))] }.into()
        }
        GroupBy::Month(_) => {
            // The quotient is near a whole number, but far ones are not exact floats.
            let millis =
                doc! { "$round": { "$divide": [{ "$subtract": [&value, floor(1000, 2000)] }, 1000_i64] } };
            let month = doc! { "$dateToString": {
                "date": { "$toDate": { "$toLong": millis } }, "format": "%Y-%m", "timezone": "UTC",
            } };
            let written =
                doc! { "$and": [{ "$gte": [&value, FIRST_YEAR] }, { "$lte": [&value, LAST_YEAR] }] };
            // Outside of these years: an empty text, which is told.
            let told = doc! { "$cond": [written, month, ""] };
            doc! { "$cond": [{ "$gt": [&value, Bson::Null] }, told, Bson::Null] }.into()
        }
    }
}

/// The keys as the `_id` of a group.
fn keys(aggregate: &Aggregate) -> Document {
    let keys = aggregate.by.iter().enumerate();
    keys.map(|(i, by)| (format!("k{i}"), key(by))).collect()
}

/// 1 where the field is there.
fn present(field: &str) -> Document {
    doc! { "$cond": [{ "$gt": [field, Bson::Null] }, 1, 0] }
}

/// Groups and sums, sorted by the keys. Measure `i` is `m<i>`; `n<i>` is how many values a sum has.
///
/// Different values are counted by grouping twice, never as a set in memory; each such measure is a branch of its own
/// over the same records, and the branches are put together by their keys.
pub(super) fn aggregate(of: Of<'_>, aggregate: &Aggregate) -> Result<Vec<Document>> {
    let matching = of.matching(&aggregate.filter)?;
    let by = keys(aggregate);
    let mut plain = doc! { ID: &by };
    let mut branches: Vec<Vec<Document>> = Vec::new();
    for (i, (_, measure)) in aggregate.measures.iter().enumerate() {
        let value = measure
            .field()
            .map(|field| format!("${}", wire::place(field)))
            .unwrap_or_default();
        match measure {
            Measure::Count => {
                plain.insert(format!("m{i}"), doc! { "$sum": 1 });
            }
            Measure::Sum(_) => {
                plain.insert(format!("m{i}"), doc! { "$sum": &value });
                plain.insert(format!("n{i}"), doc! { "$sum": present(&value) });
            }
            Measure::Min(_) => {
                plain.insert(format!("m{i}"), doc! { "$min": &value });
            }
            Measure::Max(_) => {
                plain.insert(format!("m{i}"), doc! { "$max": &value });
            }
            Measure::Distinct(_) => branches.push(vec![
                doc! { "$group": { ID: { "by": &by, "value": { "$ifNull": [&value, Bson::Null] } } } },
                doc! { "$group": { ID: "$_id.by", format!("m{i}"): { "$sum": present("$_id.value") } } },
            ]),
        }
    }
    if plain.len() > 1 || branches.is_empty() {
        branches.insert(0, vec![doc! { "$group": plain }]);
    }
    let several = branches.len() > 1;
    let mut stages = Vec::new();
    for branch in branches {
        let one = [matching.as_slice(), branch.as_slice()].concat();
        if stages.is_empty() {
            stages = one;
        } else {
            let records = format!("{}{}", of.prefix, of.schema.name);
            stages.push(doc! { "$unionWith": { "coll": records, "pipeline": one } });
        }
    }
    if several {
        let mut joined = doc! { ID: "$_id" };
        for (i, (_, measure)) in aggregate.measures.iter().enumerate() {
            joined.insert(format!("m{i}"), doc! { "$max": format!("$m{i}") });
            if matches!(measure, Measure::Sum(_)) {
                joined.insert(format!("n{i}"), doc! { "$max": format!("$n{i}") });
            }
        }
        stages.push(doc! { "$group": joined });
    }
    let sort: Document = (0..aggregate.by.len())
        .map(|i| (format!("_id.k{i}"), Bson::Int32(1)))
        .collect();
    if !sort.is_empty() {
        stages.push(doc! { "$sort": sort });
    }
    Ok(stages)
}

/// Whether the answer is put together from several looks at the records, which must see the same ones.
pub(super) fn needs_one_moment(aggregate: &Aggregate) -> bool {
    let distinct = aggregate
        .measures
        .iter()
        .filter(|(_, measure)| matches!(measure, Measure::Distinct(_)))
        .count();
    distinct > 1 || (distinct == 1 && aggregate.measures.len() > 1)
}

/// A group's keys and measures, in the order of the columns.
pub(super) fn group(
    schema: &'static Schema,
    aggregate: &Aggregate,
    types: &[FieldType],
    found: &RawDocument,
) -> Result<Vec<Value>> {
    let mut row = Vec::with_capacity(types.len());
    let keys = found.get_document(ID).ok();
    for (i, (by, ty)) in aggregate.by.iter().zip(types).enumerate() {
        let key = keys.and_then(|keys| keys.get(format!("k{i}")).ok()?);
        row.push(key_value(schema, by, *ty, key.unwrap_or(RawBsonRef::Null))?);
    }
    let types = types.iter().skip(aggregate.by.len());
    for (i, ((name, measure), ty)) in aggregate.measures.iter().zip(types).enumerate() {
        let get = |kind: char| found.get(format!("{kind}{i}")).ok().flatten();
        let value = get('m').unwrap_or(RawBsonRef::Null);
        row.push(match (measure, value) {
            (Measure::Count | Measure::Distinct(_), RawBsonRef::Null) => Value::Int(0),
            (Measure::Sum(_), _)
                if get('n').is_none_or(|n| wire::value(FieldType::Int, n) == Some(Value::Int(0))) =>
            {
                Value::Null
            }
            // MongoDB goes on with a float where an integer ends.
            (Measure::Sum(_), RawBsonRef::Double(_)) if *ty == FieldType::Int => {
                return Err(Error::invalid("a sum goes beyond 64 bits").with("measure", name));
            }
            // The sum of floats that are whole may come as one.
            (Measure::Sum(_), RawBsonRef::Int32(sum)) if *ty == FieldType::Float => Value::Float(sum.into()),
            (_, value) => wire::value(*ty, value).ok_or_else(|| {
                Error::new(ErrorKind::Corrupt, "a stored value is not what its schema says")
                    .with("schema", schema.name)
                    .with("measure", name)
            })?,
        });
    }
    Ok(row)
}

fn key_value(schema: &'static Schema, by: &GroupBy, ty: FieldType, key: RawBsonRef<'_>) -> Result<Value> {
    match (by, key) {
        (GroupBy::Bucket { field, .. }, RawBsonRef::Double(_)) => {
            Err(Error::invalid("a stretch begins before the smallest number").with("field", field))
        }
        (GroupBy::Month(field), RawBsonRef::String("")) => Err(Error::new(
            ErrorKind::Unsupported,
            "months are grouped within the years 0 to 9999 only",
        )
        .with("field", field)),
        (by, key) => wire::value(ty, key).ok_or_else(|| {
            Error::new(ErrorKind::Corrupt, "a stored value is not what its schema says")
                .with("schema", schema.name)
                .with("field", by.field())
        }),
    }
}

/// The types of an aggregate's columns: keys, then measures.
pub(super) fn types(schema: &'static Schema, aggregate: &Aggregate) -> Result<Vec<FieldType>> {
    let keys = aggregate.by.iter().map(|by| match by {
        GroupBy::Month(_) => Ok(FieldType::Text),
        // The smallest of a field is of the field's type.
        by => aggregate.measure_type(schema, &Measure::Min(by.field().to_owned())),
    });
    let measures = aggregate
        .measures
        .iter()
        .map(|(_, measure)| aggregate.measure_type(schema, measure));
    keys.chain(measures).collect()
}
