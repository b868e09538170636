use std::collections::BTreeMap;

use super::message::Answers;
use super::page::{Languages, PageTexts};
use super::unsubscribe::Unsubscribe;
use super::verp::ReturnPath;
use super::words::Words;
use crate::Outreach;

/// What a purpose is called, for the people who get its messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PurposeText {
    /// A few words.
    pub title: String,
    /// A sentence; may be empty.
    pub description: String,
}

/// What a consumer needs for what comes back.
#[derive(Debug, Clone, Default)]
pub(crate) struct InboundSettings {
    pub(crate) unsubscribe: Option<Unsubscribe>,
    pub(crate) return_path: Option<ReturnPath>,
    pub(crate) words: Words,
    pub(crate) answers: Answers,
    pub(crate) languages: Languages,
    /// By purpose and language; the empty language for all others.
    purposes: BTreeMap<(String, String), PurposeText>,
}

impl InboundSettings {
    pub(super) fn words_of(&self, purpose: &str, language: &str) -> (String, String) {
        let primary = language.split('-').next().unwrap_or_default();
        let found = [language, primary, ""]
            .into_iter()
            .find_map(|language| self.purposes.get(&(purpose.to_owned(), language.to_owned())));
        match found {
            Some(text) => (text.title.clone(), text.description.clone()),
            None => (purpose.to_owned(), String::new()),
        }
    }

    pub(super) fn title(&self, purpose: &str, language: &str) -> String {
        self.words_of(purpose, language).0
    }
}

impl Outreach {
    /// Makes links to unsubscribe with this ([`Outreach::stamp`]), and answers at them ([`super::Inbound`]).
    #[must_use]
    pub fn with_unsubscribe(mut self, unsubscribe: Unsubscribe) -> Self {
        self.inbound.unsubscribe = Some(unsubscribe);
        self
    }

    /// Lets bounces come back to these addresses ([`Outreach::stamp`]), and believes only what comes back there.
    #[must_use]
    pub fn with_return_path(mut self, path: ReturnPath) -> Self {
        self.inbound.return_path = Some(path);
        self
    }

    /// Understands these words in messages to us.
    #[must_use]
    pub fn with_words(mut self, words: Words) -> Self {
        self.inbound.words = words;
        self
    }

    /// Answers commands in messages to us with these texts; nothing is answered by default.
    #[must_use]
    pub fn with_answers(mut self, answers: Answers) -> Self {
        self.inbound.answers = answers;
        self
    }

    /// Shows pages in these languages, the first one when no other is asked for. English by default.
    #[must_use]
    pub fn with_pages(mut self, texts: Vec<PageTexts>) -> Self {
        self.inbound.languages = Languages::new(texts);
        self
    }

    /// Calls a purpose this on pages in a language (BCP 47; empty for all others). By default it is called by its name.
    #[must_use]
    pub fn with_purpose_text(
        mut self,
        purpose: &str,
        language: &str,
        title: &str,
        description: &str,
    ) -> Self {
        let text = PurposeText {
            title: title.to_owned(),
            description: description.to_owned(),
        };
        self.inbound
            .purposes
            .insert((purpose.to_owned(), language.to_owned()), text);
        self
    }
}
