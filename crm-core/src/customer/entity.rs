//! The shapes in which customers are stored.

use crate::record::{Field, FieldType, Index, Schema};

/// A customer's profile. Contact points and external references are records of their own, so that they can be unique.
pub static CUSTOMER: Schema = Schema {
    name: "crm_customer",
    fields: &[
        Field::new("given_name", FieldType::Text).personal(),
        Field::new("family_name", FieldType::Text).personal(),
        Field::new("display_name", FieldType::Text).personal(),
        Field::new("city", FieldType::Text).nullable().personal(),
        Field::new("region", FieldType::Text).nullable().personal(),
        Field::new("country", FieldType::Text).nullable().personal(),
        Field::new("addresses", FieldType::Json).personal(),
        Field::new("tags", FieldType::Json).personal(),
        Field::new("attributes", FieldType::Json).personal(),
        Field::new("provenance", FieldType::Json),
        Field::new("created_at", FieldType::Timestamp),
        Field::new("updated_at", FieldType::Timestamp),
        Field::new("known_from", FieldType::Json).nullable(),
    ],
    indexes: &[
        Index::new("crm_customer_family_name", &["family_name", "given_name"]),
        Index::new("crm_customer_created_at", &["created_at"]),
    ],
};

/// One e-mail address or phone number of a customer.
///
/// `match_key` is `kind:value` while the address identifies its customer, and absent while it is shared by several (a
/// family's phone): so that two customers can share a number, but never an identity.
pub static CONTACT_POINT: Schema = Schema {
    name: "crm_contact_point",
    fields: &[
        Field::new("customer_id", FieldType::Uuid).pseudonym(),
        Field::new("kind", FieldType::Text),
        Field::new("value", FieldType::Text).personal(),
        Field::new("match_key", FieldType::Text).nullable().personal(),
        Field::new("primary_point", FieldType::Bool),
        Field::new("state", FieldType::Text),
        Field::new("created_at", FieldType::Timestamp),
        Field::new("label", FieldType::Text).nullable().personal(),
        Field::new("verified_at", FieldType::Timestamp)
            .nullable()
            .personal(),
        Field::new("deliverability", FieldType::Text).nullable(),
    ],
    indexes: &[
        Index::unique("crm_contact_point_match", &["match_key"]),
        Index::new("crm_contact_point_customer", &["customer_id"]),
        Index::new("crm_contact_point_value", &["value"]),
    ],
};

/// A customer's id in another system.
pub static EXTERNAL_REF: Schema = Schema {
    name: "crm_external_ref",
    fields: &[
        Field::new("customer_id", FieldType::Uuid).pseudonym(),
        Field::new("system", FieldType::Text),
        Field::new("external_id", FieldType::Text).pseudonym(),
        Field::new("created_at", FieldType::Timestamp),
    ],
    indexes: &[
        Index::unique("crm_external_ref_key", &["system", "external_id"]),
        Index::new("crm_external_ref_customer", &["customer_id"]),
    ],
};

/// What became of a customer that was merged into another: the record's id is the old customer's, `customer_id` the one
/// it is now, always in one step. The consent gate and every look-up by an old id read it.
pub static CUSTOMER_ALIAS: Schema = Schema {
    name: "crm_customer_alias",
    fields: &[
        Field::new("customer_id", FieldType::Uuid).pseudonym(),
        Field::new("merge_id", FieldType::Uuid),
        Field::new("created_at", FieldType::Timestamp),
    ],
    indexes: &[Index::new("crm_customer_alias_customer", &["customer_id"])],
};

/// A customer's place in an organisation, for a time: `valid_from` (for ever when absent) until before `valid_to` (still
/// when absent).
pub static AFFILIATION: Schema = Schema {
    name: "crm_affiliation",
    fields: &[
        Field::new("customer_id", FieldType::Uuid).pseudonym(),
        Field::new("organisation_id", FieldType::Uuid),
        Field::new("role", FieldType::Text),
        Field::new("primary_one", FieldType::Bool),
        Field::new("valid_from", FieldType::Timestamp)
            .nullable()
            .personal(),
        Field::new("valid_to", FieldType::Timestamp).nullable().personal(),
        Field::new("created_at", FieldType::Timestamp),
    ],
    indexes: &[
        Index::unique(
            "crm_affiliation_key",
            &["customer_id", "organisation_id", "role", "valid_from"],
        ),
        Index::new("crm_affiliation_organisation", &["organisation_id"]),
    ],
};
