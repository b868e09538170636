#!/usr/bin/env python3
"""Writes the tables by which the time zone of a recipient is guessed.

    python3 -m venv v && v/bin/pip install phonenumbers tzdata && v/bin/python scripts/zones.py

phone.tsv    beginnings of numbers (E.164 without +, at most four digits), the countries and the time zones they may be
             in; from the tables of libphonenumber (Apache-2.0) as the Python package `phonenumbers` carries them
country.tsv  the zones of each country (ISO 3166-1); from zone.tab of the time zone database (public domain)
"""

import importlib.resources
import pathlib
from collections import defaultdict

import phonenumbers
from phonenumbers import COUNTRY_CODE_TO_REGION_CODE
from phonenumbers.tzdata import TIMEZONE_DATA

OUT = pathlib.Path(__file__).resolve().parent.parent / "crm-core/src/zone"
LONGEST = 4
# Mobile numbers of countries with several zones: the table names the capital's, but they may be anywhere.
MOBILE = ("79", "614", "615", "628", "346", "347", "3519", "569")


def countries():
    zones = defaultdict(list)
    table = importlib.resources.files("tzdata.zoneinfo").joinpath("zone.tab").read_text()
    for line in table.splitlines():
        if line and not line.startswith("#"):
            country, _, zone = line.split("\t")[:3]
            zones[country].append(zone)
    return {country: sorted(names) for country, names in sorted(zones.items())}


def region_of(prefix):
    """The countries a beginning may belong to: told by a number that begins so, else all of its calling code."""
    code = next(int(prefix[:n]) for n in (1, 2, 3) if int(prefix[:n]) in COUNTRY_CODE_TO_REGION_CODE)
    if code == 1 and len(prefix) == LONGEST:
        region = phonenumbers.region_code_for_number(phonenumbers.parse(f"+{prefix}2345678"))
        if region:
            return [region]
    if code == 7 and len(prefix) > 1:
        return ["KZ"] if prefix[1] in "67" else ["RU"]
    return sorted(region for region in COUNTRY_CODE_TO_REGION_CODE[code] if region != "001")


def whole(prefix, digits):
    """Whether every number with this beginning has a longer one that is in the table."""
    if prefix in TIMEZONE_DATA:
        return True
    if len(prefix) > 8:
        return False
    return all(whole(prefix + d, digits) for d in digits)


def phones(by_country):
    sets = defaultdict(set)
    for prefix, zones in TIMEZONE_DATA.items():
        sets[prefix[:LONGEST]].update(zones)
    # A number without an area (free of charge, say): whoever lives in the two big countries.
    sets["1"] = set(by_country["US"]) | set(by_country["CA"])
    for prefix in [p for p in sets if p.startswith(MOBILE)]:
        del sets[prefix]
    sets["79"] = set(by_country["RU"])
    rows = {}
    for prefix in sorted(sets, key=lambda p: (len(p), p)):
        parent = next((prefix[:n] for n in range(len(prefix) - 1, 0, -1) if prefix[:n] in sets), None)
        zones = set(sets[prefix])
        if parent and not prefix.startswith("1") and not whole(prefix, "0123456789"):
            zones |= sets[parent]
        sets[prefix] = zones
        row = (region_of(prefix), sorted(zones))
        known = next((rows[prefix[:n]] for n in range(len(prefix) - 1, 0, -1) if prefix[:n] in rows), None)
        if row != known and not (len(prefix) > 1 and known and set(row[1]) == set(known[1]) and row[0] == known[0]):
            rows[prefix] = row
    return rows


def main():
    by_country = countries()
    with open(OUT / "country.tsv", "w") as out:
        for country, zones in by_country.items():
            print(country, ",".join(zones), sep="\t", file=out)
    with open(OUT / "phone.tsv", "w") as out:
        for prefix, (regions, zones) in sorted(phones(by_country).items()):
            print(prefix, ",".join(regions), ",".join(zones), sep="\t", file=out)


main()
