"""Makes xpath.json: expressions, hand-made and random, and what libxml2 finds (lxml over html5lib's tree).

    pip install lxml html5lib && python xpath.py > xpath.json
"""

import json
import random

import html5lib
from lxml import etree

PAGES = {
    "list": """<!DOCTYPE html><html lang="en-GB"><head><title>People</title></head><body>
<h1 id="top">Our <em>people</em></h1>
<div class="card first" data-n="1"><h2>Ana Kask</h2><p>Tallinn <!-- hq --><b>HQ</b></p><a href="mailto:ana@example.com" rel="me">write</a></div>
<div class="card" data-n="2"><h2>Ben  Ito</h2><p>Osaka</p><a href="mailto:ben@example.com">write</a><a href="/ben">more</a></div>
<div class="card last" data-n="10"><h2>Chi
 Wu</h2><p lang="de">K&ouml;ln</p><span> 3.50 </span></div>
<table id="t"><tbody><tr><th>City</th><th>n</th></tr><tr><td>Osaka</td><td>2</td></tr><tr><td>K&ouml;ln</td><td>10</td></tr></tbody></table>
<ul class="pages"><li><a href="?p=1">1</a></li><li class="now"><a href="?p=2">2</a></li><li><a href="?p=3">3</a></li><li class="next"><a href="?p=3">next</a></li></ul>
<p>last words</p><!-- end --></body></html>""",
    "nested": """<!DOCTYPE html><html><head></head><body><div id="a"><div id="b" class="x"><p>1</p><div id="c"><p>2</p><p class="x">3</p></div><p>4</p></div>
<p>5</p></div><div id="d"><section><p>6</p></section>tail<p title="x y">7</p></div><dl><dt>Tel</dt><dd>11</dd><dt>Fax</dt><dd>12</dd><dd>13</dd></dl></body></html>""",
}

HAND = """
/ | /html | //div | //h2 | //div[@class="card"] | //div[@class='card']/a/@href | //div[contains(@class,'card')]/h2/text()
//a[starts-with(@href,'mailto:')] | //a[contains(text(),'more')]/@href | //li[@class="next"]/a/@href | //li[last()]/a | //li[1] | (//li)[last()]/a/text()
//li[position()<3]/a/text() | //li[position()=last()-1] | //li[@class="now"]/following-sibling::li[1]/a/@href | //li[@class="now"]/preceding-sibling::li[1]
//h2/following-sibling::p/text() | //h2[normalize-space()="Ben Ito"]/../p | //h2[normalize-space(.)="Chi Wu"]/following-sibling::* | //td[.="Osaka"]/following-sibling::td
//tr[td]/td[1] | //tr[td[2]>5]/td[1]/text() | //tr[2]/td | count(//tr) | count(//li[a]) | sum(//td[2]) | string(//h1) | normalize-space(//h1) | string(//div[@data-n=2]/h2)
//div[@data-n>1]/h2 | //div[@data-n>=2 and @data-n<10] | //div[not(@data-n=1)]/h2 | //div[not(a)] | //div[a and p] | //div[count(a)=2] | //div[a[2]]/@data-n
//*[@id="top"]/em | //h1//text() | //p//text() | //p[b]/text() | //comment() | //p/comment() | //body/node() | //body/comment()
//a/@href | //a[1]/@href | (//a)[1]/@href | //a[@rel] | //@class | //@*[.="x"] | //div/@* | //*[@lang]
//span | number(//span) | number(//h1) | string(number(//span)+1) | 7 div 2 | 7 mod 3 | -7 mod 3 | -(1) + 2 * 3 | 1 div 0 | -1 div 0 | 0 div 0 | 2 - -1 | 3 > 2 | "a" = "a" | 1 = "1" | true() = 1
concat("a", //h2, 1 + 1) | substring("12345", 2, 3) | substring("12345", 1.5, 2.6) | substring("12345", 0, 3) | substring("12345", 2) | substring("12345", -42) | substring-before("a@b", "@") | substring-after("a@b", "@") | substring-after("ab", "@")
translate("Bar", "abc", "AB") | string-length("Köln") | string-length(//h2) | floor(2.6) | ceiling(2.2) | round(2.5) | round(-2.5) | boolean(//nothing) | boolean("") | boolean(//a) | not(//nothing) | string(true()) | string(//nothing) | name(//*[@id="t"]) | local-name(//a/@href)
//div | //p | //div | //h2 | //table | //h1
//div[p]/p | //div//p | //div[.//p] | //div/descendant::p[1] | //div//p[1] | (//div//p)[1] | //div/descendant-or-self::div | //p/ancestor::div | //p/ancestor::div[1] | //p/ancestor::*[2] | //p/ancestor-or-self::* | //p/parent::div | //p/..
//p/preceding::p | //p/following::p | //p[2]/following::p[1] | //p[1]/preceding::*[1] | //p/self::p | //p/self::div | //*[self::p or self::dd] | //section/following-sibling::node() | //section/following-sibling::text()
//dt[.="Tel"]/following-sibling::dd[1] | //dt[text()="Fax"]/following-sibling::dd | //dd[preceding-sibling::dt[1]="Fax"] | //dd[. > 11] | //dd[last()] | //dd[position() mod 2 = 1] | //dl/*[2] | //dl/dd[2][. = 12] | //dl/dd[. >= 12][1]
//div[@id="b"]/p[2] | //div[@id="b"]/p[last()] | //p[../@id="c"] | //div[@id]/@id | //p[@class or @title] | //p[@title="x y"] | //*[@title != "x"] | //*[@class != "x"] | //p[. = //dd] | //dd[. > //p] | //dd[. != //p] | //p[. < 3] | //p[3 > .] | //p[not(. = 1 or . = 2)]
//p[position() = 2 or position() = 4] | //div/*[name()="p"][1] | //*[count(*)=0] | //*[not(*)]/text() | //p[string-length() > 0][1] | //*[starts-with(name(), "d")] | //node()[self::text()][contains(., "tail")] | //div[position()=1]/div | //*[count(ancestor::*)=3]
""".split("\n")

AXES = ["", "", "", "", "descendant::", "ancestor::", "following-sibling::", "preceding-sibling::", "self::", "parent::", "following::", "preceding::",
        "descendant-or-self::", "ancestor-or-self::", "child::"]
NAMES = ["div", "p", "a", "li", "h2", "td", "tr", "dd", "dt", "*", "*", "node()", "text()", "span", "em"]
ATTRIBUTES = ["class", "id", "href", "data-n", "lang", "title"]
TEXTS = ["Osaka", "card", "x", "2", "mailto:", "write", "a", "", "next", "11"]


def predicate(r, depth):
    kind = r.randrange(12)
    inner = lambda: path(r, depth + 1, False)
    attribute = r.choice(ATTRIBUTES)
    text = r.choice(TEXTS)
    if kind == 0:
        return str(r.randrange(1, 4))
    if kind == 1:
        return "last()" + r.choice(["", "-1"])
    if kind == 2:
        return f"position() {r.choice(['<', '>', '=', '!=', '<=', '>='])} {r.randrange(1, 4)}"
    if kind == 3:
        return f"@{attribute}"
    if kind == 4:
        return f"@{attribute} {r.choice(['=', '!=', '<', '>'])} '{text}'"
    if kind == 5:
        return f"contains(@{attribute}, '{text}')"
    if kind == 6:
        return f"contains({inner()}, '{text}')"
    if kind == 7:
        return f"{inner()} {r.choice(['=', '!=', '<', '>', '<=', '>='])} {r.choice([inner(), str(r.randrange(12)), repr(text)])}"
    if kind == 8:
        return f"not({inner()})"
    if kind == 9:
        return f"{predicate(r, depth + 1)} {r.choice(['and', 'or'])} {predicate(r, depth + 1)}" if depth < 2 else "@class"
    if kind == 10:
        return f"count({inner()}) {r.choice(['=', '>', '<'])} {r.randrange(4)}"
    return f"normalize-space({inner()}) = '{text}'"


def path(r, depth=0, absolute=True):
    steps = []
    for _ in range(r.randrange(1, 4 if depth == 0 else 3)):
        step = r.choice(AXES) + r.choice(NAMES)
        for _ in range(r.choice([0, 0, 1, 1, 2]) if depth < 2 else 0):
            step += f"[{predicate(r, depth)}]"
        steps.append(step)
    if r.random() < 0.15:
        steps.append("@" + r.choice(ATTRIBUTES + ["*"]))
    text = ""
    for index, step in enumerate(steps):
        text += ("" if index == 0 else r.choice(["/", "/", "//"])) + step
    if absolute:
        text = "//" + text
        if r.random() < 0.2:
            text = f"({text})[{predicate(r, 2)}]"
    elif r.random() < 0.3:
        text = ".//" + text
    return text


def known(tree, expression):
    found = tree.xpath(expression)
    if isinstance(found, bool):
        return ["true" if found else "false"]
    if isinstance(found, float):
        return ["NaN" if found != found else repr(found) if abs(found) == float("inf") else f"{found:g}"]
    if isinstance(found, str):
        return [" ".join(found.split())]
    texts = []
    for item in found:
        if isinstance(item, str):
            texts.append(" ".join(item.split()))
        elif item.tag is etree.Comment:
            texts.append(" ".join(item.text.split()))
        else:
            texts.append(item.tag + ": " + " ".join(item.xpath("string()").split()))
    return texts


def attributes(tree):
    # Several attributes of one element have no order of their own: ours is by name.
    for element in tree.iter():
        if isinstance(element.tag, str) and len(element.attrib) > 1:
            pairs = sorted(element.attrib.items())
            element.attrib.clear()
            for name, value in pairs:
                element.attrib[name] = value


def main():
    r = random.Random(20260301)
    cases = []
    for name, page in PAGES.items():
        parser = html5lib.HTMLParser(html5lib.getTreeBuilder("lxml"), namespaceHTMLElements=False)
        tree = parser.parse(page)
        attributes(tree.getroot())
        expressions = [e.strip() for line in HAND for e in line.split(" | ") if e.strip()]
        expressions += [path(r) for _ in range(2500)]
        expressions += [f"{path(r)} | {path(r)}" for _ in range(60)]
        kept = 0
        for expression in dict.fromkeys(expressions):
            try:
                found = known(tree, expression)
            except etree.XPathError:
                continue
            # Of the random ones that find nothing, a few will do.
            if not found:
                kept += 1
                if kept > 80:
                    continue
            cases.append([name, expression, found])
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases)
    print(f'{{"pages": {json.dumps(PAGES, ensure_ascii=False)},\n"cases": [\n{lines}\n]}}')


main()
