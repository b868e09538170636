#!/usr/bin/env python3
"""The floor: HTTP alone. floor.py HOST PORT PAGES asks for every page over 16 kept connections and reads it, nothing else."""
import resource
import socket
import sys
import threading
import time

host, port, pages = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
good = [0] * 16


def client(n):
    stream = socket.create_connection((host, port))
    buffer = bytearray(1 << 16)
    for page in range(n, pages, 16):
        stream.sendall(b"GET /%d.html HTTP/1.1\r\nHost: %s\r\n\r\n" % (page, host.encode()))
        data = b""
        while b"\r\n\r\n" not in data:
            data += buffer[: stream.recv_into(buffer)]
        head, body = data.split(b"\r\n\r\n", 1)
        left = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0]) - len(body)
        while left > 0:
            left -= stream.recv_into(buffer)
        good[n] += head.startswith(b"HTTP/1.1 200")


usage, began = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
threads = [threading.Thread(target=client, args=(n,)) for n in range(16)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
now, wall = resource.getrusage(resource.RUSAGE_SELF), time.monotonic() - began
cpu = now.ru_utime + now.ru_stime - usage.ru_utime - usage.ru_stime
print(f"http-floor pages={sum(good)} wall={wall:.2f} cpu={cpu:.2f} pages_per_cpu_s={sum(good) / cpu:.0f}")
