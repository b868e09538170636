//! Calls, step by step.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use url::Url;

use super::phone::{VendorParameters, VendorTemplate, VendorTemplates, add, no_nul, sender, spoken};
use super::{MessageId, no_control};
use crate::customer::PhoneNumber;
use crate::{Error, Result};

/// The most steps of a call.
const MAX_STEPS: usize = 50;
/// The longest text that is spoken in one step, in characters.
const MAX_SAY: usize = 3000;

/// One step of a call. `Debug` shows the kind only.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
#[non_exhaustive]
pub enum VoiceStep {
    /// Speaks a text.
    Say {
        /// The text.
        text: String,
        /// Its language (BCP 47).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        language: Option<String>,
        /// The voice, as the vendor names it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        voice: Option<String>,
        /// How often, at least once.
        #[serde(default = "once")]
        times: u32,
    },
    /// Plays a recording.
    Play {
        /// Where it is: a URL, or the vendor's own name of a stored recording.
        recording: String,
        /// How often, at least once.
        #[serde(default = "once")]
        times: u32,
    },
    /// Says nothing for a while.
    Pause {
        /// Whole seconds count.
        length: Duration,
    },
    /// Connects the call with somebody else.
    Dial {
        /// Who is called.
        number: PhoneNumber,
        /// The number that is shown.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        caller_id: Option<String>,
    },
    /// Waits for keys to be pressed, while its steps run, and sends them to a URL of the host's.
    Gather {
        /// How many keys; without a number, until `#` or the time is up.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        digits: Option<u32>,
        /// How long after the last key.
        timeout: Duration,
        /// Where the keys go.
        action: Url,
        /// What is said meanwhile: only `Say`, `Play` and `Pause`.
        prompt: Vec<VoiceStep>,
    },
    /// Ends the call.
    Hangup,
}

/// The parameter of a [`VoiceStep::Gather`]'s address that tells which key means "no more of these calls". Providers that
/// take in pressed keys look for it; what signs the call covers it.
pub const STOP_KEY: &str = "stop";

const fn once() -> u32 {
    1
}

impl VoiceStep {
    /// Speaks a text once, in the vendor's usual voice.
    pub fn say(text: impl Into<String>) -> Self {
        Self::Say {
            text: text.into(),
            language: None,
            voice: None,
            times: once(),
        }
    }

    /// Says a text and waits for the key that ends such calls: "to get no more of these calls, press 9". `action` is the
    /// address of ours at which the vendor's webhooks are taken in; the parameter [`STOP_KEY`] is added to it and tells
    /// which key it is. Any other key does nothing, and the call goes on with what the address answers.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] when `key` is none of `0` to `9`, `*` and `#`.
    pub fn opt_out(key: char, mut action: Url, text: impl Into<String>) -> Result<Self> {
        if !matches!(key, '0'..='9' | '*' | '#') {
            return Err(Error::invalid("a phone has the keys 0 to 9, * and #").with("field", "key"));
        }
        action.query_pairs_mut().append_pair(STOP_KEY, &key.to_string());
        Ok(Self::Gather {
            digits: Some(1),
            timeout: Duration::from_secs(5),
            action,
            prompt: vec![Self::say(text)],
        })
    }

    fn validate(&self, inside: bool) -> Result<()> {
        let wrong = |message: &'static str| Err(Error::invalid(message).with("field", "steps"));
        match self {
            Self::Say { text, times, .. } => {
                if text.trim().is_empty() || *times == 0 {
                    return wrong("a step that speaks has a text, and speaks it at least once");
                }
                spoken("steps", text, MAX_SAY)
            }
            Self::Play { recording, times } if recording.trim().is_empty() || *times == 0 => {
                wrong("a step that plays names a recording, and plays it at least once")
            }
            Self::Play { recording, .. } => no_control("steps", recording),
            Self::Pause { .. } => Ok(()),
            _ if inside => wrong("while keys are waited for, only Say, Play and Pause make sense"),
            Self::Gather { prompt, digits, .. } => {
                if *digits == Some(0) {
                    return wrong("a step that waits for keys waits for at least one");
                }
                prompt.iter().try_for_each(|step| step.validate(true))
            }
            Self::Dial { caller_id, .. } => sender(caller_id.as_deref()),
            Self::Hangup => Ok(()),
        }
    }
}

impl fmt::Debug for VoiceStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Say { .. } => "Say(..)",
            Self::Play { .. } => "Play(..)",
            Self::Pause { .. } => "Pause(..)",
            Self::Dial { .. } => "Dial(..)",
            Self::Gather { .. } => "Gather(..)",
            Self::Hangup => "Hangup",
        })
    }
}

/// One phone call to one recipient. `Debug` shows no content.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VoiceCall {
    /// Names the call.
    pub id: MessageId,
    /// The caller's number, as the vendor knows it; without one, the provider's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Who is called.
    pub to: PhoneNumber,
    /// What happens, in order; may be empty when every provider that is asked has a template.
    #[serde(default)]
    pub steps: Vec<VoiceStep>,
    /// What a vendor that takes templates speaks instead.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub templates: VendorTemplates,
    /// What else the vendors' interfaces are told about it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parameters: VendorParameters,
}

impl VoiceCall {
    /// A call from the provider's own number.
    pub fn new(id: MessageId, to: PhoneNumber, steps: Vec<VoiceStep>) -> Self {
        Self {
            id,
            from: None,
            to,
            steps,
            templates: VendorTemplates::new(),
            parameters: VendorParameters::new(),
        }
    }

    /// From this number.
    #[must_use]
    pub fn from(mut self, from: impl Into<String>) -> Self {
        self.from = Some(from.into());
        self
    }

    /// With this value for a parameter of the vendor's interface, named as the vendor names it: for `twilio`, `RiskCheck`.
    /// Said again, it adds another value.
    #[must_use]
    pub fn parameter(
        mut self,
        scheme: impl Into<String>,
        name: impl Into<String>,
        value: impl Into<String>,
    ) -> Self {
        add(&mut self.parameters, scheme.into(), name.into(), value.into());
        self
    }

    /// With this template at the vendor of this scheme.
    #[must_use]
    pub fn template(mut self, scheme: impl Into<String>, template: VendorTemplate) -> Self {
        self.templates.insert(scheme.into(), template);
        self
    }

    /// Checks that something happens in it, and that each step makes sense where it stands.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] naming the field.
    pub fn validate(&self) -> Result<()> {
        if self.steps.is_empty() && self.templates.is_empty() {
            return Err(Error::invalid("a call has steps or a template").with("field", "steps"));
        }
        if self.steps.len() > MAX_STEPS {
            return Err(Error::invalid("a call has at most 50 steps").with("field", "steps"));
        }
        sender(self.from.as_deref())?;
        no_nul(&self.parameters)?;
        self.steps.iter().try_for_each(|step| step.validate(false))?;
        self.templates.values().try_for_each(VendorTemplate::validate)
    }
}

impl fmt::Debug for VoiceCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VoiceCall({}, ..)", self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Uuid;

    fn number() -> PhoneNumber {
        PhoneNumber::parse("+4930123456", None).unwrap()
    }

    #[test]
    fn a_call_makes_sense() {
        let action = Url::parse("https://example.com/keys").unwrap();
        let gather = |prompt| VoiceStep::Gather {
            digits: Some(1),
            timeout: Duration::from_secs(5),
            action: action.clone(),
            prompt,
        };
        let call = |steps| VoiceCall::new(Uuid::nil().into(), number(), steps).validate();
        assert!(
            call(vec![
                VoiceStep::say("hello"),
                gather(vec![VoiceStep::say("1 or 2")]),
                VoiceStep::Hangup
            ])
            .is_ok()
        );
        assert!(call(vec![]).is_err());
        assert!(call(vec![VoiceStep::say(" ")]).is_err());
        assert!(call(vec![gather(vec![VoiceStep::Hangup])]).is_err());
        assert!(call(vec![gather(vec![gather(vec![])])]).is_err());
        assert!(call(vec![VoiceStep::Hangup; 51]).is_err());
    }

    #[test]
    fn a_key_ends_such_calls() {
        let hook = Url::parse("https://crm.example/webhooks/twilio?message=1").unwrap();
        let VoiceStep::Gather { action, digits, .. } =
            VoiceStep::opt_out('#', hook.clone(), "No more calls: press hash").unwrap()
        else {
            panic!("not a step that waits for keys");
        };
        assert_eq!(
            action.as_str(),
            "https://crm.example/webhooks/twilio?message=1&stop=%23"
        );
        assert_eq!(digits, Some(1));
        assert!(VoiceStep::opt_out('a', hook, "x").is_err());
    }

    #[test]
    fn steps_are_data() {
        let steps: Vec<VoiceStep> =
            serde_json::from_str(r#"[{"do":"say","text":"Hi"},{"do":"play","recording":"https://example.com/a.mp3","times":2},{"do":"hangup"}]"#)
                .unwrap();
        assert_eq!(steps[0], VoiceStep::say("Hi"));
        assert_eq!(steps.len(), 3);
    }
}
