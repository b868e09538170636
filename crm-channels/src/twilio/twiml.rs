//! Calls as TwiML, the XML that Twilio runs (twilio.com/docs/voice/twiml).

use std::fmt::Write;

use crm_core::message::VoiceStep;
use crm_core::{Error, Result};

use crate::exchange::xml;

/// The most that goes along in the parameter `Twiml`, in characters.
const MAX_TWIML: usize = 4000;

/// The steps of a call.
pub(super) fn twiml(steps: &[VoiceStep]) -> Result<String> {
    let mut out = String::from("<Response>");
    for step in steps {
        write_step(&mut out, step)?;
    }
    out.push_str("</Response>");
    if out.chars().nth(MAX_TWIML).is_some() {
        return Err(Error::invalid("the call's steps are longer than 4000 characters as TwiML; give Twilio an address of yours instead, as the template `twilio`")
            .with("field", "steps"));
    }
    Ok(out)
}

fn write_step(out: &mut String, step: &VoiceStep) -> Result<()> {
    match step {
        VoiceStep::Say {
            text,
            language,
            voice,
            times,
        } => {
            out.push_str("<Say");
            if let Some(voice) = voice {
                attribute(out, "voice", voice)?;
            }
            if let Some(language) = language {
                attribute(out, "language", language)?;
            }
            repeated(out, *times)?;
            out.push('>');
            escape(out, text)?;
            out.push_str("</Say>");
        }
        VoiceStep::Play { recording, times } => {
            out.push_str("<Play");
            repeated(out, *times)?;
            out.push('>');
            escape(out, recording)?;
            out.push_str("</Play>");
        }
        VoiceStep::Pause { length } => {
            out.push_str("<Pause");
            attribute(out, "length", &length.as_secs().max(1).to_string())?;
            out.push_str("/>");
        }
        VoiceStep::Dial { number, caller_id } => {
            out.push_str("<Dial");
            if let Some(caller) = caller_id {
                attribute(out, "callerId", caller)?;
            }
            out.push('>');
            escape(out, number.as_str())?;
            out.push_str("</Dial>");
        }
        VoiceStep::Gather {
            digits,
            timeout,
            action,
            prompt,
        } => {
            out.push_str("<Gather input=\"dtmf\"");
            if let Some(digits) = digits {
                attribute(out, "numDigits", &digits.to_string())?;
            }
            attribute(out, "timeout", &timeout.as_secs().max(1).to_string())?;
            attribute(out, "action", action.as_str())?;
            out.push_str(" method=\"POST\">");
            for step in prompt {
                write_step(out, step)?;
            }
            out.push_str("</Gather>");
        }
        VoiceStep::Hangup => out.push_str("<Hangup/>"),
        _ => {
            return Err(Error::invalid("a step that this provider does not know").with("field", "steps"));
        }
    }
    Ok(())
}

fn repeated(out: &mut String, times: u32) -> Result<()> {
    if times > 1 {
        attribute(out, "loop", &times.to_string())?;
    }
    Ok(())
}

fn attribute(out: &mut String, name: &str, value: &str) -> Result<()> {
    let _ = write!(out, " {name}=\"");
    escape(out, value)?;
    out.push('"');
    Ok(())
}

fn escape(out: &mut String, text: &str) -> Result<()> {
    out.push_str(&xml(text, "steps")?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn every_step_has_its_element() {
        let steps = vec![
            VoiceStep::Say {
                text: "您好 <b> & \"x\" 'y'".into(),
                language: Some("zh-CN".into()),
                voice: Some("Polly.Zhiyu".into()),
                times: 2,
            },
            VoiceStep::Play {
                recording: "https://example.com/a.mp3?x=1&y=2".into(),
                times: 1,
            },
            VoiceStep::Pause {
                length: Duration::from_secs(3),
            },
            VoiceStep::Gather {
                digits: Some(1),
                timeout: Duration::from_secs(5),
                action: "https://example.com/keys?a=1&b=2".parse().unwrap(),
                prompt: vec![VoiceStep::say("1?")],
            },
            VoiceStep::Dial {
                number: "+4930123456".parse().unwrap(),
                caller_id: Some("+15005550006".into()),
            },
            VoiceStep::Hangup,
        ];
        assert_eq!(
            twiml(&steps).unwrap(),
            "<Response><Say voice=\"Polly.Zhiyu\" language=\"zh-CN\" loop=\"2\">您好 &lt;b&gt; &amp; &quot;x&quot; &apos;y&apos;</Say>\
             <Play>https://example.com/a.mp3?x=1&amp;y=2</Play><Pause length=\"3\"/>\
             <Gather input=\"dtmf\" numDigits=\"1\" timeout=\"5\" action=\"https://example.com/keys?a=1&amp;b=2\" method=\"POST\"><Say>1?</Say></Gather>\
             <Dial callerId=\"+15005550006\">+4930123456</Dial><Hangup/></Response>"
        );
    }

    #[test]
    fn what_no_document_can_hold_is_refused() {
        for text in ["bell \u{7}", "escape \u{1b}", "\u{ffff}"] {
            assert_eq!(
                twiml(&[VoiceStep::say(text)]).unwrap_err().context("field"),
                Some("steps")
            );
        }
        assert!(twiml(&vec![VoiceStep::say("&".repeat(900)); 1]).is_err());
        assert!(twiml(&vec![VoiceStep::say("a".repeat(3000)); 1]).is_ok());
    }
}
