#!/usr/bin/env python3
"""Scrapy over the benchmark's site: scrapy_peer.py URL {seed|tuned}. `seed` as its tutorial writes it, `tuned` for speed."""
import resource
import sys
import time

import scrapy
from scrapy.crawler import CrawlerProcess

from peer import Sum, report

url, style = sys.argv[1], sys.argv[2]
found = Sum()
pages = 0


class Spider(scrapy.Spider):
    name = "bench"
    start_urls = [url]

    def parse(self, response):
        global pages
        pages += 1
        for item in response.xpath('//div[@class="customer"]'):
            person = {
                "name": item.xpath(".//h2/text()").get(),
                "email": item.xpath('.//a[@class="mail"]/@href').get()[7:],
                "phone": item.xpath('.//span[@class="phone"]/text()').get(),
                "city": item.xpath('.//span[@class="city"]/text()').get(),
                "id": item.xpath('.//span[@class="id"]/text()').get(),
                "plan": item.xpath('.//span[@class="plan"]/text()').get(),
            }
            found.add(person["email"])
            yield person
        for href in response.xpath("//a/@href").getall():
            if not href.startswith("mailto:"):
                yield response.follow(href, self.parse)


settings = {
    "ROBOTSTXT_OBEY": True,
    "DOWNLOAD_DELAY": 0,
    "CONCURRENT_REQUESTS": 16,
    "CONCURRENT_REQUESTS_PER_DOMAIN": 16,
    "LOG_LEVEL": "ERROR",
    "TELNETCONSOLE_ENABLED": False,
}
if style == "tuned":
    settings |= {
        "CONCURRENT_REQUESTS": 64,
        "CONCURRENT_REQUESTS_PER_DOMAIN": 64,
        "COOKIES_ENABLED": False,
        "RETRY_ENABLED": False,
        "EXTENSIONS": {"scrapy.extensions.corestats.CoreStats": None, "scrapy.extensions.logstats.LogStats": None},
    }
usage, began = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
process = CrawlerProcess(settings)
process.crawl(Spider)
process.start()
report(f"scrapy-{style}", pages, found, usage, began)
