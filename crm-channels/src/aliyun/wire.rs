//! Requests and answers of Aliyun's interfaces (version 2017-05-25 of both services), as they go over the wire.

use std::collections::BTreeMap;

use crm_core::customer::PhoneNumber;
use crm_core::message::{Sms, VendorParameters, VendorTemplate, VoiceCall, VoiceStep};
use crm_core::{Error, Result, Timestamp};
use serde::Deserialize;

use super::config::AliyunConfig;
use super::request::AliyunRequest;

/// The scheme under which messages keep their templates for this vendor.
pub(super) const SCHEME: &str = "aliyun";
/// The version of both interfaces.
pub(super) const VERSION: &str = "2017-05-25";

/// What a message's own parameters may set (`VendorParameters`): the rest of what the vendor's actions take.
const OF_SMS: [&str; 4] = [
    "SmsUpExtendCode",
    "OwnerId",
    "ResourceOwnerAccount",
    "ResourceOwnerId",
];
const OF_CALLS: [&str; 6] = [
    "PlayTimes",
    "Speed",
    "Volume",
    "OwnerId",
    "ResourceOwnerAccount",
    "ResourceOwnerId",
];

/// The parameters of a message for this vendor, each with its one value.
fn own<'a>(parameters: &'a VendorParameters, known: &[&str]) -> Result<BTreeMap<&'a str, &'a str>> {
    let mut all = BTreeMap::new();
    for (name, values) in parameters.get(SCHEME).into_iter().flatten() {
        let wrong = |message: &'static str| {
            Err(Error::invalid(message)
                .with("field", "parameters")
                .with("parameter", crate::exchange::shown(name)))
        };
        match values.as_slice() {
            _ if !known.contains(&name.as_str()) => {
                return wrong(
                    "Aliyun has no such parameter that a message may set itself; known are SmsUpExtendCode for SMS, PlayTimes, Speed and Volume for calls, OwnerId, ResourceOwnerAccount, ResourceOwnerId",
                );
            }
            [value] => all.insert(name.as_str(), value.as_str()),
            _ => return wrong("this parameter has one value"),
        };
    }
    Ok(all)
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
pub(super) fn send(config: &AliyunConfig, sms: &Sms) -> Result<AliyunRequest> {
    let (template, sign_name) = template(config, sms)?;
    let mut request = AliyunRequest::new("SendSms")
        .query("OutId", sms.id.to_string())
        .query("PhoneNumbers", sms_number(&sms.to))
        .query("SignName", sign_name)
        .query("TemplateCode", &template.code);
    if let Some(code) = &config.extend_code {
        request = request.query("SmsUpExtendCode", code);
    }
    if !template.params.is_empty() {
        request = request.query("TemplateParam", json(&template.params)?);
    }
    for (name, value) in own(&sms.parameters, &OF_SMS)? {
        request = request.query(name, value);
    }
    Ok(request)
}

/// What messages have in common that go in one batch: the template, and the parameters that a batch has one value for.
pub(super) fn batch_key(sms: &Sms) -> (&str, Vec<(&str, &[String])>) {
    let code = sms.templates.get(SCHEME).map_or("", |t| t.code.as_str());
    let parameters = sms.parameters.get(SCHEME).into_iter().flatten();
    let of_all = parameters
        .filter(|(name, _)| *name != "SmsUpExtendCode")
        .map(|(name, values)| (name.as_str(), values.as_slice()));
    (code, of_all.collect())
}

/// Several messages with one [`batch_key`], each to another number.
pub(super) fn send_batch(config: &AliyunConfig, all: &[&Sms]) -> Result<AliyunRequest> {
    let (mut numbers, mut names, mut values, mut extends) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut request = AliyunRequest::new("SendBatchSms");
    for sms in all {
        let (template, sign_name) = template(config, sms)?;
        request = request.query("TemplateCode", &template.code);
        numbers.push(sms_number(&sms.to));
        names.push(sign_name);
        values.push(&template.params);
        let mut parameters = own(&sms.parameters, &OF_SMS)?;
        extends.push(
            parameters
                .remove("SmsUpExtendCode")
                .or(config.extend_code.as_deref())
                .unwrap_or_default(),
        );
        for (name, value) in parameters {
            request = request.query(name, value);
        }
    }
    request = request
        .body("PhoneNumberJson", json(&numbers)?)
        .body("SignNameJson", json(&names)?);
    if extends.iter().any(|code| !code.is_empty()) {
        request = request.body("SmsUpExtendCodeJson", json(&extends)?);
    }
    if values.iter().any(|values| !values.is_empty()) {
        request = request.body("TemplateParamJson", json(&values)?);
    }
    Ok(request)
}

/// The day of an instant in China, `20260102`, some days later.
pub(super) fn day(at: Timestamp, later: u64) -> String {
    let hours = 8 + 24 * later;
    let at = at.plus(std::time::Duration::from_secs(3600 * hours)).to_string();
    at.chars().take(10).filter(|c| *c != '-').collect()
}

/// What became of the messages to a number on a day.
pub(super) fn query_details(
    number: &PhoneNumber,
    day: &str,
    biz_id: Option<&str>,
    page: u32,
) -> AliyunRequest {
    let request = AliyunRequest::new("QuerySendDetails")
        .query("CurrentPage", page.to_string())
        .query("PageSize", PAGE.to_string())
        .query("PhoneNumber", sms_number(number))
        .query("SendDate", day);
    match biz_id {
        Some(id) => request.query("BizId", id),
        None => request,
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
pub(super) fn call(config: &AliyunConfig, call: &VoiceCall) -> Result<AliyunRequest> {
    let mut times = config.play_times;
    let request = match (call.templates.get(SCHEME), call.steps.as_slice()) {
        (Some(template), _) if template.code.starts_with("TTS_") => {
            let request = AliyunRequest::new("SingleCallByTts").query("TtsCode", &template.code);
            if template.params.is_empty() {
                request
            } else {
                request.query("TtsParam", json(&template.params)?)
            }
        }
        (Some(template), _) => {
            if !template.params.is_empty() {
                return Err(Error::invalid(
                    "a recording takes no values; a text with values is a template TTS_...",
                )
                .with("field", "templates"));
            }
            AliyunRequest::new("SingleCallByVoice").query("VoiceCode", &template.code)
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
            AliyunRequest::new("SingleCallByVoice").query("VoiceCode", recording)
        }
        _ => {
            return Err(Error::invalid(
                "Aliyun speaks only templates and recordings it has approved, and the call has none for it; give it a template `aliyun`",
            )
            .with("field", "templates"));
        }
    };
    let mut request = request
        .query("CalledNumber", voice_number(&call.to))
        .query("OutId", call_mark(&call.id.to_string()));
    if let Some(caller) = call.from.as_ref().or(config.caller.as_ref()) {
        let caller =
            PhoneNumber::parse(caller, None).map_or_else(|_| caller.clone(), |number| voice_number(&number));
        request = request.query("CalledShowNumber", caller);
    }
    for (name, value) in [
        ("PlayTimes", times.map(|v| v.to_string())),
        ("Speed", config.speed.map(|v| v.to_string())),
        ("Volume", config.volume.map(|v| v.to_string())),
    ] {
        if let Some(value) = value {
            request = request.query(name, value);
        }
    }
    for (name, value) in own(&call.parameters, &OF_CALLS)? {
        request = request.query(name, value);
    }
    Ok(request)
}

/// The products that a call may have been made with: texts, recordings.
pub(super) const PRODUCTS: [&str; 2] = ["11010000138001", "11000000300006"];

/// What became of a call; asked from an hour before, because the vendor looks a day ahead of the time given.
pub(super) fn query_call(call_id: &str, product: &str, sent_at: Timestamp) -> AliyunRequest {
    let from = sent_at.minus(std::time::Duration::from_secs(3600)).as_micros() / 1000;
    AliyunRequest::new("QueryCallDetailByCallId")
        .query("CallId", call_id)
        .query("ProdId", product)
        .query("QueryDate", from.to_string())
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
