//! Requests and answers of Aliyun's interfaces (version 2017-05-25 of both services), as they go over the wire.

use std::collections::BTreeMap;

use crm_core::customer::PhoneNumber;
use crm_core::message::{Sms, VendorTemplate, VoiceCall, VoiceStep};
use crm_core::{Error, Result, Timestamp};
use serde::Deserialize;

use super::config::AliyunConfig;

/// The scheme under which messages keep their templates for this vendor.
pub(super) const SCHEME: &str = "aliyun";
/// The version of both interfaces.
pub(super) const VERSION: &str = "2017-05-25";

pub(super) type Parameters = Vec<(&'static str, String)>;

/// A request: what it asks for, and its parameters, some of which go in the body as the vendor's own client does.
pub(super) struct Action {
    pub(super) name: &'static str,
    pub(super) query: Parameters,
    pub(super) body: Parameters,
}

/// A number as the SMS service takes it: those of the mainland by themselves, others with the country's code and no `+`.
pub(super) fn sms_number(number: &PhoneNumber) -> String {
    let digits = number.as_str().trim_start_matches('+');
    digits.strip_prefix("86").unwrap_or(digits).to_owned()
}

/// A number as the voice service takes it: landlines of the mainland with the 0 that is dialled before them.
pub(super) fn voice_number(number: &PhoneNumber) -> String {
    let digits = number.as_str().trim_start_matches('+');
    match digits.strip_prefix("86") {
        Some(own) if is_mobile(own) => own.to_owned(),
        Some(own) => format!("0{own}"),
        None => digits.to_owned(),
    }
}

fn is_mobile(digits: &str) -> bool {
    digits.len() == 11
        && digits.starts_with('1')
        && digits
            .as_bytes()
            .get(1)
            .copied()
            .is_some_and(|b| (b'3'..=b'9').contains(&b))
}

/// A number as receipts have it. What looks like a mobile number of the mainland is one.
pub(super) fn number(text: &str) -> Option<PhoneNumber> {
    let text = text.trim();
    if let Some(rest) = text.strip_prefix("00") {
        return PhoneNumber::parse(&format!("+{rest}"), None).ok();
    }
    if text.starts_with('+') {
        return PhoneNumber::parse(text, None).ok();
    }
    if is_mobile(text) || text.starts_with('0') {
        return PhoneNumber::parse(text, Some("CN")).ok();
    }
    PhoneNumber::parse(&format!("+{text}"), None).ok()
}

fn json(values: impl serde::Serialize) -> Result<String> {
    serde_json::to_string(&values)
        .map_err(|e| Error::unexpected("the template's values are no JSON").source(e))
}

/// The template of a message, and the name it is signed with.
pub(super) fn template<'a>(config: &'a AliyunConfig, sms: &'a Sms) -> Result<(&'a VendorTemplate, &'a str)> {
    let Some(template) = sms.templates.get(SCHEME) else {
        return Err(Error::invalid(
            "Aliyun sends only templates it has approved, and the message has none for it; give it a template `aliyun`",
        )
        .with("field", "templates"));
    };
    let sign_name = sms
        .from
        .as_deref()
        .filter(|_| template.sign_name.is_none() && config.sign_name.is_none())
        .or(template.sign_name.as_deref())
        .or(config.sign_name.as_deref());
    let Some(sign_name) = sign_name else {
        return Err(Error::config(
            "nothing says which name messages are signed with; set `sign_name`, or give it with the template",
        )
        .with("setting", "sign_name"));
    };
    Ok((template, sign_name))
}

/// One message: `OutId` is its id, and comes back with the receipt.
pub(super) fn send(config: &AliyunConfig, sms: &Sms) -> Result<Action> {
    let (template, sign_name) = template(config, sms)?;
    let mut query: Parameters = vec![
        ("OutId", sms.id.to_string()),
        ("PhoneNumbers", sms_number(&sms.to)),
        ("SignName", sign_name.to_owned()),
        ("TemplateCode", template.code.clone()),
    ];
    if let Some(code) = &config.extend_code {
        query.push(("SmsUpExtendCode", code.clone()));
    }
    if !template.params.is_empty() {
        query.push(("TemplateParam", json(&template.params)?));
    }
    Ok(Action {
        name: "SendSms",
        query,
        body: Vec::new(),
    })
}

/// Several messages of one template, each to another number.
pub(super) fn send_batch(config: &AliyunConfig, all: &[&Sms]) -> Result<Action> {
    let (mut numbers, mut names, mut values) = (Vec::new(), Vec::new(), Vec::new());
    let mut code = "";
    for sms in all {
        let (template, sign_name) = template(config, sms)?;
        code = &template.code;
        numbers.push(sms_number(&sms.to));
        names.push(sign_name);
        values.push(&template.params);
    }
    let mut body: Parameters = vec![
        ("PhoneNumberJson", json(&numbers)?),
        ("SignNameJson", json(&names)?),
    ];
    if let Some(extend) = &config.extend_code {
        body.push(("SmsUpExtendCodeJson", json(vec![extend; all.len()])?));
    }
    if values.iter().any(|values| !values.is_empty()) {
        body.push(("TemplateParamJson", json(&values)?));
    }
    Ok(Action {
        name: "SendBatchSms",
        query: vec![("TemplateCode", code.to_owned())],
        body,
    })
}

/// The day of an instant in China, `20260102`, some days later.
pub(super) fn day(at: Timestamp, later: u64) -> String {
    let hours = 8 + 24 * later;
    let at = at.plus(std::time::Duration::from_secs(3600 * hours)).to_string();
    at.chars().take(10).filter(|c| *c != '-').collect()
}

/// What became of the messages to a number on a day.
pub(super) fn query_details(number: &PhoneNumber, day: &str, biz_id: Option<&str>, page: u32) -> Action {
    let mut query: Parameters = vec![
        ("CurrentPage", page.to_string()),
        ("PageSize", PAGE.to_string()),
        ("PhoneNumber", sms_number(number)),
        ("SendDate", day.to_owned()),
    ];
    if let Some(id) = biz_id {
        query.push(("BizId", id.to_owned()));
    }
    Action {
        name: "QuerySendDetails",
        query,
        body: Vec::new(),
    }
}

/// The most that one answer to a question holds.
pub(super) const PAGE: u32 = 50;

/// `OutId` of a call: the vendor takes 15 characters, so it is the end of the id.
pub(super) fn call_mark(id: &str) -> String {
    let digits: Vec<char> = id.chars().filter(char::is_ascii_hexdigit).collect();
    digits.iter().skip(digits.len().saturating_sub(15)).collect()
}

/// A call: a text-to-speech template (`TTS_...`), or a recording that the vendor keeps.
pub(super) fn call(config: &AliyunConfig, call: &VoiceCall) -> Result<Action> {
    let mut query: Parameters = vec![("CalledNumber", voice_number(&call.to))];
    if let Some(caller) = call.from.as_ref().or(config.caller.as_ref()) {
        let caller =
            PhoneNumber::parse(caller, None).map_or_else(|_| caller.clone(), |number| voice_number(&number));
        query.push(("CalledShowNumber", caller));
    }
    query.push(("OutId", call_mark(&call.id.to_string())));
    let mut times = config.play_times;
    let name = match (call.templates.get(SCHEME), call.steps.as_slice()) {
        (Some(template), _) if template.code.starts_with("TTS_") => {
            query.push(("TtsCode", template.code.clone()));
            if !template.params.is_empty() {
                query.push(("TtsParam", json(&template.params)?));
            }
            "SingleCallByTts"
        }
        (Some(template), _) => {
            if !template.params.is_empty() {
                return Err(Error::invalid(
                    "a recording takes no values; a text with values is a template TTS_...",
                )
                .with("field", "templates"));
            }
            query.push(("VoiceCode", template.code.clone()));
            "SingleCallByVoice"
        }
        (
            None,
            [
                VoiceStep::Play {
                    recording,
                    times: often,
                },
            ],
        ) if !recording.contains("://") => {
            times = Some((*often).min(3));
            query.push(("VoiceCode", recording.clone()));
            "SingleCallByVoice"
        }
        _ => {
            return Err(Error::invalid(
                "Aliyun speaks only templates and recordings it has approved, and the call has none for it; give it a template `aliyun`",
            )
            .with("field", "templates"));
        }
    };
    for (name, value) in [
        ("PlayTimes", times.map(|v| v.to_string())),
        ("Speed", config.speed.map(|v| v.to_string())),
        ("Volume", config.volume.map(|v| v.to_string())),
    ] {
        query.extend(value.map(|value| (name, value)));
    }
    Ok(Action {
        name,
        query,
        body: Vec::new(),
    })
}

/// The products that a call may have been made with: texts, recordings.
pub(super) const PRODUCTS: [&str; 2] = ["11010000138001", "11000000300006"];

/// What became of a call; asked from an hour before, because the vendor looks a day ahead of the time given.
pub(super) fn query_call(call_id: &str, product: &str, sent_at: Timestamp) -> Action {
    let from = sent_at.minus(std::time::Duration::from_secs(3600)).as_micros() / 1000;
    Action {
        name: "QueryCallDetailByCallId",
        query: vec![
            ("CallId", call_id.to_owned()),
            ("ProdId", product.to_owned()),
            ("QueryDate", from.to_string()),
        ],
        body: Vec::new(),
    }
}

/// An answer. Its words may hold the number: they are not kept.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Answered {
    #[serde(default)]
    pub(super) code: Option<String>,
    #[serde(default)]
    pub(super) biz_id: Option<String>,
    #[serde(default)]
    pub(super) call_id: Option<String>,
    #[serde(default)]
    pub(super) data: Option<String>,
    #[serde(default, rename = "SmsSendDetailDTOs")]
    pub(super) details: Details,
}

#[derive(Default, Deserialize)]
pub(super) struct Details {
    #[serde(default, rename = "SmsSendDetailDTO")]
    pub(super) all: Vec<Detail>,
}

/// One message of an answer; its text is not kept.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Detail {
    #[serde(default)]
    pub(super) out_id: Option<String>,
    /// 1 waits for the carrier, 2 failed, 3 delivered.
    #[serde(default)]
    pub(super) send_status: i64,
    #[serde(default)]
    pub(super) err_code: Option<String>,
    #[serde(default)]
    pub(super) receive_date: Option<String>,
    #[serde(default)]
    pub(super) send_date: Option<String>,
}

/// The record of a call, which comes as JSON inside of a string.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct CallRecord {
    #[serde(default)]
    pub(super) state: Option<Loose>,
    #[serde(default)]
    pub(super) end_date: Option<String>,
    #[serde(default)]
    pub(super) gmt_create: Option<String>,
    #[serde(default)]
    pub(super) duration: Option<Loose>,
}

/// Text that some versions write as a number.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Loose {
    Text(String),
    Number(i64),
}

impl Loose {
    pub(super) fn text(&self) -> String {
        match self {
            Self::Text(text) => text.trim().to_owned(),
            Self::Number(number) => number.to_string(),
        }
    }
}

/// One element of what is pushed to us; which fields it has says what it is.
pub(super) type Pushed = BTreeMap<String, serde_json::Value>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_as_each_service_takes_them() {
        let parse = |text: &str| PhoneNumber::parse(text, None).unwrap();
        for (number, sms, voice) in [
            ("+8613800138000", "13800138000", "13800138000"),
            ("+861088888888", "1088888888", "01088888888"),
            ("+85291234567", "85291234567", "85291234567"),
            ("+4930123456", "4930123456", "4930123456"),
        ] {
            assert_eq!(sms_number(&parse(number)), sms);
            assert_eq!(voice_number(&parse(number)), voice);
        }
        for (text, found) in [
            ("13800138000", Some("+8613800138000")),
            ("8613800138000", Some("+8613800138000")),
            ("+8613800138000", Some("+8613800138000")),
            ("008613800138000", Some("+8613800138000")),
            ("01088888888", Some("+861088888888")),
            ("85291234567", Some("+85291234567")),
            ("1381111****", None),
            ("", None),
        ] {
            assert_eq!(number(text).as_ref().map(PhoneNumber::as_str), found, "{text}");
        }
    }

    #[test]
    fn days_are_those_of_china() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        assert_eq!(day(at("2026-01-02T15:59:59Z"), 0), "20260102");
        assert_eq!(day(at("2026-01-02T16:00:00Z"), 0), "20260103");
        assert_eq!(day(at("2025-12-31T03:00:00Z"), 1), "20260101");
    }

    #[test]
    fn the_mark_of_a_call_is_short() {
        assert_eq!(
            call_mark("00000000-0000-7000-8000-0123456789ab"),
            "0000123456789ab"
        );
        assert_eq!(call_mark("00000000-0000-7000-8000-0123456789ab").len(), 15);
    }
}
