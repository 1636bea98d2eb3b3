"""The report as a reader meets it: opened from a file in a real browser that may not reach anything."""

import os
import shutil
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from planted_run import HOSTILE, HOSTILE_EXPLANATION, WORDS, write_run

from sae.records import digests_of
from sae.report.page import write_report
from sae.storage import Place
from sae.visible_text import visible, whole_characters

api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: `pip install playwright`")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
QUIET = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]
ARGUMENTS = ["--headless", "--no-sandbox", "--disable-gpu", *QUIET]

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: `apt install chromium` to test the report in a browser"),
]


@pytest.fixture(scope="module")
def browser():
    with api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def address(run, token_texts):
    write_report(run, output_key="browsed.html", token_texts=token_texts, written=datetime(2026, 11, 20, tzinfo=UTC))
    return "file://" + os.fspath(run.local_path("browsed.html"))


@pytest.fixture(scope="module")
def judged_address(judged_run, token_texts):
    write_report(judged_run, output_key="browsed.html", token_texts=token_texts, written=datetime(2026, 11, 20, tzinfo=UTC))
    return "file://" + os.fspath(judged_run.local_path("browsed.html"))


@pytest.fixture(scope="module")
def silent_report(tmp_path_factory, token_texts):
    """The report of a run in which every fifth feature has no score although it fires."""
    run = Place(tmp_path_factory.mktemp("silent"))
    write_run(run, num_features=40)
    table = pq.read_table(pa.BufferReader(run.get("interpretation/topk/features.parquet")))
    scores = [None if row % 5 == 0 else score for row, score in enumerate(table["score_spearman"].to_pylist())]
    column = table.schema.get_field_index("score_spearman")
    sink = pa.BufferOutputStream()
    pq.write_table(table.set_column(column, table.schema.field(column), pa.array(scores, table.schema.field(column).type)), sink)
    run.put("interpretation/topk/features.parquet", sink.getvalue())
    place = run.child("interpretation", "topk")
    summary = place.get_sealed("summary.json")
    place.put_sealed("summary.json", summary | {"tables": summary["tables"] | digests_of(place, ["features.parquet"])})
    run.delete("interpretation/comparison.json")
    write_report(run, token_texts=token_texts)
    return "file://" + os.fspath(run.local_path("report.html"))


@pytest.fixture
def open_page(browser, address):
    """Open the report at a fragment; afterwards nothing may have been complained of or asked for."""
    pages, complaints, requests = [], [], []

    def open_at(fragment="", **options):
        page = browser.new_page(**({"viewport": {"width": 1400, "height": 900}} | options))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        open_features(page, address + fragment)
        pages.append(page)
        return page

    yield open_at
    for page in pages:
        page.close()
    assert complaints == []
    assert {url.split("#")[0] for url in requests} <= {address, "data:,"}


def open_features(page, address):
    """Features are unpacked after the page was loaded."""
    page.goto(address)
    page.locator("#features:not([hidden])").wait_for(state="attached")


def listed(page):
    return page.locator("#feature-list .id").all_inner_texts()


def test_opens_with_the_best_explained_feature_of_the_first_source(open_page):
    page = open_page()
    scores = [float(score) for score in page.locator("#feature-list .amount").all_inner_texts()]
    assert scores == sorted(scores, reverse=True)
    assert page.locator("#feature-name").inner_text() == f"topk / {listed(page)[0]}"
    assert page.locator("#feature-count").inner_text() == "59 of 59 features"
    assert page.locator("figure svg").count() >= 10


def test_a_deep_link_opens_its_feature(open_page):
    page = open_page("#relu/30")
    assert page.locator("#feature-name").inner_text() == "relu / 30"
    assert page.locator("#sources [aria-pressed=true]").inner_text() == "relu"
    assert page.locator("#feature-list [aria-current] .id").inner_text() == "30"
    page.evaluate("location.hash = '#neurons/33'")
    api.expect(page.locator("#feature-name")).to_have_text("neurons / 33")


def test_a_deep_link_to_a_feature_that_is_not_in_the_file_says_so(open_page):
    assert "Number 4000 of topk is not among those in this file" in open_page("#topk/4000").locator("#feature-view").inner_text()


def test_tokens_are_highlighted_by_their_activation(open_page):
    page = open_page("#topk/3")
    marks = page.locator("#feature-view .example").first.locator("mark")
    assert marks.first.inner_text() == WORDS[1]
    shares = [float(mark.evaluate("mark => mark.style.getPropertyValue('--share')")) for mark in marks.all()]
    assert shares == pytest.approx([1, 1 / 3], abs=2e-3)
    assert "100 % of its maximum" in marks.first.get_attribute("title")
    strong, weak = (mark.evaluate("mark => getComputedStyle(mark).backgroundColor") for mark in marks.all())
    assert strong != weak


def test_a_card_shows_how_well_its_explanation_foretells_all_tokens_and_leads_to_its_neighbours(open_page):
    page = open_page("#topk/6")
    facts = page.locator("#feature-view .facts").inner_text()
    assert "0.75 / 0.30 / 0.43" in facts
    assert "−0.25" in facts
    assert page.locator(".near a").all_inner_texts() == ["9", "12", "3"]
    page.locator(".near a").nth(2).click()
    api.expect(page.locator("#feature-name")).to_have_text("topk / 3")


def test_a_damaged_file_says_that_its_features_could_not_be_unpacked(browser, run, address, tmp_path):
    whole = run.get("browsed.html").decode()
    (tmp_path / "damaged.html").write_text(whole.replace('id="feature-data">H4sI', 'id="feature-data">H4sX'))
    page = browser.new_page()
    open_features(page, f"file://{tmp_path}/damaged.html")
    assert "could not be unpacked" in page.locator("#features").inner_text()
    page.close()


def test_scored_examples_show_predictions_beside_activations(open_page):
    page = open_page("#topk/3")
    scored = page.locator("#feature-view .example:has(.scored)").first
    assert "predicted" in scored.locator("mark").first.get_attribute("title")
    assert scored.locator(".guessed").count() == 3
    assert " / " in scored.locator(".peak").inner_text()


def test_search_keeps_what_holds_the_words(open_page):
    page = open_page()
    page.fill("#search", "“return”")
    texts = page.locator("#feature-list .what").all_inner_texts()
    assert 0 < len(texts) < 59
    assert all("return" in text for text in texts)
    page.press("#search", "Escape")
    assert len(listed(page)) == 59


def test_limits_and_order_apply(open_page):
    page = open_page()
    page.locator("#filters summary").click()
    page.fill("#score-from", "0.7")
    scores = [float(score) for score in page.locator("#feature-list .amount").all_inner_texts()]
    assert 0 < len(scores) < 59
    assert min(scores) >= 0.695  # shown with two digits
    page.get_by_text("Clear", exact=True).click()
    api.expect(page.locator("#feature-list li")).to_have_count(59)
    page.select_option("#sort", "i up")
    assert listed(page) == [str(3 * rank) for rank in range(59)]
    page.select_option("#kind", "single")
    assert listed(page) == [str(3 * rank) for rank in range(59) if 3 * rank % 2 == 0]


@pytest.mark.parametrize("order", ["s down", "s up"])
def test_features_without_a_score_come_last_in_either_order(browser, silent_report, order):
    page = browser.new_page()
    open_features(page, silent_report)
    page.select_option("#sort", order)
    scores = page.locator("#feature-list .amount").all_inner_texts()
    known = [float(score) for score in scores if score != "–"]
    assert 0 < len(known) < len(scores)
    assert scores[len(known) :] == ["–"] * (len(scores) - len(known))
    assert known == sorted(known, reverse=order == "s down")
    page.close()


def test_the_training_section_shows_each_dictionary_and_folds_it_away(open_page):
    page = open_page("#training")
    own = page.locator("#training details.own")
    assert own.count() == 2
    assert own.first.locator("svg").count() == 2
    own.first.locator("summary").click()
    assert not own.first.locator("svg").first.is_visible()
    cut = page.evaluate(CUT_OFF)
    assert cut == [], "texts that reach out of the section"


def test_the_keyboard_goes_through_the_features(open_page):
    page = open_page()
    first, second = listed(page)[:2]
    page.keyboard.press("j")
    api.expect(page.locator("#feature-name")).to_have_text(f"topk / {second}")
    page.keyboard.press("k")
    api.expect(page.locator("#feature-name")).to_have_text(f"topk / {first}")
    page.keyboard.press("/")
    page.keyboard.type("j")
    assert page.input_value("#search") == "j"


def test_the_page_shows_tokens_as_visible_text_has_them(open_page):
    page = open_page("#topk/0")
    line = ["a", "", "机", "ह", "ि", "👨", "\u200d", "👩", "🇩", "🇪", "🇫", "🇷", " ", "\u0301", "x\u200b\u202e\n", "می\u200cخ", "⟦</s>⟧", "\u0301"]
    groups = page.evaluate("line => wholeCharacters(line)", line)
    assert groups == [list(group) for group in whole_characters(line)]
    assert page.evaluate("line => line.map((text) => visible(text, false))", line) == ["·" if text == " " else visible(text) for text in line]
    mark = page.evaluate("() => tokenMark('机', [0, 0.5], [0, 0], { m: 2 }, false).outerHTML")
    assert ">机</mark>" in mark
    assert "activation 0 (0 % of its maximum), 1 (50 % of its maximum); 2 tokens" in mark
    assert page.evaluate("() => quoting('on `שלום` (2)').map((part) => part.outerHTML || part)") == ["on ", "<bdi>`שלום`</bdi>", " (2)"]


def test_hostile_texts_stay_text(open_page):
    page = open_page("#topk/0")
    assert page.locator(".explanation").inner_text() == HOSTILE_EXPLANATION
    assert page.locator("mark").filter(has_text=HOSTILE).count() > 0
    assert page.locator("img").count() == 0
    assert page.title() == "planted: Monosem report"
    shown = page.locator("#feature-view").inner_text()
    assert "\u202e" not in shown  # what turns the direction of writing is written as its code
    assert "⟦U+202E⟧right" in shown
    assert "↵" in shown


@pytest.mark.parametrize("width", [400, 1400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_fits_the_screen_and_stays_readable(open_page, width, scheme):
    page = open_page("#topk/3", viewport={"width": width, "height": 900}, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    contrasts = page.evaluate(CONTRASTS, ["body", "figcaption", "mark", "figure svg text", ".note"])
    assert min(contrasts.values()) > 4.5, contrasts


@pytest.mark.parametrize("width", [400, 1400])
def test_what_people_and_a_language_model_wrote_stays_text_and_on_the_screen(browser, judged_address, judged_run, width):
    card = next(card for card in judged_run.get_json("ratings/deck.json")["cards"] if card["source"] == "topk")
    complaints = []
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.on("pageerror", lambda error: complaints.append(str(error)))
    open_features(page, f"{judged_address}#topk/{card['feature']}")
    assert page.locator(".said").filter(has_text=HOSTILE).count() == 2  # two people
    page.goto(f"{judged_address}#topk/0")
    assert page.locator(".said").filter(has_text=HOSTILE_EXPLANATION).count() >= 1
    assert page.locator("img").count() == 0
    page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    contrasts = page.evaluate(CONTRASTS, ["#people td", "#concepts th", "td.noise", "#glossary .note", "#glossary code"])
    assert min(contrasts.values()) > 4.5, contrasts
    page.fill("#search", "broken")  # in what was said of features as well as in explanations
    rated = {card["feature"] for card in judged_run.get_json("ratings/deck.json")["cards"] if card["source"] == "topk"} | {0}
    assert set(map(int, listed(page))) >= rated
    page.close()
    assert complaints == []


CUT_OFF = """() => {
  const section = document.getElementById("training").getBoundingClientRect();
  return [...document.querySelectorAll("#training svg text")].filter((text) => text.getBoundingClientRect().width)
    .filter((text) => text.getBoundingClientRect().right > section.right + 1 || text.getBoundingClientRect().left < section.left - 1)
    .map((text) => text.textContent);
}"""
CONTRASTS = """selectors => {
  const channels = (color) => color.match(/[\\d.]+/g).map(Number);
  const over = (top, below) => below.map((value, i) => value * (1 - (top[3] ?? 1)) + top[i] * (top[3] ?? 1));
  const light = (rgb) => rgb.map((c) => c / 255).map((c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const paper = channels(getComputedStyle(document.body).backgroundColor).slice(0, 3);
  const contrast = (node) => {
    const style = getComputedStyle(node), inSvg = node.namespaceURI.endsWith("svg");
    const ink = channels(inSvg ? style.fill : style.color).slice(0, 3);
    const ground = inSvg ? paper : over(channels(style.backgroundColor), paper);
    const [high, low] = [light(ink), light(ground)].sort((a, b) => b - a);
    return (high + 0.05) / (low + 0.05);
  };
  return Object.fromEntries(selectors.map((selector) =>
    [selector, Math.min(...[...document.querySelectorAll(selector)].map(contrast))]));
}"""
