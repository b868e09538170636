#!/usr/bin/env python3
"""requests and BeautifulSoup, as it is usually written: requests_peer.py URL [MOST_PAGES]"""
import resource
import sys
import time
from collections import deque
from urllib.parse import urljoin

import requests
from bs4 import BeautifulSoup

from peer import Sum, report

start, most = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 1 << 60
found, pages, seen, queue = Sum(), 0, {start}, deque([start])
usage, began = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
session = requests.Session()
while queue and pages < most:
    url = queue.popleft()
    soup = BeautifulSoup(session.get(url).text, "lxml")
    pages += 1
    for item in soup.select("div.customer"):
        [item.select_one(s).get_text() for s in ("h2", "span.phone", "span.city", "span.id", "span.plan")]
        found.add(item.select_one("a.mail")["href"][7:])
    for link in soup.find_all("a", href=True):
        if not link["href"].startswith("mailto:"):
            absolute = urljoin(url, link["href"])
            if absolute not in seen:
                seen.add(absolute)
                queue.append(absolute)
report("requests-bs4", pages, found, usage, began)
