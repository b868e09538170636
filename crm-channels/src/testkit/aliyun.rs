use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use crm_core::Result;
use crm_core::capability::WebhookRequest;
use crm_core::http::HttpConfig;
use ring::{digest, hmac};
use serde_json::{Value, json};
use url::Url;

use super::server::{Fault, Heard, Reply, VendorServer, lock};
use crate::exchange::percent;

/// A message or call that the fake took: one for each recipient.
#[derive(Debug, Clone, Default)]
pub struct TakenByAliyun {
    /// What was asked for: `SendSms`, `SendBatchSms`, `SingleCallByTts`, `SingleCallByVoice`.
    pub action: String,
    /// The reference it gave: `BizId` or `CallId`.
    pub reference: String,
    /// The number, as it was given.
    pub number: String,
    /// `OutId`, as it was given.
    pub out_id: String,
    /// The template's or recording's code.
    pub code: String,
    /// The template's values, as JSON.
    pub params: String,
    /// The name it is signed with.
    pub sign_name: String,
}

#[derive(Default)]
struct State {
    taken: Vec<TakenByAliyun>,
    nonces: BTreeSet<String>,
}

/// A server that takes messages and calls as Aliyun does: checks the signature (version 3, and the older one in the query)
/// and the parameters, refuses with Aliyun's own codes, keeps what it took, shows it when asked, and makes the pushes.
///
/// It knows one AccessKey, [`FakeAliyun::KEY`]; `13800000000` is a number that is not valid.
pub struct FakeAliyun {
    server: VendorServer,
    state: Arc<Mutex<State>>,
}

impl FakeAliyun {
    /// The AccessKey's id that it knows.
    pub const KEY: &'static str = "LTAI5tFAKEFAKEFAKEFAKE01";
    /// A number that it refuses.
    pub const BAD_NUMBER: &'static str = "+8613800000000";

    /// Starts it with this AccessKey's secret.
    ///
    /// # Errors
    /// As [`VendorServer::start`].
    pub async fn start(secret: &str) -> Result<Self> {
        let state = Arc::new(Mutex::new(State::default()));
        let (of_server, secret) = (state.clone(), secret.to_owned());
        let server = VendorServer::start(move |heard| answer(&mut lock(&of_server), &secret, heard)).await?;
        Ok(Self { server, state })
    }

    /// Where it listens: the setting `base_url`.
    pub fn url(&self) -> Url {
        self.server.url()
    }

    /// Settings with which a client may call it: the setting `http`.
    pub fn http(&self) -> HttpConfig {
        self.server.http()
    }

    /// What goes wrong with the next request.
    pub fn fault(&self, fault: Fault) {
        self.server.fault(fault);
    }

    /// What it took, in order.
    pub fn taken(&self) -> Vec<TakenByAliyun> {
        lock(&self.state).taken.clone()
    }

    /// Every request it heard, also those it refused.
    pub fn heard(&self) -> Vec<Heard> {
        self.server.heard()
    }

    /// The receipt (`SmsReport`) of a message it took.
    pub fn receipt(taken: &TakenByAliyun, success: bool, code: &str) -> Value {
        json!({
            "phone_number": taken.number, "send_time": "2026-01-02 11:04:05", "report_time": "2026-01-02 11:04:08",
            "success": success, "err_code": code, "err_msg": "-", "sms_size": "1", "biz_id": taken.reference,
            "out_id": taken.out_id,
        })
    }

    /// The record (`VoiceReport`) of a call it took.
    pub fn record(taken: &TakenByAliyun, status_code: &str) -> Value {
        json!({
            "call_id": taken.reference, "originate_time": "2026-01-02 11:04:05", "ring_time": "2026-01-02 11:04:06",
            "start_time": "", "end_time": "2026-01-02 11:04:20", "caller": "057112345678", "callee": taken.number,
            "duration": "0", "status_code": status_code, "hangup_direction": "-", "status_msg": "-", "out_id": taken.out_id,
            "dtmf": "", "voice_type": "voice", "toll_type": "DOMESTIC",
        })
    }

    /// A push of these to an address of ours.
    pub fn push(url: &Url, all: &[Value]) -> WebhookRequest {
        WebhookRequest::post(url.clone(), Value::from(all.to_vec()).to_string())
            .header("content-type", "application/json; charset=utf-8")
    }
}

impl fmt::Debug for FakeAliyun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FakeAliyun")
            .field("server", &self.server)
            .finish_non_exhaustive()
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn refusal(status: u16, code: &str) -> Reply {
    // As the vendor does, the words hold what was sent.
    Reply::json(
        status,
        json!({"Code": code, "Message": "13800138000 cnry-refused", "RequestId": "D9CB3933-9FE3-4870-BA8E-2BEE91B69D23"}),
    )
}

/// What the gateway says of the signature, if it is not in order.
fn unsigned(state: &mut State, secret: &str, heard: &Heard) -> Option<Reply> {
    let Some(authorization) = heard.header("authorization") else {
        return unsigned_query(state, secret, heard);
    };
    let part = |name: &str| {
        authorization
            .split([',', ' '])
            .find_map(|part| part.strip_prefix(name)?.strip_prefix('='))
    };
    if part("Credential") != Some(FakeAliyun::KEY) {
        return Some(refusal(404, "InvalidAccessKeyId.NotFound"));
    }
    let signed = part("SignedHeaders").unwrap_or_default();
    let names: Vec<&str> = signed.split(';').collect();
    let must = heard
        .headers
        .iter()
        .map(|(name, _)| name.as_str())
        .filter(|name| name.starts_with("x-acs-") || *name == "host" || *name == "content-type");
    let complete = must.into_iter().all(|name| names.contains(&name));
    let body = hex(digest::digest(&digest::SHA256, &heard.body).as_ref());
    let mut query = heard.query();
    query.sort();
    let query: Vec<String> = query
        .iter()
        .map(|(k, v)| format!("{}={}", percent(k), percent(v)))
        .collect();
    let headers: String = names
        .iter()
        .map(|name| format!("{name}:{}\n", heard.header(name).unwrap_or_default().trim()))
        .collect();
    let request = format!(
        "{}\n{}\n{}\n{headers}\n{signed}\n{body}",
        heard.method,
        heard.path(),
        query.join("&")
    );
    let text = format!(
        "ACS3-HMAC-SHA256\n{}",
        hex(digest::digest(&digest::SHA256, request.as_bytes()).as_ref())
    );
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let right = hex(hmac::sign(&key, text.as_bytes()).as_ref());
    if !complete || heard.header("x-acs-content-sha256") != Some(&body) || part("Signature") != Some(&right) {
        return Some(refusal(400, "SignatureDoesNotMatch"));
    }
    used(state, heard.header("x-acs-signature-nonce").unwrap_or_default())
}

fn used(state: &mut State, nonce: &str) -> Option<Reply> {
    (nonce.is_empty() || !state.nonces.insert(nonce.to_owned())).then(|| refusal(400, "SignatureNonceUsed"))
}

/// As [`unsigned`], for a request with the older signature: everything stands in the query, and what is signed are all
/// parameters, those of the body too.
fn unsigned_query(state: &mut State, secret: &str, heard: &Heard) -> Option<Reply> {
    let query = heard.query();
    let get = |name: &str| {
        query
            .iter()
            .find(|(key, _)| key == name)
            .map_or("", |(_, value)| value.as_str())
    };
    if get("Signature").is_empty() {
        return Some(refusal(400, "MissingParameter"));
    }
    if get("AccessKeyId") != FakeAliyun::KEY {
        return Some(refusal(404, "InvalidAccessKeyId.NotFound"));
    }
    let mut signed: Vec<(String, String)> = query
        .iter()
        .filter(|(name, _)| name != "Signature")
        .cloned()
        .chain(heard.form())
        .collect();
    signed.sort();
    let signed: Vec<String> = signed
        .iter()
        .map(|(k, v)| format!("{}={}", percent(k), percent(v)))
        .collect();
    let text = format!("{}&%2F&{}", heard.method, percent(&signed.join("&")));
    let key = hmac::Key::new(
        hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
        format!("{secret}&").as_bytes(),
    );
    let given = STANDARD.decode(get("Signature")).unwrap_or_default();
    let told = ["Action", "Format", "Version", "Timestamp"];
    if told.iter().any(|name| get(name).is_empty())
        || get("SignatureMethod") != "HMAC-SHA1"
        || get("SignatureVersion") != "1.0"
        || hmac::verify(&key, text.as_bytes(), &given).is_err()
    {
        return Some(refusal(400, "SignatureDoesNotMatch"));
    }
    used(state, get("SignatureNonce"))
}

fn answer(state: &mut State, secret: &str, heard: &Heard) -> Reply {
    if let Some(refused) = unsigned(state, secret, heard) {
        return refused;
    }
    let given: Vec<(String, String)> = heard.query().into_iter().chain(heard.form()).collect();
    let get = |name: &str| {
        given
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.clone())
            .unwrap_or_default()
    };
    let list = |name: &str| serde_json::from_str::<Vec<Value>>(&get(name)).unwrap_or_default();
    let action = heard.header("x-acs-action").unwrap_or_default().to_owned();
    let serial = state.taken.len();
    let done = |extra: Value| {
        let mut body =
            json!({"Code": "OK", "Message": "OK", "RequestId": "D9CB3933-9FE3-4870-BA8E-2BEE91B69D23"});
        body.as_object_mut()
            .expect("an object")
            .extend(extra.as_object().expect("an object").clone());
        Reply::json(200, body)
    };
    let is_object = |text: &str| {
        text.is_empty()
            || serde_json::from_str::<Value>(text).is_ok_and(|v| {
                v.as_object()
                    .is_some_and(|all| all.values().all(Value::is_string))
            })
    };
    match action.as_str() {
        "SendSms" | "SendBatchSms" => {
            let one = action == "SendSms";
            let numbers: Vec<String> = if one {
                get("PhoneNumbers").split(',').map(str::to_owned).collect()
            } else {
                list("PhoneNumberJson")
                    .iter()
                    .filter_map(|v| v.as_str().map(str::to_owned))
                    .collect()
            };
            let names: Vec<String> = if one {
                vec![get("SignName"); numbers.len()]
            } else {
                list("SignNameJson")
                    .iter()
                    .filter_map(|v| v.as_str().map(str::to_owned))
                    .collect()
            };
            let params: Vec<String> = if one {
                vec![get("TemplateParam"); numbers.len()]
            } else {
                list("TemplateParamJson").iter().map(Value::to_string).collect()
            };
            let code = get("TemplateCode");
            if code.is_empty() {
                return refusal(400, "MissingTemplateCode");
            }
            if numbers.is_empty()
                || names.len() != numbers.len()
                || (!params.is_empty() && params.len() != numbers.len())
            {
                return refusal(200, "isv.INVALID_PARAMETERS");
            }
            if numbers.len() > 100 {
                return refusal(200, "isv.MOBILE_COUNT_OVER_LIMIT");
            }
            if !code.starts_with("SMS_") {
                return refusal(200, "isv.SMS_TEMPLATE_ILLEGAL");
            }
            if names.iter().any(String::is_empty) {
                return refusal(200, "isv.SMS_SIGNATURE_ILLEGAL");
            }
            if !params.iter().all(|params| is_object(params)) {
                return refusal(200, "isv.INVALID_JSON_PARAM");
            }
            let bad = |number: &String| {
                !(5..=15).contains(&number.len())
                    || !number.bytes().all(|b| b.is_ascii_digit())
                    || number == "13800000000"
            };
            if numbers.iter().any(bad) {
                return refusal(200, "isv.MOBILE_NUMBER_ILLEGAL");
            }
            let reference = format!("{}^0", 900_000 + serial);
            for (place, number) in numbers.into_iter().enumerate() {
                state.taken.push(TakenByAliyun {
                    action: action.clone(),
                    reference: reference.clone(),
                    number,
                    out_id: get("OutId"),
                    code: code.clone(),
                    params: params.get(place).cloned().unwrap_or_default(),
                    sign_name: names[place].clone(),
                });
            }
            done(json!({"BizId": reference}))
        }
        "SingleCallByTts" | "SingleCallByVoice" => {
            let tts = action == "SingleCallByTts";
            let code = get(if tts { "TtsCode" } else { "VoiceCode" });
            if code.is_empty() {
                return refusal(
                    200,
                    if tts {
                        "isv.TTS_TEMPLATE_ILLEGAL"
                    } else {
                        "isv.VOICE_FILE_ILLEGAL"
                    },
                );
            }
            if !is_object(&get("TtsParam")) || get("OutId").len() > 15 {
                return refusal(200, "isv.INVALID_PARAMETERS");
            }
            let number = get("CalledNumber");
            if number.is_empty() || !number.bytes().all(|b| b.is_ascii_digit()) || number == "13800000000" {
                return refusal(200, "isv.MOBILE_NUMBER_ILLEGAL");
            }
            let reference = format!("116012354148^{}", 100_000 + serial);
            state.taken.push(TakenByAliyun {
                action,
                reference: reference.clone(),
                number,
                out_id: get("OutId"),
                code,
                params: get("TtsParam"),
                sign_name: String::new(),
            });
            done(json!({"CallId": reference}))
        }
        "QuerySendDetails" => {
            let (number, biz_id) = (get("PhoneNumber"), get("BizId"));
            let found: Vec<Value> = state
                .taken
                .iter()
                .filter(|one| one.number == number && (biz_id.is_empty() || one.reference == biz_id))
                .filter(|_| get("SendDate") == "20260102")
                .map(|one| {
                    json!({
                        "TemplateCode": one.code, "ReceiveDate": "", "PhoneNum": one.number, "Content": "cnry-content",
                        "OutId": one.out_id, "SendStatus": 1, "SendDate": "2026-01-02 11:04:05", "ErrCode": "",
                    })
                })
                .collect();
            done(
                json!({"TotalCount": found.len().to_string(), "SmsSendDetailDTOs": {"SmsSendDetailDTO": found}}),
            )
        }
        "QueryCallDetailByCallId" => {
            let product = |one: &TakenByAliyun| match one.action.as_str() {
                "SingleCallByTts" => "11010000138001",
                _ => "11000000300006",
            };
            let id = get("CallId");
            match state
                .taken
                .iter()
                .find(|one| one.reference == id && product(one) == get("ProdId"))
            {
                None => refusal(200, "isv.CALL_NOT_EXISTS"),
                Some(one) => {
                    let data = json!({
                        "caller": "057112345678", "callee": one.number, "startDate": "2026-01-02 11:04:06",
                        "endDate": "2026-01-02 11:04:20", "state": "200000", "stateDesc": "-", "duration": 14,
                        "gmtCreate": "2026-01-02 11:04:05",
                    });
                    done(json!({"Data": data.to_string()}))
                }
            }
        }
        _ => refusal(404, "InvalidAction.NotFound"),
    }
}
