use super::lex::{Placed, Token, tokens, wrong};
use super::short;
use crate::query::{Compare, FieldRef, Filter, Measure, Related, Relation, Span, Unit, comparable};
use crate::record::{FieldType, Schema, Value};
use crate::{Error, Result, Timestamp};

/// How deep brackets and `not` may be nested; a filter itself may be 32 levels deep.
const MAX_DEPTH: usize = 32;

pub(super) fn parse(text: &str, schema: &Schema) -> Result<Filter> {
    let mut parser = Parser {
        tokens: tokens(text)?,
        at: 0,
        depth: 0,
    };
    if parser.peek() == &Token::End {
        return Ok(Filter::All);
    }
    let filter = parser.any(schema)?;
    match parser.peek() {
        Token::End => Ok(filter),
        _ => Err(parser.expected("`and`, `or` or the end is expected here")),
    }
}

struct Parser {
    tokens: Vec<Placed>,
    at: usize,
    depth: usize,
}

impl Parser {
    fn peek(&self) -> &Token {
        self.tokens
            .get(self.at)
            .map_or(&Token::End, |placed| &placed.token)
    }

    fn peek_at(&self, ahead: usize) -> &Token {
        self.tokens
            .get(self.at + ahead)
            .map_or(&Token::End, |placed| &placed.token)
    }

    fn position(&self) -> usize {
        let last = self.tokens.last().map_or(1, |placed| placed.position);
        self.tokens.get(self.at).map_or(last, |placed| placed.position)
    }

    fn next(&mut self) -> Token {
        let token = self.peek().clone();
        self.at += 1;
        token
    }

    fn expected(&self, message: &'static str) -> Error {
        wrong(self.position(), message)
    }

    fn is_word(token: &Token, word: &str) -> bool {
        matches!(token, Token::Word(found) if found.eq_ignore_ascii_case(word))
    }

    /// Takes one of the language's words if it stands here.
    fn word(&mut self, word: &str) -> bool {
        let here = Self::is_word(self.peek(), word);
        self.at += usize::from(here);
        here
    }

    fn sign(&mut self, sign: &str) -> bool {
        let here = matches!(self.peek(), Token::Sign(found) if *found == sign);
        self.at += usize::from(here);
        here
    }

    fn must(&mut self, sign: &str, message: &'static str) -> Result<()> {
        if self.sign(sign) {
            Ok(())
        } else {
            Err(self.expected(message))
        }
    }

    fn any(&mut self, schema: &Schema) -> Result<Filter> {
        let first = self.every(schema)?;
        if !Self::is_word(self.peek(), "or") {
            return Ok(first);
        }
        let mut all = vec![first];
        while self.word("or") {
            all.push(self.every(schema)?);
        }
        Ok(Filter::Or(all))
    }

    fn every(&mut self, schema: &Schema) -> Result<Filter> {
        let first = self.one(schema)?;
        if !Self::is_word(self.peek(), "and") {
            return Ok(first);
        }
        let mut all = vec![first];
        while self.word("and") {
            all.push(self.one(schema)?);
        }
        Ok(Filter::And(all))
    }

    fn one(&mut self, schema: &Schema) -> Result<Filter> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(self.expected("a filter is nested at most 32 levels deep"));
        }
        let filter = if self.word("not") {
            Filter::Not(Box::new(self.one(schema)?))
        } else if self.sign("(") {
            let inner = self.any(schema)?;
            self.must(")", "a closing bracket is expected here")?;
            inner
        } else {
            self.leaf(schema)?
        };
        self.depth -= 1;
        Ok(filter)
    }

    fn leaf(&mut self, schema: &Schema) -> Result<Filter> {
        let compared = matches!(
            self.peek_at(1),
            Token::Sign("." | "=" | "!=" | "<" | "<=" | ">" | ">=")
        );
        if !compared && self.word("all") {
            return Ok(Filter::All);
        }
        if !compared && self.word("none") {
            return Ok(Filter::Or(Vec::new()));
        }
        if Self::is_word(self.peek(), "segment") && matches!(self.peek_at(1), Token::Text(_)) {
            self.at += 1;
            return self.uuid().map(Filter::InSegment);
        }
        if matches!(self.peek_at(1), Token::Sign("(")) && matches!(self.peek(), Token::Word(_)) {
            return self.related();
        }
        self.condition(schema)
    }

    fn uuid(&mut self) -> Result<crate::Uuid> {
        let position = self.position();
        match self.next() {
            Token::Text(text) => crate::Uuid::parse_str(&text).map_err(|_| wrong(position, "not a UUID")),
            _ => Err(wrong(position, "a UUID in single quotes is expected here")),
        }
    }

    fn field(&mut self) -> Result<FieldRef> {
        let field = self.key("the name of a field is expected here")?;
        let mut path = Vec::new();
        while self.sign(".") {
            path.push(self.key("a key of the JSON document is expected behind the point")?);
        }
        Ok(FieldRef { field, path })
    }

    fn key(&mut self, message: &'static str) -> Result<String> {
        match self.peek().clone() {
            Token::Word(name) | Token::Name(name) => {
                self.at += 1;
                Ok(name)
            }
            _ => Err(self.expected(message)),
        }
    }

    fn condition(&mut self, schema: &Schema) -> Result<Filter> {
        let position = self.position();
        let field = self.field()?;
        let ty = field
            .resolve(schema)
            .map_err(|error| error.with("position", position))?;
        if self.word("is") {
            return if self.word("absent") {
                Ok(Filter::Null { field })
            } else if self.word("present") {
                Ok(Filter::Not(Box::new(Filter::Null { field })))
            } else {
                Err(self.expected("`absent` or `present` is expected behind `is`"))
            };
        }
        if self.word("starts") {
            if !self.word("with") {
                return Err(self.expected("`with` is expected behind `starts`"));
            }
            return self.text().map(|text| Filter::Prefix { field, text });
        }
        if self.word("contains") {
            return self.text().map(|text| Filter::Contains { field, text });
        }
        if self.word("has") {
            return self.text().map(|text| Filter::Has { field, text });
        }
        if self.word("in") {
            let values = self.list(schema, &field, ty)?;
            return Ok(Filter::In { field, values });
        }
        let op = self.compare()?;
        if ty == Some(FieldType::Timestamp) && matches!(self.peek(), Token::Number(_)) {
            let span = self.span()?;
            return Ok(Filter::Ago { field, op, span });
        }
        let value = self.value(schema, &field, ty)?;
        Ok(Filter::Is { field, op, value })
    }

    fn list(&mut self, schema: &Schema, field: &FieldRef, ty: Option<FieldType>) -> Result<Vec<Value>> {
        self.must("(", "a list in brackets is expected behind `in`")?;
        let mut values = Vec::new();
        if self.sign(")") {
            return Ok(values);
        }
        loop {
            values.push(self.value(schema, field, ty)?);
            if !self.sign(",") {
                self.must(")", "a comma or a closing bracket is expected here")?;
                return Ok(values);
            }
        }
    }

    fn compare(&mut self) -> Result<Compare> {
        let op = match self.peek() {
            Token::Sign("=") => Compare::Eq,
            Token::Sign("!=") => Compare::Ne,
            Token::Sign("<") => Compare::Lt,
            Token::Sign("<=") => Compare::Le,
            Token::Sign(">") => Compare::Gt,
            Token::Sign(">=") => Compare::Ge,
            _ => {
                return Err(self.expected(
                    "a comparison is expected here: = != < <= > >=, in, is, has, contains, starts with",
                ));
            }
        };
        self.at += 1;
        Ok(op)
    }

    fn text(&mut self) -> Result<String> {
        match self.peek().clone() {
            Token::Text(text) => {
                self.at += 1;
                Ok(text)
            }
            _ => Err(self.expected("text in single quotes is expected here")),
        }
    }

    /// A value, read as the field's type: an instant and a UUID stand in quotes as text does.
    fn value(&mut self, schema: &Schema, field: &FieldRef, ty: Option<FieldType>) -> Result<Value> {
        let position = self.position();
        let value = self.literal(ty)?;
        comparable(schema, field, &value).map_err(|error| error.with("position", position))?;
        Ok(value)
    }

    fn literal(&mut self, ty: Option<FieldType>) -> Result<Value> {
        let position = self.position();
        match self.next() {
            Token::Text(text) => match ty {
                Some(FieldType::Timestamp) => instant(&text)
                    .map_err(|error| error.with("position", position))
                    .map(Value::Timestamp),
                Some(FieldType::Uuid) => crate::Uuid::parse_str(&text)
                    .map(Value::Uuid)
                    .map_err(|_| wrong(position, "not a UUID")),
                _ => Ok(Value::Text(text)),
            },
            Token::Bytes(bytes) => Ok(Value::Bytes(bytes)),
            Token::Number(number) => read_number(&number, position),
            Token::Word(word) if word.eq_ignore_ascii_case("true") => Ok(Value::Bool(true)),
            Token::Word(word) if word.eq_ignore_ascii_case("false") => Ok(Value::Bool(false)),
            _ => Err(wrong(
                position,
                "a value is expected here: text in single quotes, a number, true or false",
            )),
        }
    }

    /// `90 days ago`, `2 weeks ahead`.
    fn span(&mut self) -> Result<Span> {
        let position = self.position();
        let count = match self.next() {
            Token::Number(number) => number.parse::<i64>().ok(),
            _ => None,
        };
        let unit = match self.peek() {
            Token::Word(word) => unit(word),
            _ => None,
        };
        let Some(unit) = unit else {
            return Err(self.expected("minutes, hours, days, weeks, months or years are expected here"));
        };
        self.at += 1;
        let count = if self.word("ago") {
            count
        } else if self.word("ahead") {
            count.and_then(i64::checked_neg)
        } else {
            return Err(self.expected("`ago` or `ahead` is expected here"));
        };
        let count = count.and_then(|count| i32::try_from(count).ok());
        let count =
            count.ok_or_else(|| wrong(position, "a whole number of up to nine digits is expected here"))?;
        Ok(Span { count, unit })
    }

    /// `count(order where currency = 'EUR') >= 2`, `sum(order.total_minor) > 5`.
    fn related(&mut self) -> Result<Filter> {
        let begin = self.position();
        let Token::Word(measure) = self.next() else {
            return Err(wrong(begin, "a condition is expected here"));
        };
        self.must("(", "an opening bracket is expected here")?;
        let position = self.position();
        let name = self.key("what belongs to the record is expected here: `order`, `interaction` ...")?;
        let relation = Relation::KNOWN
            .into_iter()
            .find(|relation| relation.schema().name == name || short(relation) == name)
            .ok_or_else(|| {
                let known: Vec<_> = Relation::KNOWN.iter().map(short).collect();
                wrong(position, "nothing of this name belongs to a record").with("known", known.join(", "))
            })?;
        let schema = relation.schema();
        let position = self.position();
        let field = if self.sign(".") {
            Some(self.key("the name of a field is expected behind the point")?)
        } else {
            None
        };
        let measure = match (measure.to_ascii_lowercase().as_str(), field) {
            ("count", None) => Measure::Count,
            ("sum", Some(field)) => Measure::Sum(field),
            ("min", Some(field)) => Measure::Min(field),
            ("max", Some(field)) => Measure::Max(field),
            ("distinct", Some(field)) => Measure::Distinct(field),
            ("count", Some(_)) => {
                return Err(wrong(
                    position,
                    "`count` counts records; `distinct` counts the values of a field",
                ));
            }
            ("sum" | "min" | "max" | "distinct", None) => {
                return Err(wrong(
                    position,
                    "a field is expected here, as in `sum(order.total_minor)`",
                ));
            }
            _ => {
                return Err(wrong(
                    begin,
                    "only count, sum, min, max and distinct stand before a bracket",
                ));
            }
        };
        let filter = if self.word("where") {
            self.any(schema)?
        } else {
            Filter::All
        };
        self.must(")", "`where` or a closing bracket is expected here")?;
        let op = self.compare()?;
        let mut related = Related {
            relation,
            filter: Box::new(filter),
            measure,
            op,
            value: Value::Int(0),
        };
        let ty = related
            .aggregate()
            .measure_type(schema, &related.measure)
            .map_err(|error| error.with("position", position))?;
        related.value = self.literal(Some(ty))?;
        Ok(Filter::Related(related))
    }
}

/// RFC 3339, a plain day, or microseconds since 1970 behind `@`, for what lies outside the calendar's years.
fn instant(text: &str) -> Result<Timestamp> {
    match text.strip_prefix('@').and_then(|micros| micros.parse().ok()) {
        Some(micros) => Ok(Timestamp::from_micros(micros)),
        None => text.parse(),
    }
}

fn unit(word: &str) -> Option<Unit> {
    Some(match word.to_ascii_lowercase().as_str() {
        "minute" | "minutes" => Unit::Minutes,
        "hour" | "hours" => Unit::Hours,
        "day" | "days" => Unit::Days,
        "week" | "weeks" => Unit::Weeks,
        "month" | "months" => Unit::Months,
        "year" | "years" => Unit::Years,
        _ => return None,
    })
}

fn read_number(number: &str, position: usize) -> Result<Value> {
    if number.contains(['.', 'e', 'E']) {
        return match number.parse::<f64>() {
            Ok(float) => Ok(Value::Float(float)),
            Err(_) => Err(wrong(position, "not a number")),
        };
    }
    number.parse().map(Value::Int).map_err(|_| {
        wrong(
            position,
            "an integer has at most 64 bits; write a larger number with a point",
        )
    })
}
