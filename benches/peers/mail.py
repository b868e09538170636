#!/usr/bin/env python3
"""Personalised mails of text and HTML, the way scripts send them, to a local sink (smtp-sink of Postfix).

    benches/peers/mail.py [--mails 5000] [--sink HOST:PORT] [--ours PROGRAM]

Prints wall time and processor time of the sending process, a mail. smtp-source, which builds nothing and says the same
bytes again and again, is the floor. --ours names the program of `cargo bench --bench channels --no-run`, which is then
run in between against the same sink.
"""
import argparse, asyncio, os, pathlib, resource, shutil, smtplib, socket, subprocess, sys, tempfile, time
from email.message import EmailMessage
from email.utils import formatdate, make_msgid

HERE = pathlib.Path(__file__).parent
TEXT = (HERE / "mail.txt").read_text()
HTML = (HERE / "mail.html").read_text()
SBIN = "/usr/sbin:/sbin:/usr/local/sbin:/usr/libexec/postfix:" + os.environ.get("PATH", "")


def mail(n):
    name, link = f"Zoë Number{n}", f"https://shop.example/u/{n:08x}/a1b2c3d4e5f6"
    message = EmailMessage()
    message["From"] = "The Shop <news@football.example.com>"
    message["To"] = f"{name} <person{n}@example.org>"
    message["Subject"] = f"Spring news for {name}"
    message["Date"] = formatdate()
    message["Message-ID"] = make_msgid(domain="football.example.com")
    message["List-Unsubscribe"] = f"<{link}>"
    message["List-Unsubscribe-Post"] = "List-Unsubscribe=One-Click"
    fill = lambda words: words.replace("@@NAME@@", name).replace("@@LINK@@", link)
    message.set_content(fill(TEXT))
    message.add_alternative(fill(HTML), subtype="html")
    return message


def seconds(who):
    used = resource.getrusage(who)
    return used.ru_utime + used.ru_stime


def timed(what, count, work, who=resource.RUSAGE_SELF):
    wall, before = time.perf_counter(), seconds(who)
    work()
    wall, used = time.perf_counter() - wall, seconds(who) - before
    print(f"{what:<52} {count:>9} {wall:>9.2f} {count / wall:>10.0f} {used:>9.2f} {used * 1e6 / count:>12.2f}", flush=True)


def main():
    ask = argparse.ArgumentParser()
    ask.add_argument("--mails", type=int, default=5000)
    ask.add_argument("--sink")
    ask.add_argument("--ours")
    given = ask.parse_args()
    child = None
    if given.sink:
        host, port = given.sink.rsplit(":", 1)
        port = int(port)
    else:
        program = shutil.which("smtp-sink", path=SBIN)
        if not program:
            sys.exit("no smtp-sink: install Postfix, or name a server with --sink")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            host, port = probe.getsockname()
        child = subprocess.Popen([program, "-u", "nobody", f"{host}:{port}", "1000"])
        for _ in range(100):
            try:
                socket.create_connection((host, port)).close()
                break
            except OSError:
                time.sleep(0.05)
    try:
        run(given, host, port)
    finally:
        if child:
            child.kill()
            child.wait()


def run(given, host, port):
    mails, few = given.mails, max(given.mails // 5, 100)
    print(f"{'':<52} {'count':>9} {'wall s':>9} {'a second':>10} {'CPU s':>9} {'CPU us each':>12}")

    def built():
        for n in range(few):
            mail(n).as_bytes()

    def each():
        for n in range(few):
            with smtplib.SMTP(host, port, local_hostname="bench.example") as server:
                server.send_message(mail(n))

    def reused():
        with smtplib.SMTP(host, port, local_hostname="bench.example") as server:
            for n in range(mails):
                server.send_message(mail(n))

    timed("of it: EmailMessage to bytes", few, built)
    timed("smtplib, a connection each", few, each)
    timed("smtplib, reused", mails, reused)
    try:
        import aiosmtplib
    except ImportError:
        print(f"SKIPPED: aiosmtplib is not installed for {sys.executable}", file=sys.stderr)
    else:
        async def pool():
            async def one(first):
                server = aiosmtplib.SMTP(hostname=host, port=port, start_tls=False, local_hostname="bench.example")
                async with server:
                    for n in range(first, mails, 4):
                        await server.send_message(mail(n))
            await asyncio.gather(*(one(first) for first in range(4)))

        timed("aiosmtplib, 4 connections", mails, lambda: asyncio.run(pool()))

    program = shutil.which("smtp-source", path=SBIN)
    if not program:
        print("SKIPPED: smtp-source is not installed", file=sys.stderr)
        return
    with tempfile.NamedTemporaryFile(suffix=".eml") as file:
        file.write(mail(7).as_bytes())
        file.flush()
        common = ["-F", file.name, "-f", "news@football.example.com", "-t", "person@example.org", "-m", str(mails * 4)]
        for what, more in [
            ("smtp-source, a connection each", []),
            ("smtp-source -d, 1 session", ["-d"]),
            ("smtp-source -d, 4 sessions", ["-d", "-s", "4"]),
        ]:
            work = lambda: subprocess.run([program, *more, *common, f"{host}:{port}"], check=True)
            timed(what, mails * 4, work, resource.RUSAGE_CHILDREN)
            if given.ours:
                subprocess.run([given.ours, "--section", "mail", "--mails", str(mails * 4), "--sink", f"{host}:{port}"], check=True)


main()
