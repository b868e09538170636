#!/usr/bin/env python3
"""Writes quiet.tsv: when messages may first go out, found by walking minute by minute with Python's zoneinfo.

    python3 crm-core/tests/data/quiet.py

Columns: zones, windows (days or *, from-until), from when, the first minute that is free in all zones (or -).
"""

import pathlib
import random
from datetime import datetime, timedelta, timezone
from zoneinfo import ZoneInfo

DAYS = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
ZONES = """America/New_York America/Chicago America/Denver America/Los_Angeles America/Phoenix Pacific/Honolulu
Europe/Berlin Europe/London Asia/Shanghai Asia/Kathmandu Asia/Beirut Africa/Cairo America/Havana America/Santiago
Australia/Lord_Howe Australia/Sydney Pacific/Auckland Pacific/Chatham UTC""".split()
# Around the days on which clocks change somewhere.
AROUND = ["2026-03-07", "2026-03-28", "2026-04-04", "2026-04-23", "2026-09-05", "2026-10-03", "2026-10-24",
          "2026-10-31", "2026-06-15"]


def minutes(text):
    hour, minute = text.split(":")
    return int(hour) * 60 + int(minute)


def is_open(wall, windows):
    now, day = wall.hour * 60 + wall.minute, wall.weekday()
    for days, start, end in windows:
        def opens(on):
            return days == ["*"] or DAYS[on % 7] in days
        if start < end:
            if opens(day) and start <= now < end:
                return True
        elif (opens(day) and now >= start) or (opens(day - 1) and now < end):
            return True
    return False


def first(zones, windows, at):
    infos = [ZoneInfo(zone) for zone in zones]
    for _ in range(15 * 24 * 60):
        if all(is_open(at.astimezone(info), windows) for info in infos):
            return at
        at += timedelta(minutes=1)
    return None


def window(rng):
    days = ["*"] if rng.random() < 0.5 else sorted(rng.sample(DAYS, rng.randint(1, 4)), key=DAYS.index)
    start = rng.choice(["00:00", "00:30", "01:30", "02:00", "02:30", "03:00", "08:00", "09:15", "22:00", "23:30"])
    end = rng.choice(["00:15", "01:00", "01:45", "02:15", "02:45", "03:30", "12:00", "21:00", "22:30", "24:00"])
    if minutes(start) == minutes(end) % 1440 or (start > end and end == "24:00"):
        return window(rng)
    return days, start, end


def cases():
    stamp = lambda text: datetime.fromisoformat(text).replace(tzinfo=timezone.utc)
    tcpa = [(["*"], "08:00", "21:00")]
    for zone, text in [("America/New_York", "2026-03-08T04:59"), ("America/New_York", "2026-03-08T11:59"),
                       ("America/New_York", "2026-03-08T12:00"), ("America/New_York", "2026-11-01T12:30"),
                       ("America/New_York", "2026-11-02T02:00"), ("Asia/Shanghai", "2026-11-01T14:00")]:
        yield [zone], tcpa, stamp(text)
    rng = random.Random(20260308)
    for _ in range(294):
        zones = rng.sample(ZONES, rng.choice([1, 1, 1, 2, 3]))
        windows = [window(rng) for _ in range(rng.choice([1, 1, 2]))]
        at = stamp(rng.choice(AROUND)) + timedelta(minutes=rng.randrange(4 * 1440))
        yield zones, windows, at


def main():
    with open(pathlib.Path(__file__).with_name("quiet.tsv"), "w") as out:
        for zones, windows, at in cases():
            numbers = [(days, minutes(start), minutes(end)) for days, start, end in windows]
            found = first(zones, numbers, at)
            text = ";".join(f"{','.join(days)} {start}-{end}" for days, start, end in windows)
            show = lambda t: t.strftime("%Y-%m-%dT%H:%M:00Z")
            print(",".join(zones), text, show(at), show(found) if found else "-", sep="\t", file=out)


main()
