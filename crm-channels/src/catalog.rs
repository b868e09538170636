use std::sync::Arc;

use crm_core::capability::{Mailer, SmsSender, VoiceCaller};
use crm_core::memory::{MemorySms, MemoryVoice};
use crm_core::registry::Catalog;

/// Adds the providers of this crate to a catalogue, for each capability by the scheme of their URL: mailers `smtp`,
/// `smtps`, `file`, `memory`, `record`, `vendor` (a description in a file); SMS senders and voice callers `twilio`,
/// `aliyun`, `vendor`, `memory`. What was left out when compiling
/// answers with its feature.
pub fn register(catalog: &mut Catalog) {
    crate::mail::register(catalog);
    catalog.register::<dyn SmsSender, _, _>("memory", |_url| async {
        Ok(Arc::new(MemorySms::new("memory")) as Arc<dyn SmsSender>)
    });
    catalog.register::<dyn VoiceCaller, _, _>("memory", |_url| async {
        Ok(Arc::new(MemoryVoice::new("memory")) as Arc<dyn VoiceCaller>)
    });
    #[cfg(feature = "twilio")]
    {
        use crate::twilio::{TwilioConfig, TwilioSms, TwilioVoice};
        catalog.register::<dyn SmsSender, _, _>("twilio", |url| async move {
            let config = TwilioConfig::from_url(&url)?;
            Ok(Arc::new(TwilioSms::build("twilio", config)?) as Arc<dyn SmsSender>)
        });
        catalog.register::<dyn VoiceCaller, _, _>("twilio", |url| async move {
            let config = TwilioConfig::from_url(&url)?;
            Ok(Arc::new(TwilioVoice::build("twilio", config)?) as Arc<dyn VoiceCaller>)
        });
    }
    #[cfg(feature = "aliyun")]
    {
        use crate::aliyun::{AliyunConfig, AliyunSms, AliyunVoice};
        catalog.register::<dyn SmsSender, _, _>("aliyun", |url| async move {
            let config = AliyunConfig::from_url(&url)?;
            Ok(Arc::new(AliyunSms::build("aliyun", config)?) as Arc<dyn SmsSender>)
        });
        catalog.register::<dyn VoiceCaller, _, _>("aliyun", |url| async move {
            let config = AliyunConfig::from_url(&url)?;
            Ok(Arc::new(AliyunVoice::build("aliyun", config)?) as Arc<dyn VoiceCaller>)
        });
    }
    #[cfg(feature = "http-provider")]
    {
        use crate::http::{HttpMailer, HttpSms, HttpVendorConfig, HttpVoice};
        catalog.register::<dyn Mailer, _, _>("vendor", |url| async move {
            let config = HttpVendorConfig::from_url(&url)?;
            Ok(Arc::new(HttpMailer::build(&config.scheme.clone(), config)?) as Arc<dyn Mailer>)
        });
        catalog.register::<dyn SmsSender, _, _>("vendor", |url| async move {
            let config = HttpVendorConfig::from_url(&url)?;
            Ok(Arc::new(HttpSms::build(&config.scheme.clone(), config)?) as Arc<dyn SmsSender>)
        });
        catalog.register::<dyn VoiceCaller, _, _>("vendor", |url| async move {
            let config = HttpVendorConfig::from_url(&url)?;
            Ok(Arc::new(HttpVoice::build(&config.scheme.clone(), config)?) as Arc<dyn VoiceCaller>)
        });
    }
    catalog.absent::<dyn Mailer>("vendor", "http-provider");
    for (scheme, feature) in [
        ("twilio", "twilio"),
        ("aliyun", "aliyun"),
        ("vendor", "http-provider"),
    ] {
        catalog.absent::<dyn SmsSender>(scheme, feature);
        catalog.absent::<dyn VoiceCaller>(scheme, feature);
    }
}
