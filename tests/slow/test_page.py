"""The search page in a real browser, whose answers come when the test lets them."""

from __future__ import annotations

import json
import shutil
from importlib import resources

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="needs the group service")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")]
HTML = resources.files("teva_infer.serving").joinpath("page.html").read_text(encoding="utf-8")


def test_an_older_answer_does_not_replace_a_newer_one():
    waiting = {}

    def answer(route):
        """Questions wait here, each under its text."""
        waiting[json.loads(route.request.post_data)["query"]] = route

    def let(query):
        hit = {"docid": query, "score": 1.0, "title": f"about {query}", "text": "", "media": []}
        waiting[query].fulfill(json={"system": "one", "hits": [hit], "seconds": 0.1})

    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.route("http://teva.test/", lambda route: route.fulfill(body=HTML, content_type="text/html"))
        page.route("**/health", lambda route: route.fulfill(json={"systems": {"one": {}}}))
        page.route("**/search", answer)
        page.goto("http://teva.test/")
        playwright.expect(page.locator("#left option")).to_have_count(1)
        for query in ("slow", "quick"):
            page.fill("#query", query)
            page.press("#query", "Enter")
        while len(waiting) < 2:
            page.wait_for_timeout(20)
        let("quick")
        playwright.expect(page.locator("#columns .title")).to_have_text("about quick")
        let("slow")
        page.wait_for_timeout(300)
        assert page.locator("#columns .title").all_inner_texts() == ["about quick"]
        assert page.inner_text("#message") == ""
        browser.close()
