//! Countries: of an address, and where a page's phone numbers are dialled.

use url::Url;

/// ISO 3166-1 alpha-2, alpha-3, and names in English and in the country's own language.
const COUNTRIES: &str = "\
AE ARE United Arab Emirates;AR ARG Argentina;AT AUT Austria/Österreich;AU AUS Australia;BE BEL Belgium/België/Belgique;BG BGR Bulgaria;\
BR BRA Brazil/Brasil;CA CAN Canada;CH CHE Switzerland/Schweiz/Suisse/Svizzera;CL CHL Chile;CN CHN China/中国;CO COL Colombia;CY CYP Cyprus;\
CZ CZE Czechia/Czech Republic/Česko;DE DEU Germany/Deutschland;DK DNK Denmark/Danmark;EE EST Estonia/Eesti;EG EGY Egypt;\
ES ESP Spain/España;FI FIN Finland/Suomi;FR FRA France;GB GBR United Kingdom/UK/Great Britain/England/Scotland/Wales/Northern Ireland;\
GR GRC Greece/Ελλάδα;HK HKG Hong Kong;HR HRV Croatia/Hrvatska;HU HUN Hungary/Magyarország;ID IDN Indonesia;IE IRL Ireland/Éire;\
IL ISR Israel;IN IND India;IS ISL Iceland/Ísland;IT ITA Italy/Italia;JP JPN Japan/日本;KE KEN Kenya;KR KOR South Korea/Republic of Korea/대한민국;\
LI LIE Liechtenstein;LT LTU Lithuania/Lietuva;LU LUX Luxembourg;LV LVA Latvia/Latvija;MA MAR Morocco;MT MLT Malta;MX MEX Mexico/México;\
MY MYS Malaysia;NG NGA Nigeria;NL NLD Netherlands/The Netherlands/Nederland/Holland;NO NOR Norway/Norge;NZ NZL New Zealand;\
PE PER Peru/Perú;PH PHL Philippines;PK PAK Pakistan;PL POL Poland/Polska;PT PRT Portugal;RO ROU Romania/România;RS SRB Serbia/Srbija;\
RU RUS Russia/Россия;SA SAU Saudi Arabia;SE SWE Sweden/Sverige;SG SGP Singapore;SI SVN Slovenia/Slovenija;SK SVK Slovakia/Slovensko;\
TH THA Thailand;TR TUR Turkey/Türkiye;TW TWN Taiwan/台灣;UA UKR Ukraine/Україна;\
US USA United States/United States of America/U.S.A./U.S.;VN VNM Vietnam/Việt Nam;ZA ZAF South Africa";

/// Languages that are spoken in one country above all.
const LANGUAGES: &str = "bg BG;cs CZ;da DK;de DE;el GR;et EE;fi FI;fr FR;he IL;hu HU;is IS;it IT;ja JP;ko KR;lt LT;lv LV;nb NO;nl NL;no NO;\
pl PL;ro RO;ru RU;sk SK;sl SI;sv SE;th TH;tr TR;uk UA;vi VN";

/// Top-level domains that are countries' but are taken for what they sound like.
const SOUNDS: &[&str] = &[
    "ai", "cc", "co", "eu", "fm", "gg", "io", "la", "ly", "me", "sh", "so", "su", "to", "tv", "ws",
];

/// The alpha-2 code of a country as people write it.
pub(super) fn country(text: &str) -> Option<&'static str> {
    let text = text.trim();
    let mut rows = COUNTRIES.split(';');
    rows.find_map(|row| {
        let (two, rest) = row.split_once(' ')?;
        let (three, names) = rest.split_once(' ')?;
        let named = |name: &str| name.to_lowercase() == text.to_lowercase();
        let code = text.eq_ignore_ascii_case(two) || text.eq_ignore_ascii_case(three);
        (code || names.split('/').any(named)).then_some(two)
    })
}

/// Two letters that may be a country's: the list above names but those with many web sites.
pub(super) fn code(text: &str) -> Option<String> {
    let text = text.trim();
    let plain = text.len() == 2 && text.bytes().all(|b| b.is_ascii_alphabetic());
    plain.then(|| {
        if text.eq_ignore_ascii_case("uk") {
            "GB".to_owned()
        } else {
            text.to_ascii_uppercase()
        }
    })
}

/// Where a page's numbers are dialled, by its language tag (`de-AT`), its domain, and its language alone, in this order.
pub(super) fn of_page(lang: Option<&str>, locale: Option<&str>, url: &Url) -> Option<String> {
    let tagged = |tag: Option<&str>| {
        let tag = tag?;
        tag.split(['-', '_'])
            .skip(1)
            .find(|part| part.len() == 2)
            .and_then(code)
    };
    let domain = || {
        let last = url.domain()?.trim_end_matches('.').rsplit('.').next()?;
        (!SOUNDS.contains(&last)).then(|| code(last)).flatten()
    };
    let language = || {
        let language = lang.or(locale)?.split(['-', '_']).next()?.to_ascii_lowercase();
        let mut rows = LANGUAGES.split(';').filter_map(|row| row.split_once(' '));
        rows.find(|(own, _)| *own == language)
            .map(|(_, region)| region.to_owned())
    };
    tagged(lang)
        .or_else(|| tagged(locale))
        .or_else(domain)
        .or_else(language)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn countries_as_people_write_them() {
        for (text, code) in [
            ("DE", Some("DE")),
            ("deu", Some("DE")),
            ("Deutschland", Some("DE")),
            ("ÖSTERREICH", Some("AT")),
            ("USA", Some("US")),
            ("United States of America", Some("US")),
            ("uk", Some("GB")),
            ("日本", Some("JP")),
            ("Atlantis", None),
            ("", None),
        ] {
            assert_eq!(country(text), code, "{text}");
        }
        assert_eq!(
            COUNTRIES
                .split(';')
                .filter_map(|row| country(row.get(..2)?))
                .count(),
            COUNTRIES.split(';').count()
        );
    }

    #[test]
    fn regions_of_pages() {
        for (lang, locale, url, region) in [
            (Some("de-AT"), None, "https://a.example.de/", Some("AT")),
            (Some("zh-Hant-TW"), None, "https://a.example.com/", Some("TW")),
            (Some("en"), Some("en_GB"), "https://a.example.com/", Some("GB")),
            (Some("en"), None, "https://a.example.co.uk/", Some("GB")),
            (Some("de"), None, "https://a.example.ch/", Some("CH")),
            (Some("et"), None, "https://a.example.com/", Some("EE")),
            (Some("en"), None, "https://a.example.com/", None),
            (None, None, "https://a.example.io/", None),
            (None, None, "http://127.0.0.1/", None),
            (Some("de-1996"), None, "https://a.example.com/", Some("DE")),
        ] {
            let url = Url::parse(url).unwrap();
            assert_eq!(of_page(lang, locale, &url).as_deref(), region, "{lang:?} {url}");
        }
    }
}
