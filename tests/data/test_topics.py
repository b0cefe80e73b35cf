"""Topics come out as the file has them, whatever its form, or the error names the place."""

from __future__ import annotations

import gzip
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from teva_data.errors import DataError
from teva_data.topics import read_topics

CACM = """<DOC>
<DOCNO> 1 </DOCNO>


 What articles exist which deal with TSS (Time Sharing System), an
operating system for IBM computers?


</DOC>
<DOC>
<DOCNO> 2 </DOCNO>
 Prieve, B. < 3 &amp;
Pooch, U.
</DOC>
"""
ROBUST = """<top>

<num> Number: 301
<title> International Organized Crime

<desc> Description:
Identify organizations that participate in it.

<narr> Narrative:
A relevant document must name one.
</top>

<top>
<num> Number: 302
<title> Poliomyelitis and
Post-Polio
</top>
"""
COVID = """<?xml version="1.0"?>
<topics task="COVIDSearch">
  <topic number="1">
    <query>coronavirus &amp; origin</query>
    <question>what is the origin of COVID-19</question>
  </topic>
</topics>
"""


@pytest.fixture
def topics(tmp_path):
    def read(text: str, name: str = "topics.txt") -> dict[str, str]:
        path = tmp_path / name
        path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
        return read_topics(path)

    return read


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "156493\tdo goldfish grow\n1110199\twhat is wifi\n",
            {"156493": "do goldfish grow", "1110199": "what is wifi"},
        ),
        ("10020#0\tOdun wo ni wọn ṣe: idije?\n", {"10020#0": "Odun wo ni wọn ṣe: idije?"}),
        ("1\ta\tb \n", {"1": "a\tb "}),  # only the first tab parts
        ("qid\tquery\n7\tseven\n", {"7": "seven"}),
        ("\ufeff1\tone\r\n2\ttwo\r\n", {"1": "one", "2": "two"}),
        ('{"qid":"0","query":"What?"}\n{"qid":1,"query":"é"}\n', {"0": "What?", "1": "é"}),
        ('{"_id":"a","text":"x"}\n', {"a": "x"}),
        (
            CACM,
            {
                "1": "What articles exist which deal with TSS (Time Sharing System), an operating system for IBM "
                "computers?",
                "2": "Prieve, B. < 3 &amp; Pooch, U.",
            },
        ),
        (ROBUST, {"301": "International Organized Crime", "302": "Poliomyelitis and Post-Polio"}),
        (COVID, {"1": "coronavirus & origin"}),
    ],
)
def test_forms(topics, text, expected):
    assert topics(text) == expected
    assert topics(text, "topics.tsv.gz") == expected  # the name tells the compression and nothing else


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "no topics"),
        ("\n\n", "no topics"),
        ("qid\tquery\n", "no topics"),
        ("1\tone\nno tab here\n", "topics.txt:2: no tab"),
        ("1\tone\n\n2\ttwo\n", "topics.txt:2: empty line"),
        ("1\tone\n2\t \n", "topics.txt:2: field 'query_text': no text"),
        ("1\tone\n\ttwo\n", "topics.txt:2: field 'query_id': no id"),
        ("1\tone\n2\ttwo\n1\tthree\n", "topics.txt:3: field 'query_id': duplicate id, first on line 1"),
        ('{"qid":"1","vector":[0.5]}\n', "topics.txt:1: field 'query': no text.*'vector'"),
        ('{"query":"x"}\n', "topics.txt:1: field 'qid': no id"),
        ('{"qid":"1","query":"x"}\n{"qid":\n', "topics.txt:2: malformed JSON"),
        ("<DOC>\n<DOCNO>1</DOCNO>\n text\n</DOC>\n<DOC>\n<DOCNO>2</DOCNO> lost\n", "topics.txt:5: a topic left open"),
        ("<DOC>\n<DOCNO>1</DOCNO> a</DOC>\n\nstray\n<DOC><DOCNO>2</DOCNO> b</DOC>", "topics.txt:4: text outside"),
        ("<DOC>\n<DOCNO> </DOCNO> text\n</DOC>\n", "topics.txt:1: a topic without an id"),
        ("<top>\n<num> Number: 3\n<desc> only\n</top>\n", "topics.txt:1: field 'query_text': no text"),
        ("<DOC>\n<DOCNO>1</DOCNO> a</DOC>\n<DOC><DOCNO>1</DOCNO> b</DOC>", "topics.txt:3.*first on line 1"),
    ],
)
def test_errors_name_the_line(topics, text, told):
    with pytest.raises(DataError, match="(?s)" + told):
        topics(text)


def test_file_that_cannot_be_read(tmp_path):
    with pytest.raises(DataError, match=r"none\.tsv"):
        read_topics(tmp_path / "none.tsv")
    (tmp_path / "bad.tsv").write_bytes(b"1\tok\n2\t\xff\n")
    with pytest.raises(DataError, match=r"bad\.tsv:2: not UTF-8"):
        read_topics(tmp_path / "bad.tsv")
    whole = gzip.compress(b"1\tone\n" * 1000)
    (tmp_path / "cut.tsv.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"cut\.tsv\.gz"):
        read_topics(tmp_path / "cut.tsv.gz")


@settings(deadline=None, max_examples=50)
@given(
    st.dictionaries(
        st.text(st.characters(codec="utf-8", exclude_characters="\t\r\n<{\ufeff"), min_size=1).filter(
            lambda text: text == text.strip() and text.lower() not in ("qid", "id", "_id", "query_id")
        ),
        st.text(st.characters(codec="utf-8", exclude_characters="\r\n")).filter(str.strip),
        min_size=1,
    ),
    st.booleans(),
)
def test_any_topics_come_back(tmp_path_factory, expected, as_json):
    path = tmp_path_factory.mktemp("topics") / "topics"
    if as_json:
        lines = [json.dumps({"qid": query_id, "query": text}) for query_id, text in expected.items()]
    else:
        lines = [f"{query_id}\t{text}" for query_id, text in expected.items()]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="")
    assert read_topics(path) == expected
