"""Makes structured.json: the addresses and numbers extruct finds in each page's structured data, as an opinion besides ours.

    pip install extruct && python structured.py > structured.json
"""

import json
import pathlib
import re

import extruct

FOLDER = pathlib.Path(__file__).parent / "pages"
ADDRESS = re.compile(r"[^\s@<>\"]+@[^\s@<>\"]+\.[^\s@<>\"]+")


def walk(value, key, emails, phones):
    if isinstance(value, dict):
        for name, inner in value.items():
            walk(inner, key if name in ("@value", "@id") else name, emails, phones)
    elif isinstance(value, list):
        for inner in value:
            walk(inner, key, emails, phones)
    elif isinstance(value, str):
        name = re.split(r"[/#:]", key)[-1].lower()
        if name == "email":
            emails.update(re.sub(r"^mailto:|\?.*$", "", found, flags=re.I).lower() for found in ADDRESS.findall(value))
        elif name in ("telephone", "tel"):
            digits = re.sub(r"\(0\)|\D", "", value)
            if digits:
                phones.add(digits[-7:])


def main():
    answers = json.loads((FOLDER / "answers.json").read_text())
    lines = []
    for name, answer in answers.items():
        html = (FOLDER / f"{name}.html").read_text()
        found = {}
        for syntax in ("json-ld", "microdata", "rdfa", "microformat"):
            emails, phones = set(), set()
            try:
                data = extruct.extract(html, base_url=answer["url"], syntaxes=[syntax], errors="strict")
                items = [
                    item
                    for item in data[syntax]
                    # Cards only, and no other vocabulary.
                    if syntax != "json-ld" or "schema.org" in json.dumps(item.get("@context", "schema.org"))
                ]
                walk(items, "", emails, phones)
            except Exception as error:
                found[syntax] = {"error": type(error).__name__}
                continue
            if emails or phones:
                found[syntax] = {"emails": sorted(emails), "phones": sorted(phones)}
        lines.append(f" {json.dumps(name)}: {json.dumps(found, ensure_ascii=False)}")
    print("{\n" + ",\n".join(lines) + "\n}")


main()
