//! Section `render`: subject, text and HTML for so many people, from templates that were split once; the same with a
//! condition and a loop, for which the engine is needed; and the peers of `benches/peers/render.py` on the same texts.

use anyhow::Result;
use open_crm::channels::{Segments, Template, Variables};

use super::{Arguments, timed};

const SUBJECT: &str = "{{ given_name | default('Hello') }}, the new records are in";
const LINE: &str = "Dear {{ given_name }} {{ family_name }} of {{ city }}, as a friend on the plan {{ attributes.plan }} you hear it first.\n";

/// The text of the bench: about 2.5 KB with the HTML, ten holes.
pub(crate) fn texts() -> (String, String) {
    let filler = "Each of them was listened to by people who know what they hear, and who wrote down why. ";
    let text = format!(
        "{LINE}\n{}\n\nYours,\nthe record shop\nYour address: {{{{ email }}}}\n",
        filler.repeat(13)
    );
    let html = format!(
        "<html><body><p>{LINE}</p><p>{}</p><p>{{{{ email }}}}</p></body></html>",
        filler.repeat(13)
    );
    (text, html)
}

fn people(count: usize) -> Vec<serde_json::Value> {
    (0..count)
        .map(|n| {
            serde_json::json!({
                "given_name": format!("Ana{n}"), "family_name": "O'Kask & Co", "city": "Tartu", "email": format!("p{n}@example.org"),
                "attributes": {"plan": "pro", "items": ["jacket", "boots"]},
            })
        })
        .collect()
}

pub(crate) async fn run(arguments: &Arguments) -> Result<()> {
    let (text, html) = texts();
    let plain = Template::new(SUBJECT, &text)?.html(&html)?;
    let rich = Template::new(
        SUBJECT,
        &format!("{text}{{% if attributes.items %}}{{% for item in attributes.items %}}- {{{{ item }}}}\n{{% endfor %}}{{% endif %}}"),
    )?
    .html(&format!("{html}{{% if region %}}{{{{ region }}}}{{% endif %}}"))?;
    let people = people(arguments.mails.min(20_000));
    let mut bytes = 0;
    for (what, template) in [
        ("render: plain holes", &plain),
        ("render: a condition and a loop", &rich),
    ] {
        bytes = timed(what, arguments.mails, async {
            let mut bytes = 0;
            for person in people.iter().cycle().take(arguments.mails) {
                let said = template
                    .email("en", &Variables::of(person))
                    .expect("all values are there");
                bytes += said.subject.len() + said.text.len() + said.html.map_or(0, |html| html.len());
            }
            bytes
        })
        .await;
    }
    anyhow::ensure!(bytes > arguments.mails * 2_000, "mails of about 2 KB");
    // What was filled by hand is what the engine writes.
    let said = plain.email("en", &Variables::of(&people[7]))?;
    anyhow::ensure!(
        said.html
            .is_some_and(|html| html.contains("Ana7 O&#x27;Kask &amp; Co of Tartu"))
    );
    let parts = timed("segments of a text of 300 characters", arguments.mails, async {
        let text = "Dear Ana, your order is on its way; € 12.50 to pay. ".repeat(6);
        let mut parts = 0;
        for _ in 0..arguments.mails {
            parts += Segments::of(std::hint::black_box(&text)).parts;
        }
        parts
    })
    .await;
    anyhow::ensure!(parts as usize == 3 * arguments.mails, "{parts}");
    Ok(())
}
