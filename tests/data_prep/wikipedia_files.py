"""Dumps and folders of articles, as data_prep.wikipedia reads them."""

import bz2
from xml.sax.saxutils import escape, quoteattr

# As Wikimedia writes it, export format 0.11.
HEAD = """<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" \
xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" \
xsi:schemaLocation="http://www.mediawiki.org/xml/export-0.11/ \
http://www.mediawiki.org/xml/export-0.11.xsd" version="0.11" xml:lang="en">
  <siteinfo>
    <sitename>Wikipedia</sitename>
    <dbname>enwiki</dbname>
    <base>https://en.wikipedia.org/wiki/Main_Page</base>
    <generator>MediaWiki 1.43.0-wmf.28</generator>
    <case>first-letter</case>
    <namespaces>
      <namespace key="0" case="first-letter" />
      <namespace key="10" case="first-letter">Template</namespace>
    </namespaces>
  </siteinfo>
"""


def page_xml(title, text, namespace=0, redirect=None):
    redirect = f"\n    <redirect title={quoteattr(redirect)} />" if (
        redirect
    ) else ""  # fmt: skip
    return f"""  <page>
    <title>{escape(title)}</title>
    <ns>{namespace}</ns>
    <id>10</id>{redirect}
    <revision>
      <id>1219062925</id>
      <parentid>1219062840</parentid>
      <timestamp>2024-04-15T14:38:04Z</timestamp>
      <contributor>
        <username>Somebody</username>
        <id>8886</id>
      </contributor>
      <comment>[[Help:Reverting|Reverted]] edits</comment>
      <origin>1219062925</origin>
      <model>wikitext</model>
      <format>text/x-wiki</format>
      <text bytes="{len(text)}" sha1="4ro7" xml:space="preserve">\
{escape(text)}</text>
      <sha1>4ro7vvppa5kmm0o1egfjztzcwd0vabw</sha1>
    </revision>
  </page>
"""


def write_dump(path, *pages):
    content = "".join([HEAD, *(page_xml(*p) for p in pages), "</mediawiki>\n"])
    content = content.encode()
    path.write_bytes(
        bz2.compress(content) if path.suffix == ".bz2" else content
    )
    return path


def write_folder(path, texts, redirects=None):
    path.mkdir(exist_ok=True)
    for title, text in texts.items():
        (path / f"{title}.txt").write_text(text, "utf-8")
    if redirects is not None:
        (path / "redirects.tsv").write_text(redirects, "utf-8")
    return path


def named(articles, names):
    """label -> {label that its article names: times}."""
    table = articles.counts.toarray()
    return {
        name: {names[j]: int(n) for j, n in enumerate(row) if n}
        for name, row in zip(names, table, strict=True)
        if row.any()
    }
