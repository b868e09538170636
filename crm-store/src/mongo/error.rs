//! What MongoDB's errors mean. The server's own words may quote values, so only its codes are kept.

use std::io;

use crm_core::record::{Index, Schema};
use crm_core::{Error, ErrorKind as Kind};
use mongodb::bson::{RawBsonRef, RawDocument};
use mongodb::error::{Error as DriverError, ErrorKind, WriteFailure};

use super::wire;

/// Error codes of the server (`src/mongo/base/error_codes.yml`).
pub(super) mod code {
    pub(crate) const BAD_VALUE: i32 = 2;
    pub(crate) const UNAUTHORIZED: i32 = 13;
    pub(crate) const AUTHENTICATION_FAILED: i32 = 18;
    pub(crate) const ILLEGAL_OPERATION: i32 = 20;
    pub(crate) const LOCK_TIMEOUT: i32 = 24;
    pub(crate) const INDEX_NOT_FOUND: i32 = 27;
    pub(crate) const NAMESPACE_EXISTS: i32 = 48;
    pub(crate) const MAX_TIME_MS_EXPIRED: i32 = 50;
    pub(crate) const WRITE_CONCERN_TIMEOUT: i32 = 64;
    pub(crate) const CANNOT_CREATE_INDEX: i32 = 67;
    pub(crate) const INDEX_OPTIONS_CONFLICT: i32 = 85;
    pub(crate) const INDEX_KEY_SPECS_CONFLICT: i32 = 86;
    pub(crate) const UNSATISFIABLE_WRITE_CONCERN: i32 = 100;
    pub(crate) const WRITE_CONFLICT: i32 = 112;
    pub(crate) const CONVERSION_FAILURE: i32 = 241;
    pub(crate) const TRANSACTION_EXCEEDED_LIFETIME: i32 = 290;
    pub(crate) const INTERRUPTED: i32 = 11601;
    pub(crate) const NO_SUCH_TRANSACTION: i32 = 251;
    pub(crate) const EXCEEDED_TIME_LIMIT: i32 = 262;
    pub(crate) const BSON_TOO_LARGE: i32 = 10334;
    pub(crate) const BSON_TOO_LARGE_ON_INSERT: i32 = 17280;
    pub(crate) const BSON_TOO_LARGE_ON_UPDATE: i32 = 17419;
    pub(crate) const DUPLICATE_KEY: i32 = 11000;
    pub(crate) const OUT_OF_DISK_SPACE: i32 = 14031;
    pub(crate) const BACKGROUND_OPERATION_IN_PROGRESS: i32 = 12587;
    pub(crate) const INDEX_BUILD_ABORTED: i32 = 276;
    pub(crate) const INDEX_BUILD_IN_PROGRESS: i32 = 333;
    /// The server steps down, starts, stops, or is no primary.
    pub(crate) const NOT_SERVING: [i32; 11] = [6, 7, 89, 91, 189, 9001, 10058, 10107, 11600, 11602, 13435];
}

/// The code of the server's error, if it answered with one.
pub(super) fn code_of(error: &DriverError) -> Option<i32> {
    match &*error.kind {
        ErrorKind::Command(command) => Some(command.code),
        ErrorKind::Write(WriteFailure::WriteError(write)) => Some(write.code),
        ErrorKind::Write(WriteFailure::WriteConcernError(concern)) => Some(concern.code),
        _ => None,
    }
}

/// The one place that says what a failure of the driver or the server means.
pub(super) fn classify(error: &DriverError) -> Error {
    let unavailable = |message: &'static str| Error::new(Kind::Unavailable, message);
    match &*error.kind {
        ErrorKind::Command(_) | ErrorKind::Write(WriteFailure::WriteError(_)) => {
            by_code(code_of(error).unwrap_or_default())
        }
        // Written here, but not yet where it is safe.
        ErrorKind::Write(WriteFailure::WriteConcernError(concern)) => by_code(concern.code).effect_unknown(),
        ErrorKind::Authentication { .. } => Error::new(
            Kind::Unauthenticated,
            "MongoDB refused user or password; check the URL and authSource",
        ),
        ErrorKind::Io(io) => {
            let kind = if io.kind() == io::ErrorKind::TimedOut {
                Error::new(Kind::Timeout, "the connection to MongoDB gave no answer in time")
            } else {
                unavailable("the connection to MongoDB broke")
            };
            kind.source(io::Error::new(io.kind(), io.to_string()))
        }
        ErrorKind::ServerSelection { message, .. } => server_selection(message),
        ErrorKind::ConnectionPoolCleared { .. } => unavailable("the connections to MongoDB were given up"),
        ErrorKind::DnsResolve { .. } => unavailable("a MongoDB server's name was not found in the DNS"),
        ErrorKind::Shutdown => unavailable("the MongoDB client was shut down"),
        ErrorKind::InvalidTlsConfig { .. } => Error::config(
            "the TLS settings of the MongoDB URL cannot be used; check tlsCAFile and tlsCertificateKeyFile",
        )
        .with("setting", "url"),
        ErrorKind::SessionsNotSupported | ErrorKind::IncompatibleServer { .. } => {
            Error::config("this MongoDB server is too old; use 6.0 or later on a replica set")
                .with("setting", "url")
        }
        ErrorKind::InvalidArgument { .. } | ErrorKind::Bson(_) => {
            Error::invalid("a record cannot be sent to MongoDB: it is too large or nested too deeply")
        }
        ErrorKind::InvalidResponse { .. } => {
            Error::new(Kind::Unexpected, "MongoDB gave an answer that cannot be read")
        }
        ErrorKind::Transaction { .. } => {
            Error::unexpected("MongoDB's driver refused a step of a transaction")
        }
        _ => Error::unexpected("MongoDB's driver failed"),
    }
}

/// No server could be chosen. The driver's description says why, in words only.
fn server_selection(message: &str) -> Error {
    if message.contains("SCRAM") || message.contains("Authentication failed") {
        return Error::new(
            Kind::Unauthenticated,
            "MongoDB refused user or password; check the URL and authSource",
        );
    }
    if message.contains("certificate") || message.contains("tls") {
        return Error::new(
            Kind::Unavailable,
            "no TLS connection to MongoDB; check tlsCAFile and the host's name in its certificate",
        );
    }
    Error::new(
        Kind::Unavailable,
        "no MongoDB server can take the call: none can be reached, or the replica set has no primary or another name",
    )
}

pub(super) fn by_code(number: i32) -> Error {
    let new = |kind: Kind, message: &'static str| Error::new(kind, message);
    let error = match number {
        code::UNAUTHORIZED => new(
            Kind::PermissionDenied,
            "the MongoDB user may not do this in this database",
        ),
        code::AUTHENTICATION_FAILED => new(
            Kind::Unauthenticated,
            "MongoDB refused user or password; check the URL and authSource",
        ),
        code::MAX_TIME_MS_EXPIRED | code::EXCEEDED_TIME_LIMIT => {
            new(Kind::Timeout, "MongoDB stopped the call at its deadline")
        }
        code::WRITE_CONCERN_TIMEOUT => new(
            Kind::Timeout,
            "a majority of the replica set did not confirm in time",
        ),
        code::UNSATISFIABLE_WRITE_CONCERN => {
            Error::config("the replica set has no majority that keeps a journal").with("setting", "url")
        }
        code::WRITE_CONFLICT | code::LOCK_TIMEOUT | code::NO_SUCH_TRANSACTION => {
            new(Kind::Unavailable, "another unit of work was in the way")
        }
        code::ILLEGAL_OPERATION => Error::config(
            "this MongoDB server has no transactions; make it a replica set (one member is enough)",
        )
        .with("setting", "url"),
        code::DUPLICATE_KEY => Error::conflict("a record with this id or unique key is already there"),
        code::CONVERSION_FAILURE => Error::invalid("a sum goes beyond 64 bits"),
        code::BSON_TOO_LARGE | code::BSON_TOO_LARGE_ON_INSERT | code::BSON_TOO_LARGE_ON_UPDATE => {
            Error::invalid("a record is larger than the 16 MiB a MongoDB document can hold")
        }
        code::INDEX_OPTIONS_CONFLICT | code::INDEX_KEY_SPECS_CONFLICT | code::CANNOT_CREATE_INDEX => {
            Error::config(
                "the collection has an index of this name that is not ours; drop it or set a prefix",
            )
        }
        code::INTERRUPTED | code::TRANSACTION_EXCEEDED_LIFETIME => {
            new(Kind::Unavailable, "MongoDB was told to stop the call")
        }
        code::OUT_OF_DISK_SPACE => new(Kind::Unavailable, "MongoDB's disk is full"),
        number if code::NOT_SERVING.contains(&number) => {
            new(Kind::Unavailable, "the MongoDB server is not the primary now")
        }
        code::BAD_VALUE => Error::unexpected("MongoDB refused a value"),
        _ => Error::unexpected("MongoDB refused the command"),
    };
    error.with("mongodb_code", number)
}

/// The error of a single write, which went out without a transaction: whether it happened is unknown when its answer
/// was lost.
pub(super) fn of_single(error: &DriverError) -> Error {
    let classified = classify(error);
    let lost = matches!(
        &*error.kind,
        ErrorKind::Io(_) | ErrorKind::ConnectionPoolCleared { .. } | ErrorKind::InvalidResponse { .. }
    ) || code_of(error) == Some(code::MAX_TIME_MS_EXPIRED);
    if lost && !error.contains_label("NoWritesPerformed") {
        classified.effect_unknown()
    } else {
        classified
    }
}

/// The unique index that a duplicate key stands in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Clash {
    /// By its keys, as the server says where the driver hands its answer on.
    Keys(Vec<String>),
    /// By its name, out of the server's message.
    Named(String),
}

impl Clash {
    /// Whether it is the record's id that is taken.
    pub(super) fn is_id(&self) -> bool {
        match self {
            Self::Keys(keys) => keys == &[wire::ID],
            Self::Named(name) => name == "_id_",
        }
    }

    /// Out of the part of an answer that tells of the duplicate key.
    pub(super) fn read(told: &RawDocument) -> Option<Self> {
        let keys = told.get_document("keyPattern").ok()?;
        Some(Self::Keys(
            keys.iter()
                .filter_map(|pair| Some(pair.ok()?.0.as_str().to_owned()))
                .collect(),
        ))
    }

    /// `E11000 duplicate key error collection: db.name index: <name> dup key: {..}`
    fn in_words(message: &str) -> Option<Self> {
        let (_, rest) = message.split_once(" index: ")?;
        let (name, _) = rest.split_once(" dup key")?;
        Some(Self::Named(name.to_owned()))
    }
}

/// The unique index that was in the way, when one was.
pub(super) fn taken(error: &DriverError) -> Option<Clash> {
    if code_of(error) != Some(code::DUPLICATE_KEY) {
        return None;
    }
    let in_answer = || {
        let answer = error.server_response()?;
        Clash::read(answer).or_else(|| {
            match answer.get_array("writeErrors").ok()?.into_iter().next()?.ok()? {
                RawBsonRef::Document(first) => Clash::read(first),
                _ => None,
            }
        })
    };
    let message = match &*error.kind {
        ErrorKind::Command(command) => command.message.as_str(),
        ErrorKind::Write(WriteFailure::WriteError(write)) => write.message.as_str(),
        _ => "",
    };
    in_answer()
        .or_else(|| Clash::in_words(message))
        .or_else(|| Some(Clash::Named(String::new())))
}

/// The error for a taken id or unique key.
pub(super) fn collision(schema: &'static Schema, clash: &Clash) -> Error {
    let fits = |index: &&Index| {
        index.unique
            && match clash {
                Clash::Named(name) => index.name == name,
                Clash::Keys(keys) => keys
                    .iter()
                    .map(String::as_str)
                    .filter(|key| *key != wire::TENANT)
                    .eq(index.fields.iter().copied()),
            }
    };
    let name = match schema.indexes.iter().find(fits) {
        Some(index) => index.name,
        None if clash.is_id() => "id",
        // One that somebody else made.
        None => "unknown",
    };
    Error::conflict("a record with this id or unique key is already there")
        .with("schema", schema.name)
        .with("index", name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crm_core::{Effect, Retry};

    #[test]
    fn every_code_has_a_meaning() {
        let allowed = Retry::Allowed { after: None };
        for (number, kind, retry) in [
            (13, Kind::PermissionDenied, Retry::Never),
            (18, Kind::Unauthenticated, Retry::Never),
            (20, Kind::Config, Retry::Never),
            (50, Kind::Timeout, allowed),
            (64, Kind::Timeout, allowed),
            (86, Kind::Config, Retry::Never),
            (100, Kind::Config, Retry::Never),
            (112, Kind::Unavailable, allowed),
            (189, Kind::Unavailable, allowed),
            (241, Kind::Invalid, Retry::Never),
            (251, Kind::Unavailable, allowed),
            (262, Kind::Timeout, allowed),
            (290, Kind::Unavailable, allowed),
            (10107, Kind::Unavailable, allowed),
            (11601, Kind::Unavailable, allowed),
            (10334, Kind::Invalid, Retry::Never),
            (11000, Kind::Conflict, Retry::Never),
            (11602, Kind::Unavailable, allowed),
            (14031, Kind::Unavailable, allowed),
            (17280, Kind::Invalid, Retry::Never),
            (123_456, Kind::Unexpected, Retry::Never),
        ] {
            let error = by_code(number);
            assert_eq!((error.kind(), error.retry()), (kind, retry), "{number}: {error}");
            assert_eq!(error.context("mongodb_code"), Some(number.to_string().as_str()));
        }
    }

    #[test]
    fn the_index_in_the_way_is_named_and_the_key_is_not() {
        static THING: Schema = Schema {
            name: "thing",
            fields: &[],
            indexes: &[
                Index::new("thing_plain", &["a"]),
                Index::unique("thing_ab", &["a", "b"]),
            ],
        };
        let keys = |keys: &[&str]| Clash::Keys(keys.iter().map(|key| (*key).to_owned()).collect());
        let words = |index: &str| {
            let message = format!(
                r#"E11000 duplicate key error collection: crm.thing index: {index} dup key: {{ a: "ana@x" }}"#
            );
            Clash::in_words(&message).unwrap()
        };
        for (clash, name) in [
            (keys(&["_id"]), "id"),
            (words("_id_"), "id"),
            (keys(&["_id.t", "a", "b"]), "thing_ab"),
            (words("thing_ab"), "thing_ab"),
            (keys(&["_id.t", "a"]), "unknown"),
            (words("thing_plain"), "unknown"),
        ] {
            assert_eq!(
                collision(&THING, &clash).context("index"),
                Some(name),
                "{clash:?}"
            );
        }
    }

    #[test]
    fn a_lost_answer_of_a_single_write_may_have_happened() {
        let broken: DriverError = io::Error::from(io::ErrorKind::ConnectionReset).into();
        let error = of_single(&broken);
        assert_eq!(
            (error.kind(), error.effect(), error.retry()),
            (Kind::Unavailable, Effect::Unknown, Retry::Never)
        );
        assert_eq!(classify(&broken).effect(), Effect::None);
        let silent: DriverError = io::Error::from(io::ErrorKind::TimedOut).into();
        assert_eq!(classify(&silent).kind(), Kind::Timeout);
    }
}
