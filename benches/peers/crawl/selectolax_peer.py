#!/usr/bin/env python3
"""aiohttp and selectolax by hand, the quickest that Python has: selectolax_peer.py URL"""
import asyncio
import resource
import sys
import time
from urllib.parse import urljoin

import aiohttp
from selectolax.lexbor import LexborHTMLParser

from peer import Sum, report

start = sys.argv[1]
found, pages, seen = Sum(), 0, {start}


async def worker(session, queue):
    global pages
    while True:
        url = await queue.get()
        async with session.get(url) as response:
            text = await response.text()
        tree = LexborHTMLParser(text)
        pages += 1
        for item in tree.css("div.customer"):
            mail = item.css_first("a.mail").attributes["href"][7:]
            [item.css_first(s).text() for s in ("h2", "span.phone", "span.city", "span.id", "span.plan")]
            found.add(mail)
        for link in tree.css("a"):
            href = link.attributes["href"]
            if not href.startswith("mailto:"):
                absolute = urljoin(url, href)
                if absolute not in seen:
                    seen.add(absolute)
                    queue.put_nowait(absolute)
        queue.task_done()


async def main():
    queue = asyncio.Queue()
    queue.put_nowait(start)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=16)) as session:
        workers = [asyncio.create_task(worker(session, queue)) for _ in range(16)]
        await queue.join()
        for one in workers:
            one.cancel()


usage, began = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
asyncio.run(main())
report("aiohttp-selectolax", pages, found, usage, began)
