#!/usr/bin/env python3
"""Writes segments.tsv: how texts are divided into parts of an SMS, by the Python package smsutil.

    python3 -m venv v && v/bin/pip install smsutil && v/bin/python crm-channels/tests/data/segments.py

Columns: the text (as JSON), the encoding, the places it takes, the length of each part in characters.
"""

import json
import pathlib
import random

import smsutil

ALPHABETS = [
    "abc XYZ 0123456789 .,!?",
    "abc èéùìòÇØøÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉÄÖÑÜ§¿äöñüà@£$¥¤¡ \n",
    "abc ^{}\\[~]|€",
    "€^",
    "abc ç",
    "你好世界，验证码1234",
    "abc \U0001f44d\U0001f680é",
    "\U0001f600",
    "naïve – “quotes” …",
]
LENGTHS = [1, 2, 34, 35, 66, 67, 68, 69, 70, 71, 72, 76, 77, 80, 81, 133, 134, 135, 152, 153, 154, 159, 160, 161, 162,
           201, 202, 305, 306, 307, 308, 459, 460, 700]


def main():
    rng = random.Random(23040)
    with open(pathlib.Path(__file__).with_name("segments.tsv"), "w") as out:
        for alphabet in ALPHABETS:
            for length in LENGTHS:
                text = "".join(rng.choice(alphabet) for _ in range(length))
                done = smsutil.split(text)
                gsm = done.encoding == "gsm0338"
                units = done.total_bytes if gsm else done.total_bytes // 2
                parts = [part.length for part in done.parts]
                print(json.dumps(text), "gsm7" if gsm else "ucs2", units, json.dumps(parts), sep="\t", file=out)


main()
