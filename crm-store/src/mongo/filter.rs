//! Filters as MongoDB conditions. Every condition written here is true or false, so that `$nor` is the exact opposite,
//! as `crm_core::query` promises. Values only ever stand behind an operator (`$eq`, `$lt`, ..), paths are made of escaped
//! keys: neither is read as a command.

use crm_core::query::{Compare, FieldRef, Filter, Measure, Related};
use crm_core::record::{FieldType, Schema, Value};
use crm_core::{Error, Result, TenantId};
use mongodb::bson::{Bson, Document, doc};

use super::wire::{self, ID, TENANT};

/// The longest text looked for with a regular expression; longer ones are looked for as bytes.
const LONGEST_PATTERN: usize = 4096;

/// A filter in three steps: what can be decided on the record alone, the look at related records, and the rest.
#[derive(Debug, Default)]
pub(super) struct Condition {
    /// A condition on the record alone.
    pub(super) early: Document,
    /// `$lookup` stages.
    pub(super) lookups: Vec<Document>,
    /// A condition on what the lookups found.
    pub(super) late: Option<Document>,
}

/// Compiles a filter that was validated.
pub(super) fn condition(
    schema: &'static Schema,
    tenant: &TenantId,
    prefix: &str,
    filter: &Filter,
) -> Result<Condition> {
    let mut lookups = Lookups {
        tenant,
        prefix,
        stages: Vec::new(),
    };
    let conjuncts = match filter {
        Filter::All => &[],
        Filter::And(all) => all.as_slice(),
        one => std::slice::from_ref(one),
    };
    let (mut early, mut late) = (Vec::new(), Vec::new());
    for one in conjuncts {
        let asks = one.any(&|leaf| matches!(leaf, Filter::Related(_)));
        let written = lookups.write(schema, one)?;
        if asks {
            late.push(written);
        } else {
            early.push(written);
        }
    }
    let joined = |all: Vec<Document>| match all.len() {
        0 => Document::new(),
        _ => doc! { "$and": all },
    };
    Ok(Condition {
        early: joined(early),
        late: (!late.is_empty()).then(|| joined(late)),
        lookups: lookups.stages,
    })
}

/// Whether the filter pins the first field of an index, so that the index leads to the few that can match.
pub(super) fn is_pinned(schema: &'static Schema, filter: &Filter) -> bool {
    let first = |field: &FieldRef| {
        field.path.is_empty()
            && schema
                .indexes
                .iter()
                .any(|index| index.fields.first() == Some(&field.field.as_str()))
    };
    match filter {
        Filter::And(all) => all.iter().any(|one| is_pinned(schema, one)),
        Filter::Is { field, op, .. } => *op != Compare::Ne && first(field),
        Filter::In { field, .. } | Filter::Prefix { field, .. } => first(field),
        _ => false,
    }
}

/// Never true.
fn never() -> Document {
    doc! { ID: { "$in": [] } }
}

struct Lookups<'a> {
    tenant: &'a TenantId,
    prefix: &'a str,
    stages: Vec<Document>,
}

impl Lookups<'_> {
    fn write(&mut self, schema: &'static Schema, filter: &Filter) -> Result<Document> {
        Ok(match filter {
            Filter::All => Document::new(),
            Filter::And(all) => self.joined(schema, all, "$and")?.unwrap_or_default(),
            Filter::Or(any) => self.joined(schema, any, "$or")?.unwrap_or_else(never),
            Filter::Not(filter) => doc! { "$nor": [self.write(schema, filter)?] },
            Filter::Is { field, op, value } => {
                let (place, ty) = located(schema, field)?;
                self.compared(schema, &place, ty, *op, value)?
            }
            Filter::In { field, values } => {
                let (place, _) = located(schema, field)?;
                let values = values
                    .iter()
                    .map(|value| operand(schema, &place, value))
                    .collect::<Result<Vec<Bson>>>()?;
                // Under an id, the whole key is looked for: the index on it leads there.
                if field.field == "id" {
                    let keys: Vec<Bson> = values.into_iter().map(|id| self.key(id)).collect();
                    return Ok(doc! { ID: { "$in": keys } });
                }
                doc! { place: { "$in": values } }
            }
            Filter::Prefix { field, text } => {
                let (place, _) = located(schema, field)?;
                let mut range = doc! { "$gte": text };
                if let Some(end) = behind(text) {
                    range.insert("$lt", end);
                }
                doc! { place: range }
            }
            Filter::Contains { field, text } => contains(located(schema, field)?.0, text),
            Filter::Null { field } => match field.field.as_str() {
                "id" => never(),
                _ if field.path.is_empty() => doc! { &field.field: { "$exists": false } },
                _ => doc! { located(schema, field)?.0: { "$eq": Bson::Null } },
            },
            Filter::Has { field, text } => {
                doc! { format!("{}.a", wire::path(&field.field, &field.path)): { "$eq": text } }
            }
            Filter::Related(related) => self.related(related)?,
            Filter::Ago { .. } | Filter::InSegment(_) => {
                filter.validate(schema)?;
                never()
            }
        })
    }

    fn joined(&mut self, schema: &'static Schema, all: &[Filter], with: &str) -> Result<Option<Document>> {
        let all = all
            .iter()
            .map(|filter| self.write(schema, filter))
            .collect::<Result<Vec<Document>>>()?;
        Ok((!all.is_empty()).then(|| doc! { with: all }))
    }

    fn key(&self, id: Bson) -> Bson {
        Bson::Document(doc! { "t": self.tenant.as_str(), "i": id })
    }

    /// The same types only: MongoDB compares within a type, numbers of any kind as exact numbers.
    fn compared(
        &self,
        schema: &'static Schema,
        place: &str,
        ty: Option<FieldType>,
        op: Compare,
        value: &Value,
    ) -> Result<Document> {
        let operand = operand(schema, place, value)?;
        // All keys of a condition are of one tenant and sort by the id within it.
        let (place, operand) = match place {
            wire::OWN_ID => (ID, self.key(operand)),
            place => (place, operand),
        };
        let sign = match op {
            Compare::Eq => "$eq",
            Compare::Lt => "$lt",
            Compare::Le => "$lte",
            Compare::Gt => "$gt",
            Compare::Ge => "$gte",
            // Another value of the same type: below a JSON field others may lie there.
            Compare::Ne => {
                return Ok(match (ty, value) {
                    (Some(_), _) => doc! { place: { "$nin": [operand, Bson::Null] } },
                    (None, Value::Bool(_)) => doc! { place: { "$ne": operand, "$type": "bool" } },
                    (None, Value::Text(_)) => doc! { place: { "$ne": operand, "$type": "string" } },
                    (None, _) => doc! { place: { "$ne": operand, "$type": "number" } },
                });
            }
        };
        Ok(doc! { place: { sign: operand } })
    }

    /// Looks at the records that belong to one, by the index on their key; what is found is at most one document, which
    /// says that the measure compares as asked (or, where the condition holds for records without any, that it does not).
    /// Nothing is held but that: many records with millions of related ones are answered in a stream.
    fn related(&mut self, related: &Related) -> Result<Document> {
        let schema = related.relation.schema();
        let mut inner = Lookups {
            tenant: self.tenant,
            prefix: self.prefix,
            stages: Vec::new(),
        };
        let filter = inner.write(schema, &related.filter)?;
        let none = related.holds_for_none();
        let ty = related.aggregate().measure_type(schema, &related.measure)?;
        let mut steps = vec![doc! { "$match": { "$and": [{ TENANT: self.tenant.as_str() }, filter] } }];
        if let (Measure::Count, Value::Int(bound)) = (&related.measure, &related.value)
            && (0..i64::MAX).contains(bound)
        {
            // More of them decide nothing.
            steps.push(doc! { "$limit": bound + 1 });
        }
        steps.extend(measured(&related.measure, ty));
        let compared = self.compared(schema, "measured", Some(ty), related.op, &related.value)?;
        steps.push(doc! { "$match": if none { doc! { "$nor": [compared] } } else { compared } });
        steps.push(doc! { "$project": { ID: 1 } });
        let name = format!("_related{}", self.stages.len());
        self.stages.push(doc! { "$lookup": {
            "from": format!("{}{}", self.prefix, schema.name),
            "localField": wire::OWN_ID,
            "foreignField": related.relation.key(),
            "pipeline": steps,
            "as": &name,
        } });
        let empty = Bson::Array(Vec::new());
        Ok(doc! { name: { if none { "$eq" } else { "$ne" }: empty } })
    }
}

/// Stages that leave at most one document with the measure over all that come in, as `measured`.
fn measured(measure: &Measure, ty: FieldType) -> Vec<Document> {
    let field = measure.field().map(wire::place).unwrap_or_default();
    let present = doc! { "$match": { field: { "$ne": Bson::Null } } };
    let value = format!("${field}");
    let over =
        |operator: &str, value: Bson| doc! { "$group": { ID: Bson::Null, "measured": { operator: value } } };
    match measure {
        Measure::Count => vec![over("$sum", Bson::Int32(1))],
        Measure::Distinct(_) => vec![
            present,
            doc! { "$group": { ID: value } },
            over("$sum", Bson::Int32(1)),
        ],
        Measure::Min(_) => vec![present, over("$min", value.into())],
        Measure::Max(_) => vec![present, over("$max", value.into())],
        Measure::Sum(_) => {
            let mut steps = vec![present, over("$sum", value.into())];
            if ty == FieldType::Int {
                // A sum beyond 64 bits is a float: converting it back fails, and says so.
                steps.push(doc! { "$project": { "measured": { "$toLong": "$measured" } } });
            }
            steps
        }
    }
}

/// Where a field lies, and its type; none below a JSON field.
fn located(schema: &'static Schema, field: &FieldRef) -> Result<(String, Option<FieldType>)> {
    let ty = field.resolve(schema)?;
    Ok((
        match ty {
            Some(_) => wire::place(&field.field).to_owned(),
            None => wire::path(&field.field, &field.path),
        },
        ty,
    ))
}

fn operand(schema: &'static Schema, field: &str, value: &Value) -> Result<Bson> {
    wire::bson(value)?.ok_or_else(|| {
        Error::invalid("an absent value compares with nothing; use null()")
            .with("schema", schema.name)
            .with("field", field)
    })
}

fn contains(place: String, text: &str) -> Document {
    if text.contains('\0') {
        // No stored text has it, and a pattern cannot.
        return never();
    }
    if text.len() <= LONGEST_PATTERN {
        return doc! { place: { "$regex": literal(text) } };
    }
    let value = format!("${place}");
    let found = doc! { "$gte": [{ "$indexOfBytes": [&value, { "$literal": text }] }, 0] };
    let is_text = doc! { "$eq": [{ "$type": &value }, "string"] };
    doc! { "$expr": { "$cond": [is_text, found, false] } }
}

/// A pattern that matches this text and nothing else.
fn literal(text: &str) -> String {
    let mut pattern = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_ascii() && !c.is_ascii_alphanumeric() {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    pattern
}

/// The smallest text that lies behind all texts beginning with `prefix`, in the order of bytes; `None` when there is
/// none.
fn behind(prefix: &str) -> Option<String> {
    let mut chars: Vec<char> = prefix.chars().collect();
    while let Some(last) = chars.pop() {
        // Skips the gap of the surrogates, which no text has.
        let next = if last == '\u{d7ff}' {
            Some('\u{e000}')
        } else {
            char::from_u32(u32::from(last) + 1)
        };
        if let Some(next) = next {
            chars.push(next);
            return Some(chars.into_iter().collect());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crm_core::Uuid;
    use crm_core::query::Relation;
    use crm_core::record::{Field, Index};

    static THING: Schema = Schema {
        name: "thing",
        fields: &[
            Field::new("name", FieldType::Text),
            Field::new("n", FieldType::Int).nullable(),
            Field::new("extra", FieldType::Json),
        ],
        indexes: &[Index::new("thing_name", &["name", "n"])],
    };
    static OWNED: Schema = Schema {
        name: "owned",
        fields: &[
            Field::new("owner", FieldType::Uuid),
            Field::new("n", FieldType::Int),
        ],
        indexes: &[],
    };

    fn compiled(filter: &Filter) -> Condition {
        filter.validate(&THING).unwrap();
        condition(&THING, &TenantId::new("shop").unwrap(), "x_", filter).unwrap()
    }

    #[test]
    fn golden() {
        let id = Uuid::from_u128(7);
        for (filter, wanted) in [
            (Filter::All, doc! {}),
            (Filter::Or(vec![]), doc! { "$and": [never()] }),
            (
                Filter::eq("name", "$ne"),
                doc! { "$and": [{ "name": { "$eq": "$ne" } }] },
            ),
            (
                !Filter::ne("n", 1_i64),
                doc! { "$and": [{ "$nor": [{ "n": { "$nin": [1_i64, Bson::Null] } }] }] },
            ),
            (
                Filter::gt("id", id),
                doc! { "$and": [{ "_id": { "$gt": { "t": "shop", "i": wire::uuid(id) } } }] },
            ),
            (
                Filter::null("n").and(Filter::prefix("name", "a")),
                doc! { "$and": [{ "n": { "$exists": false } }, { "name": { "$gte": "a", "$lt": "b" } }] },
            ),
            (
                Filter::contains("name", "a.b*"),
                doc! { "$and": [{ "name": { "$regex": "a\\.b\\*" } }] },
            ),
            (
                Filter::ne("extra.$where", true),
                doc! { "$and": [{ "extra.v._%24where": { "$ne": true, "$type": "bool" } }] },
            ),
            (
                Filter::has("extra.tags", "vip"),
                doc! { "$and": [{ "extra.v._tags.a": { "$eq": "vip" } }] },
            ),
        ] {
            assert_eq!(compiled(&filter).early, wanted, "{filter:?}");
        }
    }

    #[test]
    fn related_records_are_looked_up_by_their_key() {
        let orders = Relation::new(&OWNED, "owner");
        let filter = Filter::eq("name", "x").and(!Filter::at_least(2, orders, Filter::ge("n", 5_i64)));
        let condition = compiled(&filter);
        assert_eq!(condition.early, doc! { "$and": [{ "name": { "$eq": "x" } }] });
        assert_eq!(
            condition.late,
            Some(doc! { "$and": [{ "$nor": [{ "_related0": { "$ne": [] } }] }] })
        );
        assert_eq!(
            condition.lookups,
            [doc! { "$lookup": {
                "from": "x_owned", "localField": "_id.i", "foreignField": "owner",
                "pipeline": [
                    { "$match": { "$and": [{ "_id.t": "shop" }, { "n": { "$gte": 5_i64 } }] } },
                    { "$limit": 3_i64 },
                    { "$group": { "_id": Bson::Null, "measured": { "$sum": 1 } } },
                    { "$match": { "measured": { "$gte": 2_i64 } } },
                    { "$project": { "_id": 1 } },
                ],
                "as": "_related0",
            } }]
        );
        let none = compiled(&Filter::none_of(orders, Filter::All));
        assert_eq!(none.late, Some(doc! { "$and": [{ "_related0": { "$eq": [] } }] }));
    }

    #[test]
    fn an_index_that_leads_there_is_known() {
        assert!(is_pinned(&THING, &Filter::null("n").and(Filter::eq("name", "x"))));
        assert!(!is_pinned(&THING, &Filter::eq("n", 1_i64)));
        assert!(!is_pinned(&THING, &Filter::eq("name", "x").or(Filter::All)));
    }

    #[test]
    fn the_end_of_a_prefix() {
        assert_eq!(behind("ab").as_deref(), Some("ac"));
        assert_eq!(behind("a\u{10ffff}").as_deref(), Some("b"));
        assert_eq!(behind("\u{d7ff}").as_deref(), Some("\u{e000}"));
        assert_eq!((behind("\u{10ffff}"), behind("")), (None, None));
    }
}
