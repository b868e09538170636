#!/usr/bin/env python3
"""Fills the texts of benches/channels/render.rs with what a Python program would use.

    python3 -m venv v && v/bin/pip install jinja2 && v/bin/python benches/peers/render.py [MAILS]
"""

import html
import string
import sys
import time

import jinja2

LINE = "Dear {{ given_name }} {{ family_name }} of {{ city }}, as a friend on the plan {{ attributes.plan }} you hear it first.\n"
FILLER = "Each of them was listened to by people who know what they hear, and who wrote down why. " * 13
SUBJECT = "{{ given_name | default('Hello') }}, the new records are in"
TEXT = f"{LINE}\n{FILLER}\n\nYours,\nthe record shop\nYour address: {{{{ email }}}}\n"
HTML = f"<html><body><p>{LINE}</p><p>{FILLER}</p><p>{{{{ email }}}}</p></body></html>"


def people(count):
    return [
        {"given_name": f"Ana{n}", "family_name": "O'Kask & Co", "city": "Tartu", "email": f"p{n}@example.org",
         "attributes": {"plan": "pro", "items": ["jacket", "boots"]}}
        for n in range(min(count, 20_000))
    ]


def timed(what, count, fill):
    everybody = people(count)
    before, wall = time.process_time(), time.perf_counter()
    size = sum(fill(everybody[n % len(everybody)]) for n in range(count))
    used, wall = time.process_time() - before, time.perf_counter() - wall
    assert size > 2_000 * count
    print(f"{what:<40} {count:>9} {wall:9.2f} {count / wall:10.0f} {used:9.2f} {used * 1e6 / count:12.2f}")


def main():
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    print(f"{'':<40} {'count':>9} {'wall s':>9} {'a second':>10} {'CPU s':>9} {'CPU us each':>12}")
    text = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    markup = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=True)
    subject, body, page = text.from_string(SUBJECT), text.from_string(TEXT), markup.from_string(HTML)
    timed("Jinja2", count, lambda p: len(subject.render(p)) + len(body.render(p)) + len(page.render(p)))

    def dollars(source):
        for name in ("given_name | default('Hello')", "given_name", "family_name", "city", "email", "attributes.plan"):
            source = source.replace("{{ " + name + " }}", "${" + name.split(" ")[0].replace("attributes.", "") + "}")
        return string.Template(source)

    subject, body, page = dollars(SUBJECT), dollars(TEXT), dollars(HTML)

    def fill(p):
        plain = {**p, "plan": p["attributes"]["plan"]}
        safe = {name: html.escape(value) for name, value in plain.items() if isinstance(value, str)}
        return len(subject.substitute(plain)) + len(body.substitute(plain)) + len(page.substitute(safe))

    timed("string.Template", count, fill)


main()
