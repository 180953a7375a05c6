"""The report in a real browser: it opens without an error, draws, sorts, filters and answers to the pointer."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from helpers_diagnostics import made_up_run

from binllm.report.page import write_page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine (.ci/run installs Debian's)")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The page of a comparison, opened; anything on the console, or any request, fails at the end."""
    from playwright.sync_api import sync_playwright

    folder = tmp_path_factory.mktemp("report")
    runs = [made_up_run(folder / "runs"), made_up_run(folder / "runs", "weight_align", 90.0, {"stream/drift": 1.5})]
    write_page([*runs, made_up_run(folder / "runs", "output_error", 200.0, table=False)], folder / "report.html")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        opened = browser.new_page(viewport={"width": 1280, "height": 900})
        heard: list[str] = []
        opened.on("console", lambda message: heard.append(message.text))
        opened.on("pageerror", lambda error: heard.append(str(error)))
        opened.on("request", lambda request: heard.append(request.url) if request.url.startswith("http") else None)
        opened.goto((folder / "report.html").as_uri())
        yield opened
        assert heard == []
        browser.close()


def column(page: Any, heading: str) -> list[str]:
    names = page.locator("#layer-table th").all_inner_texts()
    place = [name.strip(" ▲▼") for name in names].index(heading) + 1
    return page.locator(f"#layer-table tbody td:nth-child({place})").all_inner_texts()


def test_plots_are_drawn(page: Any):
    titles = page.locator("#plots figcaption").all_inner_texts()
    assert len(titles) == 6
    assert page.locator("#plots figure svg[role=img]").count() == 6
    assert page.locator("#plots path.series").count() == 3 * 2  # two lines of depth and the spectrum, for two runs
    assert page.locator("#plots rect.cell").count() == 7 * 6 + 4 * 6
    box = page.locator("#plots path.series").first.bounding_box()
    assert box["width"] > 200 and box["height"] > 50
    assert "NaN" not in page.locator("#plots").inner_html()


def test_the_table_sorts_both_ways_by_number_and_by_text(page: Any):
    assert len(column(page, "block")) == 3 * 42
    for heading, key in (("Q after", float), ("layer", str)):
        button = page.locator("#layer-table th button", has_text=heading).first
        button.click()
        rising = [key(text) for text in column(page, heading)]
        assert rising == sorted(rising) and len(set(rising)) > 1
        button.click()
        assert [key(text) for text in column(page, heading)] == rising[::-1]
        assert page.locator("#layer-table th[aria-sort=descending]").count() == 1


def test_what_was_not_measured_stays_at_the_end(page: Any):
    button = page.locator("#layer-table th button", has_text="output error").first
    for _ in range(2):
        button.click()
        assert column(page, "output error")[-42:] == ["-"] * 42


def test_the_filter_keeps_rows_with_all_words(page: Any):
    page.locator("#filter").fill("down_proj weight_align")
    assert set(column(page, "layer")) == {"mlp.down_proj"}
    assert len(column(page, "run")) == 6
    assert page.locator("#count").inner_text() == "6 of 126"
    page.locator("#filter").fill("")


def test_pointing_shows_values_and_the_legend_hides_a_run(page: Any):
    figure = page.locator("#plots figure").first
    figure.locator("svg[role=img]").hover()
    tip = figure.locator(".tip").inner_text()
    assert "proposed:" in tip and "weight_align:" in tip
    lines = figure.locator("path.series").count()
    button = figure.locator(".legend button").first
    button.click()
    assert figure.locator("path.series").count() == lines - 1
    button.click()
    assert figure.locator("path.series").count() == lines


def test_a_chosen_series_is_drawn(page: Any):
    figure = page.locator("#plots figure").first
    before = figure.locator("path.series").first.get_attribute("d")
    figure.locator("select").first.select_option("attention/kl")
    assert figure.locator("path.series").first.get_attribute("d") != before
    assert "nats" in figure.locator("svg[role=img]").text_content()


def test_opposite_runs_get_opposite_sentences_on_the_page(page: Any):
    text = page.locator("#diagnosis").inner_text()
    assert "weight_align has the lowest perplexity" in text
    assert "Least drift does not go with the lowest perplexity" in text
    assert "so little can be said of: output_error" in text
