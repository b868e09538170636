use std::collections::BTreeMap;

use crm_core::ErrorKind;
use proptest::prelude::*;
use serde_json::json;

use crm_core::message::{Channel, VoiceStep};

use super::*;

fn text(source: &str) -> Part {
    Part::compile("text", "", Escape::Text, source).unwrap()
}

fn vars(json: &serde_json::Value) -> Variables<'_> {
    Variables::of(json)
}

fn one(source: &str, json: &serde_json::Value) -> Result<String> {
    text(source).render(&vars(json))
}

#[test]
fn values_are_put_in_once_and_escaped_in_html() {
    let template = Template::new("a {{ given_name }}", "{{attributes.plan}}")
        .unwrap()
        .html("<p>{{given_name}}</p>")
        .unwrap();
    let json = json!({"given_name": "<Ana> & \"Co\" </script><script>'", "attributes": {"plan": "{{ 7*7 }}{% raw %}"}});
    let said = template.email("", &vars(&json)).unwrap();
    assert_eq!(said.subject, "a <Ana> & \"Co\" </script><script>'");
    assert_eq!(
        said.text, "{{ 7*7 }}{% raw %}",
        "what a value holds is not a template"
    );
    assert_eq!(
        said.html.unwrap(),
        "<p>&lt;Ana&gt; &amp; &quot;Co&quot; &lt;&#x2f;script&gt;&lt;script&gt;&#x27;</p>"
    );
    // Right-to-left marks are letters like others.
    let rtl = json!({"given_name": "\u{202e}evil"});
    assert_eq!(one("{{ given_name }}", &rtl).unwrap(), "\u{202e}evil");
}

#[test]
fn a_missing_variable_is_named_with_its_template_and_language() {
    let source: TemplateSource = serde_json::from_value(json!({
        "name": "welcome", "default_locale": "en",
        "email": {
            "en": {"subject": "Hi {{ given_name }}", "text": "{{ city }}"},
            "de": {"subject": "Hallo", "text": "{% if region %}{{ region }}{% endif %}{{ attributes.plan | upper }}"},
        },
    }))
    .unwrap();
    let template = Template::compile(&source).unwrap();
    let named = |locale: &str, json: serde_json::Value| {
        let error = template.email(locale, &vars(&json)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        ["template", "field", "variable", "locale"].map(|key| error.context(key).unwrap_or("-").to_owned())
    };
    assert_eq!(
        named("en", json!({"given_name": "Ana"})),
        ["welcome", "text", "city", "en"]
    );
    // Blank is missing, and so is null.
    for nothing in [
        json!({"given_name": " \n"}),
        json!({"given_name": null}),
        json!({}),
    ] {
        assert_eq!(named("en", nothing), ["welcome", "subject", "given_name", "en"]);
    }
    // Through the engine too, and a condition may ask for what is missing.
    assert_eq!(
        named("de", json!({"attributes": {"plan": ""}})),
        ["welcome", "text", "attributes.plan", "de"]
    );
    assert_eq!(
        named("de", json!({})),
        ["welcome", "text", "attributes.plan", "de"]
    );
    let said = template
        .email("de-CH", &vars(&json!({"attributes": {"plan": "pro"}})))
        .unwrap();
    assert_eq!(said.text, "PRO");
}

#[test]
fn defaults_take_the_place_of_what_is_missing() {
    let source =
        "{{ city | default(\"here\") }} {{ region|d('there') }} {{ attributes.plan | default(\"<none>\") }}";
    let json = json!({"city": "  ", "attributes": {}});
    assert_eq!(one(source, &json).unwrap(), "here there <none>");
    let html = Part::compile("html", "", Escape::Html, source).unwrap();
    assert_eq!(html.render(&vars(&json)).unwrap(), "here there &lt;none&gt;");
}

#[test]
fn what_is_wrong_with_a_template_is_said_when_it_is_made() {
    for (source, says) in [
        ("{{ given_name", "never closed"),
        ("{{}}", ""),
        ("{{ given_name | there }}", "default(\"text\")"),
        ("{% if city %}", ""),
        ("{% include \"/etc/passwd\" %}", "include"),
        ("{% for i in range(1000000000) %}x{% endfor %}", "not known"),
        ("{{ debug() }}", "not known"),
        ("{{ given_nmae }}", "not known"),
        ("{{ Given }}", "not known"),
        ("{{ city.secret }}", "not known"),
        ("{{ city * 1000000000 }}", "cannot be used"),
    ] {
        let error = Template::new("", source).unwrap_err();
        assert_eq!(error.context("field"), Some("text"), "{source}: {error}");
        assert!(error.to_string().contains(says), "{source}: {error}");
    }
    let nested = "{% if city %}".repeat(10_000) + &"{% endif %}".repeat(10_000);
    assert!(Template::new("", &nested).is_err());
    assert!(Template::new("", &"x".repeat((1 << 20) + 1)).is_err());
    let error = Template::new("", "one\ntwo {{ city | nope }}").unwrap_err();
    assert_eq!(error.context("line"), Some("2"), "{error}");
}

#[test]
fn loops_and_lengths_are_bounded() {
    let list: Vec<u32> = (0..2_000).collect();
    let json = json!({"attributes": {"list": list}});
    let loops = "{% for a in attributes.list %}{% for b in attributes.list %}{% for c in attributes.list %}x{% endfor %}{% endfor %}{% endfor %}";
    let error = one(loops, &json).unwrap_err();
    assert!(error.to_string().contains("too many steps"), "{error}");
    let long = json!({"city": "x".repeat(600_000)});
    for source in ["{{ city }}{{ city }}", "{{ city | upper }}{{ city }}"] {
        let error = one(source, &long).unwrap_err();
        assert!(error.to_string().contains("longer than 1 MiB"), "{error}");
    }
    assert_eq!(one("{{ city }}", &long).unwrap().len(), 600_000);
}

#[test]
fn no_value_brings_a_line_end_into_a_header() {
    let template = Template::new("Hi {{ given_name }}", "").unwrap();
    for value in [
        "a\r\nBcc: x@y.test",
        "a\nb",
        "a\rb",
        "a\u{2028}b",
        "a\u{85}b",
        "a\0b",
    ] {
        let json = json!({"given_name": value});
        let error = template.email("", &vars(&json)).unwrap_err();
        assert_eq!(
            (error.kind(), error.context("field")),
            (ErrorKind::Invalid, Some("subject"))
        );
        assert!(!error.to_string().contains("Bcc"));
    }
}

#[test]
fn the_language_is_looked_for_from_the_whole_to_its_first_part() {
    let template = Template::new("default", "x")
        .unwrap()
        .in_language("de", "de", "x")
        .unwrap()
        .in_language("zh-Hans", "zh-Hans", "x")
        .unwrap();
    for (asked, expected) in [
        ("de", "de"),
        ("de-CH", "de"),
        ("DE-ch-1996", "de"),
        ("zh-Hans-CN", "zh-Hans"),
        ("zh", "default"),
        ("", "default"),
        ("-", "default"),
        ("d", "default"),
    ] {
        let said = template.email(asked, &Variables::new()).unwrap();
        assert_eq!(said.subject, expected, "{asked}");
    }
    let error = template.sms("de", &Variables::new()).unwrap_err();
    assert_eq!(
        (error.context("channel"), error.context("locale")),
        (Some("sms"), Some("de"))
    );
}

fn shipped() -> TemplateSource {
    serde_json::from_value(json!({
        "name": "shipped", "default_locale": "zh", "variables": ["order"],
        "sms": {"zh": {
            "text": "您的订单{{ order.number }}已发货",
            "vendors": {
                "aliyun": {"code": "SMS_154950909", "sign_name": "商店", "params": {"number": "{{ order.number }}", "who": "{{ given_name | default('您') }}"}},
                "twilio": {"code": "HX1", "params": {"1": "{{ order.number }}"}},
            },
        }},
        "voice": {"zh": {
            "steps": [
                {"do": "say", "text": "Order {{ order.number }}"},
                {"do": "gather", "digits": 1, "timeout": {"secs": 5, "nanos": 0}, "action": "https://shop.example/keys",
                 "prompt": [{"do": "say", "text": "{{ given_name | default('you') }}, press 1"}]},
                {"do": "hangup"},
            ],
        }},
    }))
    .unwrap()
}

#[test]
fn vendors_templates_and_spoken_steps_are_filled() {
    let template = Template::compile(&shipped()).unwrap();
    assert_eq!(template.channels(), [Channel::Sms, Channel::Voice]);
    assert_eq!(template.variables(), ["given_name", "order.number"]);
    let json = json!({"order": {"number": 4711}});
    let sms = template.sms("", &vars(&json)).unwrap();
    assert_eq!(sms.text, "您的订单4711已发货");
    let aliyun = &sms.templates["aliyun"];
    assert_eq!(
        (aliyun.code.as_str(), aliyun.sign_name.as_deref()),
        ("SMS_154950909", Some("商店"))
    );
    assert_eq!(aliyun.params["number"], "4711");
    assert_eq!(aliyun.params["who"], "您");
    assert_eq!(sms.templates["twilio"].params["1"], "4711");
    let call = template.voice("", &vars(&json)).unwrap();
    let VoiceStep::Say { text, .. } = &call.steps[0] else {
        panic!("{call:?}")
    };
    assert_eq!(text, "Order 4711");
    let VoiceStep::Gather { prompt, .. } = &call.steps[1] else {
        panic!("{call:?}")
    };
    assert!(matches!(&prompt[0], VoiceStep::Say { text, .. } if text == "you, press 1"));
    let number = crm_core::customer::PhoneNumber::parse("+8613812345678", None).unwrap();
    let id = crm_core::Uuid::nil().into();
    sms.into_sms(id, number.clone()).validate().unwrap();
    call.into_call(id, number).validate().unwrap();
    // One value is missing: no half-filled template goes to a vendor.
    let error = template.sms("", &Variables::new()).unwrap_err();
    assert_eq!(error.context("variable"), Some("order.number"));
    // Nothing of it is shown.
    assert!(!format!("{:?} {:?}", template.sms("", &vars(&json)).unwrap(), vars(&json)).contains("4711"));
}

#[test]
fn a_preview_shows_what_is_missing() {
    let template = Template::compile(&shipped()).unwrap();
    let preview = template.preview("", &Variables::new()).unwrap();
    assert_eq!(preview.missing, ["order.number"]);
    assert_eq!(preview.sms.unwrap().text, "您的订单[order.number]已发货");
    assert_eq!(preview.segments.unwrap().parts, 1);
    let plan = Template::new(
        "{{ attributes.plan }} {{ attributes.since }} {{ name }}",
        "{% if city %}{{ region }}{% endif %}",
    )
    .unwrap();
    let json = json!({"city": "Tartu", "attributes": {"since": 2020}});
    let preview = plan.preview("", &vars(&json)).unwrap();
    assert_eq!(preview.missing, ["attributes.plan", "name", "region"]);
    let email = preview.email.unwrap();
    assert_eq!(
        (email.subject.as_str(), email.text.as_str()),
        ("[attributes.plan] 2020 [name]", "[region]")
    );
}

#[test]
fn sources_are_data_and_wrong_ones_are_refused() {
    let source = shipped();
    let data = serde_json::to_value(&source).unwrap();
    assert_eq!(serde_json::from_value::<TemplateSource>(data).unwrap(), source);
    assert!(serde_json::from_value::<TemplateSource>(json!({"emial": {}})).is_err());
    let refused = |change: &dyn Fn(&mut TemplateSource)| {
        let mut source = shipped();
        change(&mut source);
        let error = Template::compile(&source).unwrap_err();
        assert_eq!(error.context("template"), Some("shipped"));
        error.context("field").unwrap().to_owned()
    };
    assert_eq!(
        refused(&|s| s
            .sms
            .get_mut("zh")
            .unwrap()
            .vendors
            .get_mut("aliyun")
            .unwrap()
            .code
            .clear()),
        "vendors"
    );
    assert_eq!(
        refused(&|s| {
            let sms = s.sms.get_mut("zh").unwrap();
            (sms.text, sms.vendors) = (String::new(), BTreeMap::new());
        }),
        "text"
    );
    assert_eq!(
        refused(&|s| s.voice.get_mut("zh").unwrap().steps.clear()),
        "steps"
    );
    assert_eq!(refused(&|s| s.variables.clear()), "text");
}

/// How smsutil divides texts: written by `tests/data/segments.py`.
static SEGMENTS: &str = include_str!("../../tests/data/segments.tsv");

#[test]
fn texts_are_divided_as_an_independent_program_divides_them() {
    let mut checked = 0;
    for line in SEGMENTS.lines() {
        let cells: Vec<&str> = line.split('\t').collect();
        let text: String = serde_json::from_str(cells[0]).unwrap();
        let parts: Vec<usize> = serde_json::from_str(cells[3]).unwrap();
        let found = Segments::of(&text);
        let encoding = serde_json::to_value(found.encoding).unwrap();
        assert_eq!(
            (encoding.as_str().unwrap(), found.units.to_string().as_str()),
            (cells[1], cells[2]),
            "{line}"
        );
        let lengths: Vec<usize> = Segments::split(&text)
            .iter()
            .map(|part| part.chars().count())
            .collect();
        assert_eq!(
            (lengths, found.parts as usize),
            (parts.clone(), parts.len()),
            "{line}"
        );
        assert_eq!(Segments::split(&text).concat(), text);
        checked += 1;
    }
    assert!(checked > 300);
    assert_eq!((Segments::of("").parts, Segments::split("").len()), (0, 0));
    // Aliyun counts characters, whatever they are.
    assert_eq!(
        [69, 70, 71, 134, 135].map(|n| Segments::by_aliyun(&"a".repeat(n)).parts),
        [1, 1, 2, 2, 3]
    );
}

/// Sources of plain holes, defaults and text; sometimes of what only the engine can do.
fn sources() -> impl Strategy<Value = String> {
    let name = prop::sample::select(vec!["a", "b", "o.x", "o.y", "o.o.z", "none_such", "n", "list"]);
    let piece = prop_oneof![
        "[a-z <>&'\"/\n}%#é€👍]{0,12}"
            .prop_map(|s: String| s.replace("{{", "").replace("{%", "").replace("{#", "")),
        name.clone().prop_map(|n| format!("{{{{ {n} }}}}")),
        name.clone().prop_map(|n| format!("{{{{{n}}}}}")),
        (name.clone(), "[a-z<&/ ]{0,6}").prop_map(|(n, d)| format!("{{{{ {n} | default(\"{d}\") }}}}")),
        (name, "[a-z<& ]{0,6}").prop_map(|(n, d)| format!("{{{{ {n}|d('{d}') }}}}")),
    ];
    prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
}

fn values() -> impl Strategy<Value = serde_json::Value> {
    let leaf = || {
        prop_oneof![
            "\\PC{0,8}".prop_map(|s| json!(s)),
            "[<>&'\"/ {}%]{0,8}".prop_map(|s| json!(s)),
            any::<i64>().prop_map(|n| json!(n)),
            any::<u64>().prop_map(|n| json!(n)),
            (-1e18..1e18_f64).prop_map(|n| json!(n)),
            any::<bool>().prop_map(|b| json!(b)),
            Just(json!(null)),
            Just(json!(["x", null, 1])),
        ]
    };
    (leaf(), leaf(), leaf(), leaf(), leaf(), leaf()).prop_map(|(a, b, x, y, z, n)| {
        json!({"a": a, "b": b, "n": n, "o": {"x": x, "y": y, "o": {"z": z}}, "list": ["<a>", 1, null]})
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn filled_by_hand_is_the_same_as_by_the_engine(source in sources(), json in values(), html in any::<bool>()) {
        let escape = if html { Escape::Html } else { Escape::Text };
        let part = Part::compile("text", "en", escape, &source).unwrap();
        let vars = Variables::of(&json);
        let (by_hand, by_engine) = (part.render(&vars), part.by_engine(&vars));
        match (by_hand, by_engine) {
            (Ok(hand), Ok(engine)) => prop_assert_eq!(hand, engine),
            (Err(hand), Err(engine)) => {
                prop_assert_eq!(hand.context("variable"), engine.context("variable"));
                prop_assert!(hand.context("variable").is_some());
            }
            (hand, engine) => prop_assert!(false, "{:?} or {:?}", hand, engine),
        }
    }

    #[test]
    fn no_source_is_too_odd(source in "(?s)[a-z {}%#|'\"().\\-\n]{0,80}|\\PC{0,60}") {
        if let Ok(part) = Part::compile("text", "", Escape::Html, &source) {
            let _ = part.render(&Variables::new());
        }
    }

    #[test]
    fn a_text_of_any_letters_is_divided_within_the_limits(text in "\\PC{0,400}|[a-z€^{}]{0,400}") {
        let whole = Segments::of(&text);
        let parts = Segments::split(&text);
        prop_assert_eq!(parts.concat(), text.clone());
        prop_assert_eq!(parts.len(), whole.parts as usize);
        let (single, many) = if whole.encoding == Encoding::Gsm7 { (160, 153) } else { (70, 67) };
        let most = if parts.len() == 1 { single } else { many };
        for part in parts {
            let written = Segments::of(part);
            // A part alone may fit a smaller alphabet; counted in that of the whole it fits.
            let units = if written.encoding == whole.encoding { written.units } else {
                u32::try_from(part.encode_utf16().count()).unwrap()
            };
            prop_assert!(units <= most, "{} of {}", units, most);
        }
    }
}
