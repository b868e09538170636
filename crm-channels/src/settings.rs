//! What the settings of all providers have in common, given as configuration or as a URL.

// Each provider needs some of it, and there may be none.
#![allow(dead_code)]

use crm_core::{Error, Result};

/// A setting that is not as it should be.
pub(crate) fn wrong(setting: &str, message: &'static str) -> Error {
    Error::config(message).with("setting", setting)
}

/// A number of a URL's query.
pub(crate) fn number<T: std::str::FromStr>(setting: &str, text: &str) -> Result<T> {
    text.parse().map_err(|_| wrong(setting, "not a number"))
}

/// Undoes percent-encoding in the parts of a provider's URL before the host.
pub(crate) fn decoded(text: &str) -> String {
    let plus = text.replace('+', "%2B");
    url::form_urlencoded::parse(format!("v={plus}").as_bytes())
        .next()
        .map(|(_, v)| v.into_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_before_the_host_is_no_form() {
        assert_eq!(decoded("s3%3Ac+ret%40"), "s3:c+ret@");
        assert_eq!(decoded(""), "");
        assert_eq!(
            number::<u32>("pool", "x").unwrap_err().context("setting"),
            Some("pool")
        );
    }
}
