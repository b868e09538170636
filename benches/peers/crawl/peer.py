"""What the Python peers share: the checksum and the line of figures."""
import resource
import time


class Sum:
    def __init__(self):
        self.items, self.sum = 0, 0

    def add(self, email):
        value = 0xCBF29CE484222325
        for byte in email.encode():
            value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
        self.items += 1
        self.sum = (self.sum + value) & 0xFFFFFFFFFFFFFFFF


def report(name, pages, found, usage, began):
    now = resource.getrusage(resource.RUSAGE_SELF)
    wall = time.monotonic() - began
    cpu = now.ru_utime + now.ru_stime - usage.ru_utime - usage.ru_stime
    print(
        f"{name} pages={pages} items={found.items} sum={found.sum:016x} wall={wall:.2f} cpu={cpu:.2f} "
        f"pages_per_s={pages / wall:.0f} pages_per_cpu_s={pages / cpu:.0f} rss_mib={now.ru_maxrss / 1024:.1f}"
    )
