//! The protocol in XML.
//!
//! Names of elements that come from outside (keys of metadata) are written so that they are names: `_` becomes `__`,
//! `$` becomes `_-`, and what may not stand in a name becomes `_.` and four hexadecimal digits.

use quick_xml::XmlVersion;
use quick_xml::events::{BytesStart, Event};
use quick_xml::reader::Reader;

use super::model::{App, Apps, DataCenter, Info, Port, TEXTS, put};
use super::order;

const PLAIN_CENTER: &str = "com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo";
const AMAZON_CENTER: &str = "com.netflix.appinfo.AmazonInfo";
const EMPTY_MAP: &str = "java.util.Collections$EmptyMap";
/// How deep elements may stand in each other, and how many there may be.
const MAX_DEPTH: usize = 8;
const MAX_NODES: usize = 2000;

/// Text of XML, two spaces a level.
struct Writer {
    text: String,
    depth: usize,
}

impl Writer {
    fn new() -> Self {
        Self {
            text: String::new(),
            depth: 0,
        }
    }

    fn line(&mut self) {
        if !self.text.is_empty() {
            self.text.push('\n');
        }
        for _ in 0..self.depth {
            self.text.push_str("  ");
        }
    }

    fn leaf(&mut self, name: &str, value: &str) {
        self.leaf_with(name, "", value);
    }

    /// `attribute` begins with a space or is empty.
    fn leaf_with(&mut self, name: &str, attribute: &str, value: &str) {
        self.line();
        let value = escaped(value);
        self.text
            .push_str(&format!("<{name}{attribute}>{value}</{name}>"));
    }

    fn node(&mut self, name: &str, attribute: &str, inside: impl FnOnce(&mut Self)) {
        self.line();
        self.text.push_str(&format!("<{name}{attribute}>"));
        self.depth += 1;
        inside(self);
        self.depth -= 1;
        self.line();
        self.text.push_str(&format!("</{name}>"));
    }
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&apos;"),
            '\r' => out.push_str("&#xd;"),
            // XML 1.0 has no other control characters, not even escaped.
            c if c.is_control() && c != '\n' && c != '\t' => {}
            c => out.push(c),
        }
    }
    out
}

/// Whether it may stand in a name (XML 1.0, 2.3).
fn in_name(c: char, first: bool) -> bool {
    let start = c == ':'
        || c == '_'
        || c.is_ascii_alphabetic()
        || matches!(c, '\u{C0}'..='\u{D6}' | '\u{D8}'..='\u{F6}' | '\u{F8}'..='\u{2FF}' | '\u{370}'..='\u{37D}'
            | '\u{37F}'..='\u{1FFF}' | '\u{200C}'..='\u{200D}' | '\u{2070}'..='\u{218F}' | '\u{2C00}'..='\u{2FEF}'
            | '\u{3001}'..='\u{D7FF}' | '\u{F900}'..='\u{FDCF}' | '\u{FDF0}'..='\u{FFFD}');
    start
        || !first
            && (c == '-'
                || c == '.'
                || c.is_ascii_digit()
                || matches!(c, '\u{B7}' | '\u{300}'..='\u{36F}' | '\u{203F}'..='\u{2040}'))
}

fn encoded_name(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for (at, c) in name.chars().enumerate() {
        match c {
            '$' => out.push_str("_-"),
            '_' => out.push_str("__"),
            c if in_name(c, at == 0) => out.push(c),
            c => {
                let mut units = [0; 2];
                for unit in c.encode_utf16(&mut units) {
                    out.push_str(&format!("_.{unit:04x}"));
                }
            }
        }
    }
    out
}

fn decoded_name(name: &str) -> String {
    let mut units: Vec<u16> = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some(c) = rest.chars().next() {
        let hex = rest
            .strip_prefix("_.")
            .and_then(|tail| tail.get(..4))
            .filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
            .and_then(|digits| u16::from_str_radix(digits, 16).ok());
        let (unit, taken) = if rest.starts_with("_-") {
            (Some(u16::from(b'$')), 2)
        } else if rest.starts_with("__") {
            (Some(u16::from(b'_')), 2)
        } else if hex.is_some() {
            (hex, 6)
        } else {
            (None, c.len_utf8())
        };
        match unit {
            Some(unit) => units.push(unit),
            None => units.extend(c.encode_utf16(&mut [0; 2]).iter()),
        }
        rest = rest.get(taken..).unwrap_or_default();
    }
    String::from_utf16_lossy(&units)
}

fn write_port(out: &mut Writer, name: &str, port: Port) {
    let enabled = format!(" enabled=\"{}\"", port.enabled);
    out.leaf_with(name, &enabled, &port.number.to_string());
}

fn write_map(out: &mut Writer, pairs: &[(String, String)]) {
    for (key, value) in pairs {
        out.leaf(&encoded_name(key), value);
    }
}

fn write_instance(out: &mut Writer, info: &Info) {
    out.node("instance", "", |out| {
        if let Some(id) = &info.instance_id {
            out.leaf("instanceId", id);
        }
        for (name, value) in [("hostName", &info.host), ("app", &info.app), ("ipAddr", &info.ip)] {
            out.leaf(name, value.as_deref().unwrap_or_default());
        }
        if let Some(sid) = info
            .sid
            .as_deref()
            .filter(|sid| !matches!(*sid, "na" | "unknown"))
        {
            out.leaf("sid", sid);
        }
        out.leaf("status", info.status.as_str());
        out.leaf("overriddenstatus", info.overridden.as_str());
        write_port(out, "port", info.port);
        write_port(out, "securePort", info.secure_port);
        out.leaf("countryId", &info.country.to_string());
        if let Some(center) = &info.data_center {
            let name = center.name.as_deref().unwrap_or_default();
            let amazon = name == "Amazon";
            let class = format!(" class=\"{}\"", if amazon { AMAZON_CENTER } else { PLAIN_CENTER });
            out.node("dataCenterInfo", &class, |out| {
                out.leaf("name", name);
                if amazon {
                    out.node("metadata", "", |out| write_map(out, &center.metadata));
                }
            });
        }
        out.node("leaseInfo", "", |out| {
            for (name, value) in [
                ("renewalIntervalInSecs", info.lease.renewal_secs),
                ("durationInSecs", info.lease.duration_secs),
                ("registrationTimestamp", info.lease.registered),
                ("lastRenewalTimestamp", info.lease.renewed),
                ("evictionTimestamp", info.lease.evicted),
                ("serviceUpTimestamp", info.lease.up),
            ] {
                out.leaf(name, &value.to_string());
            }
        });
        if info.metadata.is_empty() {
            out.line();
            out.text.push_str(&format!("<metadata class=\"{EMPTY_MAP}\"/>"));
        } else {
            let mut pairs = info.metadata.clone();
            order::by_trie(&mut pairs, |(key, _)| key);
            out.node("metadata", "", |out| write_map(out, &pairs));
        }
        let last = TEXTS.len() - 1;
        for (name, value) in TEXTS.iter().zip(&info.texts).take(last) {
            if let Some(value) = value {
                out.leaf(name, value);
            }
        }
        out.leaf(
            "isCoordinatingDiscoveryServer",
            if info.coordinating { "true" } else { "false" },
        );
        out.leaf("lastUpdatedTimestamp", &info.last_updated.to_string());
        out.leaf("lastDirtyTimestamp", &info.last_dirty.to_string());
        if let Some(action) = info.action {
            out.leaf("actionType", action.as_str());
        }
        if let (Some(name), Some(Some(value))) = (TEXTS.last(), info.texts.last()) {
            out.leaf(name, value);
        }
    });
}

fn write_app(out: &mut Writer, app: &App) {
    out.node("application", "", |out| {
        out.leaf("name", &app.name);
        for info in &app.instances {
            write_instance(out, info);
        }
    });
}

/// `<instance>`.
pub(super) fn one(info: &Info) -> String {
    let mut out = Writer::new();
    write_instance(&mut out, info);
    out.text
}

/// `<application>`.
pub(super) fn app(app: &App) -> String {
    let mut out = Writer::new();
    write_app(&mut out, app);
    out.text
}

/// `<applications>`.
pub(super) fn apps(apps: &Apps) -> String {
    let mut out = Writer::new();
    out.node("applications", "", |out| {
        out.leaf("versions__delta", &apps.version.to_string());
        out.leaf("apps__hashcode", &apps.hash);
        for app in &apps.apps {
            write_app(out, app);
        }
    });
    out.text
}

/// An element that was read.
#[derive(Default)]
struct Node {
    name: String,
    attributes: Vec<(String, String)>,
    text: String,
    children: Vec<Node>,
}

impl Node {
    fn child(&self, name: &str) -> Option<&Node> {
        self.children.iter().find(|child| child.name == name)
    }
    fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }
}

fn begin(element: &BytesStart<'_>) -> Option<Node> {
    let mut node = Node {
        name: decoded_name(std::str::from_utf8(element.name().as_ref()).ok()?),
        ..Node::default()
    };
    for attribute in element.attributes() {
        let attribute = attribute.ok()?;
        let value = attribute.normalized_value(XmlVersion::Implicit1_0).ok()?;
        let key = std::str::from_utf8(attribute.key.as_ref()).ok()?.to_owned();
        node.attributes.push((key, value.into_owned()));
    }
    Some(node)
}

/// The whole document, bounded. A document type is refused: nobody who registers needs one, and those who send bombs do.
fn read(body: &[u8]) -> Option<Node> {
    let mut reader = Reader::from_str(std::str::from_utf8(body).ok()?);
    let mut open: Vec<Node> = Vec::new();
    let mut root = None;
    let mut count = 0;
    loop {
        let mut closed = None;
        match reader.read_event().ok()? {
            Event::Start(element) if root.is_none() && open.len() < MAX_DEPTH => {
                count += 1;
                open.push(begin(&element)?);
            }
            Event::Empty(element) if root.is_none() && open.len() < MAX_DEPTH => {
                count += 1;
                closed = Some(begin(&element)?);
            }
            Event::Start(_) | Event::Empty(_) | Event::DocType(_) => return None,
            Event::End(_) => closed = Some(open.pop()?),
            Event::Text(text) => {
                let text = text.xml10_content().ok()?;
                match open.last_mut() {
                    Some(node) => node.text.push_str(&text),
                    None if text.trim().is_empty() => {}
                    None => return None,
                }
            }
            Event::CData(text) => open.last_mut()?.text.push_str(&text.xml10_content().ok()?),
            Event::GeneralRef(reference) => {
                let c = match reference.resolve_char_ref().ok()? {
                    Some(c) => c,
                    None => match reference.decode().ok()?.as_ref() {
                        "amp" => '&',
                        "lt" => '<',
                        "gt" => '>',
                        "quot" => '"',
                        "apos" => '\'',
                        _ => return None,
                    },
                };
                open.last_mut()?.text.push(c);
            }
            Event::Comment(_) | Event::Decl(_) | Event::PI(_) => {}
            Event::Eof => break,
        }
        if count > MAX_NODES {
            return None;
        }
        if let Some(node) = closed {
            match open.last_mut() {
                Some(parent) => parent.children.push(node),
                None => root = Some(node),
            }
        }
    }
    if open.is_empty() { root } else { None }
}

fn read_port(node: &Node, port: &mut Port) {
    port.number = node.text.trim().parse().unwrap_or(0);
    if let Some(enabled) = node.attribute("enabled") {
        port.enabled = enabled.eq_ignore_ascii_case("true");
    }
}

fn read_map(node: &Node) -> Option<Vec<(String, String)>> {
    let mut pairs = Vec::new();
    for child in &node.children {
        if !put(&mut pairs, child.name.clone(), child.text.clone()) {
            return None;
        }
    }
    Some(pairs)
}

/// Reads `<instance>`; `None` when it is not of this form.
pub(super) fn read_one(body: &[u8], now_ms: i64) -> Option<Info> {
    let root = read(body)?;
    if root.name != "instance" {
        return None;
    }
    let mut info = Info::blank(now_ms);
    for node in &root.children {
        match node.name.as_str() {
            "port" => read_port(node, &mut info.port),
            "securePort" => read_port(node, &mut info.secure_port),
            "leaseInfo" => {
                for child in &node.children {
                    if let Ok(value) = child.text.trim().parse() {
                        info.set_lease(&child.name, value);
                    }
                }
            }
            "metadata" => info.metadata = read_map(node)?,
            "dataCenterInfo" => {
                let name = match node.child("name") {
                    None => None,
                    Some(name) if matches!(name.text.as_str(), "Netflix" | "Amazon" | "MyOwn") => {
                        Some(name.text.clone())
                    }
                    Some(_) => return None,
                };
                let metadata = match node.child("metadata") {
                    Some(node) => read_map(node)?,
                    None => Vec::new(),
                };
                info.data_center = Some(DataCenter { name, metadata });
            }
            name => {
                info.set_plain(name, node.text.clone());
            }
        }
    }
    Some(info)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_there_and_back() {
        for (plain, coded) in [
            ("management.port", "management.port"),
            ("user_name", "user__name"),
            ("a$b", "a_-b"),
            ("a b", "a_.0020b"),
            ("1st", "_.0031st"),
            ("木", "木"),
            ("🙂", "_.d83d_.de42"),
        ] {
            assert_eq!(encoded_name(plain), coded);
            assert_eq!(decoded_name(coded), plain);
        }
    }

    #[test]
    fn bombs_are_refused() {
        let nested = format!("{}{}", "<instance>".repeat(100), "</instance>".repeat(100));
        let many = format!("<instance>{}</instance>", "<a/>".repeat(5000));
        for bomb in [
            "<!DOCTYPE lolz [<!ENTITY lol \"lol\">]><instance><app>&lol;</app></instance>",
            "<!DOCTYPE x SYSTEM \"file:///etc/passwd\"><instance/>",
            "<instance><app>&lol;</app></instance>",
            "<instance><app></instance></app>",
            "<instance/><instance/>",
            "<instance>",
            "text",
            "",
            &nested,
            &many,
        ] {
            assert!(
                read_one(bomb.as_bytes(), 0).is_none(),
                "{}",
                &bomb[..bomb.len().min(80)]
            );
        }
        assert!(read_one(b"\xff", 0).is_none());
        let sound = "<?xml version=\"1.0\"?>\n<instance><app>a&amp;&#66;<![CDATA[<]]></app></instance>\n";
        assert_eq!(
            read_one(sound.as_bytes(), 0).unwrap().app.as_deref(),
            Some("A&B<")
        );
    }
}
